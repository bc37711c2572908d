package edge

import (
	"sync"

	"hawser/recorder"
	"hawser/recorder/observe"
)

// tap records a session where it is served. The recording begins when it is known what runs; of a session that starts nothing there is none.
type tap struct {
	// begin makes the recording; h has what the session knows of it.
	begin func(h recorder.Header, terminal bool) *recorder.Writer
	stdin string // what the grant has kept of input

	// Of Serve's goroutine alone, until Start.
	terminal      bool
	width, height uint32

	mu   sync.Mutex
	w    *recorder.Writer // nil before Start
	seen *observe.Session
}

// Start implements session.Tap.
func (t *tap) Start(kind, command, term string, env []string) error {
	t.terminal = t.terminal && kind != "sftp" // that has none, whatever was asked for
	seen := observe.NewSession(kind, command, t.terminal, t.stdin)
	w := t.begin(recorder.Header{
		Kind: kind, Command: command, Term: term, Width: t.width, Height: t.height, Input: seen.Kept(), Unkept: seen.Unkept(),
	}, t.terminal)
	seen.Attach(w)
	t.mu.Lock()
	t.w, t.seen = w, seen
	t.mu.Unlock()
	return w.Start(kind, command, term, env)
}

// Input implements session.Tap.
func (t *tap) Input(b []byte, verdict byte) bool { return t.seen.Input(b, verdict) }

// Ready implements session.Tap.
func (t *tap) Ready() bool { return t.w.Passed(recorder.Stdin, nil) }

// Output implements session.Tap.
func (t *tap) Output(stream byte, b []byte) bool { return t.seen.Output(stream, b) }

// Resize implements session.Tap.
func (t *tap) Resize(width, height uint32) {
	t.terminal, t.width, t.height = true, width, height
	if w := t.writer(); w != nil {
		w.Resize(width, height)
	}
}

// Exit implements session.Tap.
func (t *tap) Exit(status uint32, signal string) {
	if w := t.writer(); w != nil {
		t.seen.End()
		w.Exit(status, signal)
	}
}

// AgentUse implements session.Tap.
func (t *tap) AgentUse(u recorder.AgentUse) {
	if w := t.writer(); w != nil {
		w.AgentUse(u)
	}
}

func (t *tap) writer() *recorder.Writer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w
}

// closeTap ends the recording of a session that has ended.
func (a *Agent) closeTap(t *tap, id [16]byte) {
	if t.writer() != nil {
		t.seen.End()
		a.closeRecording(t.w, id)
	}
}
