// Package commands finds the commands that were run in a recorded session: the one that a request asked for, and those that a person gave at a
// prompt, read off the screen as it was when Enter was pressed. So what is completed, corrected or taken from the history is what was run, not the keys.
//
// Start from Find, or from New for one who reads the recording anyway. A command off the screen is a guess, and says how good a one.
package commands

import (
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/recorder/term"
	"hawser/tunnel/wire"
)

// Sources of a Command.
const (
	Exec   = "exec"   // asked for by a request
	Screen = "screen" // read off the screen
	Input  = "input"  // a line sent to a shell that has no terminal
)

// Command is one that was run.
type Command struct {
	At         time.Duration // since the recording's start
	Text       string
	Source     string
	Confidence uint8   // 0 to 100
	Status     *uint32 // how it ended, where that is known
	// Participant is who pressed Enter, and User his name. 0 is the session's owner, of whom no name is given.
	Participant uint32
	User        string
}

const (
	// maxCommands of a recording are told, of at most maxText bytes each.
	maxCommands = 10_000
	maxText     = 4 << 10
	// maxOutput is how much output is looked at, in bytes: what is beyond is no person's doing.
	maxOutput = 256 << 20
	// maxPrompt is the longest prompt in bytes, of maxPrompts kinds it is counted how often each comes.
	maxPrompt, maxPrompts = 256, 64
	// maxNames of participants are known, of maxName bytes each: a device says them.
	maxNames, maxName = 4096, 64
	// maxRows of a command that runs over the line's end are joined.
	maxRows = 64
	// late is how long after a line has been left its Enter may be in the recording: at a device the echo can be there first.
	late = 150 * time.Millisecond
	// least is the confidence below which a line is no command.
	least = 40
)

// Find reads a recording to its end, or to an error.
func Find(r *reader.Reader) ([]Command, error) {
	h, err := r.Header()
	if err != nil {
		return nil, err
	}
	f := New(h)
	for {
		e, err := r.Next()
		if err == io.EOF {
			return f.Commands(), nil
		}
		if err != nil {
			return f.Commands(), err
		}
		f.Event(e)
	}
}

// Finder takes the events of a recording in order. Not safe for concurrent use.
type Finder struct {
	t     *term.Screen
	found []found
	exec  int // index of the request's command in found; -1: none

	started, terminal bool
	output            int

	waiting *line  // Enter was pressed, and its line is to be read when it is left
	left    *line  // the last line that was left and whose Enter has not come
	prompt  string // what stood before the cursor when the output came to rest on this line
	rested  bool   // it did
	carry   string // rows before this one that are the same line
	keys    map[uint32]*keys
	names   map[uint32]string // of participants
	kinds   map[string]int    // how often prompts with such an end came
	known   string            // the last prompt that had a prompt's shape
}

// keys are what a participant typed since the last Enter.
type keys struct {
	typed []byte
	dirty bool // typed is not what was meant: there were keys that are neither characters nor backspace, or were not kept
}

// line is one at whose end Enter was pressed.
type line struct {
	at     time.Duration
	by     uint32 // who pressed it
	typed  string
	clean  bool
	text   string
	prompt string
	rested bool
}

type found struct {
	Command
	kind string // of its prompt; empty: its confidence is final
}

// New is for a recording with that header.
func New(h recorder.Header) *Finder {
	f := &Finder{exec: -1, keys: map[uint32]*keys{}, names: map[uint32]string{}, kinds: map[string]int{}}
	cols, rows := int(min(h.Width, term.MaxCols)), int(min(h.Height, term.MaxRows))
	f.terminal = h.Width > 0 || h.Term != ""
	if cols == 0 || rows == 0 {
		cols, rows = 80, 24
	}
	f.t = term.New(cols, rows)
	return f
}

// Commands are those found so far, in order of time.
func (f *Finder) Commands() []Command {
	list := make([]Command, 0, len(f.found))
	for _, c := range f.found {
		if c.kind != "" && f.kinds[c.kind] > 1 && c.Confidence < 65 {
			c.Confidence = 65 // an unusual prompt, but one that comes again
		}
		if c.Confidence >= least {
			list = append(list, c.Command)
		}
	}
	return list
}

// Event takes the next event.
func (f *Finder) Event(e reader.Event) {
	switch e.Type {
	case recorder.RecordStart:
		f.started = true
		f.terminal = f.terminal || e.Term != ""
		if e.Command != "" {
			f.exec = len(f.found)
			f.add(found{Command: Command{At: e.Time, Text: e.Command, Source: Exec, Confidence: 100}})
		}
	case recorder.RecordExit:
		if f.exec >= 0 && f.exec < len(f.found) {
			status := e.Status
			f.found[f.exec].Status = &status
		}
	case recorder.RecordResize:
		f.terminal = true
		if e.Width > 0 && e.Height > 0 {
			f.t.Resize(int(min(e.Width, term.MaxCols)), int(min(e.Height, term.MaxRows)))
		}
	case recorder.RecordInput:
		f.input(e.Time, e.Participant, e.Data)
	case recorder.RecordParticipant:
		if len(f.names) < maxNames || f.names[e.Joined.ID] != "" {
			f.names[e.Joined.ID] = wire.Quote(e.Joined.User, maxName)
		}
	case recorder.RecordWithheld:
		by := e.Withheld.Participant
		switch {
		case e.Withheld.Enter:
			f.of(by).dirty = true
			f.enter(e.Time, by)
		case e.Withheld.Reason == recorder.InputRedacted: // a password
			delete(f.keys, by)
			if f.waiting != nil && f.waiting.by == by {
				f.waiting = nil
			}
		case e.Withheld.Reason != recorder.InputPaused: // that went nowhere
			f.of(by).dirty = true
		}
	case recorder.RecordStdout:
		if f.terminal && f.output < maxOutput {
			f.output += len(e.Data)
			f.show(e.Time, e.Data)
		}
	}
}

// of are the keys of a participant. Of more than maxNames the last share theirs.
func (f *Finder) of(id uint32) *keys {
	id = min(id, maxNames)
	k := f.keys[id]
	if k == nil {
		k = new(keys)
		f.keys[id] = k
	}
	return k
}

// input takes keys.
func (f *Finder) input(at time.Duration, by uint32, b []byte) {
	for _, c := range b {
		k := f.of(by)
		switch {
		case c == '\r' || c == '\n':
			f.enter(at, by)
		case c == 0x7f || c == '\b':
			if _, n := utf8.DecodeLastRune(k.typed); n > 0 {
				k.typed = k.typed[:len(k.typed)-n]
			}
		case c == 0x03 || c == 0x15: // the line is thrown away
			clear(f.keys)
		case c < ' ' || len(k.typed) >= maxText:
			k.dirty = true
		default:
			k.typed = append(k.typed, c)
		}
	}
}

// enter is Enter. What others typed is on the same line.
func (f *Finder) enter(at time.Duration, by uint32) {
	k := f.of(by)
	l := &line{at: at, by: by, typed: strings.TrimSpace(string(k.typed)), clean: !k.dirty}
	for _, other := range f.keys {
		l.clean = l.clean && (other == k || len(other.typed) == 0 && !other.dirty)
	}
	clear(f.keys)
	switch {
	case !f.terminal:
		if f.started && f.exec < 0 && l.clean && l.typed != "" {
			f.add(found{Command: Command{At: at, Text: l.typed, Source: Input, Confidence: 80, Participant: by}})
		}
	case f.t.AltScreen():
	case f.left != nil && at-f.left.at <= late && f.leftBy(l):
		l.text, l.prompt, l.rested = f.left.text, f.left.prompt, f.left.rested
		f.left = nil
		f.take(l)
	default:
		f.waiting = l
	}
}

// leftBy tells whether the line that was left last was left by this Enter. Where it is not known what was typed that is a line on which the output had come
// to rest, while nothing is typed yet on the one after it: what a program prints, just before Enter is pressed on the next line, is none.
func (f *Finder) leftBy(l *line) bool {
	if l.clean && l.typed != "" {
		return strings.HasSuffix(f.left.text, l.typed)
	}
	return f.left.rested && (!f.rested || len(f.line()) <= len(f.prompt))
}

// show takes output.
func (f *Finder) show(at time.Duration, b []byte) {
	for len(b) > 0 {
		if f.waiting == nil && !f.rested { // nobody wants to know where lines end
			last := strings.LastIndexByte(string(b), '\n')
			_, _ = f.t.Write(b[:last+1])
			b = b[last+1:]
			if len(b) > 0 {
				_, _ = f.t.Write(b)
			}
			break
		}
		i := strings.IndexByte(string(b), '\n')
		if i < 0 {
			_, _ = f.t.Write(b)
			break
		}
		_, _ = f.t.Write(b[:i])
		f.leave(at)
		_, _ = f.t.Write(b[i : i+1])
		b = b[i+1:]
	}
	if x, _ := f.t.Cursor(); !f.rested && x > 0 && !f.t.AltScreen() {
		f.prompt, f.rested = f.before(), true
	}
}

// leave is told that the line with the cursor is about to be left.
func (f *Finder) leave(at time.Duration) {
	if f.rested && f.full() && len(f.carry) < maxText { // an editor of lines that goes on in the next by itself, as busybox's
		if text := f.carry + f.line(); f.waiting == nil || !f.waiting.clean || f.waiting.typed == "" || !strings.HasSuffix(text, f.waiting.typed) {
			f.carry = text
			return
		}
	}
	l := &line{at: at, text: f.carry + f.line(), prompt: f.prompt, rested: f.rested}
	f.prompt, f.rested, f.carry = "", false, ""
	if f.t.AltScreen() {
		f.waiting = nil
		return
	}
	if w := f.waiting; w != nil {
		w.text, w.prompt, w.rested = l.text, l.prompt, l.rested
		f.waiting, f.left = nil, nil
		f.take(w)
		return
	}
	f.left = l
}

// full tells whether the row with the cursor is written to its end.
func (f *Finder) full() bool {
	_, y := f.t.Cursor()
	row := f.t.Row(y)
	return len(row) > 0 && row[len(row)-1].Text != ""
}

// line is the text of the line with the cursor, with what it has run over.
func (f *Finder) line() string {
	_, y := f.t.Cursor()
	first, last := y, y
	for first > 0 && y-first < maxRows && f.t.Wrapped(first-1) {
		first--
	}
	for last-y < maxRows && f.t.Wrapped(last) {
		last++
	}
	var b strings.Builder
	for ; first <= last; first++ {
		f.row(&b, first, -1)
	}
	if f.full() {
		return b.String()
	}
	return strings.TrimRightFunc(b.String(), unicode.IsSpace)
}

// before is what stands on the row before the cursor.
func (f *Finder) before() string {
	x, y := f.t.Cursor()
	var b strings.Builder
	f.row(&b, y, x)
	return b.String()
}

// row appends the text of a row, as far as column end; -1: all.
func (f *Finder) row(b *strings.Builder, y, end int) {
	for x, c := range f.t.Row(y) {
		switch {
		case x == end:
			return
		case c.Width == 0:
		case c.Text == "":
			b.WriteByte(' ')
		default:
			b.WriteString(c.Text)
		}
	}
}

// take judges a line that was left with Enter.
func (f *Finder) take(l *line) {
	text, confidence, kind := "", uint8(0), ""
	rest, rested := strings.CutPrefix(l.text, l.prompt)
	rested = rested && l.rested && len(l.prompt) <= maxPrompt && strings.TrimSpace(l.prompt) != ""
	if rested && shaped(l.prompt) {
		f.known = l.prompt
		text, confidence = strings.TrimSpace(rest), 85
	} else if again, ok := strings.CutPrefix(l.text, f.known); ok && f.known != "" { // drawn again with what was typed, as when names are completed
		text, confidence = strings.TrimSpace(again), 80
	} else if guess, much, ok := Prompt(l.text); ok { // the prompt and what was typed came at once
		text, confidence = guess, much
	} else if rested {
		text, confidence, kind = strings.TrimSpace(rest), 30, promptKind(l.prompt)
		if _, known := f.kinds[kind]; kind != "" && (known || len(f.kinds) < maxPrompts) {
			f.kinds[kind]++
		}
	}
	if l.clean && l.typed != "" && strings.HasSuffix(l.text, l.typed) && (text == "" || text == l.typed) {
		switch {
		case text == "": // no prompt that is known
			text, confidence = l.typed, 35
		case confidence >= 60:
			confidence = 98
		}
	}
	if text != "" {
		f.add(found{Command{At: l.at, Text: text, Source: Screen, Confidence: confidence, Participant: l.by}, kind})
	}
}

func (f *Finder) add(c found) {
	if len(f.found) >= maxCommands {
		return
	}
	c.Text = c.Text[:min(len(c.Text), maxText)]
	if c.Participant != 0 {
		c.User = f.names[c.Participant]
	}
	f.found = append(f.found, c)
}

// ends are what the usual prompts end with.
const ends = "$#%>❯»λ"

// shaped tells whether it looks like a prompt for commands.
func shaped(prompt string) bool {
	r, _ := utf8.DecodeLastRuneInString(strings.TrimSpace(prompt))
	return strings.ContainsRune(ends, r)
}

// promptKind is what prompts have in common that differ by directory or time: their end. One that asks a question has none.
func promptKind(prompt string) string {
	trimmed := strings.TrimSpace(prompt)
	r, n := utf8.DecodeLastRuneInString(trimmed)
	if r == ':' || r == '?' || r == ']' || r == ')' && strings.Contains(trimmed, "/") || unicode.IsLetter(r) || unicode.IsDigit(r) {
		return ""
	}
	return trimmed[len(trimmed)-n:]
}

// Prompt takes a line of a screen for a prompt and a command, as far as it looks like that: "root@gw:~# iptables -F". ok is false where it does not.
func Prompt(row string) (command string, confidence uint8, ok bool) {
	row = strings.TrimRightFunc(row, unicode.IsSpace)
	for i, r := range row {
		if i > maxPrompt {
			break
		}
		n := utf8.RuneLen(r)
		if !strings.ContainsRune(ends, r) || i+n >= len(row) || row[i+n] != ' ' {
			continue
		}
		before, after := strings.TrimSpace(row[:i]), strings.TrimSpace(row[i+n:])
		if after == "" {
			return "", 0, false
		}
		switch {
		case strings.ContainsAny(before, "@:~/["): // user@host:directory
			return after, 70, true
		case before == "" || !strings.ContainsAny(before, " \t"):
			return after, 55, true
		}
		return "", 0, false
	}
	return "", 0, false
}
