package session

import (
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper watches over child processes with one goroutine for all: it tells that a child ended without reaping it, so that its number stays
// taken and a signal can not hit a stranger. The goroutine lives while there are children to watch. The zero value is ready.
type reaper struct {
	mu       sync.Mutex
	children map[*child]struct{}
	stop     chan struct{} // nil while nothing runs
	stopped  chan struct{}
}

type child struct {
	cmd       *exec.Cmd
	pid       int
	exited    chan struct{}
	abandoned bool // to be reaped here
}

// start starts cmd and watches it. Whoever called must then reap it with cmd.Wait after exited, or abandon it.
func (r *reaper) start(cmd *exec.Cmd) (*child, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stop == nil {
		r.children = map[*child]struct{}{}
		r.stop, r.stopped = make(chan struct{}), make(chan struct{})
		events := make(chan os.Signal, 1) // one that waits is as good as many: each look sees all
		signal.Notify(events, unix.SIGCHLD)
		resetInherited()
		go r.run(events, r.stop, r.stopped)
	}
	if err := fork(cmd); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, pid: cmd.Process.Pid, exited: make(chan struct{})}
	r.children[c] = struct{}{}
	r.lookLocked() // it may have ended before it was in the map
	return c, nil
}

// abandon leaves a child that will not end to the reaper.
func (r *reaper) abandon(c *child) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.abandoned = true
	if _, watched := r.children[c]; !watched { // it ended meanwhile
		_ = c.cmd.Wait()
	}
}

func (r *reaper) run(events chan os.Signal, stop, stopped chan struct{}) {
	defer close(stopped)
	defer signal.Stop(events)
	for {
		select {
		case <-stop:
			return
		case <-events:
			r.mu.Lock()
			r.lookLocked()
			r.mu.Unlock()
		}
	}
}

func (r *reaper) lookLocked() {
	for c := range r.children {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, c.pid, &info, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil)
		if err == nil && info.Signo == 0 || err == unix.EINTR {
			continue
		}
		delete(r.children, c)
		if c.abandoned {
			_ = c.cmd.Wait()
		}
		close(c.exited)
	}
}

func (r *reaper) close() {
	r.mu.Lock()
	stop, stopped := r.stop, r.stopped
	r.stop = nil
	r.mu.Unlock()
	if stop != nil {
		close(stop)
		<-stopped
	}
}

// forks takes what is to run on the thread that makes all children.
var forks = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() { // as long as the agent lives
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// fork starts cmd from a thread that never ends: the death signal of a child comes at the end of the thread that made it, and login.Account.As
// ends threads.
func fork(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	forks() <- func() { err <- cmd.Start() }
	return <-err
}

// resetInherited undoes ignored signals that the agent itself was started with (nohup, a script's &): a child inherits what is ignored, and a
// person's Ctrl-C or HUP would do nothing. A handler, even one that drops the signal, becomes the default action in the child.
func resetInherited() {
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU} {
		if signal.Ignored(sig) {
			signal.Notify(make(chan os.Signal, 1), sig)
		}
	}
}
