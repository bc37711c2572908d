package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/api"
)

func fleetOf(spec ...string) (devices []*api.Device) {
	for _, s := range spec {
		name, env, _ := strings.Cut(s, " ")
		name, away := strings.CutPrefix(name, "!")
		d := &api.Device{Name: name, Online: !away}
		if env != "" {
			d.Labels = []*api.Label{{Key: "site", Value: "ber"}, {Key: "env", Value: env}}
		}
		devices = append(devices, d)
	}
	return devices
}

func namesOf(devices []*api.Device) (names []string) {
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return names
}

func TestThoseThatAreThereComeFirstAndUnknownOnesAreRefused(t *testing.T) {
	all := fleetOf("gw-3", "!gw-1", "gw-2")
	got, err := choose(all, nil)
	if want := []string{"gw-2", "gw-3", "gw-1"}; err != nil || !slices.Equal(namesOf(got), want) {
		t.Errorf("%v, %v; want %v", namesOf(got), err, want)
	}
	got, err = choose(all, []string{"gw-1", "gw-3", "gw-1"})
	if want := []string{"gw-3", "gw-1"}; err != nil || !slices.Equal(namesOf(got), want) {
		t.Errorf("%v, %v; want %v", namesOf(got), err, want)
	}
	if _, err = choose(all, []string{"gw-1", "gw-9", "\x1b[2J"}); exitCode(err) != exitNotFound || !strings.Contains(err.Error(), `gw-9, \x1b[2J`) {
		t.Errorf("unknown: %v", err)
	}
	if _, err = choose(nil, nil); exitCode(err) != exitNotFound {
		t.Errorf("none: %v", err)
	}
}

func TestMoreThanOneEnvironmentIsAskedFor(t *testing.T) {
	for _, tt := range []struct{ devices, want string }{
		{"a prod,b prod", ""}, {"a,b", ""},
		{"a prod,b lab,c lab", `reboot: 3 devices of 2 environments (1 env=prod, 2 env=lab). Go on?`},
		{"a prod,b", `reboot: 2 devices of 2 environments (1 env=prod, 1 without the label env). Go on?`},
	} {
		if got := environmentsQuestion("reboot", fleetOf(strings.Split(tt.devices, ",")...)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.devices, got, tt.want)
		}
	}
}

func TestNoMoreAreBegunThanTheRolesAllow(t *testing.T) {
	caps := []*api.CapUse{{Cap: "max_connections", Held: 1, Max: 10}, {Cap: "max_sessions", Held: 2, Max: 6}}
	for _, tt := range []struct{ wanted, want int }{{50, 4}, {3, 3}} {
		if got := places(caps, tt.wanted); got != tt.want {
			t.Errorf("%d of %d", got, tt.wanted)
		}
	}
	if got := places([]*api.CapUse{{Held: 9, Max: 6}}, 50); got != 1 {
		t.Errorf("none is free: %d", got)
	}
}

// A twin of the devices: what each does, and how many at once.
type twin struct {
	mu        sync.Mutex
	now, most int
	began     []string
}

func (w *twin) act(ctx context.Context, name string, stdout, stderr io.Writer) (int, error) {
	w.mu.Lock()
	w.now++
	w.most = max(w.most, w.now)
	w.began = append(w.began, name)
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.now--
		w.mu.Unlock()
	}()
	fmt.Fprintf(stdout, "up on %s\nno end", name)
	switch {
	case strings.HasPrefix(name, "bad"):
		fmt.Fprintln(stderr, "hawser: offline")
		return sshFailed, nil
	case strings.HasPrefix(name, "slow"):
		<-ctx.Done()
		return 0, ctx.Err()
	}
	time.Sleep(time.Second)
	return 0, nil
}

func TestAtMostSoManyRunAtOnceAndWhatFailsIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{format: formatJSON, timeout: 10 * time.Second}
		var out, words bytes.Buffer
		devices := fleetOf("gw-1", "bad-1", "slow-1", "gw-2", "gw-3", "gw-4")
		r := &report{f: f, total: len(devices), out: &out, words: &words}
		w, rest := &twin{}, newLeft("", devices)
		f.work(t.Context(), devices, 2, nil, f.one(r, w.act), func(o outcome) { r.done(o); rest.done(o) })
		if w.most != 2 || len(w.began) != 6 {
			t.Errorf("%d at once, began %v", w.most, w.began)
		}
		if got := rest.sorted(); !slices.Equal(got, []string{"bad-1", "slow-1"}) {
			t.Errorf("left: %v", got)
		}
		seen := map[string]outcome{}
		for line := range strings.Lines(out.String()) {
			var o outcome
			if err := json.Unmarshal([]byte(line), &o); err != nil {
				t.Fatal(err)
			}
			seen[o.Device] = o
		}
		if o := seen["gw-4"]; o.Exit == nil || *o.Exit != 0 || *o.Stdout != "up on gw-4\nno end" || o.Seconds != 1 {
			t.Errorf("gw-4: %+v", o)
		}
		if o := seen["bad-1"]; o.why() != "exit 255: hawser: offline" {
			t.Errorf("bad-1: %q", o.why())
		}
		if o := seen["slow-1"]; o.Exit != nil || o.Error != "not done after 10s" || o.Seconds != 10 {
			t.Errorf("slow-1: %+v", o)
		}
	})
}

func TestWhoIsAwayIsBegunWhenItComesAndHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{format: formatText, wait: time.Minute}
		var out, words bytes.Buffer
		devices := fleetOf("gw-1", "gw-2", "!late", "!never")
		r := &report{f: f, total: len(devices), out: &out, words: &words}
		w, begun := &twin{}, time.Now()
		why := map[string]string{}
		come := func(_ context.Context, names []string) []string {
			if slices.Contains(names, "late") && time.Since(begun) > 30*time.Second {
				return []string{"late"}
			}
			return nil
		}
		f.work(t.Context(), devices, 1, come, f.one(r, w.act), func(o outcome) { r.done(o); why[o.Device] = o.why() })
		if want := []string{"gw-1", "gw-2", "late"}; !slices.Equal(w.began, want) {
			t.Errorf("began %v, want %v", w.began, want)
		}
		if why["late"] != "exit 0" || why["never"] != "did not come within 1m0s" {
			t.Errorf("%v", why)
		}
		if got := time.Since(begun); got < time.Minute || got > time.Minute+waitPoll {
			t.Errorf("took %v", got)
		}
		if want := "gw-1: up on gw-1\ngw-1: no end\n"; !strings.HasPrefix(out.String(), want) {
			t.Errorf("%q", out.String())
		}
	})
}

func TestCtrlCEndsAllAndSaysWhatWasNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fleet{format: formatText, wait: time.Hour}
		var out, words bytes.Buffer
		devices := fleetOf("gw-1", "slow-1", "slow-2", "gw-2", "!late")
		r := &report{f: f, total: len(devices), out: &out, words: &words}
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(context.Canceled) })
		why := map[string]string{}
		nobody := func(context.Context, []string) []string { return nil }
		f.work(ctx, devices, 2, nobody, f.one(r, (&twin{}).act), func(o outcome) { why[o.Device] = o.why() })
		want := map[string]string{"gw-1": "exit 0", "slow-1": "interrupted", "slow-2": "interrupted", "gw-2": "not begun", "late": "not begun"}
		for name, w := range want {
			if why[name] != w {
				t.Errorf("%s: %q, want %q", name, why[name], w)
			}
		}
	})
}

func TestTheFileOfRetryHasWhatIsLeftAndGoesWhenNothingIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "todo")
	f := &fleet{retry: path, names: []string{"gw-1"}}
	if names, err := f.retried(); names != nil || err != nil {
		t.Errorf("no file: %v, %v", names, err)
	}
	if _, err := (&fleet{retry: path}).retried(); exitCode(err) != exitUsage {
		t.Errorf("no file and no device: %v", err)
	}
	l, zero, one := newLeft(path, fleetOf("gw-1", "gw-2", "gw-3")), 0, 1
	l.done(outcome{Device: "gw-1", Exit: &zero})
	l.done(outcome{Device: "gw-2", Exit: &one, Error: "evil\n gw-9 # \x1b"})
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	if names, err := f.retried(); err != nil || !slices.Equal(names, []string{"gw-2", "gw-3"}) {
		t.Errorf("%q, %v", names, err)
	}
	l.done(outcome{Device: "gw-2", Exit: &zero})
	l.done(outcome{Device: "gw-3", Exit: &zero})
	if err := l.save(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is left: %v", err)
	}
}

func TestOutputIsShownByWholeLinesBoundedAndHarmless(t *testing.T) {
	var out bytes.Buffer
	r := &report{f: &fleet{}, out: &out, words: io.Discard}
	w := &lineWriter{r: r, to: r.out, name: "gw-1", safe: true}
	for _, s := range []string{"a", "b\n\nc:\t\"\\d\" \x1b]0;x\a\r\n", strings.Repeat("x", maxLine+1)} {
		if n, err := io.WriteString(w, s); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	w.rest()
	want := "gw-1: ab\ngw-1: \ngw-1: c:\t\"\\d\" \\x1b]0;x\\x07\ngw-1: " + strings.Repeat("x", maxLine) + "\ngw-1: x\n"
	if got := out.String(); got != want {
		t.Errorf("%.120q", got)
	}
	k := &kept{}
	for range 3 {
		_, _ = k.Write(make([]byte, maxKept/2))
	}
	if k.Len() != maxKept || !k.more {
		t.Errorf("%d bytes kept, more %v", k.Len(), k.more)
	}
}

// slowly takes what is written when it is told to.
type slowly struct {
	bytes.Buffer
	until <-chan struct{}
}

func (w *slowly) Write(p []byte) (int, error) {
	<-w.until
	return w.Buffer.Write(p)
}

// Two seconds after ssh had ended, what a slow reader of ours had not taken yet was lost, and what had succeeded counted as failed and was to be done again.
func TestWhoReadsSlowlyGetsAllAndNothingFailsByIt(t *testing.T) {
	t.Parallel()
	pager := make(chan struct{})
	out := &slowly{until: pager}
	time.AfterFunc(endGrace+500*time.Millisecond, func() { close(pager) })
	exit, err := new(fleet).process(t.Context(), nil, out, io.Discard, "/bin/sh", "-c", "head -c 60000 /dev/zero; exit 3")
	if exit != 3 || err != nil || out.Len() != 60000 {
		t.Errorf("exit %d, %v, %d bytes", exit, err, out.Len())
	}
}

func TestWhatDoesNotEndByItselfIsEndedWithAllThatItStarted(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	out := &slowly{until: t.Context().Done()} // nobody reads
	begun := time.Now()
	time.AfterFunc(100*time.Millisecond, cancel)
	pids := filepath.Join(t.TempDir(), "pids")
	_, err := new(fleet).process(ctx, nil, out, io.Discard, "/bin/sh", "-c",
		"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >'"+pids+"'; while :; do sleep 0.1; done' & echo said; wait; while :; do sleep 0.1; done")
	if !errors.Is(err, context.Canceled) || time.Since(begun) > 3*endGrace {
		t.Errorf("%v after %v", err, time.Since(begun))
	}
	b, _ := os.ReadFile(pids)
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	for end := time.Now().Add(5 * time.Second); pid == 0 || syscall.Kill(pid, 0) == nil; time.Sleep(10 * time.Millisecond) {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
			break // nobody waits for it here
		}
		if pid == 0 || time.Now().After(end) {
			t.Fatalf("process %d goes on", pid)
		}
	}
}

// -l "$SITE" with SITE unset was every device.
func TestALabelThatIsEmptyIsNotEveryDevice(t *testing.T) {
	for selector, refused := range map[string]bool{"": true, ",": true, "*": false, "site=ber": false, "site=ber,": false} {
		f := &fleet{selectors: []string{selector}, format: formatText, parallel: 1, connect: time.Second}
		if err := f.check(); (err != nil) != refused {
			t.Errorf("-l %q: %v", selector, err)
		}
	}
}

func TestScpNamesTheDevicesSideByAColon(t *testing.T) {
	for _, tt := range []struct{ paths, want, dir string }{
		{"a b/c :/tmp/", "./a ./b/c hub:/tmp/", ""},
		{"/a:b -x :", "/a:b ./-x hub:", ""},
		{":/var/log/x :y logs", "hub:/var/log/x hub:y ./logs/gw-1/", "logs/gw-1"},
		{":/x /logs", "hub:/x /logs/gw-1/", "/logs/gw-1"},
		{":/x", "", ""}, {"a :x b", "", ""}, {":a :b", "", ""}, {"a b", "", ""},
	} {
		words, dir, err := copyWords(strings.Fields(tt.paths), "gw-1")
		if got := strings.Join(words, " "); got != tt.want || dir != tt.dir || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %q, %q, %v", tt.paths, got, dir, err)
		}
	}
	if fleetCopies([]string{"-l", "800", "file", "gw-1:/tmp"}) || !fleetCopies([]string{"-l", "site=ber", "file", ":/tmp"}) {
		t.Error("a copy to one device and a copy to many are taken for one another")
	}
}

func TestTheLineToGoOnWithIsTheOneThatWasTyped(t *testing.T) {
	c := newExec()
	if err := c.Flags().Parse([]string{"-l", "site=ber", "--parallel", "50", "--login", "root"}); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("exec "+againFlags(c.Flags())+"%s -- "+percent.Replace(quoteWords([]string{"date +%s", "it's"})), "--devices a,b")
	if want := `exec --login=root --parallel=50 --devices a,b -- 'date +%s' 'it'\''s'`; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
