package index

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"hawser/recorder"
	"hawser/recorder/reader"
)

// Kinds of objects.
const (
	KindText   = 'i'
	KindFilter = 'f' // of the text of the same number
	KindFrames = 'k'
)

// Object is one piece of an index. The last of a kind may come again, with more in it.
type Object struct {
	Kind byte
	N    uint64
	Data []byte
}

// Builder makes a recording's index. Not safe for concurrent use.
type Builder struct {
	// Seen, if set, is told each event, which is valid until it returns.
	Seen func(reader.Event)

	emit func(Object) error
	err  error // of emit

	header  recorder.Header
	t       *Terminal
	next    uint64 // the chunk wanted
	total   int    // bytes of text
	over    bool   // there was more text than is indexed
	blocks  uint64 // whole ones
	cur     block
	groups  uint64 // whole ones
	frames  []Frame
	kept    int // frames in all
	framed  time.Duration
	written int // bytes since the last frame
	resized bool

	now     time.Duration
	recent  map[uint64]time.Duration // lines, by hash; older are rememberLines before them
	older   map[uint64]time.Duration
	seed    maphash.Seed
	last    bool    // lines are those that are on the screen
	allowed float64 // bytes of what is redrawn
	refill  time.Duration
}

// NewBuilder begins the index of a recording with that header. emit is given the objects and keeps none of their bytes' array.
func NewBuilder(h recorder.Header, emit func(Object) error) *Builder {
	b := &Builder{header: h, emit: emit}
	b.begin(NewTerminal(h))
	return b
}

func (b *Builder) begin(t *Terminal) {
	b.t = t
	b.recent, b.seed, b.allowed = map[uint64]time.Duration{}, maphash.MakeSeed(), redrawnBurst
	t.Lines(func(line string, _, at int64) { b.line(time.Duration(at)*time.Millisecond, Screen, line) })
}

// Next is the number of the chunk that is wanted next.
func (b *Builder) Next() uint64 { return b.next }

// Extend reads on to the end of what there is: r is at the beginning, or From the chunk that Next tells. What was read before an error is
// in the index.
func (b *Builder) Extend(r *reader.Reader) error {
	for {
		e, err := r.Next()
		if err == io.EOF {
			return b.err
		}
		if err != nil {
			return errors.Join(err, b.err)
		}
		if b.add(r.Chunk(), e); b.err != nil {
			return b.err
		}
	}
}

// add takes one event of a chunk.
func (b *Builder) add(chunk uint64, e reader.Event) {
	if chunk >= b.next {
		b.next = chunk + 1
		b.frame(chunk, e.Time)
	}
	b.now = e.Time
	if b.Seen != nil {
		b.Seen(e)
	}
	switch e.Type {
	case recorder.RecordStdout, recorder.RecordStderr, recorder.RecordResize:
		b.t.At(e.Time.Milliseconds())
		b.t.Apply(e)
		b.written += len(e.Data)
		b.resized = b.resized || e.Type == recorder.RecordResize
	default:
		if kind, text := Told(e); text != "" {
			b.line(e.Time, kind, text)
		}
	}
}

// frame keeps the terminal's state as it is before a chunk, where it is time for that.
func (b *Builder) frame(chunk uint64, at time.Duration) {
	every := frameEvery << min(b.kept/(keepFrames/2), 20)
	if chunk == 0 || !b.resized && b.written < frameBytes && (b.written == 0 || at-b.framed < every) || b.resized && b.kept >= keepFrames {
		return
	}
	state := b.t.Marshal()
	b.framed, b.written, b.resized = at, 0, false
	if len(state) > maxFrame {
		return // a seek plays a longer part then
	}
	sum := len(state)
	for _, f := range b.frames {
		sum += len(f.State)
	}
	if len(b.frames) == maxFrames || sum > maxFrameBytes {
		b.give(KindFrames, b.groups, sealFrames(b.frames))
		b.groups++
		b.frames = nil
	}
	b.frames = append(b.frames, Frame{at, chunk, state})
	b.kept++
}

// line takes a line of text.
func (b *Builder) line(at time.Duration, kind Kind, text string) {
	text = clean(text)
	if strings.TrimSpace(text) == "" || b.over || garbage(text) {
		return
	}
	if kind == Screen && !b.last && b.repeated(text) {
		return
	}
	if b.total += len(text) + 1; b.total > maxIndexed {
		b.over = true
		return
	}
	if b.cur.add(at, kind, text) {
		return
	}
	b.giveText()
	b.blocks++
	b.cur = block{}
	b.cur.add(at, kind, text)
}

// garbage tells of a line that is no text: a file sent to the terminal by mistake.
func garbage(text string) bool {
	bad := strings.Count(text, string(utf8.RuneError))
	return bad > 3 && bad > len(text)/8
}

// repeated tells whether a line is not to be kept: the same was there a moment ago, or it is one of a screen that is drawn over and over.
func (b *Builder) repeated(text string) bool {
	h := maphash.String(b.seed, text)
	before, known := b.recent[h]
	if !known {
		before, known = b.older[h]
	}
	if len(b.recent) >= rememberLines {
		b.recent, b.older = map[uint64]time.Duration{}, b.recent
	}
	b.recent[h] = b.now
	if known && b.now-before <= redrawEvery {
		return true
	}
	if !b.t.AltScreen() {
		return false
	}
	b.allowed = min(redrawnBurst, b.allowed+redrawn*(b.now-b.refill).Seconds())
	b.refill = b.now
	if b.allowed < float64(len(text)) {
		return true
	}
	b.allowed -= float64(len(text))
	return false
}

func (b *Builder) give(kind byte, n uint64, data []byte) {
	if b.err == nil {
		b.err = b.emit(Object{kind, n, data})
	}
}

func (b *Builder) giveText() {
	if b.cur.lines == 0 {
		return
	}
	object, filter := b.cur.seal()
	b.give(KindText, b.blocks, object)
	b.give(KindFilter, b.blocks, filter)
}

// Flush gives what is not whole yet too: the index is then as far as what was read.
func (b *Builder) Flush() error {
	b.last = true
	b.t.Flush()
	b.last = false
	b.giveText()
	if len(b.frames) > 0 {
		b.give(KindFrames, b.groups, sealFrames(b.frames))
	}
	return b.err
}

// Truncated tells whether there was more text than is indexed.
func (b *Builder) Truncated() bool { return b.over }

// Told is what an event that is no output tells, in one line; empty: nothing.
func Told(e reader.Event) (Kind, string) {
	switch e.Type {
	case recorder.RecordStart:
		return Command, e.Command
	case recorder.RecordCommand:
		return Command, e.Ran.Text
	case recorder.RecordMarker:
		return Remark, string(e.Data)
	case recorder.RecordGap:
		return Remark, fmt.Sprintf("%d bytes are missing here: %s", e.Missing, e.Reason)
	case recorder.RecordFileOp:
		f := e.FileOp
		s := f.Op + " " + f.Path
		if f.Path2 != "" {
			s += " " + f.Path2
		}
		if f.Protocol != "" {
			s = f.Protocol + " " + s
		}
		return File, s
	case recorder.RecordForward:
		if f := e.Forward; f.State != "close" {
			return Forward, f.Kind + " forward " + f.State + " " + f.Target
		}
	case recorder.RecordParticipant:
		p := e.Joined
		return Remark, strings.TrimSpace(p.User + " " + p.State + " as " + p.Mode + " " + p.Way)
	case recorder.RecordAgentUse:
		if e.AgentUse.Fingerprint != "" {
			return Remark, "agent: " + e.AgentUse.What + " " + e.AgentUse.Fingerprint
		}
	}
	return 0, ""
}

// OfLines makes the objects of text that is there as lines, one a second.
func OfLines(lines []string, emit func(Object) error) error {
	b := &Builder{emit: emit}
	for i, l := range lines {
		b.line(time.Duration(i)*time.Second, Command, l)
	}
	b.giveText()
	return b.err
}
