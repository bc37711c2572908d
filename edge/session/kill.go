package session

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killAll ends every process of a session: HUP, then TERM, then KILL to all that are left, until none is found.
//
// A process belongs to the session by its environment (inherited, whatever session or group it moved to), by the session id of one that does,
// or by descent from one. One that cleared its environment, began a session of its own and lost its parents before the first look is not found.
//
// Whom it found it knows again, also when their parents are gone: that is why it looks before the first signal. exited is closed when the leader
// has ended, which most end with; what is then left is looked for at once. The leader must not have been reaped: its id is that of its group
// and its session until then.
func killAll(id string, leader int, exited <-chan struct{}) {
	ours := &family{id: id, sessions: map[int]bool{leader: true}, known: map[int]string{}}
	signal := func(pid int, sig syscall.Signal) {
		_ = unix.Kill(pid, sig)
		_ = unix.Kill(pid, unix.SIGCONT) // a stopped one would not see it
	}
	told := map[int]bool{} // HUP
	for _, p := range ours.members() {
		told[p.pid] = true
		signal(p.pid, unix.SIGHUP)
	}
	from := time.Now()
	select {
	case <-exited:
	case <-time.After(leaderWait):
	}
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{unix.SIGHUP, hupWait}, {unix.SIGTERM, termWait}, {unix.SIGKILL, killWait}} {
		signalled := map[int]bool{}
		if step.sig == unix.SIGHUP {
			signalled = told
		}
		for end := from.Add(step.wait); ; time.Sleep(pollKill) {
			left := ours.members()
			if len(left) == 0 {
				return
			}
			for _, p := range left {
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
}

// process is a living one, with the id of the session in its environment.
type process struct {
	pid, parent, session int
	start                string // in clock ticks since boot: no other process has had both this and pid
	mark                 string
}

// family is what is known of a session's processes.
type family struct {
	id       string
	sessions map[int]bool   // session ids that are its own
	known    map[int]string // its processes, and when each began
}

// members finds those that live.
func (f *family) members() []process {
	all := processes.now()
	var found []process
	in := map[int]bool{}
	for again := true; again; {
		again = false
		for _, p := range all {
			if !in[p.pid] && (p.mark == f.id || f.sessions[p.session] || in[p.parent] || f.known[p.pid] == p.start) {
				in[p.pid], f.sessions[p.session], f.known[p.pid] = true, true, p.start
				found = append(found, p)
				again = true
			}
		}
	}
	return found
}

// table is what /proc showed last. Who ends many sessions at once looks once for all of them.
type table struct {
	mu            sync.Mutex
	looked        *sync.Cond // on mu: a look ended
	looking       bool
	started, done uint64 // looks
	list          []process
}

var processes = newTable()

func newTable() *table {
	t := new(table)
	t.looked = sync.NewCond(&t.mu)
	return t
}

// now are the processes of a look that began after the call. The slice is shared: it is not written to.
func (t *table) now() []process {
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
		list := look(known)
		t.mu.Lock()
		t.looking, t.list, t.done = false, list, n
		t.looked.Broadcast()
	}
	return t.list
}

// kernelThread is among the flags of a thread of the kernel's own (PF_KTHREAD), of which a small device has more than of others.
const kernelThread = 0x200000

// look lists the processes there are. What was known of one to be a session's stays so, whatever it was replaced by.
func look(known []process) []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	marked := make(map[int]process, len(known))
	own := os.Getenv(sessionVariable) // of an agent that was started in a session: what it is about to start has it for a moment
	for _, p := range known {
		if p.mark != "" && p.mark != own {
			marked[p.pid] = p
		}
	}
	names, _ := dir.Readdirnames(-1)
	variable := []byte("\x00" + sessionVariable + "=")
	self := os.Getpid()
	var list []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == self || pid <= 1 {
			continue
		}
		p, ok := readProcess(pid)
		if !ok {
			continue
		}
		if m, ok := marked[pid]; ok && m.start == p.start {
			p.mark = m.mark
		} else {
			env, _ := os.ReadFile("/proc/" + name + "/environ")
			if _, after, ok := bytes.Cut(append([]byte{0}, env...), variable); ok {
				mark, _, _ := bytes.Cut(after, []byte{0})
				p.mark = string(mark)
			}
		}
		list = append(list, p)
	}
	return list
}

// readProcess reads proc_pid_stat(5) of a process that lives, and is not the kernel's: pid (name) state ppid pgrp session tty tpgid flags ...
// starttime ... The name may hold anything, so fields count from its last ")".
func readProcess(pid int) (process, bool) {
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{}, false
	}
	defer unix.Close(fd)
	b := make([]byte, 1024) // for its first 22 fields. os.ReadFile takes twice as many calls, and there may be a thousand processes
	n, err := unix.Read(fd, b)
	if err != nil {
		return process{}, false
	}
	b = b[:n]
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return process{}, false
	}
	if flags, _ := strconv.ParseUint(f[6], 10, 32); flags&kernelThread != 0 {
		return process{}, false
	}
	parent, _ := strconv.Atoi(f[1])
	sid, _ := strconv.Atoi(f[3])
	return process{pid: pid, parent: parent, session: sid, start: f[19]}, true
}
