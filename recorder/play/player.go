package play

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
)

// A Player has the terminal of a recording at any time of it. Not safe for concurrent use.
type Player struct {
	l     *Recording
	h     recorder.Header
	term  *index.Terminal
	r     *reader.Reader
	next  *reader.Event // read and not shown yet
	now   time.Duration
	cols  int // of the terminal that it is fitted to; 0: as recorded
	rows  int
	ended bool
}

// NewPlayer waits for the recording's beginning.
func NewPlayer(ctx context.Context, l *Recording) (*Player, error) {
	h, err := l.Header(ctx)
	if err != nil {
		return nil, err
	}
	p := &Player{l: l, h: h}
	p.rewind(ctx)
	return p, nil
}

// Terminal is what is to be seen now.
func (p *Player) Terminal() *index.Terminal { return p.term }

// Now is the time since the recording's start.
func (p *Player) Now() time.Duration { return p.now }

// Header is the recording's.
func (p *Player) Header() recorder.Header { return p.h }

// Fit shows the recording from now on as if its terminal had had that size all the time; 0, 0: as it was. Programs that draw the whole screen
// are out of shape then.
func (p *Player) Fit(ctx context.Context, cols, rows int) error {
	p.cols, p.rows = cols, rows
	t := p.now
	p.from(ctx, t)
	return p.advance(ctx, t)
}

func (p *Player) rewind(ctx context.Context) {
	p.term, p.now = index.NewTerminal(p.h), 0
	p.start(ctx, 0)
}

func (p *Player) start(ctx context.Context, chunk uint64) {
	n := chunk
	next := func() ([]byte, error) {
		c, err := p.l.chunk(ctx, n)
		n++
		return c, err
	}
	p.next, p.ended = nil, false
	p.r = p.l.from(p.h, chunk, next)
	p.fit()
}

func (p *Player) fit() {
	if p.cols > 0 {
		p.term.Resize(p.cols, p.rows)
	}
}

// from goes to the last keyframe that is not after t.
func (p *Player) from(ctx context.Context, t time.Duration) {
	f, ok := p.l.frameBefore(t)
	if !ok {
		p.rewind(ctx)
		return
	}
	term, err := index.Restore(p.h, f.State)
	if err != nil { // of another version: without them it takes longer
		p.rewind(ctx)
		return
	}
	p.term, p.now = term, f.Time
	p.start(ctx, f.Chunk)
}

// Seek goes to a time, forwards or back. The context is used until the next Seek.
func (p *Player) Seek(ctx context.Context, t time.Duration) error {
	t = max(0, t)
	if d, ended := p.l.Duration(); ended {
		t = min(t, d)
	}
	f, ok := p.l.frameBefore(t)
	if t < p.now || ok && f.Time > p.now {
		p.from(ctx, t)
	}
	return p.advance(ctx, t)
}

// Peek returns the next event that was recorded, nil at the end. It waits for it to be loaded.
func (p *Player) Peek() (*reader.Event, error) {
	if p.next != nil || p.ended {
		return p.next, nil
	}
	e, err := p.r.Next()
	switch {
	case err == nil:
		e.Data = slices.Clone(e.Data)
		p.next = &e
	case err == io.EOF:
		p.ended = true
	default:
		p.ended = true
		if errors.Is(err, context.Canceled) {
			return nil, err
		}
		// What is wrong with the recording Load has told.
	}
	return p.next, nil
}

// Shown takes the event that Peek returned and tells whether it changed what is to be seen.
func (p *Player) Shown() bool {
	e := p.next
	if e == nil {
		return false
	}
	p.next, p.now = nil, max(p.now, e.Time)
	if e.Type == recorder.RecordResize && p.cols > 0 {
		return false
	}
	return p.term.Apply(*e)
}

func (p *Player) advance(ctx context.Context, t time.Duration) error {
	for {
		e, err := p.Peek()
		if err != nil {
			return err
		}
		if e == nil || e.Time > t {
			p.now = max(p.now, t)
			if d, ended := p.l.Duration(); ended && p.ended {
				p.now = min(p.now, max(d, 0))
			}
			return ctx.Err()
		}
		p.Shown()
	}
}

// Step shows the next thing that changes the screen; false: there is none.
func (p *Player) Step() (bool, error) {
	for {
		e, err := p.Peek()
		if e == nil || err != nil {
			return false, err
		}
		if p.Shown() {
			return true, nil
		}
	}
}
