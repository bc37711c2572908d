package target

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/recorder/observe"
	"hawser/recorder/share"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// room is share.Host of a session with a terminal: the server shows it to this hub alone, so that others see it here.
type room struct {
	*share.Room
	*share.Told
	x  *session
	ch ssh.Channel

	held    *share.Gate
	typing  sync.Mutex // one person's bytes at a time
	telling atomic.Int32
}

// gate is that of a room. The nil room is that of a session without a terminal.
func (m *room) gate() *share.Gate {
	if m == nil {
		return nil
	}
	return m.held
}

// openRoom lets others in from now on.
func (x *session) openRoom(ch ssh.Channel) {
	if !x.pty.Load() || x.room.Load() != nil {
		return
	}
	recorded := x.g.Record != "" && x.g.Record != policy.RecordOff
	m := &room{x: x, ch: ch, held: share.NewGate(), Told: share.NewTold(x.front, recorded, x.g.RecordStdin)}
	cols, rows := int(x.size.Columns), int(x.size.Rows)
	if cols == 0 || rows == 0 { // a client without a terminal of its own
		cols, rows = 80, 24
	}
	m.Room = share.New(m, cols, rows)
	x.room.Store(m)
}

// closeRoom ends the stay of all, and lets nobody in.
func (x *session) closeRoom() {
	m := x.room.Load()
	if m == nil {
		return
	}
	m.held.End()
	m.Close("the session has ended")
}

// roomOf is that of a session; nil: it is not here, or has none.
func (t *Targets) roomOf(id [16]byte) *room {
	t.mu.Lock()
	x := t.sessions[id]
	t.mu.Unlock()
	if x == nil {
		return nil
	}
	return x.room.Load()
}

// maxTold words are on their way to the people of a session; one more is dropped, for they take none.
const maxTold = 8

// Tell passes a word on to the people in a session, and tells whether it is one of a server that others may join. It does not block.
func (t *Targets) Tell(id [16]byte, w wire.Tell) bool {
	m := t.roomOf(id)
	switch {
	case m == nil:
		return false
	case w.What != wire.TellAll:
		m.Heed(w)
	case m.telling.Add(1) > maxTold:
		m.telling.Add(-1)
	default:
		if !t.spawn(func() {
			defer m.telling.Add(-1)
			m.Heed(w)
		}) {
			m.telling.Add(-1)
		}
	}
	return true
}

// write takes what a member typed in a turn to the server, whole, unless the session was paused: then it is thrown away. The owner is 0.
func (m *room) write(member uint32, b []byte, turn uint64) (took bool, err error) {
	m.typing.Lock()
	defer m.typing.Unlock()
	switch {
	case member != 0 && !m.In(member):
		return false, observe.ErrOver
	case !m.held.Takes(turn):
		return false, nil
	}
	_, err = m.ch.Write(b)
	return true, err
}

// Type implements share.Host.
func (m *room) Type(member uint32, b []byte) error {
	turn := m.held.Turn()
	defer m.held.CaughtUp(turn)
	if !m.Told.Ready(member) {
		return observe.ErrOver
	}
	took, err := m.write(member, b, turn)
	if errors.Is(err, observe.ErrOver) {
		return err
	}
	verdict := m.x.judge()
	if !took {
		verdict = observe.Dropped
	}
	if !m.Typed(member, b, verdict) {
		return observe.ErrOver
	}
	return err
}

// Redraw implements share.Host.
func (m *room) Redraw() {
	select {
	case m.x.redraw <- struct{}{}:
	default: // it is about to
	}
}

// Pause implements share.Host.
func (m *room) Pause(paused bool) { m.held.Pause(paused, nil) }

// End implements share.Host.
func (m *room) End(reason string) { m.x.cancel(&killed{reason}) }

// Broken implements share.Host.
func (m *room) Broken(panicked any, stack []byte) {
	m.x.t.c.Logger.Error("panic in the screen of a session", "device", m.x.d.Name, "session", hex.EncodeToString(m.x.g.SessionID[:]), "panic", panicked, "stack", string(stack))
}

// shown is the server's output, which the room follows.
type shown struct {
	x  *session
	ch io.Reader
}

func (s shown) Read(p []byte) (int, error) {
	n, err := s.ch.Read(p)
	if m := s.x.room.Load(); m != nil && n > 0 {
		m.held.GoesOn() // what came before the pause and was not shown yet is shown after it
		m.Output(p[:n])
	}
	return n, err
}

// input gives the server what the owner sends, until its end or the server's, and judges it for the recording.
func (x *session) input(ch ssh.Channel) {
	b := make([]byte, 32<<10)
	for {
		n, err := x.front.Read(b)
		if n > 0 {
			verdict := x.judge()
			if m := x.room.Load(); m != nil {
				turn, took := m.held.Turn(), false
				if took, err = m.write(0, b[:n], turn); !took {
					verdict = observe.Dropped
				}
				m.held.CaughtUp(turn)
			} else {
				_, err = ch.Write(b[:n])
			}
			x.verdict.Store(uint32(verdict))
		}
		if err != nil {
			return
		}
	}
}

// judge is the verdict on what is typed at a terminal that nobody here can look at.
func (x *session) judge() byte {
	switch {
	case !x.pty.Load():
		return observe.Unjudged
	case x.g.RecordStdin == policy.StdinRedacted:
		return observe.Withhold
	}
	return observe.Keep
}

// tag is for channel.Options.
func (x *session) tag() byte { return byte(x.verdict.Load()) }

// wiggle has the server tell its program that the window may have changed, without a change that anybody sees: programs that fill the screen draw it
// anew. A kernel tells of a size alone that is not the last one, so that a pixel comes and goes.
func (x *session) wiggle(ch ssh.Channel) {
	size := x.size
	size.Width++
	for _, s := range []payload.WindowChange{size, x.size} {
		_, _ = ch.SendRequest("window-change", false, s.Marshal()) // an error is the session's end
	}
}

var (
	errNoRoom     = errors.New("that session has ended, or has no terminal: there is no screen to see")
	errNoTerminal = errors.New("to join a session takes a terminal: ssh -t")
)

// join serves somebody who joins another session on the server, until he leaves. Nothing is done on the server for him.
func (x *session) join() {
	size, ok := x.awaitStart()
	m := x.t.roomOf(x.g.Join)
	switch {
	case !ok:
		return
	case !x.pty.Load():
		x.last(errNoTerminal.Error())
		return
	case m == nil:
		x.last(errNoRoom.Error())
		return
	}
	var all sync.WaitGroup
	ctx, cancel := context.WithCancelCause(x.ctx)
	sizes := make(chan [2]int, 1)
	x.t.guard(&all, func() { cancel(io.EOF) }, func() {
		defer cancel(io.EOF)
		for r := range x.front.Requests() {
			p, err := payload.ParseWindowChange(r.Payload)
			ok := r.Type == "window-change" && err == nil
			_ = r.Reply(ok)
			if ok {
				select { // the last one alone counts, and he may take none
				case <-sizes:
				default:
				}
				sizes <- [2]int{int(p.Columns), int(p.Rows)}
			}
		}
	})
	// A guest who takes nothing must not hold up his own end.
	var late *time.Timer
	x.t.guard(&all, nil, func() {
		select {
		case <-ctx.Done():
		case <-m.x.ctx.Done():
		}
		late = time.AfterFunc(share.ByeWait, func() { _ = x.front.Close() })
	})
	mode, _ := share.ParseMode(x.g.JoinMode) // what this hub does not know sees, and no more
	mode = max(mode, share.Observer)
	welcome := mode.String() + " of " + m.x.g.User + "'s session: "
	switch mode {
	case share.Peer:
		welcome += "what you type is typed as " + m.x.g.Login
	case share.Moderator:
		welcome += "p pauses, r resumes, T ends it, Ctrl-C leaves"
	default:
		welcome += "Ctrl-C leaves"
	}
	x.t.c.Logger.Info("session joined", "device", x.d.Name, "user", x.g.User, "mode", mode.String(), "session", hex.EncodeToString(x.g.Join[:]))
	_ = m.Join(ctx, share.Guest{
		User: x.g.User, Roles: x.g.Roles, Way: "by " + cmp.Or(x.t.c.Hub, "its hub"), Mode: mode, Cols: int(size.Columns), Rows: int(size.Rows), Resized: sizes,
		In: x.front, Out: x.front, Welcome: welcome, Ends: cancel, Go: func(f func()) { x.t.guard(&all, func() { cancel(io.EOF) }, f) },
		Over: func(err error) {
			cancel(err)
			if errors.Is(err, share.ErrLeft) {
				x.finish("exit-status", payload.ExitStatus{}.Marshal())
			} else { // where the pictures were: by the other stream it might overtake the last of them, which clears the screen
				_, _ = io.WriteString(x.front, "hawser: "+wire.Quote(err.Error(), 512)+"\r\n")
				x.finish("exit-status", payload.ExitStatus{Status: statusRefused}.Marshal())
			}
			_ = x.front.Close() // ends what reads from it
		},
	})
	all.Wait()
	late.Stop()
}

// awaitStart answers what comes before something would be started, and that; false: nothing was. It returns the size of the person's terminal.
func (x *session) awaitStart() (size payload.WindowChange, ok bool) {
	expired := time.NewTimer(startWait)
	defer expired.Stop()
	for {
		select {
		case r, ok := <-x.front.Requests():
			if !ok {
				return size, false
			}
			switch r.Type {
			case "pty-req":
				p, err := payload.ParsePtyRequest(r.Payload)
				x.pty.Store(err == nil)
				size = payload.WindowChange{Columns: p.Columns, Rows: p.Rows, Width: p.Width, Height: p.Height}
				_ = r.Reply(err == nil)
			case "window-change":
				if p, err := payload.ParseWindowChange(r.Payload); err == nil {
					size = p
				}
				_ = r.Reply(true)
			case "shell", "exec", "subsystem":
				_ = r.Reply(true)
				return size, true
			default:
				_ = r.Reply(r.Type == "env")
			}
		case <-expired.C:
			x.last(fmt.Sprintf("nothing was asked for within %v", startWait))
			return size, false
		}
	}
}
