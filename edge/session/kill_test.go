package session

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hawser/tunnel"
)

// asHeadless is set in the copy of the test whose first thread ends; its value is the file that has its number then.
const asHeadless = "HAWSER_TEST_HEADLESS"

func init() {
	if os.Getenv(asHeadless) != "" {
		runtime.LockOSThread() // TestMain has the first thread
	}
}

// headless goes on without its first thread, and takes no signal that can be ignored.
func headless() {
	signal.Ignore(unix.SIGHUP, unix.SIGTERM)
	go func() {
		for b := []byte{}; !strings.Contains(string(b), ") Z "); time.Sleep(time.Millisecond) {
			b, _ = os.ReadFile("/proc/self/stat")
		}
		tell(os.Getenv(asHeadless))
		for {
			time.Sleep(time.Hour)
		}
	}()
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func tell(path string) {
	_ = os.WriteFile(path+".part", []byte(strconv.Itoa(os.Getpid())), 0o600)
	_ = os.Rename(path+".part", path)
}

// runs tells whether a thread of a process does, without the code that is tested.
func runs(pid int) bool {
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, task.Name()))
		if s := string(b); s != "" && !strings.Contains(s, ") Z ") && !strings.Contains(s, ") X ") {
			return true
		}
	}
	return false
}

// The kernel shows a process whose first thread has ended as a zombie, without an environment, and tells nobody that it ended. It was taken for ended, and ran on.
func TestKillEndsAProcessWhoseFirstThreadHasEnded(t *testing.T) {
	for name, command := range map[string]string{
		"the leader": "exec %s",
		"a daemon":   "(setsid %s &); exec sleep 1000",
	} {
		told := filepath.Join(t.TempDir(), "told")
		c := open(t, engine(t), Params{SessionID: newID()})
		c.exec("export " + asHeadless + "=" + told + "; " + fmt.Sprintf(command, os.Args[0]))
		pid := 0
		for end := time.Now().Add(20 * time.Second); pid == 0; time.Sleep(time.Millisecond) {
			b, _ := os.ReadFile(told)
			if pid, _ = strconv.Atoi(string(b)); pid == 0 && time.Now().After(end) {
				t.Fatalf("%s does not run", name)
			}
		}
		c.cancel(errors.New("enough"))
		c.finish()
		if runs(pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
			t.Errorf("%s runs still", name)
		}
	}
}

// Who had the jobs of a cron carry the mark of a session of his own had the cron ended with the session, and everybody's jobs.
func TestAForgedMarkTakesNobodyBesideIt(t *testing.T) {
	id := newID()
	cmd := exec.Command("sh", "-c", sessionVariable+"="+id+" sleep 1000 & echo $!; read x; echo $x")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL); _ = cmd.Wait() })
	forged, lines := 0, bufio.NewReader(out)
	if _, err := fmt.Fscanln(lines, &forged); err != nil {
		t.Fatal(err)
	}
	c := open(t, engine(t), Params{SessionID: id})
	c.exec("exec sleep 1000")
	for end := time.Now().Add(10 * time.Second); len(living(id)) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("two do not run")
		}
	}
	c.cancel(errors.New("enough"))
	c.finish()
	if runs(forged) {
		t.Error("who carries the mark runs still")
	}
	_, _ = io.WriteString(in, "lives\n")
	if line, err := lines.ReadString('\n'); line != "lives\n" {
		t.Errorf("the leader of its session says %q, %v", line, err)
	}
}

// Each of them had ended before it was signalled, and its child was not seen yet.
func TestKillEndsAChainOfForks(t *testing.T) {
	dir := t.TempDir()
	goes, pipe := filepath.Join(dir, "goes"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.WriteFile(goes, nil, 0o600), unix.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	held, err := os.OpenFile(pipe, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	c := open(t, engine(t), Params{SessionID: newID()})
	c.exec("trap '' HUP TERM; exec 3>" + pipe + "; echo ready; export N=0 C='export N=$((N+1)); [ $N -lt 20000 -a -e " + goes + " ] && sh -c \"$C\" & exit'; eval \"$C\"")
	c.shows("ready")
	c.cancel(errors.New("enough"))
	c.finish()
	_ = held.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := held.Read(make([]byte, 1)); err != io.EOF { // some process has the other end
		t.Errorf("the chain goes on: %v", err)
	}
	os.Remove(goes)
}

// What forks as fast as it is killed is killed with its group: here one that the look did not see.
func TestKillEndsTheGroupsOfTheSession(t *testing.T) {
	defer func(was *table) { processes = was }(processes)
	unseen := 0
	processes = newTable(func(known []process) ([]process, error) {
		list, err := look(known)
		return slices.DeleteFunc(list, func(p process) bool { return p.pid == unseen }), err
	})
	c := open(t, engine(t), Params{SessionID: newID()})
	c.exec("set -m; trap '' HUP TERM; sh -c 'sleep 1000 & echo $!; wait' & wait")
	if _, err := fmt.Fscanln(c.ch, &unseen); err != nil {
		t.Fatal(err)
	}
	c.cancel(errors.New("enough"))
	c.finish()
	if runs(unseen) {
		_ = unix.Kill(unseen, unix.SIGKILL)
		t.Error("it runs still")
	}
}

// An agent that had no descriptor left to look with took it that nobody was left.
func TestAKillThatCannotLookEndsTheLeadersGroupAndSaysSo(t *testing.T) {
	defer func(was *table) { processes = was }(processes)
	processes = newTable(func([]process) ([]process, error) { return nil, unix.EMFILE })
	var log strings.Builder
	e := New(Config{Device: func() string { return "gw-1" }, System: system(t), Logger: tunnel.NewTextLogger(&log, tunnel.LevelDebug)})
	t.Cleanup(e.Close)
	c := open(t, e, Params{SessionID: newID()})
	c.exec("trap '' HUP TERM; echo $$; while :; do sleep 0.01; done")
	var leader int
	if _, err := fmt.Fscanln(c.ch, &leader); err != nil {
		t.Fatal(err)
	}
	c.cancel(errors.New("enough"))
	c.finish()
	if runs(leader) {
		_ = unix.Kill(-leader, unix.SIGKILL)
		t.Error("it runs still")
	}
	if !strings.Contains(log.String(), "processes of a killed session are left") {
		t.Errorf("logged: %q", log.String())
	}
}

func TestALookWithoutDescriptorsFails(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	for more, want := range []string{"open /proc:", "/stat:"} {
		for end := time.Now().Add(10 * time.Second); ; { // something else may close a file meanwhile
			f, err := os.Open("/")
			if err != nil {
				t.Fatal(err)
			}
			next := f.Fd()
			f.Close()
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(next) + uint64(more), Max: was.Max}); err != nil {
				t.Fatal(err)
			}
			_, err = look(nil)
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
				t.Fatal(err)
			}
			if errors.Is(err, unix.EMFILE) && strings.Contains(err.Error(), want) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("with descriptors for %d files: %v", more, err)
			}
		}
	}
}
