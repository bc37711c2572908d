package index

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"hawser/recorder"
	"hawser/recorder/index/indextest"
	"hawser/recorder/reader"
)

// objects keeps what a builder gives.
type objects map[string][]byte

func (o objects) put(x Object) error {
	o[fmt.Sprintf("%c%08d", x.Kind, x.N)] = bytes.Clone(x.Data)
	if len(x.Data) > MaxObject {
		return fmt.Errorf("object %c%d of %d bytes", x.Kind, x.N, len(x.Data))
	}
	return nil
}

func (o objects) lines(t testing.TB) (all []Line) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if k[0] == KindText {
			b, err := OpenBlock(o[k], nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Lines(func(l Line) bool { all = append(all, l); return true }); err != nil {
				t.Fatal(err)
			}
		}
	}
	return all
}

func (o objects) frames(t testing.TB) (all []Frame) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if k[0] == KindFrames {
			f, err := OpenFrames(o[k])
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, f...)
		}
	}
	return all
}

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

// build makes the index of chunks.
func build(t testing.TB, chunks [][]byte) objects {
	t.Helper()
	o := objects{}
	r := reader.New(from(chunks))
	h, err := r.Header()
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(h, o.put)
	if err := b.Extend(r); err != nil {
		t.Fatal(err)
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	return o
}

var began = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

func stdout(c *indextest.Chunks, at time.Duration, text string) {
	c.Record(at, recorder.RecordStdout, []byte(text))
}

func textOf(lines []Line) (all []string) {
	for _, l := range lines {
		all = append(all, fmt.Sprintf("%v %s: %s", l.Time, l.Kind, l.Text))
	}
	return all
}

func TestLinesAreWhatTheTerminalShowedWhenItDid(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 20, 5)
	stdout(c, 0, "$ ")
	for i, k := range "iptables -F" {
		stdout(c, 10*time.Second+time.Duration(i)*200*time.Millisecond, string(k))
	}
	stdout(c, 15*time.Second, "\r\n")
	stdout(c, 16*time.Second, "\x1b[31ma line that is wider than the screen\x1b[m\r\n$ ")
	stdout(c, 90*time.Second, "\x1b[?1049h\x1b[Hin an editor\x1b[?1049l")
	stdout(c, 100*time.Second, "\x1b]0;a title\x07pass\bword\r\n")
	c.Record(101*time.Second, recorder.RecordMarker, []byte("a \x1b[31mremark"))
	got := textOf(build(t, c.Close()).lines(t))
	for _, want := range []string{
		"12s screen: $ iptables -F", "16s screen: a line that is wider than the screen", "1m30s screen: in an editor",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among\n%s", want, strings.Join(got, "\n"))
		}
	}
	if all := strings.Join(got, "\n"); strings.Contains(all, "title") || strings.Contains(all, "\x1b") {
		t.Errorf("what nobody saw is there: %q", all)
	}
}

// Keyframes are there each 30 s or MiB, and a terminal restored from one and fed the rest is the terminal at the end.
func TestKeyframesAreTheTerminalAtTheirTime(t *testing.T) {
	chunks := indextest.NewSession(7).Record([16]byte{7}, began, 20*time.Minute)
	o := build(t, chunks)
	frames := o.frames(t)
	if len(frames) < 15 || len(frames) > 60 {
		t.Fatalf("%d keyframes in 20 minutes", len(frames))
	}
	r := reader.New(from(chunks))
	h, _ := r.Header()
	play := func(term *Terminal, r *reader.Reader) string {
		for {
			e, err := r.Next()
			if err == io.EOF {
				return string(term.Redraw())
			}
			if err != nil {
				t.Fatal(err)
			}
			term.Apply(e)
		}
	}
	want := play(NewTerminal(h), r)
	for _, f := range frames {
		term, err := Restore(h, f.State)
		if err != nil {
			t.Fatal(err)
		}
		if got := play(term, reader.From(h, f.Chunk, from(chunks[f.Chunk:]))); got != want {
			t.Fatalf("from the keyframe at %v: %q, want %q", f.Time, got, want)
		}
	}
}

// An index that is made as the recording grows holds what one made at its end does.
func TestIndexGrowsWithItsRecording(t *testing.T) {
	chunks := indextest.NewSession(8).Record([16]byte{8}, began, 15*time.Minute)
	whole := map[string]bool{}
	for _, l := range build(t, chunks).lines(t) {
		whole[l.Text] = true
	}
	r := reader.New(from(chunks))
	h, _ := r.Header()
	o := objects{}
	b := NewBuilder(h, o.put)
	for end := 0; end < len(chunks); {
		end = min(end+37, len(chunks))
		n := b.Next()
		if err := b.Extend(reader.From(h, n, from(chunks[n:end]))); err != nil {
			t.Fatal(err)
		}
		if err := b.Flush(); err != nil {
			t.Fatal(err)
		}
		state := b.State()
		if state == nil {
			t.Fatal("no state")
		}
		var err error
		if b, err = Resume(h, state, o.put); err != nil {
			t.Fatal(err)
		}
	}
	grown := map[string]bool{}
	for _, l := range o.lines(t) {
		grown[l.Text] = true
	}
	for l := range whole {
		if !grown[l] {
			t.Errorf("%q is not in the index that grew", l)
		}
	}
	if len(grown) > len(whole)+len(chunks)/37+1 {
		t.Errorf("%d lines, and %d in the index made at once", len(grown), len(whole))
	}
}

func TestWhatIsDrawnOverAndOverIsIndexedOnce(t *testing.T) {
	c := indextest.NewChunks([16]byte{2}, began, 80, 24)
	stdout(c, 0, "\x1b[?1049h")
	for i := range 3600 {
		at := time.Duration(i) * time.Second
		stdout(c, at, "\x1b[HTasks: the same\r\n"+fmt.Sprintf("load %d.%02d\x1b[K\r\n", i%7, i%100))
		for p := range 20 {
			stdout(c, at, fmt.Sprintf("%5d root %d.%d%% some process of the device number %d\x1b[K\r\n", p, i*p%100, i%10, p))
		}
	}
	lines := build(t, c.Close()).lines(t)
	same, sum := 0, 0
	for _, l := range lines {
		sum += len(l.Text)
		if l.Text == "Tasks: the same" {
			same++
		}
	}
	if same != 1 || sum > redrawnBurst+3600*redrawn+80*24 {
		t.Errorf("the same line %d times, %d bytes in all", same, sum)
	}
}

// What ran without a terminal, by lines; a file that is no text is not indexed.
func TestOutputWithoutATerminal(t *testing.T) {
	c := indextest.NewChunks([16]byte{3}, began, 0, 0)
	stdout(c, 0, "first\nsecond\n")
	c.Record(time.Second, recorder.RecordStderr, []byte("an error\n"))
	garbage := make([]byte, 50_000)
	for i := range garbage {
		garbage[i] = byte(i*i>>3) | 0x80
	}
	stdout(c, 2*time.Second, string(garbage))
	stdout(c, 3*time.Second, "\nlast\n")
	lines := build(t, c.Close()).lines(t)
	got := textOf(lines)
	for _, want := range []string{"0s screen: first", "0s screen: second", "1s screen: an error"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not among %.2000q", want, got)
		}
	}
	if len(lines) > 100 {
		t.Errorf("%d lines of what is no text", len(lines))
	}
}

func FuzzOpenFrames(f *testing.F) {
	f.Add(sealFrames([]Frame{{time.Second, 3, []byte("state")}, {2 * time.Second, 4, nil}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if frames, err := OpenFrames(b); err == nil {
			for _, fr := range frames {
				_, _ = Restore(recorder.Header{}, fr.State)
			}
		}
		raw := append(binary.AppendUvarint([]byte{Version}, uint64(len(b))), encoder().EncodeAll(b, nil)...)
		_, _ = OpenFrames(raw)
	})
}

func FuzzResume(f *testing.F) {
	c := indextest.NewChunks([16]byte{1}, began, 20, 5)
	stdout(c, 0, "hello\r\nthere")
	chunks := c.Close()
	r := reader.New(from(chunks))
	h, _ := r.Header()
	b := NewBuilder(h, func(Object) error { return nil })
	_ = b.Extend(r)
	raw, _ := decompressState(b.State())
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		state := append(binary.AppendUvarint([]byte{Version}, uint64(len(raw))), encoder().EncodeAll(raw, nil)...)
		b, err := Resume(h, state, func(Object) error { return nil })
		if err != nil {
			return
		}
		n := b.Next()
		if n < uint64(len(chunks)) {
			_ = b.Extend(reader.From(h, n, from(chunks[n:])))
		}
		_ = b.Flush()
		b.State()
	})
}

func decompressState(state []byte) ([]byte, error) {
	n, w := binary.Uvarint(state[1:])
	return decompress(state[1+w:], nil, int(n))
}

func FuzzOpenStatus(f *testing.F) {
	f.Add(Status{Finished: true, Chunks: 300}.Marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := OpenStatus(b)
		if err != nil {
			return
		}
		if again, err := OpenStatus(s.Marshal()); err != nil || again != s {
			t.Errorf("%+v is read again as %+v, %v", s, again, err)
		}
	})
}

// BenchmarkBuild makes the index of an hour of shell work, and of output as fast as it comes.
func BenchmarkBuild(b *testing.B) {
	hour := indextest.NewSession(3).Record([16]byte{3}, began, time.Hour)
	c := indextest.NewChunks([16]byte{4}, began, 80, 24)
	lines := strings.Join(indextest.NewSession(4).Lines(32<<20), "\r\n")
	for at := 0; at < len(lines); at += 32 << 10 {
		stdout(c, time.Duration(at), lines[at:min(at+32<<10, len(lines))])
	}
	for _, run := range []struct {
		name   string
		chunks [][]byte
	}{{"an hour of shell", hour}, {"32 MiB of log", c.Close()}} {
		b.Run(run.name, func(b *testing.B) {
			size := int64(0)
			r := reader.New(from(run.chunks))
			for e, err := r.Next(); err == nil; e, err = r.Next() {
				size += int64(len(e.Data))
			}
			b.SetBytes(size)
			for b.Loop() {
				build(b, run.chunks)
			}
		})
	}
}
