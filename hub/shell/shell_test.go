package shell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"

	"hawser/tunnel/wire"
)

func labels(kv ...string) (all []wire.Label) {
	for i := 0; i < len(kv); i += 2 {
		all = append(all, wire.Label{Key: kv[i], Value: kv[i+1]})
	}
	return all
}

// fleet is a few devices.
func fleet() []Device {
	return []Device{
		{UUID: wire.UUID{1}, Name: "gw-1", Online: true, Labels: labels("env", "prod", "site", "ber")},
		{UUID: wire.UUID{2}, Name: "gw-17", Labels: labels("env", "lab", "site", "Amsterdam")},
		{UUID: wire.UUID{3}, Name: "qa-3", Online: true},
		{UUID: wire.UUID{4}, Name: "web", Online: true, Labels: labels("site", "ber"), Used: time.Unix(1000, 0)},
	}
}

func picker(c Config) *model {
	sorted(c.Devices)
	return newModel(c, true)
}

func (m *model) types(text string) {
	for len(text) > 0 {
		k, n := decode([]byte(text), true)
		text = text[n:]
		m.press(k)
	}
}

func (m *model) names() (names []string) {
	for _, i := range m.shown {
		names = append(names, m.c.Devices[i].Name)
	}
	return names
}

func TestRecentlyUsedDevicesComeFirstAndTypingNarrows(t *testing.T) {
	m := picker(Config{Devices: fleet()})
	for _, step := range []struct {
		typed string
		want  []string
	}{
		{"", []string{"web", "gw-1", "gw-17", "qa-3"}},
		{"gw", []string{"gw-1", "gw-17"}},
		{"-1", []string{"gw-1", "gw-17"}},
		{"7", []string{"gw-17"}},
		{"\x7f\x7f\x7f\x7f\x7f", []string{"web", "gw-1", "gw-17", "qa-3"}},
		{"site=ber", []string{"web", "gw-1"}},
		{" gw", []string{"gw-1"}},
		{"\x17", []string{"web", "gw-1"}},
		{"\x15amsterdam", []string{"gw-17"}}, // labels as they are written or not
		{"\x15/q", []string{"qa-3"}},         // q is a letter after a slash
	} {
		if m.types(step.typed); m.done || !slices.Equal(m.names(), step.want) {
			t.Errorf("%q: %v (done %v), want %v", step.typed, m.names(), m.done, step.want)
		}
	}
}

func TestEnterConnectsToTheDeviceUnderTheCursor(t *testing.T) {
	m := picker(Config{Devices: fleet()})
	m.types("\x1b[B\x1bOB\x1b[B\x1b[A\x0e\r") // down thrice, up, and down
	if m.choice != (Choice{Name: "qa-3"}) || !m.done {
		t.Errorf("picked %+v", m.choice)
	}
}

func TestEachOfTheWaysOutLeaves(t *testing.T) {
	for _, key := range []string{"\x1b", "\x03", "\x04", "q", "gw\x1b", "\x1b[27u", "\x1b[99;5u", "\x1b[27;5;99~"} {
		m := picker(Config{Devices: fleet()})
		if m.types(key); !m.done || m.choice != (Choice{}) {
			t.Errorf("%q: done %v, picked %+v", key, m.done, m.choice)
		}
	}
}

func TestAnOfflineDeviceIsToldOfBeforeItIsWaitedFor(t *testing.T) {
	m := picker(Config{Devices: fleet(), Query: "gw-17", Seen: func(context.Context, *Device) string { return "offline, last seen 3 h ago" }})
	cmd := m.press(key{kind: enter})
	if m.done || cmd == nil {
		t.Fatalf("picked %+v at once", m.choice)
	}
	m.ctx = t.Context()
	m.Update(cmd())
	if text := m.text(); !strings.Contains(text, "gw-17 is offline, last seen 3 h ago") {
		t.Errorf("not told when it was seen:\n%s", text)
	}
	m.types("\r")
	if m.choice != (Choice{Name: "gw-17", Wait: true}) {
		t.Errorf("picked %+v", m.choice)
	}
	// One that has come meanwhile is not waited for.
	m = picker(Config{Devices: fleet(), Query: "gw-17", Online: func(*Device) bool { return true }})
	if m.types("\r"); m.choice != (Choice{Name: "gw-17"}) {
		t.Errorf("picked %+v", m.choice)
	}
}

func TestAnUnknownNameShowsThoseNearIt(t *testing.T) {
	m := picker(Config{Devices: fleet(), Query: "gw-71"})
	if want := []string{"gw-1", "gw-17"}; !slices.Equal(m.names(), want) || !strings.Contains(m.text(), "gw-71") {
		t.Errorf("near are %v, want %v:\n%s", m.names(), want, m.text())
	}
}

// The screen never has more rows or columns than the terminal, or a control character of a stranger's.
func TestEverySizeOfTerminalIsDrawnWithin(t *testing.T) {
	hostile := append(fleet(), Device{
		Name: "x", Labels: labels("a\x1b]52;c;x\x07", "\x1b[2J\u202eevil\u200b", "wide", strings.Repeat("漢", 100)),
	})
	for _, plain := range []bool{true, false} {
		for columns := uint32(1); columns < 200; columns += 7 {
			for _, rows := range []uint32{1, 2, 3, 5, 6, 24, 1 << 31} {
				m := newModel(Config{Hub: "hub-1", User: "ann", Devices: hostile, Login: "root"}, plain)
				m.resize(columns, rows)
				for _, k := range []keyKind{down, pageDown, end, home} {
					m.press(key{kind: k})
					lines := strings.Split(m.text(), "\n")
					if len(lines) > m.rows {
						t.Fatalf("%dx%d: %d rows", columns, rows, len(lines))
					}
					for _, l := range lines {
						if ansi.StringWidth(l) > m.width {
							t.Fatalf("%dx%d: %q is too wide", columns, rows, l)
						}
						bare := ansi.Strip(l)
						if i := strings.IndexFunc(bare, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 || plain && bare != l {
							t.Fatalf("%dx%d: %q reaches the terminal", columns, rows, l)
						}
					}
				}
			}
		}
	}
}

func TestTwentyColumnsShowNameStateAndEnvironment(t *testing.T) {
	m := picker(Config{Devices: fleet()})
	m.resize(20, 10)
	text := m.text()
	for _, want := range []string{"> + web", "  + gw-1 [!prod]", "  - gw-17 [lab]"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("lacks %q:\n%s", want, text)
		}
	}
	long := Device{Name: strings.Repeat("n", 63), Online: true, Labels: labels("env", "production")}
	if row := ansi.Truncate(m.row(&long, false, 0), 20, ""); !strings.HasSuffix(row, "[!]") {
		t.Errorf("a long name hides that it is production: %q", row)
	}
}

func TestNoColorMeansNoEscape(t *testing.T) {
	m := newModel(Config{Devices: fleet()}, false)
	if !strings.Contains(m.text(), "\x1b[1;37;41m[!prod]") {
		t.Errorf("production is not marked:\n%q", m.text())
	}
	if m.plain = true; strings.Contains(m.text(), "\x1b") {
		t.Error("NO_COLOR is not heeded")
	}
}

func TestNearNames(t *testing.T) {
	all := fleet()
	for name, want := range map[string][]string{
		"gw-71": {"gw-1", "gw-17"}, "wbe": {"web"}, "GW-17": {"gw-17", "gw-1"}, "gw": {"gw-1", "gw-17"}, "zzzzzz": {}, "": nil,
		strings.Repeat("x", 5000): {},
	} {
		if got := Near(name, all); !slices.Equal(got, want) {
			t.Errorf("%.10q: %v, want %v", name, got, want)
		}
	}
}

func TestListBySelectors(t *testing.T) {
	for args, want := range map[string]string{
		"-q":                      "gw-1\ngw-17\nqa-3\nweb\n",
		"-q -l site=ber":          "gw-1\nweb\n",
		"-q -lsite=ber,env!=prod": "web\n",
		"-q --label=name=gw-*":    "gw-1\ngw-17\n",
		"-q -l nothing=":          "gw-1\ngw-17\nqa-3\nweb\n", // as `hawser ls`: a label that is not there is empty
	} {
		o, err := ParseList(strings.Fields(args))
		if got := List(fleet(), o); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", args, got, err, want)
		}
	}
	for _, bad := range []string{"/", "-l", "-l x", "-l =x", "-l a=[", "-l !=x", "-z", "-l " + strings.Repeat("a=b,", 20) + "a=b"} {
		if _, err := ParseList(strings.Fields(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestParseWait(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "0": 0, "1h": time.Hour, "90": 90 * time.Second, "24h": MaxWait} {
		if got, err := ParseWait(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"-1s", "25h", "x", "1h\x1b[2J", "99999999999"} {
		if _, err := ParseWait(bad); err == nil || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// keyboard is a terminal in memory.
type keyboard struct {
	keys chan string
	left []byte
	mu   sync.Mutex
	out  bytes.Buffer
	note chan struct{} // after each write
}

func newKeyboard() *keyboard { return &keyboard{keys: make(chan string), note: make(chan struct{}, 1)} }

func (k *keyboard) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	select {
	case k.note <- struct{}{}:
	default:
	}
	return k.out.Write(p)
}

func (k *keyboard) shown() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.out.String()
}

func (k *keyboard) terminal(term string) Terminal {
	return Terminal{
		Next: func(ctx context.Context, wait time.Duration) ([]byte, error) {
			if b := k.left; b != nil {
				k.left = nil
				return b, nil
			}
			select {
			case s, ok := <-k.keys:
				if !ok {
					return nil, io.EOF
				}
				return []byte(s), nil
			case <-time.After(wait):
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Unread: func(b []byte) { k.left = append(b, k.left...) }, Out: k, Term: term, Columns: 80, Rows: 24,
	}
}

func TestWhatIsTypedBehindEnterIsForTheDevice(t *testing.T) {
	k := newKeyboard()
	p := New(Config{Devices: fleet(), Go: func(f func()) { go f() }}, k.terminal("xterm"))
	go func() {
		for !strings.Contains(k.shown(), "Enter connects") {
			<-k.note
		}
		k.keys <- "gw-1\ruptime\r"
	}()
	choice, err := p.Run(t.Context())
	if choice.Name != "gw-1" || err != nil || string(k.left) != "uptime\r" {
		t.Errorf("picked %+v, %v; %q is left", choice, err, k.left)
	}
	// The terminal is as it was, and was asked nothing whose answer would come later.
	out := k.shown()
	for _, want := range []string{ansi.SetModeAltScreenSaveCursor, ansi.ResetModeAltScreenSaveCursor, ansi.SetModeTextCursorEnable} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q", want)
		}
	}
	for _, query := range []string{"$p", "\x1b]11;?", "\x1b[c", "\x1b[6n", "\x1bP", "\x1b[?u", "\x1b[>", "\x1b[="} {
		if strings.Contains(out, query) {
			t.Errorf("the terminal is asked: %q", query)
		}
	}
	if strings.Contains(strings.ReplaceAll(out, "\r\n", ""), "\n") {
		t.Error("a line's end does not begin a line")
	}
}

func TestTheEndOfTheInputAndOfTheContextEndThePicker(t *testing.T) {
	for _, term := range []string{"xterm", "dumb"} {
		k := newKeyboard()
		close(k.keys)
		c := Config{Devices: fleet(), Go: func(f func()) { go f() }}
		if choice, err := New(c, k.terminal(term)).Run(t.Context()); choice.Name != "" || err != nil {
			t.Errorf("%s: %+v, %v", term, choice, err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(io.ErrUnexpectedEOF)
		if _, err := New(c, newKeyboard().terminal(term)).Run(ctx); err == nil {
			t.Errorf("%s: %v", term, err)
		}
	}
}

func TestADumbTerminalPicksByLines(t *testing.T) {
	k := newKeyboard()
	p := New(Config{Devices: fleet(), Go: func(f func()) { go f() }}, k.terminal("dumb"))
	go func() { k.keys <- "gw\rgw-z\x7f1\rls\r" }()
	choice, err := p.Run(t.Context())
	if choice.Name != "gw-1" || err != nil || string(k.left) != "ls\r" {
		t.Errorf("picked %+v, %v; %q is left\n%s", choice, err, k.left, k.shown())
	}
	if strings.Contains(k.shown(), "\x1b") {
		t.Errorf("control sequences on a dumb terminal: %q", k.shown())
	}
}

// A terminal library that looks at the hub's own terminal must not come in by a back door.
func TestThePickerLinksNothingThatAsksTheHubsTerminal(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		if strings.Contains(dep, "termenv") || strings.Contains(dep, "lipgloss") {
			t.Errorf("links %s", dep)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"a", "\x1b", "\x1b[", "\x1b[1;5A", "\x1bOM", "\x1b[27;5;99~", "\x1b[99;5u", "\x1b[57441:1;2:3u", "\xff", "漢", "\x1b[<0;1;1M",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, last bool) {
		for rest := b; len(rest) > 0; {
			k, n := decode(rest, last)
			if n == 0 && !last && len(rest) < maxSequence {
				return
			}
			if n <= 0 || n > len(rest) || n > maxSequence {
				t.Fatalf("%q: a key of %d bytes", rest, n)
			}
			if k.kind == letter && (!unicode.IsPrint(k.r) || !utf8.ValidRune(k.r)) {
				t.Fatalf("%q: the letter %q", rest, k.r)
			}
			rest = rest[n:]
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add("-q -l site=ber,env!=prod")
	f.Add("-lname=[a-z]*")
	f.Fuzz(func(t *testing.T, line string) {
		o, err := ParseList(strings.Fields(line))
		if err == nil {
			List(fleet(), o)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Fatalf("%q: %q", line, err)
		}
		_, _ = ParseWait(line)
		Near(line, fleet())
	})
}

func many(n int) []Device {
	all := make([]Device, n)
	for i := range all {
		all[i] = Device{Name: fmt.Sprintf("gw-%05d", i), Online: i%3 > 0, Labels: labels("env", "lab", "site", "ber")}
	}
	return all
}

// BenchmarkPicker measures an open picker of 10,000 devices: what it holds, and when its first screen is out.
func BenchmarkPicker(b *testing.B) {
	for _, size := range [][2]uint32{{80, 24}, {maxWidth, maxHeight}} {
		b.Run(fmt.Sprintf("%dx%d", size[0], size[1]), func(b *testing.B) {
			var held, first float64
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				began := time.Now()
				shared := labels("env", "lab", "site", "ber") // the hub's cache has them, as it has the names
				all := make([]Device, 10_000)
				for i := range all {
					all[i] = Device{Name: "gw-00000", Labels: shared}
				}
				k := newKeyboard()
				term := k.terminal("xterm")
				term.Columns, term.Rows = size[0], size[1]
				p := New(Config{Devices: all, Go: func(f func()) { go f() }}, term)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = p.Run(context.Background())
				}()
				for !strings.Contains(k.shown(), "gw-00000") {
					<-k.note
				}
				first += time.Since(began).Seconds()
				runtime.GC()
				runtime.ReadMemStats(&after)
				held += float64(after.HeapAlloc+after.StackInuse) - float64(before.HeapAlloc+before.StackInuse)
				k.keys <- "q"
				<-done
			}
			b.ReportMetric(held/float64(b.N)/1024, "kB/picker")
			b.ReportMetric(first/float64(b.N)*1000, "ms/first-paint")
		})
	}
}

func BenchmarkSearch(b *testing.B) {
	m := picker(Config{Devices: many(10_000)})
	for b.Loop() {
		m.query = "ber gw-099"
		m.search()
	}
}

func BenchmarkNear(b *testing.B) {
	all := many(10_000)
	for b.Loop() {
		Near("gw-09x99", all)
	}
}

// "a", backspace, "a", backspace pasted by the megabyte searched all devices for each byte.
func TestAPasteIsSearchedForOnce(t *testing.T) {
	m := newModel(Config{Devices: fleet()}, false)
	all := len(m.shown)
	for _, r := range "gw-0" {
		m.press(key{kind: letter, r: r, more: true})
		if !m.stale || len(m.shown) != all {
			t.Fatalf("it searched at %q, with more to come", r)
		}
	}
	m.press(key{kind: letter, r: '1'})
	want := newModel(Config{Devices: fleet(), Query: "gw-01"}, false)
	if m.stale || !slices.Equal(m.shown, want.shown) {
		t.Errorf("%d are shown, want %d", len(m.shown), len(want.shown))
	}
	m.press(key{kind: erase, more: true})
	m.press(key{kind: erase, more: true})
	m.press(key{kind: down}) // moves in what the query finds by now
	want = newModel(Config{Devices: fleet(), Query: "gw-"}, false)
	if m.stale || !slices.Equal(m.shown, want.shown) || m.cursor != min(1, len(m.shown)-1) {
		t.Errorf("%d are shown, want %d, the cursor at %d", len(m.shown), len(want.shown), m.cursor)
	}
}
