package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hawser/recorder"
	"hawser/tunnel/channel"
)

// running is a session's process and our ends of its files.
type running struct {
	s     *session
	child *child
	stdin io.WriteCloser
	// outputs are read until each ends; outDone is closed then.
	outputs []io.Closer
	outDone chan struct{}
	// reading is whether the terminal's reader waits for output, rather than for the person to take it.
	reading atomic.Bool
}

// run starts what was asked for and stays until it ended. An error means that nothing was started.
func (s *session) run(ctx context.Context, kind, command string) error {
	original, asked := "", kind
	if f := s.params.ForceCommand; f != "" {
		original, kind, command = command, "exec", f
	}
	if kind == "sftp" && s.account.NoLogin() {
		return fmt.Errorf("login %q takes no file transfers: its shell is %s", s.account.Name, s.account.Shell)
	}
	if kind == "sftp" { // has no terminal, whatever was asked for: moderators are shown what it does, and a pause holds it back
		s.closePTY()
		s.pty, s.ptyErr, s.term = nil, nil, ""
	}
	env := s.environment(original)
	if s.params.Tap != nil {
		if err := s.params.Tap.Start(kind, command, s.term, s.env); err != nil {
			return err
		}
	}
	if s.ptyErr != nil {
		s.say(fmt.Errorf("%w; continuing without one (ssh -T asks for none)", s.ptyErr))
	}
	s.openRoom(ctx, command, asked, kind)
	if err := s.gather(ctx, command); err != nil {
		return err
	}
	s.room.begins()
	if s.x11 != nil {
		s.authorize(ctx, env)
	}
	if err := s.resumed(ctx); err != nil {
		return err
	}
	if kind == "sftp" && s.account.IsSelf() {
		s.serveFiles(ctx)
		return nil
	}
	cmd := s.command(kind, command, env)
	r, err := s.start(ctx, cmd)
	if err != nil {
		if kind == "sftp" {
			return fmt.Errorf("start the file server as %s: %w (an agent under emulation needs binfmt_misc for another login than its own; scp -O works without)", s.account.Name, err)
		}
		return fmt.Errorf("start %s as %s: %w", cmd.Path, s.account.Name, err)
	}
	if s.pty != nil {
		s.entry = s.engine.config.System.Begin(s.account, r.child.pid, s.pty.Name(), s.params.Client.Addr())
	}
	r.wait(ctx)
	if s.entry != nil {
		s.entry.End()
	}
	return nil
}

// command is the process to start, as sshd would: the login's shell, with a "-" before its name for a login shell, or with -c.
func (s *session) command(kind, command string, env []string) *exec.Cmd {
	a := s.account
	cmd := &exec.Cmd{Path: a.Shell, Env: env, Dir: "/"}
	name := filepath.Base(a.Shell)
	switch kind {
	case "shell":
		cmd.Args = []string{"-" + name}
	case "exec":
		cmd.Args = []string{name, "-c", command}
	case "sftp":
		cmd.Path = helperPath(a)
		cmd.Args = []string{"hawser-edge", helperArgument}
	}
	err := a.As(func() error { _, err := os.Stat(filepath.Join(a.Home, ".") + "/."); return err })
	if err == nil {
		cmd.Dir = a.Home
	} else if kind == "shell" {
		s.say(fmt.Errorf("no home directory, starting in /: %w", err))
	}
	// An agent that is killed ends no session, and nobody could see or end what it left: the kernel says HUP for it, which nohup outlives.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGHUP}
	if s.pty != nil {
		cmd.SysProcAttr.Setctty = true
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
	}
	return cmd
}

// start starts cmd on the terminal, or on three pipes, and the goroutines between its files and the channel.
func (s *session) start(ctx context.Context, cmd *exec.Cmd) (*running, error) {
	r := &running{s: s, outDone: make(chan struct{})}
	var theirs []io.Closer
	var stdout, stderr io.Reader
	defer func() {
		for _, c := range theirs {
			c.Close()
		}
	}()
	if s.pty != nil {
		tty := s.pty.TTY()
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		theirs = append(theirs, tty)
		r.stdin, stdout = s.pty, s.pty
	} else {
		var files [6]*os.File
		for i := 0; i < 6; i += 2 {
			var err error
			if files[i], files[i+1], err = os.Pipe(); err != nil {
				for _, f := range files[:i] {
					f.Close()
				}
				return nil, err
			}
		}
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[3], files[5]
		theirs = append(theirs, files[0], files[3], files[5])
		r.stdin, stdout, stderr = files[1], files[2], files[4]
		r.outputs = []io.Closer{files[2], files[4]}
	}
	child, err := s.engine.reaper.start(cmd)
	if err == nil {
		r.child = child
		resetOOM(child.pid)
		if err = s.begin(ctx, r); err != nil {
			r.undo()
		}
	}
	if err != nil {
		if s.pty == nil {
			r.stdin.Close()
			r.closeOutputs()
		}
		return nil, err
	}
	tap := s.params.Tap
	var out sync.WaitGroup
	out.Go(func() { r.copyOut(s.ch, stdout, tap, stdoutStream) })
	if stderr != nil {
		out.Go(func() { r.copyOut(s.ch.Stderr(), stderr, tap, stderrStream) })
	}
	s.wg.Go(func() { out.Wait(); close(r.outDone) })
	s.readInput()
	return r, nil
}

// undo ends a process that should not have been started. It has hardly begun: no signal asks first.
func (r *running) undo() {
	_ = unix.Kill(-r.child.pid, unix.SIGKILL)
	r.killAll()
	select {
	case <-r.child.exited:
		_ = r.child.cmd.Wait()
	case <-time.After(killWait):
		r.s.engine.reaper.abandon(r.child)
	}
}

func (r *running) closeOutputs() {
	for _, c := range r.outputs {
		c.Close()
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, channel.MaxData); return &b }}

// copyOut copies until src ends. When the channel takes no more, src is closed, so that the process learns of it as from any closed pipe.
func (r *running) copyOut(dst io.Writer, src io.Reader, tap Tap, stream byte) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		r.reading.Store(true)
		n, err := src.Read(*b)
		r.reading.Store(false)
		if n > 0 {
			r.s.room.gate().GoesOn()
			if tap != nil && !tap.Output(stream, (*b)[:n]) {
				return
			}
			r.s.room.output(stream, (*b)[:n])
			if _, err := dst.Write((*b)[:n]); err != nil {
				if c, ok := src.(*os.File); ok {
					c.Close()
				}
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// copyIn copies what the person sends. Its end closes a pipe, and does nothing to a terminal: both as sshd. What the process does not take
// stays in the channel's window.
func (s *session) copyIn() {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		s.pausedInput()
		n, err := s.ch.Read(*b)
		if n > 0 && !s.input((*b)[:n]) {
			break
		}
		if err != nil {
			break
		}
	}
	if r := s.process.Load(); r != nil && s.pty == nil {
		r.stdin.Close()
	}
}

// pausedInput waits while a session without a terminal is paused: a part of its input cannot be left out.
func (s *session) pausedInput() {
	if s.pty == nil {
		s.room.gate().GoesOn()
	}
}

// input takes what the person sent to where it belongs now. False: no more is wanted.
func (s *session) input(b []byte) bool {
	if s.pty == nil || s.room == nil {
		s.pausedInput() // it was read before
		return s.process.Load().take(b, s.params.Tap, 0)
	}
	gate := s.room.held
	turn := gate.Turn()
	defer gate.CaughtUp(turn)
	if r := s.process.Load(); r != nil && gate.Takes(turn) {
		return r.take(b, s.params.Tap, turn)
	}
	return s.drop(b)
}

// wait stays until the process has ended and its output has passed, the person has gone, or the session is killed; then it clears up.
//
// As with sshd, without a terminal the session lasts as long as anything holds the output open; a terminal ends with its leader.
func (r *running) wait(ctx context.Context) {
	s := r.s
	exited, outDone := r.child.exited, r.outDone
	var hangup <-chan time.Time
	for exited != nil || outDone != nil {
		select {
		case q, ok := <-s.ch.Requests():
			if !ok {
				if ctx.Err() != nil { // both at once: the session was killed, and its stream with it
					r.kill(context.Cause(ctx))
				} else {
					r.gone()
				}
				return
			}
			_ = q.Reply(s.during(q, r.child.pid))
		case <-exited:
			exited = nil
			if s.pty != nil {
				hangup = time.After(ttyWait)
			} else {
				r.stdin.Close()
			}
		case <-outDone:
			outDone = nil
		case <-hangup:
			if r.reading.Load() {
				s.pty.Close()
			} else {
				hangup = time.After(ttyWait)
			}
		case <-ctx.Done():
			r.kill(context.Cause(ctx))
			return
		}
	}
	r.reap()
	s.wg.Go(func() { hangUpLater(r.child.pid) })
	s.report()
}

// hangUpLater sends HUP to what the process left behind in its group. First it lets nohup and setsid get out of reach: `nohup prog &` as the last
// command ends the shell before nohup has begun. The group keeps its id while anybody is in it.
func hangUpLater(group int) {
	for end := time.Now().Add(nohupWait); unix.Kill(-group, 0) == nil; time.Sleep(pollKill) {
		if time.Now().After(end) {
			_ = unix.Kill(-group, unix.SIGHUP)
			return
		}
	}
}

// reap takes the ended child's status.
func (r *running) reap() {
	err := r.child.cmd.Wait()
	res := &r.s.result
	if state := r.child.cmd.ProcessState; state != nil {
		if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			res.Status, res.Signal, r.s.core = refused, signalName(ws.Signal()), ws.CoreDump()
		} else {
			res.Status = uint32(state.ExitCode())
		}
		return
	}
	res.Err = fmt.Errorf("wait for the process: %w", err)
}

// gone is the end when the person's side went away: HUP, closed files, and whoever ignores that lives on without us.
func (r *running) gone() {
	r.s.result.Err = errGone
	r.hangUp()
	select {
	case <-r.child.exited:
		r.reap()
	case <-time.After(goneWait):
		r.s.engine.reaper.abandon(r.child)
	}
	r.s.over()
	if t := r.s.params.Tap; t != nil {
		t.Exit(r.s.result.Status, r.s.result.Signal)
	}
}

var errGone = errors.New("the client went away")

func (r *running) hangUp() {
	_ = unix.Kill(-r.child.pid, unix.SIGHUP)
	r.stdin.Close() // a terminal's master is both
	r.closeOutputs()
}

// kill shows why and ends every process of the session.
func (r *running) kill(cause error) {
	s := r.s
	s.result.Err = cause
	s.say(cause)
	r.killAll()
	r.hangUp()
	select {
	case <-r.child.exited:
		if r.reap(); errors.Is(cause, recorder.ErrStalled) { // it may have ended by itself, with output that nobody was shown
			s.result.Status, s.result.Signal = refused, ""
		}
	case <-time.After(killWait): // in an uninterruptible wait of a broken driver; it can do nothing any more
		s.engine.reaper.abandon(r.child)
	}
	select { // a client that reads nothing holds up what is on its way to it
	case <-r.outDone:
	case <-time.After(lastWait):
	}
	s.report()
}

// resetOOM gives a person's process the score of any other: the agent may have asked the kernel to be spared, its children must not be.
func resetOOM(pid int) {
	if own, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil && string(own) != "0\n" {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("0"), 0)
	}
}
