package record_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hawser/test/harness"
)

// counting prints lines that a recording is held against: what was shown, and when. However slow the machine is, no more than twoSeconds of them are 2 s.
const (
	counting   = `i=0; while :; do i=$((i+1)); echo "line-$i."; sleep 0.05; done`
	twoSeconds = 2 * 20
)

var countedLine = regexp.MustCompile(`line-(\d+)\.`)

// counted returns the last line that a text has; it fails where one is missing, repeated or out of order.
func counted(t *testing.T, what, text string) (last int) {
	t.Helper()
	for _, m := range countedLine.FindAllStringSubmatch(text, -1) {
		n, _ := strconv.Atoi(m[1])
		if n != last+1 {
			t.Errorf("SAFETY: %s: line %d follows line %d", what, n, last)
			return n
		}
		last = n
	}
	return last
}

type delivered struct {
	ID, Way, Device, State, Command string
}

func listed(t *testing.T, w *harness.World, way, device string) (found []delivered) {
	t.Helper()
	var list []delivered
	if err := json.Unmarshal([]byte(w.Must(t, "recordings", "ls", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.Way == way && r.Device == device && strings.Contains(r.Command, "line-") {
			found = append(found, r)
		}
	}
	return found
}

// recordedText waits for the one recording of a way and device to be so, and returns what it plays.
func recordedText(t *testing.T, w *harness.World, way, device, state string) string {
	t.Helper()
	var r delivered
	harness.Eventually(t, 20*time.Second, "the recording of "+way+" on "+device+" is "+state, func() bool {
		all := listed(t, w, way, device)
		if len(all) > 1 {
			t.Fatalf("%d recordings: %+v", len(all), all)
		}
		if len(all) == 1 {
			r = all[0]
		}
		return r.State == state
	})
	return w.Must(t, "recordings", "export", r.ID)
}

func recordMode(t *testing.T, w *harness.World, mode string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte("kind: cluster\nname: "+w.Cluster+"\nrecord: "+mode+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Must(t, "apply", "-f", file)
}

// person is somebody at a program that counts.
type person struct {
	*harness.Process
	what string
}

func (p person) line(t *testing.T) int { return counted(t, p.what, p.Output()) }

func (p person) reaches(t *testing.T, n int, within time.Duration) {
	t.Helper()
	harness.Eventually(t, within, fmt.Sprintf("%s shows line %d", p.what, n), func() bool {
		select {
		case <-p.Done():
			t.Fatalf("%s ended: %v\n%s", p.what, p.Err(), tail(p.Output()))
		default:
		}
		return p.line(t) >= n
	})
}

func tail(s string) string { return s[max(0, len(s)-600):] }

func (p person) gone(t *testing.T) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(30 * time.Second):
		t.Fatalf("%s goes on\n%s", p.what, tail(p.Output()))
	}
}

// ends waits for the end, which comes so long after since, with 255 and those words.
func (p person) ends(t *testing.T, since time.Time, least, most time.Duration, words string) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(most - time.Since(since)):
		t.Fatalf("%s goes on %v later\n%s", p.what, time.Since(since), tail(p.Output()))
	}
	if took := time.Since(since); took < least || p.Cmd.ProcessState.ExitCode() != 255 || !strings.Contains(p.Output(), words) {
		t.Errorf("%s ended after %v by %d, without %q:\n%s", p.what, took, p.Cmd.ProcessState.ExitCode(), words, tail(p.Output()))
	}
}

// Sessions that must be recorded go on for as long as their recordings are stored: 2 s without that hold everything back, 10 s more end them. Who is
// detached sees nothing, so that does not count; who came directly sees what the cut device shows, so he goes.
func TestStrictSessionsEndWhenTheyAreNotRecordedAndDetachedOnesWait(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	recordMode(t, w, "strict")
	one, two := w.AddSite(t, "gw-1"), w.AddSite(t, "gw-2")
	one.StartEdge(t)
	two.StartEdge(t, "HAWSER_LISTEN=192.168.77.2:2222")
	config := filepath.Join(w.Dir, "ssh_config")
	at := func(what string, args []string) person {
		return person{harness.Start(t, nil, args[0], append(args[1:], counting)...), what}
	}
	hub := at("hub mode", w.SSH(1, harness.HubMode, "gw-1", "-tt"))
	e2e := at("end to end", w.SSH(1, harness.EndToEnd, "gw-1", "-tt"))
	bulk := at("without a terminal", w.SSH(1, harness.HubMode, "gw-1"))
	detached := at("detached", w.SSH(1, harness.EndToEnd, "gw-2", "-tt"))
	direct := at("direct", []string{"ip", "netns", "exec", two.Router, "ssh", "-F", config, "-tt", "-p", "2222", "-o", "HostKeyAlias=gw-2", harness.Account(t) + "@192.168.77.2"})
	all := []person{hub, e2e, bulk, detached, direct}
	for _, p := range all {
		p.reaches(t, 20, 20*time.Second)
	}
	// Root on the device, or whoever has its line, cuts it. Of the direct session there auth has what it was, up to 2 s before the cut.
	const words = "must be recorded as it happens"
	cut, atCut := time.Now(), direct.line(t)
	two.Drop(t, `iifname "lan0" oifname "wan0"`)
	two.Drop(t, `iifname "wan0" oifname "lan0"`)
	direct.ends(t, cut, 10*time.Second, 14*time.Second, words)
	if cutOff := listed(t, w, "direct", "gw-2"); len(cutOff) != 1 {
		t.Errorf("direct: recordings of the device that is cut off: %+v", cutOff)
	} else if n := counted(t, "direct, cut off", w.Must(t, "recordings", "export", cutOff[0].ID)); n < atCut-twoSeconds || n > direct.line(t) {
		t.Errorf("direct: auth has it up to line %d; line %d was shown before the cut", n, atCut)
	}
	for _, p := range []person{hub, e2e, bulk} { // whose device has its line
		p.reaches(t, p.line(t)+twoSeconds, 10*time.Second)
	}
	// And auth stands still.
	stood := time.Now()
	if err := w.Auth.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goes := letGo(w.Auth.Cmd.Process.Pid)
	defer goes(t)
	for _, p := range []person{hub, e2e, bulk} {
		p.ends(t, stood, 10*time.Second, 14*time.Second, words)
	}
	goes(t)
	two.Heal(t) // the detached one has waited for longer than any that is not
	before := detached.line(t)
	detached.reaches(t, before+40, 20*time.Second)
	shown := map[string]int{"hub/gw-1": hub.line(t), "end-to-end/gw-1": e2e.line(t), "direct/gw-2": direct.line(t)}
	for at, last := range shown {
		way, device, _ := strings.Cut(at, "/")
		if way == "hub" {
			harness.Eventually(t, 20*time.Second, "both recordings of hub mode are complete", func() bool {
				n := 0
				for _, r := range listed(t, w, way, device) {
					if r.State == "complete" {
						n++
					}
				}
				return n == 2
			})
			for _, r := range listed(t, w, way, device) {
				if n := counted(t, at, w.Must(t, "recordings", "export", r.ID)); n < min(last, bulk.line(t)) {
					t.Errorf("hub mode: the recording ends with line %d, lines %d and %d were shown", n, last, bulk.line(t))
				}
			}
			continue
		}
		if n := counted(t, at, recordedText(t, w, way, device, "complete")); n < last {
			t.Errorf("%s: the recording ends with line %d, line %d was shown", at, n, last)
		}
	}
	harness.Eventually(t, 10*time.Second, "the audit log says what ended", func() bool {
		return strings.Count(w.Must(t, "audit", "search", "--type", "recording.stalled", "-o", "json"), `"recording.stalled"`) == 4
	})
	detached.Stop(t)
}

// letGo returns a function that lets a stopped process go on, once.
func letGo(pid int) func(t *testing.T) {
	done := false
	return func(t *testing.T) {
		if !done {
			done = true
			if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}
	}
}

// A recording that is not strict holds nobody up, and loses nothing while auth is away. Of one whose hub is killed at most the last 2 s are missing, of
// one whose device is what it had not uploaded; both play, and say that they are incomplete.
func TestRecordingsSurviveKillsOfAuthHubAndDevice(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 1)
	one, two := w.AddSite(t, "gw-1"), w.AddSite(t, "gw-2")
	one.StartEdge(t)
	two.StartEdge(t)
	at := func(what string, args []string) person {
		return person{harness.Start(t, nil, args[0], append(args[1:], counting)...), what}
	}
	hub := at("hub mode", w.SSH(1, harness.HubMode, "gw-1", "-tt"))
	e2e := at("end to end", w.SSH(1, harness.EndToEnd, "gw-2", "-tt"))
	hub.reaches(t, 20, 20*time.Second)
	e2e.reaches(t, 60, 20*time.Second)
	// The device is killed: what it had not uploaded is gone.
	shown := e2e.line(t)
	two.Edge.Kill()
	two.RunEdge(t) // else it might come back with the session
	e2e.gone(t)
	if n := counted(t, "end to end", recordedText(t, w, "end-to-end", "gw-2", "incomplete")); n < shown-60 || n == 0 {
		t.Errorf("end to end: the recording ends with line %d, line %d was shown", n, shown)
	}
	// Auth is killed: the session goes on, and what it shows is kept.
	w.Auth.Kill()
	n := hub.line(t)
	hub.reaches(t, n+60, 10*time.Second)
	// And the hub: what it could not deliver is on its disk.
	shown = hub.line(t)
	w.Hubs[0].Process.Kill()
	hub.gone(t)
	if files, _ := filepath.Glob(filepath.Join(w.Hubs[0].Data(), "spool", "*.spool")); len(files) == 0 {
		t.Error("nothing in the spool")
	} else if b, err := os.ReadFile(files[0]); err != nil || strings.Contains(string(b), "line-") {
		t.Errorf("the spool is not encrypted, %v", err)
	}
	w.StartAuth(t)
	w.Hubs[0].Launch(t)
	harness.Eventually(t, 20*time.Second, "the hub has uploaded its spool", func() bool {
		files, _ := filepath.Glob(filepath.Join(w.Hubs[0].Data(), "spool", "*.spool"))
		return len(files) == 0
	})
	if n := counted(t, "hub mode", recordedText(t, w, "hub", "gw-1", "incomplete")); n < shown-twoSeconds {
		t.Errorf("hub mode: the recording ends with line %d, line %d was shown before the kill", n, shown)
	}
	if said := w.Must(t, "audit", "search", "--type", "recording.incomplete", "-o", "json"); strings.Count(said, `"recording.incomplete"`) != 1 {
		t.Errorf("closed more or less than once: %s", said)
	}
}

// mount puts a disk of that size in memory where auth's data will be.
func mount(t *testing.T, size string) func(dir string) {
	return func(dir string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "hawser-test", dir).CombinedOutput(); err != nil {
			t.Fatalf("mount a tmpfs: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		})
	}
}

// fill takes the disk's space but so much.
func fill(t *testing.T, dir string, leave int64) (file string) {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "others")
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-leave); err != nil {
		t.Fatal(err)
	}
	return file
}

// A slow link takes its time and loses nothing. A service that pauses holds up what must be recorded, for as long as the strict window allows, and
// not a byte of it is shown that is not kept. On a full disk strict sessions end, others go on, and are kept.
func TestRecordingsOnASlowLinkAPausingServiceAndAFullDisk(t *testing.T) {
	t.Parallel()
	harness.Need(t, "mount", "umount")
	w := harness.NewWorldOn(t, 1, mount(t, "420m"))
	one, two := w.AddSite(t, "gw-1"), w.AddSite(t, "gw-2")
	one.StartEdge(t)
	two.StartEdge(t, "HAWSER_CARRIER=tls")
	at := func(what string, args []string, command string) person {
		return person{harness.Start(t, nil, args[0], append(args[1:], command)...), what}
	}
	loose := at("best-effort", w.SSH(1, harness.HubMode, "gw-1", "-tt"), counting)
	loose.reaches(t, 10, 20*time.Second)
	recordMode(t, w, "strict")

	// 300 ms there and back, end to end, where the recording goes over the same link; meanwhile auth pauses under 40 MB of another.
	const lines = 3000
	heal := two.Impair(t, 150*time.Millisecond, 0)
	slow := at("slow link", w.SSH(1, harness.EndToEnd, "gw-2", "-tt"), fmt.Sprintf(`i=0; while [ $i -lt %d ]; do i=$((i+1)); echo "line-$i."; done`, lines))
	bulk := filepath.Join(w.Dir, "bulk")
	const size = 40 << 20
	held := at("bulk", append([]string{"sh", "-c", `exec "$@" >` + bulk, "sh"}, w.SSH(1, harness.HubMode, "gw-1")...), fmt.Sprintf("yes 0123456 | head -c %d", size))
	harness.Eventually(t, 20*time.Second, "the bulk flows", func() bool { return fileSize(bulk) > 1<<20 })
	if err := w.Auth.Cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goes := letGo(w.Auth.Cmd.Process.Pid)
	defer goes(t)
	paused := fileSize(bulk)
	last, still := paused, time.Now()
	harness.Eventually(t, 8*time.Second, "nothing more is shown", func() bool {
		if n := fileSize(bulk); n != last {
			last, still = n, time.Now()
		}
		return time.Since(still) > time.Second
	})
	// 8 MiB without a terminal, and what lies between the hub and the file.
	if n := fileSize(bulk) - paused; n > 12<<20 {
		t.Errorf("%d MiB were shown that auth has not stored", n>>20)
	}
	if fileSize(bulk) == size {
		t.Error("all of it had passed: nothing was held up")
	}
	goes(t)
	for _, p := range []person{held, slow} {
		p.gone(t)
		if code := p.Cmd.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("%s: exit %d\n%s", p.what, code, tail(p.Output()))
		}
	}
	heal()
	if n := slow.line(t); n != lines {
		t.Errorf("slow link: %d lines", n)
	}
	if n := counted(t, "slow link", recordedText(t, w, "end-to-end", "gw-2", "complete")); n != lines {
		t.Errorf("slow link: the recording has %d lines", n)
	}
	var id string
	harness.Eventually(t, 20*time.Second, "the recording of the bulk is complete", func() bool {
		var list []delivered
		if err := json.Unmarshal([]byte(w.Must(t, "recordings", "ls", "-o", "json")), &list); err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if strings.HasPrefix(r.Command, "yes ") && r.State == "complete" {
				id = r.ID
			}
		}
		return id != ""
	})
	if got := w.Must(t, "recordings", "export", id); fileSize(bulk) != size || len(got)+1 != size {
		t.Errorf("%d bytes were shown, %d recorded", fileSize(bulk), len(got)+1)
	}

	// Somebody else's files fill auth's disk.
	strict := at("strict", w.SSH(1, harness.HubMode, "gw-1", "-tt"), "echo strict; "+counting)
	strict.reaches(t, 10, 20*time.Second)
	full := time.Now()
	others := fill(t, w.AuthData(), 180<<20)
	strict.ends(t, full, 2*time.Second, 16*time.Second, "must be recorded as it happens")
	if r := harness.Run(t, nil, "env", append(w.SSH(1, harness.HubMode, "gw-1"), "echo ran")...); r.Code != 255 || strings.Contains(string(r.Stdout), "ran") ||
		!strings.Contains(string(r.Stderr), "no room for recordings") {
		t.Errorf("a strict session on a full disk: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	n := loose.line(t)
	loose.reaches(t, n+20, 10*time.Second)
	if files, _ := filepath.Glob(filepath.Join(w.Hubs[0].Data(), "spool", "*.spool")); len(files) == 0 {
		t.Error("nothing in the spool")
	}
	if said := w.Must(t, "audit", "search", "--type", "recording.space", "-o", "json"); !strings.Contains(said, `"full"`) {
		t.Errorf("no alarm: %s", said)
	}
	if err := os.Remove(others); err != nil {
		t.Fatal(err)
	}
	shown := loose.line(t)
	harness.Eventually(t, 20*time.Second, "all is at auth again, without a restart", func() bool {
		for _, r := range listed(t, w, "hub", "gw-1") {
			if !strings.Contains(r.Command, "strict") && counted(t, "best-effort", w.Must(t, "recordings", "export", r.ID)) > shown {
				return true
			}
		}
		return false
	})
	loose.Stop(t)
}

func fileSize(name string) int64 {
	st, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return st.Size()
}

// What a device records may be brought to auth by any hub: a direct session that must be recorded goes on when the hub that has its place is killed,
// and its recording is whole.
func TestADirectStrictSessionOutlivesItsHub(t *testing.T) {
	t.Parallel()
	w := harness.NewWorld(t, 2)
	recordMode(t, w, "strict")
	s := w.AddSite(t, "gw")
	s.StartEdge(t, "HAWSER_LISTEN=192.168.77.2:2222")
	config := filepath.Join(w.Dir, "ssh_config")
	args := []string{"ip", "netns", "exec", s.Router, "ssh", "-F", config, "-tt", "-p", "2222", "-o", "HostKeyAlias=gw", harness.Account(t) + "@192.168.77.2", counting}
	direct := person{harness.Start(t, nil, args[0], args[1:]...), "direct"}
	direct.reaches(t, 60, 20*time.Second)
	var all []struct{ Way, Hub string }
	said := w.Must(t, "sessions", "ls", "-o", "json")
	if err := json.Unmarshal([]byte(said), &all); err != nil || len(all) != 2 {
		t.Fatalf("%v, %s", err, said)
	}
	killed := false
	for _, h := range w.Hubs {
		if h.Name == all[0].Hub {
			h.Process.Kill()
			killed = true
		}
	}
	if !killed {
		t.Fatalf("no hub is %q", all[0].Hub)
	}
	// 2 s without an acknowledgement hold everything back, and 10 s more end it.
	direct.reaches(t, direct.line(t)+400, 60*time.Second)
	last := direct.line(t)
	direct.Stop(t)
	direct.gone(t)
	if n := counted(t, "direct", recordedText(t, w, "direct", "gw", "complete")); n < last {
		t.Errorf("the recording ends with line %d, line %d was shown", n, last)
	}
}
