package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"hawser/auth/policy"
	"hawser/recorder/observe"
	"hawser/recorder/share"
	"hawser/tunnel/wire"
)

// forwardKinds are the forwards that may require moderators, as auth/policy names them.
var forwardKinds = []string{policy.LocalForward, policy.RemoteForward, policy.SocketForward}

// rules are what the grant requires of who is in a session of these kinds, and of who is in any for forwards to be opened.
func (s *session) rules(kinds []string) share.Rules {
	user := s.params.User
	r := share.Rules{
		Owner: user, Presence: s.params.Presence, Changed: func() { s.engine.rooms.look(user) },
		Waits: func(missing string) { s.room.tell(s.waitLine(missing)) },
	}
	r.Needs = needs(policy.ModeratorsFor(s.params.Moderators, kinds...))
	r.Others = needs(policy.ModeratorsFor(s.params.Moderators, forwardKinds...))
	return r
}

func needs(list []policy.Moderators) (out []share.Need) {
	for _, m := range list {
		out = append(out, share.Need{
			Count: m.Count, Words: m.Words, Ends: m.OnLeave != policy.OnLeavePause,
			Counts: func(roles []string, mode share.Mode) bool { return m.Counts(roles, mode.String()) },
		})
	}
	return out
}

func (s *session) waitLine(missing string) string {
	return "waits for " + missing + "; the line to hand over: " + handOver(s.params.SessionID, s.params.Moderators)
}

// handOver is the line by which somebody who counts joins.
func handOver(id string, list []policy.Moderators) string {
	mode := policy.JoinModerator
	for _, m := range list {
		if !slices.Contains(m.Modes, mode) && len(m.Modes) > 0 {
			mode = m.Modes[0]
			break
		}
	}
	return "hawser join " + id[:min(len(id), 12)] + " --mode " + mode
}

var errLeft = errors.New("left before it began")

// gather stays until all are in who must be before anything of the session runs. What a person types at a terminal meanwhile goes nowhere, but that Ctrl-C leaves; without a
// terminal nothing is read.
func (s *session) gather(ctx context.Context, command string) error {
	m := s.room
	if m == nil {
		return nil
	}
	ready := m.Ready()
	select {
	case <-ready:
		return nil
	default:
	}
	m.held.Gather()
	leaves := ""
	if s.pty != nil {
		leaves = " (Ctrl-C leaves)"
		s.readInput()
	}
	if s.pty != nil && command != "" {
		m.write("\r\n" + string(appendLine(nil, "hawser: command: "+command, pageCols))) // without a terminal it is on the page
	}
	m.tell(s.waitLine(m.Waits()) + leaves)
	m.Mark("waits for " + m.Waits())
	return s.await(ctx, ready)
}

// await stays until something is so, before anything was started.
func (s *session) await(ctx context.Context, so <-chan struct{}) error {
	for {
		select {
		case <-so:
			return nil
		case <-s.left:
			return errLeft
		case q, ok := <-s.ch.Requests():
			if !ok {
				return errGone
			}
			_ = q.Reply(s.during(q, 0))
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// resumed stays while the session is paused, before anything was started: what came before the start may have taken long, and the moderators have gone meanwhile.
func (s *session) resumed(ctx context.Context) error {
	if s.room.gate().Paused() {
		if s.pty != nil {
			s.readInput()
		}
		on := make(chan struct{})
		s.wg.Go(func() {
			defer close(on)
			s.room.gate().GoesOn()
		})
		if err := s.await(ctx, on); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// begin gives the session its process, unless it has ended or was paused while that was started: a home directory that answers late holds that up.
func (s *session) begin(ctx context.Context, r *running) error {
	return s.room.gate().Begin(ctx, func() { s.process.Store(r) })
}

// readInput begins to take what the person sends, once.
func (s *session) readInput() {
	if !s.reads {
		s.reads = true
		s.wg.Go(s.copyIn)
	}
}

// drop takes what a person types at a terminal to whom nobody listens. False: no more is wanted.
func (s *session) drop(b []byte) bool {
	if s.params.TTY != nil {
		s.params.TTY.verdict.Store(observe.Dropped)
	}
	if tap := s.params.Tap; tap != nil && (!tap.Ready() || !tap.Input(b, observe.Dropped)) {
		return false
	}
	if s.process.Load() == nil && bytes.ContainsAny(b, "\x03\x04") { // Ctrl-C, Ctrl-D
		select {
		case s.left <- struct{}{}:
		default:
		}
	}
	return true
}

// tell shows a line to an owner who has no terminal, or nothing on it yet. It does not block: who reads nothing loses the lines beyond maxTold.
func (m *room) tell(text string) { m.write(crlf("hawser: " + text)) }

// write is tell with a line that is made. It begins with CR LF, which an owner without a terminal is not shown.
func (m *room) write(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.over || len(m.lines) == maxTold {
		return
	}
	if m.lines = append(m.lines, line); len(m.lines) == 1 {
		m.s.wg.Go(m.tellOwner) // not over: nobody waits for the goroutines yet
	}
}

func (m *room) tellOwner() {
	for {
		m.mu.Lock()
		line := []byte(m.lines[0])
		m.mu.Unlock()
		if m.s.pty == nil {
			_, _ = m.s.ch.Stderr().Write(line[2:])
		} else {
			m.Output(line)
			_, _ = m.s.ch.Write(line)
		}
		m.mu.Lock()
		if m.lines = slices.Delete(m.lines, 0, 1); len(m.lines) == 0 {
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
	}
}

// opened is a forward that is open while enough people are in a session of its owner's.
type opened struct {
	user   string
	needs  []share.Need
	cancel context.CancelCauseFunc
}

var errUnmoderated = errors.New("too few of those who must be in a session of yours are in one: the forward ends")

// Moderated lets something of a user's be open that needs people in a session of his on this device, or says who is missing. The context is over when they are
// no longer there; leave, never nil, is to be called at the end. They are shown what.
func (e *Engine) Moderated(ctx context.Context, user string, list []policy.Moderators, what string) (_ context.Context, leave func(), err error) {
	if len(list) == 0 {
		return ctx, func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	o := &opened{user: user, needs: needs(list), cancel: cancel}
	t := &e.rooms
	t.mu.Lock()
	if t.open == nil {
		t.open = map[*opened]bool{}
	}
	t.open[o] = true // before the look: who goes after it ends this
	t.mu.Unlock()
	end := func() {
		cancel(nil)
		t.mu.Lock()
		delete(t.open, o)
		t.mu.Unlock()
	}
	m := t.meets(o)
	if m == nil {
		end()
		return ctx, func() {}, fmt.Errorf("it needs %s in a session of yours on this device: open one, have it joined by `%s`, and try again",
			list[0].Words(list[0].Count), handOver("ID", list))
	}
	m.shows(user + " opens " + what)
	return ctx, func() {
		end()
		m.shows("closed: " + what)
	}, nil
}

// shows tells those who look on.
func (m *room) shows(text string) {
	text = wire.Quote(text, 300)
	m.Mark(text)
	if m.page != nil {
		m.page.line(text)
	} else {
		m.Note(text)
	}
}

// meets is a session whose people are all that o needs; nil: there is none.
func (t *rooms) meets(o *opened) *room {
	for _, m := range t.of(o.user) {
		if m.Meets(o.user, o.needs) {
			return m
		}
	}
	return nil
}

// of are the sessions of a user.
func (t *rooms) of(user string) (list []*room) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.byID {
		if m.s.params.User == user {
			list = append(list, m)
		}
	}
	return list
}

// look ends what is open of a user's and has too few people for it.
func (t *rooms) look(user string) {
	t.mu.Lock()
	var all []*opened
	for o := range t.open {
		if o.user == user {
			all = append(all, o)
		}
	}
	t.mu.Unlock()
	for _, o := range all {
		if t.meets(o) == nil {
			o.cancel(errUnmoderated)
		}
	}
}
