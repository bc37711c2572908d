package session

import (
	"context"
	"errors"
	"io"
	"os"

	"hawser/auth/policy"
	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
)

// take gives input to the process, and with the terminal's verdict to who records. False: no more is wanted. turn is that of a terminal's room.
func (r *running) take(b []byte, tap Tap, turn uint64) bool {
	if tap != nil && !tap.Ready() {
		return false
	}
	if s := r.s; s.pty != nil && !s.room.gate().Takes(turn) { // the recording held it up, and there was a pause meanwhile
		return s.drop(b)
	}
	if tap != nil && r.s.judge() == observe.Unjudged && !tap.Input(b, observe.Unjudged) {
		return false
	}
	n, verdict, err := r.give(b)
	if verdict == observe.Dropped {
		return r.s.drop(b)
	}
	if verdict != observe.Unjudged && tap != nil && (!tap.Input(b[:n], verdict) || n < len(b) && !tap.Input(b[n:], observe.Dropped)) {
		return false
	}
	r.s.params.Witness.Took(b[:n], verdict)
	if t := r.s.params.TTY; t != nil {
		t.verdict.Store(uint32(verdict)) // the channel's next Read sends it
		if n < len(b) && t.Part != nil {
			t.Part(len(b) - n)
			t.verdict.Store(observe.Dropped)
		}
	}
	return err == nil
}

// give is the process's input, and the terminal's verdict on its first n bytes: a pause threw the rest away.
//
// The verdict is that of before or after, whichever withholds: a prompt may come between the look and the bytes. What was typed ahead of a prompt the
// terminal has echoed, or the program throws away.
func (r *running) give(b []byte) (n int, verdict byte, err error) {
	verdict = r.s.judge()
	n, err = r.stdin.Write(b)
	switch paused := errors.Is(err, os.ErrDeadlineExceeded); { // while the process read nothing
	case !paused:
		n = len(b)
	case n == 0:
		return len(b), observe.Dropped, nil
	default:
		err = nil
	}
	if verdict == observe.Keep && r.s.judge() == observe.Withhold {
		verdict = observe.Withhold
	}
	return n, verdict, err
}

// judge tells whether input given to the process now may be recorded.
func (s *session) judge() byte {
	recorded := s.params.Recorded != "" && s.params.Recorded != policy.RecordOff
	switch {
	case !s.params.Redact && !recorded, s.pty == nil && s.ptyErr == nil:
		return observe.Unjudged
	case s.params.Redact && s.pty != nil && s.pty.Withheld():
		return observe.Withhold
	}
	return observe.Keep // what a pause throws away has another
}

// tappedFiles lets who records see what a file server in this process takes and says.
type tappedFiles struct {
	channel.Channel
	tap Tap
}

func (c tappedFiles) Read(b []byte) (int, error) {
	n, err := c.Channel.Read(b)
	if n > 0 && !c.tap.Input(b[:n], observe.Unjudged) {
		return 0, observe.ErrOver
	}
	return n, err
}

func (c tappedFiles) Write(b []byte) (int, error) {
	if !c.tap.Output(recorder.Stdout, b) {
		return 0, observe.ErrOver
	}
	return c.Channel.Write(b)
}

// openAgent is OpenBack for an agent, whose use is told to who records.
func (s *session) openAgent() openBack {
	open := s.params.OpenBack
	var use func(recorder.AgentUse)
	if tap := s.params.Tap; tap != nil {
		use = tap.AgentUse
	}
	return func(ctx context.Context, p payload.Accept) (io.ReadWriteCloser, error) {
		c, err := open(ctx, p)
		if err != nil {
			return nil, err
		}
		use := use
		if m := s.shared.Load(); m != nil && m.page != nil { // it was not there when the agent was asked for
			use = m.page.AgentUse
		}
		if c = (pausable{c, s}); use == nil {
			return c, nil
		}
		return observe.NewAgent(use).Channel(c), nil
	}
}

// pausable is a channel to the person's agent: what programs ask of it waits while the session is paused.
type pausable struct {
	io.ReadWriteCloser
	s *session
}

func (c pausable) Write(b []byte) (int, error) {
	if !c.s.shared.Load().gate().GoesOn() {
		return 0, observe.ErrOver
	}
	return c.ReadWriteCloser.Write(b)
}

// CloseWrite is for who looks for it.
func (c pausable) CloseWrite() error {
	if h, ok := c.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
