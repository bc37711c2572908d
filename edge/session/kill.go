package session

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hawser/tunnel"
)

// killAll ends every process of the session, and logs when it could not.
func (r *running) killAll() {
	id := r.s.params.SessionID
	if err := killAll(id, r.child.pid, r.child.exited); err != nil {
		tunnel.Warn(r.s.engine.config.Logger, "processes of a killed session are left", "session", id, "error", err)
	}
}

// EndRemains ends what is left of a session that is over here: processes that outlived the HUP of a person who went away. It returns when they have ended,
// or a few seconds later.
func (e *Engine) EndRemains(id string) {
	if err := killAll(id, 0, nil); err != nil {
		tunnel.Warn(e.config.Logger, "processes of a killed session are left", "session", id, "error", err)
	}
}

// killAll ends every process of a session: HUP, then TERM, then KILL to all that are left, until none is found. An error says that some may be left.
//
// A process belongs to the session by its environment (inherited, whatever session or group it moved to), by the session id of one that does,
// or by descent from one. One that cleared its environment, began a session of its own and lost its parents before the first look is not found.
//
// Whom it found it knows again, also when their parents are gone: that is why it looks before the first signal. exited is closed when the leader
// has ended, which most end with; what is then left is looked for at once. The leader must not have been reaped: its id is that of its group
// and its session until then. So its group is signalled where nobody can be looked for, and last of all: what forks faster than anybody looks
// ends with its group, and no stranger can come into that. Of a session whose leader nobody knows any more leader is 0 and exited nil.
func killAll(id string, leader int, exited <-chan struct{}) error {
	ours := &family{id: id, sessions: map[int]bool{}, known: map[int]string{}}
	if leader > 0 {
		ours.sessions[leader] = true
		defer unix.Kill(-leader, unix.SIGKILL)
	}
	signal := func(pid int, sig syscall.Signal) {
		_ = unix.Kill(pid, sig)
		_ = unix.Kill(pid, unix.SIGCONT) // a stopped one would not see it
	}
	find := func() ([]process, error) {
		left, err := ours.members()
		if err != nil && leader > 0 {
			left = []process{{pid: -leader}}
		}
		return left, err
	}
	told := map[int]bool{} // HUP
	first, _ := find()
	for _, p := range first {
		told[p.pid] = true
		signal(p.pid, unix.SIGHUP)
	}
	from := time.Now()
	select {
	case <-exited:
	case <-time.After(leaderWait):
	}
	var left []process
	var err error
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{unix.SIGHUP, hupWait}, {unix.SIGTERM, termWait}, {unix.SIGKILL, killWait}} {
		signalled := map[int]bool{}
		if step.sig == unix.SIGHUP {
			signalled = told
		}
		for end := from.Add(step.wait); ; time.Sleep(pollKill) {
			if left, err = find(); len(left) == 0 {
				return err
			}
			for _, p := range left {
				if step.sig == unix.SIGKILL && ours.sessions[p.session] && p.group > 1 {
					_ = unix.Kill(-p.group, unix.SIGKILL) // at once: one after the other they fork faster
				}
				if signalled[p.pid] && step.sig != unix.SIGKILL {
					continue
				}
				signalled[p.pid] = true
				signal(p.pid, step.sig)
			}
			if time.Now().After(end) {
				break
			}
		}
		from = time.Now()
	}
	if err == nil {
		err = fmt.Errorf("%d live on after KILL", len(left))
	}
	return err
}

// process is a living one, with the id of the session in its environment.
type process struct {
	pid, parent, group, session int
	start                       string // in clock ticks since boot: no other process has had both this and pid
	mark                        string
	headless                    bool // its first thread has ended, and others run
}

// family is what is known of a session's processes.
type family struct {
	id       string
	sessions map[int]bool   // session ids that are its own: those of which it has, or had, the leader
	known    map[int]string // its processes, and when each began
}

// members finds those that live.
//
// Anybody can give the mark to a process of his own, and have the session killed that it names. So a mark takes the process and what descends from it,
// whoever's they are (sudo), but nobody beside or above it: the jobs of a crond may all be in the one session that it leads.
func (f *family) members() ([]process, error) {
	all, err := processes.now()
	if err != nil {
		return nil, err
	}
	var found []process
	in := map[int]bool{}
	for again := true; again; {
		again = false
		for _, p := range all {
			if !in[p.pid] && (p.mark == f.id || f.sessions[p.session] || in[p.parent] || f.known[p.pid] == p.start) {
				in[p.pid], f.known[p.pid] = true, p.start
				if p.pid == p.session {
					f.sessions[p.pid] = true
				}
				found = append(found, p)
				again = true
			}
		}
	}
	return found, nil
}

// table is what /proc showed last. Who ends many sessions at once looks once for all of them.
type table struct {
	mu            sync.Mutex
	looked        *sync.Cond // on mu: a look ended
	looking       bool
	started, done uint64 // looks
	list          []process
	err           error // of the last look; then list is an earlier one's
	look          func(known []process) ([]process, error)
}

var processes = newTable(look)

func newTable(look func([]process) ([]process, error)) *table {
	t := &table{look: look}
	t.looked = sync.NewCond(&t.mu)
	return t
}

// now are the processes of a look that began after the call. The slice is shared: it is not written to.
func (t *table) now() ([]process, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for want := t.started + 1; t.done < want; {
		if t.looking {
			t.looked.Wait()
			continue
		}
		t.looking = true
		t.started++
		n := t.started
		known := t.list
		t.mu.Unlock()
		list, err := t.look(known)
		t.mu.Lock()
		if err == nil {
			t.list = list
		}
		t.looking, t.err, t.done = false, err, n
		t.looked.Broadcast()
	}
	if t.err != nil {
		return nil, t.err
	}
	return t.list, nil
}

// kernelThread is among the flags of a thread of the kernel's own (PF_KTHREAD), of which a small device has more than of others.
const kernelThread = 0x200000

// look lists the processes there are. What was known of one to be a session's stays so, whatever it was replaced by.
func look(known []process) ([]process, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	marked := make(map[int]process, len(known))
	own := os.Getenv(sessionVariable) // of an agent that was started in a session: what it is about to start has it for a moment
	for _, p := range known {
		if p.mark != "" && p.mark != own {
			marked[p.pid] = p
		}
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	self := os.Getpid()
	var list []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self || pid <= 1 {
			continue
		}
		p, ok, err := readProcess(pid)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if m, ok := marked[pid]; ok && m.start == p.start {
			p.mark = m.mark
		} else if p.mark, err = p.readMark(); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// scarce tells whether err is for want of something here. Any other says that a process is gone, or is not shown to us.
func scarce(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

// readMark reads the session's id from a process's environment, which a first thread that has ended shows no more and any other does.
func (p process) readMark() (mark string, err error) {
	base := "/proc/" + strconv.Itoa(p.pid)
	paths := []string{base + "/environ"}
	if p.headless {
		var tasks *os.File
		if tasks, err = os.Open(base + "/task"); err == nil {
			names, _ := tasks.Readdirnames(maxTasks)
			tasks.Close()
			for _, name := range names {
				paths = append(paths, base+"/task/"+name+"/environ")
			}
		}
	}
	variable := []byte("\x00" + sessionVariable + "=")
	for i := 0; i < len(paths) && !scarce(err); i++ {
		var env []byte
		env, err = os.ReadFile(paths[i])
		if _, after, ok := bytes.Cut(append([]byte{0}, env...), variable); ok {
			id, _, _ := bytes.Cut(after, []byte{0})
			return string(id), nil
		}
	}
	if scarce(err) {
		return "", err
	}
	return "", nil
}

// readProcess reads proc_pid_stat(5) of a process that lives, and is not the kernel's: pid (name) state ppid pgrp session tty tpgid flags ...
// num_threads itrealvalue starttime ... The name may hold anything, so fields count from its last ")". One of which only the first thread has ended lives, though
// it is shown, and waited for, as a zombie.
func readProcess(pid int) (p process, lives bool, err error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if scarce(err) {
		return p, false, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	if err != nil {
		return p, false, nil
	}
	defer unix.Close(fd)
	b := make([]byte, 1024) // for its first 22 fields. os.ReadFile takes twice as many calls, and there may be a thousand processes
	n, err := unix.Read(fd, b)
	if err != nil {
		return p, false, nil
	}
	b = b[:n]
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "X" {
		return p, false, nil
	}
	threads, _ := strconv.Atoi(f[17])
	p.headless = f[0] == "Z" && threads > 1
	if f[0] == "Z" && !p.headless {
		return p, false, nil
	}
	if flags, _ := strconv.ParseUint(f[6], 10, 32); flags&kernelThread != 0 {
		return p, false, nil
	}
	p.pid, p.start = pid, f[19]
	p.parent, _ = strconv.Atoi(f[1])
	p.group, _ = strconv.Atoi(f[2])
	p.session, _ = strconv.Atoi(f[3])
	return p, true, nil
}
