package edge

import (
	"bytes"
	"os"
	"runtime/debug"
	"strconv"

	"golang.org/x/sys/unix"
)

// machine is what the agent needs to know of the device to stay small on it.
type machine struct {
	ram    uint64 // bytes; 0: unknown
	kernel int    // major version; 0: unknown
}

func readMachine() machine {
	var m machine
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) == nil {
		m.ram = uint64(si.Totalram) * uint64(max(si.Unit, 1))
	}
	for _, name := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(name); err == nil {
			if n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64); err == nil && n > 0 && (m.ram == 0 || n < m.ram) {
				m.ram = n
			}
		}
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		release, _, _ := bytes.Cut(u.Release[:], []byte{'.'})
		m.kernel, _ = strconv.Atoi(string(release))
	}
	return m
}

// small reports that segmentation offload and ECN stay off.
func (m machine) small() bool {
	return m.kernel != 0 && m.kernel < 5 || m.ram != 0 && m.ram < noOffloadRAM
}

// streams is how many streams are served at once.
func (m machine) streams() int {
	if m.ram != 0 && m.ram < smallRAM {
		return maxStreamsSmall
	}
	return maxStreams
}

// screenCells bounds the screen of a session that is shared, at some 80 bytes a cell; 0: as little as does for a window of 225 by 60.
func (m machine) screenCells() int {
	if m.ram < noOffloadRAM {
		return 0
	}
	return largeScreen
}

// memory returns the soft limit for the Go heap and the garbage collector's percentage: a fifth of the RAM within 12 MiB and 128 MiB, and a
// collector that works harder where RAM is short.
func (m machine) memory() (limit int64, percent int) {
	if m.ram == 0 {
		return 24 << 20, 50
	}
	limit = int64(min(max(m.ram/5, 12<<20), 128<<20))
	switch {
	case m.ram < smallRAM:
		return limit, 30
	case m.ram < noOffloadRAM:
		return limit, 50
	default:
		return limit, 100
	}
}

// TuneMemory sets the collector for this machine unless GOGC or GOMEMLIMIT are in the environment: whoever set those knows better. It belongs to
// the process, so a command calls it and the library does not.
func TuneMemory() {
	limit, percent := readMachine().memory()
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(percent)
	}
}
