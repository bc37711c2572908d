package front

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"hawser/recorder/play"
	"hawser/recorder/reader"
	"hawser/tunnel/wire"
)

// Replay is a recording that a person looks at.
type Replay struct {
	Title  string // who and where
	Sealed bool   // encrypted to auditors: it cannot be played here
	// Next returns its stored chunks, and then io.EOF. Close ends it.
	Next  func() ([]byte, error)
	Close func()
}

const (
	// maxReplay bounds a recording that is played here, as it is stored, in bytes: all of it is in the hub's memory, and never on its disk.
	maxReplay = 32 << 20
	// maxReplays are played at once, maxUserReplays of them to one person.
	maxReplays, maxUserReplays = 4, 2
	// replayIdle is Config.ReplayIdle's default.
	replayIdle = time.Hour
	// replayGrace is what a client gets to answer the close of its channel.
	replayGrace = time.Minute
)

const playUsage = "play ID [--from 12m] [--speed 2] [--text]: `hawser recordings ls` has the ids"

// playing is what `ssh hub play` was asked for.
type playing struct {
	id   string
	text bool
	o    play.WatchOptions
}

func parsePlay(words []string) (p playing, err error) {
	p.o.Speed, p.o.Idle = 1, 2*time.Second
	bad := errors.New(playUsage)
	for i := 0; i < len(words); i++ {
		name, value, given := strings.Cut(words[i], "=")
		switch {
		case name == "--text" && !given:
			p.text = true
			continue
		case name == "--from", name == "--speed":
			if !given {
				if i++; i == len(words) {
					return p, bad
				}
				value = words[i]
			}
			if name == "--from" {
				p.o.From, err = time.ParseDuration(value)
			} else {
				p.o.Speed, err = strconv.ParseFloat(value, 64)
			}
			if err != nil || p.o.From < 0 || !(p.o.Speed > 0) {
				return p, bad
			}
			continue
		case strings.HasPrefix(words[i], "-") || p.id != "":
			return p, bad
		}
		p.id = words[i]
	}
	if p.id == "" {
		return p, bad
	}
	return p, nil
}

// play serves `ssh -t hub play ID`: at a terminal the player, without one what the recorded terminal showed, as text.
func (x *session) play(words []string) {
	p, err := parsePlay(words)
	if err != nil {
		x.say(err.Error())
		x.finish(2)
		return
	}
	c := x.c
	if !c.s.replays.enter(c.identity.User, maxUserReplays, maxReplays) {
		x.say("too many recordings are played here; leave one of yours, or use `hawser play`")
		x.finish(statusRefused)
		return
	}
	err = func() error {
		defer c.s.replays.leave(c.identity.User)
		return x.replayed(p)
	}()
	switch {
	case x.ctx.Err() != nil: // a kill is told by the caller
	case err == nil:
		x.finish(0)
	default:
		x.say(explain(err))
		x.finish(statusRefused)
	}
}

func (x *session) replayed(p playing) error {
	c := x.c
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	r, err := c.s.c.Backend.Replay(ctx, Claim{Kind: Connection, Identity: c.identity, ConnectionID: c.id, ClientAddr: c.client}, p.id)
	if err != nil {
		return err
	}
	defer r.Close()
	sealed := &Refusal{Message: "it is encrypted to auditors: play it where your key is, with `hawser play " + wire.Quote(p.id, 40) + " --identity FILE`"}
	if r.Sealed {
		return sealed
	}
	if p.text || !x.pty.Load() {
		rd := reader.New(r.Next)
		w := io.Writer(x.ch)
		if x.pty.Load() {
			w = crlf{w}
		}
		taken := time.AfterFunc(c.s.c.ReplayIdle, func() { cancel(&Refusal{Message: "nothing was taken for " + c.s.c.ReplayIdle.String()}) })
		defer taken.Stop()
		done := x.endAfter(ctx)
		err = cmp.Or(play.Text(rd, restarts{w, taken, c.s.c.ReplayIdle}), context.Cause(ctx))
		done()
		if err == nil && !rd.Complete() {
			x.say("the recording ends here, but its session did not: it is incomplete")
		}
	} else {
		err = x.watched(ctx, r, p)
	}
	switch {
	case errors.Is(err, reader.ErrSealed):
		return sealed
	case errors.Is(err, play.ErrTooLarge):
		return &Refusal{Message: fmt.Sprintf("it has more than %d MiB: play it with `hawser play %s`", maxReplay>>20, wire.Quote(p.id, 40))}
	}
	return err
}

// endAfter ends a player that does not end by ctx: a client that reads nothing holds it up. One that does not even answer that its channel is closed
// loses the connection. done says that the player has ended.
func (x *session) endAfter(ctx context.Context) (done func()) {
	ended := make(chan struct{})
	later := func(d time.Duration, f func()) {
		time.AfterFunc(d, func() {
			select {
			case <-ended:
			default:
				f()
			}
		})
	}
	stop := context.AfterFunc(ctx, func() {
		later(killGrace, func() {
			later(replayGrace, func() { x.c.end(errors.New("a player's client reads nothing")) })
			_ = x.ch.Close()
		})
	})
	return func() {
		stop()
		close(ended)
	}
}

// restarts starts a timer again with each write that is taken.
type restarts struct {
	w io.Writer
	t *time.Timer
	d time.Duration
}

// Write implements io.Writer.
func (r restarts) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if err == nil {
		r.t.Reset(r.d)
	}
	return n, err
}

// crlf ends lines as the client's terminal has them.
type crlf struct{ w io.Writer }

// Write implements io.Writer.
func (c crlf) Write(p []byte) (int, error) {
	if _, err := io.WriteString(c.w, strings.ReplaceAll(string(p), "\n", "\r\n")); err != nil {
		return 0, err
	}
	return len(p), nil
}

// watched plays at the person's terminal, which is as before when it returns.
func (x *session) watched(ctx context.Context, r *Replay, p playing) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	defer x.endAfter(ctx)()
	resized := make(chan struct{}, 1)
	var mu sync.Mutex
	cols, rows := x.asked.pty.Columns, x.asked.pty.Rows
	followed, unfollow := x.follow(func(columns, lines uint32) {
		mu.Lock()
		cols, rows = columns, lines
		mu.Unlock()
		select {
		case resized <- struct{}{}:
		default:
		}
	})
	defer func() {
		unfollow()
		<-followed
	}()
	keys, typed := make(chan []byte), x.keyboard()
	wg.Add(1)
	x.c.goRun(func() {
		defer wg.Done()
		defer close(keys)
		for {
			b, err := typed.Next(ctx, x.c.s.c.ReplayIdle)
			if err == nil && b == nil {
				cancel(&Refusal{Message: "nothing was typed for " + x.c.s.c.ReplayIdle.String()})
				return
			}
			if err != nil {
				return
			}
			select {
			case keys <- b:
			case <-ctx.Done():
				return
			}
		}
	})
	l := play.NewRecording()
	l.InMemory(maxReplay)
	loaded := make(chan error, 1)
	wg.Add(1)
	x.c.goRun(func() {
		defer wg.Done()
		err := errors.New("the hub failed")
		defer func() { loaded <- err }()
		err = l.Load(r.Next)
		if errors.Is(err, play.ErrTooLarge) || errors.Is(err, reader.ErrSealed) {
			cancel(err)
		}
	})
	p.o.Title = r.Title
	err := play.Watch(ctx, l, play.Viewer{
		Out: x.ch, Keys: keys, Resized: resized,
		Size: func() (int, int) {
			mu.Lock()
			defer mu.Unlock()
			return int(min(cmp.Or(cols, 80), 1000)), int(min(cmp.Or(rows, 24), 1000))
		},
	}, p.o)
	select {
	case broken := <-loaded:
		err = cmp.Or(err, broken)
	default: // he left before it was loaded
	}
	r.Close()
	return err
}
