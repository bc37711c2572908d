package session

import (
	"bytes"
	"os"
	"strconv"
	"strings"
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

type process struct{ pid, parent, session int }

// members finds the living processes of a session and adds their session ids to seen.
func members(id string, seen map[int]bool) []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	mark := []byte("\x00" + sessionVariable + "=" + id + "\x00")
	self := os.Getpid()
	var others []process
	var found []int
	in := map[int]bool{}
	take := func(p process) {
		in[p.pid] = true
		seen[p.session] = true
		found = append(found, p.pid)
	}
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
		if bytes.Contains(append(append([]byte{0}, env...), 0), mark) {
			take(p)
			continue
		}
		others = append(others, p)
	}
	for again := true; again; {
		again = false
		rest := others[:0]
		for _, p := range others {
			if seen[p.session] || in[p.parent] {
				take(p)
				again = true
				continue
			}
			rest = append(rest, p)
		}
		others = rest
	}
	return found
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
	return process{pid, parent, sid}, true
}
