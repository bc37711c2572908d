package play

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	"hawser/recorder"
	"hawser/recorder/index/indextest"
	"hawser/recorder/paint"
	"hawser/recorder/term"
)

func from(chunks [][]byte) func() ([]byte, error) {
	return func() ([]byte, error) {
		if len(chunks) == 0 {
			return nil, io.EOF
		}
		c := chunks[0]
		chunks = chunks[1:]
		return c, nil
	}
}

var began = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

func loaded(t testing.TB, chunks [][]byte) *Recording {
	t.Helper()
	l := NewRecording()
	if err := l.Load(from(chunks)); err != nil {
		t.Fatal(err)
	}
	return l
}

// hostile is output that would drive a viewer's terminal.
var hostile = []string{
	"\x1b]0;title\x07", "\x1b]2;title\x1b\\", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
	"\x1bP$q\"p\x1b\\", "\x1bP+q544e\x1b\\", "\x1b_Gi=1;AAAA\x1b\\", "\x1b^pm\x1b\\", "\x1bXsos\x1b\\", "\x1bktitle\x1b\\",
	"\x1b[c", "\x1b[>c", "\x1b[=c", "\x1b[6n", "\x1b[?6n", "\x1b[5n", "\x1b[21t", "\x1b[18t", "\x1b[8;1;1t", "\x1b[3;0;0t", "\x1b[>q", "\x1b[?u", "\x1b[0x",
	"\x1b[?1000h\x1b[?1006h", "\x1b[?2004h", "\x1b[?1004h", "\x1b[>4;2m", "\x1b[>1u", "\x1b[5i", "\x1b[4i", "\x1b[?5i", "\x1bc", "\x1b[!p", "\x1b#8", "\x1bZ", "\x05",
	"\x1b[?1049h", "\x1b[?47h", "\x1b[?3h", "\x1b[20h", "\x1b[12h", "\x0e\x1b)0", "\x1b%G", "\x1b%@", "\x1b N", "\x9d0;c1\x9c", "\u009d0;c1\u009c", "\u0090q\u009c", "\u009b6n",
	"\x1b[99999999999999b", "\x1b[1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1;1m", "\x1b]1337;File=:AAAA\x07",
	"\u202e right to left \u2066", "\u200b\ufeff\u2028\u2029", "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308\u0309", "\xff\xfe\xc0\x80\xed\xa0\x80", "</script><script>alert(1)</script>", "<!--<script>",
	"\x1b]0;unfinished", "\x1b[31", "\x1bP",
}

// allowed is all that Watch sends beside characters: what begins and ends a viewing, positions, renditions.
var allowed = regexp.MustCompile(`^\x1b\[(\?1049[hl]|\?25[hl]|2J|[0-9]+;[0-9]+H|[0-9;:]*m)`)

// only checks that a terminal is sent nothing but what is allowed.
func only(t testing.TB, allowed *regexp.Regexp, controls string, out []byte) {
	t.Helper()
	for b := out; len(b) > 0; {
		if b[0] == 0x1b {
			m := allowed.Find(b)
			if m == nil {
				t.Fatalf("the viewer's terminal is sent %q", b[:min(len(b), 40)])
			}
			b = b[len(m):]
			continue
		}
		r, n := utf8.DecodeRune(b)
		if !strings.ContainsRune(controls, r) && (r == utf8.RuneError && n == 1 || unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069) {
			t.Fatalf("the viewer's terminal is sent %q in %q", b[:n], b[:min(len(b), 40)])
		}
		b = b[n:]
	}
}

// person is at a terminal of his own.
type person struct {
	mu   sync.Mutex
	out  bytes.Buffer
	term *term.Screen
	keys chan []byte
	done chan error
}

func (p *person) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Write(b)
	return p.term.Write(b)
}

// screen is what he sees.
func (p *person) screen() string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.term.Text(), "\n")
}

func (p *person) press(keys ...string) {
	for _, k := range keys {
		select {
		case p.keys <- []byte(k):
		case err := <-p.done: // he has left
			p.done <- err
		}
		synctest.Wait()
	}
}

func (p *person) sees(t *testing.T, want ...string) {
	t.Helper()
	s := p.screen()
	for _, w := range want {
		if !strings.Contains(s, w) {
			t.Errorf("%q is not on the screen:\n%s", w, s)
		}
	}
}

func watching(ctx context.Context, l *Recording, cols, rows int, o WatchOptions) *person {
	p := &person{term: term.New(cols, rows), keys: make(chan []byte), done: make(chan error, 1)}
	go func() {
		p.done <- Watch(ctx, l, Viewer{Out: p, Keys: p.keys, Size: func() (int, int) { return cols, rows }}, o)
	}()
	return p
}

// An hour: a line each minute, a command at 30 minutes.
func hour() [][]byte {
	c := indextest.NewChunks([16]byte{1}, began, 40, 10)
	for m := range 60 {
		at := time.Duration(m) * time.Minute
		if m == 30 {
			c.Record(at-time.Second, recorder.RecordStart, []byte{recorder.StartCommand, 11, 'i', 'p', 't', 'a', 'b', 'l', 'e', 's', ' ', '-', 'F'})
		}
		c.Record(at, recorder.RecordStdout, fmt.Appendf(nil, "minute %d\r\n", m))
	}
	return c.Close()
}

// c goes to what was typed at a prompt too, as to what a request asked for, and says how sure that is.
func TestCommandsOnTheScreenAreStops(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 60, 10)
	out := func(at time.Duration, s string) { c.Record(at, recorder.RecordStdout, []byte(s)) }
	out(time.Second, "root@gw-1:~# ")
	for i, command := range []string{"uptime", "iptables -F"} {
		at := time.Duration(i+1) * time.Minute
		out(at, command)
		c.Record(at+time.Second, recorder.RecordInput, []byte("\x00"+command+"\r"))
		out(at+time.Second, "\r\n")
		out(at+2*time.Second, "done\r\nroot@gw-1:~# ")
	}
	l := loaded(t, c.Close())
	synctest.Test(t, func(t *testing.T) {
		p := watching(t.Context(), l, 70, 16, WatchOptions{Paused: true})
		p.press("c")
		p.sees(t, "command: uptime (screen, 98 %)", "0:01:01", "root@gw-1:~# uptime")
		p.press("c")
		p.sees(t, "command: iptables -F (screen, 98 %)", "0:02:01")
		p.press("c")
		p.sees(t, "no command there", "0:02:01")
		p.press("C")
		p.sees(t, "command: uptime", "0:01:01")
		p.press("C")
		p.sees(t, "no command there")
		p.press("q")
		if err := <-p.done; err != nil {
			t.Error(err)
		}
	})
}

func TestAPersonPlaysPausesSeeksAndSearches(t *testing.T) {
	l := loaded(t, hour())
	synctest.Test(t, func(t *testing.T) {
		p := watching(t.Context(), l, 60, 16, WatchOptions{Idle: 2 * time.Second, Title: "alice on gw-1"})
		p.sees(t, "minute 0", "playing", "0:00:00 / 0:59:00", "alice on gw-1")
		time.Sleep(2100 * time.Millisecond) // a pause of a minute is cut to 2 s
		p.sees(t, "minute 1")
		p.press(" ")
		time.Sleep(time.Minute)
		if s := p.screen(); !strings.Contains(s, "paused") || strings.Contains(s, "minute 2") {
			t.Errorf("goes on while it is paused:\n%s", s)
		}
		p.press(".", ".")
		p.sees(t, "minute 3", "0:03:00")
		p.press("\x1b[A") // a minute on
		p.sees(t, "minute 4")
		p.press("5") // the middle
		p.sees(t, "minute 29", "0:29:30")
		p.press("\x1b[B", "\x1b[D")
		if s := p.screen(); !strings.Contains(s, "0:28:25") || strings.Contains(s, "minute 29") {
			t.Errorf("back by a minute and 5 s:\n%s", s)
		}
		p.press("c")
		p.sees(t, "command: iptables -F", "0:29:59")
		p.press("/", "M", "i", "n", "u", "t", "e", " ", "4", "x", "\x7f", "2", "\r")
		p.sees(t, "match 1 of 1: minute 42", "0:42:00")
		p.press("/", "minute 4", "\r") // one read of several keys
		p.press("n", "n", "N")
		p.sees(t, "match", "minute 4")
		p.press("G")
		p.sees(t, "minute 59", "end")
		p.press("g")
		p.sees(t, "minute 0")
		p.press("?")
		p.sees(t, "left right", "search")
		p.press("x", "+", "+")
		p.sees(t, "4x")
		p.press("q")
		if err := <-p.done; err != nil {
			t.Error(err)
		}
		p.sees(t)
		if p.term.AltScreen() || !p.term.CursorVisible() {
			t.Error("the terminal is not as it was")
		}
		only(t, allowed, "", p.out.Bytes())
	})
}

// Pauses are cut or as long as they were, and the speed is that of them and of the rest.
func TestPausesAndSpeedAreAsThePersonSays(t *testing.T) {
	l := loaded(t, hour())
	synctest.Test(t, func(t *testing.T) {
		p := watching(t.Context(), l, 60, 16, WatchOptions{Idle: 2 * time.Second})
		synctest.Wait()
		next := 1
		takes := func(what string, d time.Duration) {
			t.Helper()
			line := fmt.Sprintf("minute %d", next)
			time.Sleep(d - time.Second/2)
			synctest.Wait()
			if strings.Contains(p.screen(), line) {
				t.Errorf("%s: %q is there sooner than after %v", what, line, d)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			p.sees(t, line)
			next++
			time.Sleep(time.Second / 2)
			synctest.Wait() // so the next has a second less to go, at the speed of this
		}
		takes("a pause that is cut", 2*time.Second)
		p.press("i")
		if strings.Contains(p.screen(), "pauses") {
			t.Errorf("pauses are still said to be cut:\n%s", p.screen())
		}
		takes("a whole pause", 59*time.Second)
		p.press("+", "+")
		takes("four times as fast", 59*time.Second/4)
		p.press("-", "-", "-")
		takes("half as fast", 2*56*time.Second)
		p.press("i")
		p.sees(t, "0.5x", "pauses 2s")
		takes("half as fast, and cut", 3*time.Second)
		p.press("q")
		<-p.done
	})
}

// Seeking gives the same screen as playing up to there, wherever one comes from.
func TestSeekIsWherePlayingWouldBe(t *testing.T) {
	chunks := indextest.NewSession(5).Record([16]byte{5}, began, 10*time.Minute)
	l := loaded(t, chunks)
	straight := func(to time.Duration) string {
		p, err := NewPlayer(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		for {
			e, err := p.Peek()
			if err != nil {
				t.Fatal(err)
			}
			if e == nil || e.Time > to {
				return string(p.Terminal().Redraw())
			}
			p.Shown()
		}
	}
	p, err := NewPlayer(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Duration{5 * time.Minute, 0, 9 * time.Minute, 8*time.Minute + 7*time.Second, time.Second, 590 * time.Second, time.Hour, 3 * time.Minute} {
		if err := p.Seek(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		if got, want := string(p.Terminal().Redraw()), straight(at); got != want {
			t.Errorf("at %v: %q, want %q", at, got, want)
		}
	}
}

// What seeks and searches need of a short recording with much output is bounded as its bytes are, and a seek is as right as before.
func TestTheIndexOfARecordingInMemoryIsBounded(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 300, 90)
	for i := range 60 {
		at := time.Duration(i) * time.Minute
		for row := range 45 { // each page is colourful, and much the same
			c.Record(at, recorder.RecordStdout, []byte(strings.Repeat(fmt.Sprintf("\x1b[3%dm%d\x1b[4%dmx", row%8, i%10, (row+1)%8), 150)+"\r\n"))
		}
		c.Record(at, recorder.RecordResize, binary.AppendUvarint(binary.AppendUvarint(nil, 300), uint64(80+i%10))) // a keyframe each
	}
	chunks := c.Close()
	whole, l := loaded(t, chunks), NewRecording()
	const most = 1 << 20
	l.InMemory(most)
	if err := l.Load(from(chunks)); err != nil {
		t.Fatal(err)
	}
	has := func(l *Recording) (frames int, bytes int64) {
		for _, group := range l.frames {
			frames += len(group)
			bytes += sizeOf(group)
		}
		for _, o := range l.text {
			bytes += int64(len(o))
		}
		return frames, bytes
	}
	if _, n := has(whole); n < 2*most {
		t.Fatalf("not bounded it is %d bytes", n)
	}
	if frames, n := has(l); n > most || frames == 0 {
		t.Errorf("%d frames, %d bytes", frames, n)
	}
	screen := func(l *Recording, at time.Duration) string {
		p, err := NewPlayer(t.Context(), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Seek(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		return string(p.Terminal().Redraw())
	}
	for _, at := range []time.Duration{59 * time.Minute, 37 * time.Minute, 3 * time.Minute} {
		if screen(l, at) != screen(whole, at) {
			t.Errorf("at %v it shows something else", at)
		}
	}
}

func TestAWindowIsShownInASmallerTerminalAndFittedToIt(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 100, 40)
	c.Record(0, recorder.RecordStdout, []byte(strings.Repeat("x", 60)+" end of a long line\r\n"))
	c.Record(time.Second, recorder.RecordResize, []byte{30, 5})
	l := loaded(t, c.Close())
	synctest.Test(t, func(t *testing.T) {
		p := watching(t.Context(), l, 40, 12, WatchOptions{Paused: true})
		if strings.Contains(p.screen(), "end of a long line") {
			t.Errorf("100 columns are in 40:\n%s", p.screen())
		}
		p.press("f")
		p.sees(t, "end of a long", "fitted")
		p.press("f", "G")
		p.sees(t, "│", "─") // the recorded window is smaller by then
		p.press("q")
		<-p.done
	})
}

// Whatever was recorded, the viewer's terminal is sent positions, renditions and text.
func TestHostileOutputDoesNotReachTheViewer(t *testing.T) {
	for i, h := range append(hostile, strings.Join(hostile, ""), strings.Join(hostile, "text\r\n")) {
		c := indextest.NewChunks([16]byte{1}, began, 80, 24)
		for j := range len(h) { // one byte each
			c.Record(time.Duration(j)*time.Millisecond, recorder.RecordStdout, []byte(h[j:j+1]))
		}
		c.Record(time.Minute, recorder.RecordMarker, []byte(h))
		c.Record(time.Minute, recorder.RecordStdout, []byte("the end"))
		chunks := c.Close()
		l := loaded(t, chunks)
		synctest.Test(t, func(t *testing.T) {
			p := watching(t.Context(), l, 80, 24, WatchOptions{Speed: 1, Idle: time.Second, Title: h})
			time.Sleep(10 * time.Second)
			p.press("c", "G", "/", h, "\r", "n", "?", "x", "f", "q", "q")
			<-p.done
			only(t, allowed, "", p.out.Bytes())
		})
		var piped bytes.Buffer
		if err := Play(t.Context(), newReader(chunks), &piped, Options{Speed: 1e9}); err != nil {
			t.Fatal(err)
		}
		only(t, piping, "\a\b\t\n\v\f\r", piped.Bytes())
		var text bytes.Buffer
		if err := Text(newReader(chunks), &text); err != nil {
			t.Fatal(err)
		}
		only(t, regexp.MustCompile("^$^"), "\n", text.Bytes())
		if t.Failed() {
			t.Fatalf("hostile output %d", i)
		}
	}
}

// piping is what Filter lets through, to terminals behind a pipe.
var piping = regexp.MustCompile(`^\x1b(\[\?(5|6|7|12|25|47|69|1047|1048|1049|2026)(;[0-9]+)*[hl]|\[(4|20)[hl]|\[[0-9;:]*[@A-HJ-MPSTXZ` + "`" + `abdefgmrsu]|\[!p|\[[0-9;]* q|[78DEHM=>]|[()][0AB]|#8)`)

// A person gets his terminal back though the recording is broken, and is told.
func TestABrokenRecordingPlaysUpToThere(t *testing.T) {
	chunks := hour()
	chunks[40][70] ^= 1
	l := NewRecording()
	err := l.Load(from(chunks))
	if err == nil {
		t.Fatal("a changed byte is loaded")
	}
	synctest.Test(t, func(t *testing.T) {
		p := watching(t.Context(), l, 80, 24, WatchOptions{})
		p.press("G")
		p.sees(t, "minute 38", "end, incomplete")
		ctx, cancel := context.WithCancel(t.Context())
		q := watching(ctx, l, 80, 24, WatchOptions{})
		synctest.Wait()
		cancel() // a signal
		if err := <-q.done; err == nil || !strings.HasSuffix(q.out.String(), paint.Leave) {
			t.Errorf("%v, and the terminal ends with %q", err, q.out.String()[max(0, q.out.Len()-20):])
		}
		close(p.keys)
		if err := <-p.done; err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkSeek jumps about in a recording of 10 hours: with keyframes, and how long the recording takes without.
func BenchmarkSeek(b *testing.B) {
	chunks := indextest.NewSession(9).Record([16]byte{9}, began, 10*time.Hour)
	begun := time.Now()
	l := loaded(b, chunks)
	took := time.Since(begun)
	p, err := NewPlayer(b.Context(), l)
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		i = (i*7919 + 12345) % 36000
		if err := p.Seek(b.Context(), time.Duration(i)*time.Second); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(took.Milliseconds()), "ms-load-and-index")
}
