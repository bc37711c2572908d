package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hawser/recorder/observe"
	"hawser/recorder/share"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Join says that a session is no session of its own: whoever comes joins another.
type Join struct {
	Session string // its id
	Mode    share.Mode
	Way     string // how the others are told that he came
	Roles   []string
}

// Guests is told what those do who join the session, for its owner and its recording.
type Guests interface {
	Changed(m share.Member, change string)
	// Ready waits until what a member types may be taken: strict recordings can be behind. False: it may not.
	Ready(member uint32) bool
	// Typed comes with the verdict of recorder/observe. False: it was not recorded, and no more may be taken.
	Typed(member uint32, b []byte, verdict byte) bool
	// Say tells the owner something, where his screen bears it.
	Say(text string)
	// Mark puts a line into the recording.
	Mark(text string)
}

// JoinVariable is what a client sets that comes past the hub and is to join a session: ID, or ID:MODE.
const JoinVariable = "HAWSER_JOIN"

// joinKind is the channel kind of who joins.
const joinKind = "join"

// rooms are those of the sessions that others may join, by the session's id, and what is open while enough of them are in. The zero value is ready.
type rooms struct {
	mu   sync.Mutex
	byID map[string]*room // bounded by the sessions
	open map[*opened]bool // bounded by the streams and by e2e's channel limit
}

func (t *rooms) get(id string) *room {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byID[id]
}

func (t *rooms) set(id string, r *room) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r == nil {
		delete(t.byID, id)
		return
	}
	if t.byID == nil {
		t.byID = map[string]*room{}
	}
	t.byID[id] = r
}

// room is share.Host of a session. The nil room is that of one that nobody joins.
type room struct {
	*share.Room
	s    *session
	page *page // of one without a terminal
	held *share.Gate

	// waits is whether a command is shown on the terminal until the session begins. It belongs to the session's goroutine.
	waits bool

	typing sync.Mutex // one guest's bytes at a time

	mu    sync.Mutex
	over  bool
	told  []wire.Tell // words for all that wait; at most maxTold
	lines []string    // likewise for an owner without a terminal
}

func (m *room) gate() *share.Gate {
	if m == nil {
		return nil
	}
	return m.held
}

// openRoom lets others in from now on: where there is a terminal, and where somebody must be in.
func (s *session) openRoom(ctx context.Context, command string, kinds ...string) {
	rules := s.rules(kinds)
	if s.pty == nil && len(rules.Needs)+len(rules.Others) == 0 {
		return
	}
	m := &room{s: s, held: share.NewGate()}
	if s.pty != nil && command != "" {
		rules.Begins = wire.Quote(command, maxBegins)
		m.waits = len(rules.Needs) > 0
	}
	cols, rows := m.size()
	m.Room = bounded(m, cmp.Or(s.engine.config.ScreenCells, maxCells), cols, rows)
	m.Require(rules)
	s.room = m
	if s.pty == nil {
		m.openPage(kinds[len(kinds)-1], command)
	}
	s.shared.Store(m)
	context.AfterFunc(ctx, m.end)
	s.engine.rooms.set(s.params.SessionID, m)
}

// bounded is a room that a device has the memory for.
func bounded(h share.Host, cells, cols, rows int) *share.Room {
	r := share.New(h, cols, rows)
	r.MaxCells = cells
	return r
}

// size is that of what guests see.
func (m *room) size() (cols, rows int) {
	cols, rows = int(m.s.size.Columns), int(m.s.size.Rows)
	switch {
	case m.s.pty == nil:
		return pageCols, pageRows
	case cols == 0 || rows == 0: // a client without a terminal of its own
		cols, rows = 80, 24
	}
	if m.waits { // whose session it is chooses the size, and must not choose what of his command is seen
		cols, rows = max(cols, pageCols), max(rows, pageRows)
	}
	return cols, rows
}

// fit is for a terminal whose size has changed.
func (m *room) fit() { m.Resize(m.size()) }

// begins is for when nobody is waited for any more.
func (m *room) begins() {
	if m != nil && m.waits {
		m.waits = false
		m.fit()
	}
}

// end has nobody wait for the session to go on.
func (m *room) end() {
	m.held.End()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
}

// closeRoom ends the stay of all, and lets nobody in.
func (s *session) closeRoom() {
	if s.room == nil {
		return
	}
	s.engine.rooms.set(s.params.SessionID, nil)
	s.room.end()
	s.room.Close("the session has ended")
	s.engine.rooms.look(s.params.User)
}

func (m *room) output(stream byte, b []byte) {
	if m != nil && m.page == nil && stream == stdoutStream {
		m.Output(b)
	}
}

// Type implements share.Host.
func (m *room) Type(member uint32, b []byte) error {
	guests, turn := m.s.guests(), m.held.Turn()
	defer m.held.CaughtUp(turn)
	if !guests.Ready(member) {
		return observe.ErrOver
	}
	m.typing.Lock()
	defer m.typing.Unlock()
	if !m.In(member) {
		return observe.ErrOver
	}
	n, verdict, err := len(b), byte(observe.Dropped), error(nil)
	if r := m.s.process.Load(); r != nil && m.held.Takes(turn) {
		n, verdict, err = r.give(b)
	}
	if !guests.Typed(member, b[:n], verdict) || n < len(b) && !guests.Typed(member, b[n:], observe.Dropped) {
		return observe.ErrOver
	}
	return err
}

// Changed implements share.Host.
func (m *room) Changed(g share.Member, change string) { m.s.guests().Changed(g, change) }

// Say implements share.Host.
func (m *room) Say(text string) {
	if m.page == nil {
		m.s.guests().Say(text)
		return
	}
	m.page.line(text)
	m.tell(text)
}

// Mark implements share.Host.
func (m *room) Mark(text string) { m.s.guests().Mark(text) }

// Redraw implements share.Host: programs that fill the screen draw it anew when the window may have changed.
func (m *room) Redraw() {
	if m.s.pty == nil {
		return
	}
	if group := m.s.pty.Foreground(); group > 1 {
		_ = unix.Kill(-group, unix.SIGWINCH)
	}
}

// Pause implements share.Host. What was typed before and is not read yet goes with what is typed from now on.
func (m *room) Pause(paused bool) {
	m.held.Pause(paused, func() { // not over: then the terminal's name may be another's
		if m.s.pty == nil {
			return
		}
		m.s.pty.Hold(paused)
		if paused {
			m.s.pty.DiscardInput()
		}
	})
}

// End implements share.Host.
func (m *room) End(reason string) { m.s.cancel(errors.New(reason)) }

// Broken implements share.Host.
func (m *room) Broken(panicked any, stack []byte) {
	tunnel.Error(m.s.engine.config.Logger, "panic in the screen of a session", "session", m.s.params.SessionID, "panic", fmt.Sprint(panicked), "stack", string(stack))
}

// guests is who is told of guests.
func (s *session) guests() Guests {
	if g := s.params.Guests; g != nil {
		return g
	}
	return noGuests{}
}

// noGuests is for a session of which nobody wants to know.
type noGuests struct{}

func (noGuests) Changed(share.Member, string)    {}
func (noGuests) Ready(uint32) bool               { return true }
func (noGuests) Typed(uint32, []byte, byte) bool { return true }
func (noGuests) Say(string)                      {}
func (noGuests) Mark(string)                     {}

var (
	errNoRoom     = errors.New("that session has ended, or has no terminal: there is no screen to see")
	errNoTyping   = errors.New("that session has no terminal that two could type at: join it as observer or moderator")
	errNoTerminal = errors.New("to join a session takes a terminal: ssh -t")
	errJoinTwice  = errors.New("one session can be joined at a time")
)

// joinAs has the session join another, which the person says by the variable. What keeps it from that is told when he asks for a shell, where he reads it.
func (s *session) joinAs(ctx context.Context, what string) bool {
	if s.params.Join != nil || s.joinErr != nil {
		s.joinErr = errJoinTwice
	} else {
		s.params.Join, s.joinErr = s.params.JoinAs(ctx, what)
	}
	return s.joinErr == nil
}

// join serves somebody who joins another session, until he leaves.
func (s *session) join(ctx context.Context) error {
	j := s.params.Join
	if !s.sized {
		return errNoTerminal
	}
	m := s.engine.rooms.get(j.Session)
	if m == nil {
		return errNoRoom
	}
	if m.page != nil && j.Mode == share.Peer {
		return errNoTyping
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cols, rows := int(s.size.Columns), int(s.size.Rows)
	sizes := make(chan [2]int, 1)
	s.wg.Go(func() {
		for r := range s.ch.Requests() {
			ok := s.during(r, 0)
			_ = r.Reply(ok)
			if r.Type == "window-change" && ok {
				select { // the last one alone counts, and he may take none
				case <-sizes:
				default:
				}
				sizes <- [2]int{int(s.size.Columns), int(s.size.Rows)}
			}
		}
		cancel(errGone)
	})
	// A guest who takes nothing must not hold up his own end.
	defer context.AfterFunc(ctx, func() { time.AfterFunc(share.ByeWait, func() { _ = s.ch.Close() }) })()
	owner := m.s.params.User
	welcome := j.Mode.String() + " of " + owner + "'s session: "
	switch j.Mode {
	case share.Peer:
		welcome += "what you type is typed as " + m.s.params.Login
	case share.Moderator:
		welcome += "p pauses, r resumes, T ends it, Ctrl-C leaves"
	default:
		welcome += "Ctrl-C leaves"
	}
	_ = m.Join(ctx, share.Guest{
		User: s.params.User, Roles: j.Roles, Way: j.Way, Mode: j.Mode, Cols: cols, Rows: rows, Resized: sizes,
		In: s.ch, Out: s.ch, Welcome: welcome, Ends: cancel, There: s.params.There, Go: func(f func()) { s.wg.Go(f) },
		Over: func(err error) {
			s.painted = true
			if !errors.Is(err, share.ErrLeft) {
				s.refuse(err)
				return
			}
			s.result.Status = 0
			s.report()
		},
	})
	return nil
}
