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
func killAll(id string, leader int) {
	seen := map[int]bool{leader: true} // session ids that are ours
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{unix.SIGHUP, hupWait}, {unix.SIGTERM, termWait}, {unix.SIGKILL, killWait}} {
		signalled := map[int]bool{}
		for end := time.Now().Add(step.wait); ; time.Sleep(pollKill) {
			left := members(id, seen)
			if len(left) == 0 {
				return
			}
			for _, pid := range left {
				if signalled[pid] && step.sig != unix.SIGKILL {
					continue
				}
				signalled[pid] = true
				_ = unix.Kill(pid, step.sig)
				_ = unix.Kill(pid, unix.SIGCONT) // a stopped one would not see it
			}
			if time.Now().After(end) {
				break
			}
		}
	}
}

// process is a living one, with the id of the session in its environment.
type process struct {
	pid, parent, session int
	mark                 string
}

// members finds the living processes of a session and adds their session ids to seen.
func members(id string, seen map[int]bool) []int {
	all := processes.now()
	var found []int
	in := map[int]bool{}
	for again := true; again; {
		again = false
		for _, p := range all {
			if !in[p.pid] && (p.mark == id || seen[p.session] || in[p.parent]) {
				in[p.pid], seen[p.session] = true, true
				found = append(found, p.pid)
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
		t.mu.Unlock()
		list := look()
		t.mu.Lock()
		t.looking, t.list, t.done = false, list, n
		t.looked.Broadcast()
	}
	return t.list
}

func look() []process {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
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
		env, _ := os.ReadFile("/proc/" + name + "/environ")
		if _, after, ok := bytes.Cut(append([]byte{0}, env...), variable); ok {
			mark, _, _ := bytes.Cut(after, []byte{0})
			p.mark = string(mark)
		}
		list = append(list, p)
	}
	return list
}

// readProcess reads proc_pid_stat(5): pid (name) state ppid pgrp session ... The name may hold anything, so fields count from its last ")".
func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 4 || f[0] == "Z" || f[0] == "X" {
		return process{}, false
	}
	parent, _ := strconv.Atoi(f[1])
	sid, _ := strconv.Atoi(f[3])
	return process{pid: pid, parent: parent, session: sid}, true
}
