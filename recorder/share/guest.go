package share

import (
	"bytes"
	"cmp"
	"context"
	"io"
	"time"

	"hawser/recorder/paint"
)

// Guest is somebody who comes in.
type Guest struct {
	User, Way  string
	Roles      []string
	Mode       Mode
	Cols, Rows int           // of his terminal
	Resized    <-chan [2]int // its new sizes; nil: none come
	In         io.Reader     // what he types; it ends when he is gone
	Out        io.Writer
	Welcome    string // the first note
	// Ends is told why his stay ends, as soon as that is known: who takes nothing from Out is still being written to. It may not block; nil: nobody is told.
	Ends func(error)
	// Over is told, once, what Join is about to return, when his terminal is as it was: what he is to read of it need not wait until all was told of him.
	// nil: nobody is told.
	Over func(error)
	// There tells whether what is written to Out is on its way to him, and not kept until something carries it again. It may not block; nil: it always is.
	There func() bool
	// Go starts a goroutine that reads In until it ends, which the caller waits for when he has closed it.
	Go func(func())
}

// guest is one who is in.
type guest struct {
	room   *Room
	ctx    context.Context
	member Member
	dirty  chan struct{} // one token: there is something to paint
	ends   func(error)   // Guest.Ends
	there  func() bool   // Guest.There
	words  chan func()   // what is to be told of him; nil is the last
	silent chan struct{} // closed: nothing more is

	// Of the goroutine that reads: when he last paused the session or let it go on, and that he ended it.
	changed time.Time
	ended   bool

	// Under room.mu:
	note     string
	until    time.Time
	least    time.Time // until then no other takes its place
	begins   string    // waits for that: by which the session begins
	next     string    // likewise, behind it: the last of all others
	standing string    // what is shown while there is no note
	end      error     // why he is to go
	putOut   bool
	presence
}

// Join lets a guest in and serves him until he goes, is put out, ctx ends or the room closes; then his terminal is as it was. The error is never nil:
// ErrLeft, a *ClosedError, ErrFull, ErrOften, ErrBarred, the cause of ctx, or that of Out.
func (r *Room) Join(ctx context.Context, o Guest) error {
	g := &guest{
		room: r, ctx: ctx, ends: o.Ends, there: o.There, member: Member{User: o.User, Mode: o.Mode, Way: o.Way, Roles: o.Roles}, dirty: make(chan struct{}, 1),
		words: make(chan func(), maxWords), silent: make(chan struct{}),
	}
	over := func(err error) error {
		if o.Over != nil {
			o.Over(err)
		}
		return err
	}
	if err := r.enter(g, time.Now()); err != nil {
		return over(err)
	}
	m := g.member
	o.Go(g.speak)
	defer g.leave() // also where something panics: he must not go on counting as one who is in
	says := m.User + " joined (" + m.Mode.String() + ", " + m.Way + ")"
	r.note(says, m.ID)
	begun := g.welcome(o.Welcome)
	// He counts at once, but where a session begins with him: then it is told before who is there.
	then, come := r.look, make(chan struct{})
	if begun {
		then = r.decide()
	}
	g.tell(func() {
		r.host.Changed(m, Joined)
		close(come)
		r.host.Say(says)
		then()
	})
	r.host.Redraw()
	o.Go(func() {
		if m.Mode == Peer {
			select {
			case <-come:
			case <-g.silent:
			}
		}
		g.read(o.In)
	})
	return over(g.paint(o))
}

// welcome begins the guest's stay, and tells whether the session has begun.
func (g *guest) welcome(text string) (begun bool) {
	r := g.room
	r.mu.Lock()
	defer r.mu.Unlock()
	g.greetLocked(clip(text))
	if cut := r.cutLocked(); cut != "" {
		g.noteLocked(cut)
	}
	r.attendLocked(g)
	r.reachLocked(g)
	return r.begun
}

// leave lets the guest out, and returns when all was told of him.
func (g *guest) leave() {
	r, m := g.room, g.member
	r.leave(g)
	g.tell(r.decide())
	change := Left
	r.mu.Lock()
	if g.putOut {
		change = PutOut
	}
	r.mu.Unlock()
	went := m.User + " left"
	if change == PutOut {
		went = m.User + " was put out"
	}
	r.note(went, m.ID)
	g.tell(func() {
		r.host.Changed(m, change)
		r.host.Say(went)
	})
	if m.Mode == Moderator {
		g.tell(r.pause("", r.moderatedLocked)) // if nobody is left who could
	}
	g.last()
}

// speak tells what is to be told of a guest, in order. Whoever records the session may take his time for it; nothing that a moderator does waits for that.
func (g *guest) speak() {
	defer close(g.silent)
	for say := range g.words {
		if say == nil {
			return
		}
		say()
	}
}

// tell has something told, unless it is nil. It waits only for one who is far behind.
func (g *guest) tell(say func()) {
	if say == nil {
		return
	}
	select {
	case g.words <- say:
	case <-g.silent:
	}
}

// last waits until all was told.
func (g *guest) last() {
	select {
	case g.words <- nil:
	case <-g.silent:
	}
	<-g.silent
}

func (g *guest) wake() {
	select {
	case g.dirty <- struct{}{}:
	default:
	}
}

func (g *guest) noteLocked(text string) {
	g.next = text
	g.moreLocked()
}

// beginsLocked shows the note by which the session begins: for as long as any, whatever comes meanwhile, be it from what runs from then on.
func (g *guest) beginsLocked(text string) {
	g.begins = text
	g.moreLocked()
}

func (g *guest) moreLocked() {
	if time.Until(g.least) <= 0 {
		g.showLocked()
	}
	g.wake()
}

// showLocked shows what waits.
func (g *guest) showLocked() {
	g.until = time.Now().Add(noteTime)
	if g.begins != "" {
		g.note, g.begins, g.least = g.begins, "", g.until
	} else {
		g.note, g.next = g.next, ""
	}
}

// greetLocked shows the welcome until it can have been read: one who has a session begin by his coming is told his keys and, at once, that it begins.
func (g *guest) greetLocked(text string) {
	if text != "" {
		g.noteLocked(text)
		g.least = time.Now().Add(greetTime)
	}
}

// noteNowLocked is the note to show now, and for how long until this is to be asked again; 0: until something changes.
func (g *guest) noteNowLocked() (note string, left time.Duration) {
	for g.begins != "" || g.next != "" {
		if left = time.Until(g.least); left > 0 {
			return g.note, left
		}
		g.showLocked()
	}
	if left = time.Until(g.until); left > 0 {
		return g.note, left
	}
	return g.standing, 0
}

func (g *guest) endLocked(why error) {
	if g.end == nil {
		g.end = why
		if g.ends != nil {
			g.ends(why)
		}
	}
	g.wake()
}

// overLocked is why the guest's stay is over; nil: it is not.
func (g *guest) overLocked() error {
	if g.end == nil && g.ctx.Err() != nil {
		return context.Cause(g.ctx)
	}
	return g.end
}

// gone ends the guest's stay from a goroutine of his own. When he has left, nobody would be told what is decided here: that somebody else has come, say.
func (g *guest) gone(why error) {
	r := g.room
	r.mu.Lock()
	in := r.guests[g.member.ID] == g
	g.endLocked(why)
	r.mu.Unlock()
	if in {
		g.tell(r.decide())
	}
}

// Keys of those who do not type into the session.
const (
	ctrlC = 0x03
	ctrlD = 0x04
)

// read takes what the guest types.
func (g *guest) read(in io.Reader) {
	b := make([]byte, guestInput)
	for {
		n, err := in.Read(b)
		if n > 0 {
			if err := g.typed(b[:n]); err != nil {
				g.gone(err)
				return
			}
		}
		if err != nil {
			g.gone(ErrLeft)
			return
		}
	}
}

func (g *guest) typed(b []byte) error {
	r := g.room
	r.attend(g)
	r.mu.Lock()
	end := g.overLocked()
	r.mu.Unlock()
	if end != nil { // nothing of his is taken after it
		return end
	}
	if g.member.Mode == Peer {
		return r.host.Type(g.member.ID, b)
	}
	if bytes.IndexByte(b, ctrlC) >= 0 || bytes.IndexByte(b, ctrlD) >= 0 {
		return ErrLeft
	}
	if g.member.Mode != Moderator {
		return nil
	}
	if bytes.IndexByte(b, 'T') >= 0 {
		r.host.End("ended by the moderator " + g.member.User)
		if !g.ended {
			g.ended = true
			g.changes(func() {}, Ended)
		}
	}
	if i := bytes.LastIndexAny(b, "pr"); i >= 0 { // what came before it at once is over
		overLocked := func() bool { return g.overLocked() != nil }
		if b[i] == 'p' {
			g.changes(r.pause(g.member.User, overLocked), Paused)
		} else {
			time.Sleep(time.Until(g.changed.Add(changePace))) // each change goes into the recording; what stops the session never waits
			g.changes(r.pause("", overLocked), Resumed)
		}
	}
	return nil
}

// changes tells what a moderator did, after say; nil: nothing.
func (g *guest) changes(say func(), change string) {
	if say == nil {
		return
	}
	g.tell(func() {
		say()
		g.room.host.Changed(g.member, change)
	})
	g.changed = time.Now()
}

// paint shows the session until the guest's end.
func (g *guest) paint(o Guest) error {
	r := g.room
	p := paint.NewBounded(o.Cols, o.Rows, cmp.Or(r.MaxCells, paint.MaxCells), pictureSize)
	b := append(make([]byte, 0, 8<<10), paint.Enter...)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		r.mu.Lock()
		end := g.overLocked()
		note, left := g.noteNowLocked()
		more := false
		// What the session showed last is seen before it is over.
		if r.screen != nil && (end == nil || r.closed != nil && end == error(r.closed) && r.closed.Reason != unfollowed) {
			func() {
				defer r.recoverLocked()
				b = p.Paint(b, r.screen, note)
				if more = p.More(); more {
					g.wake()
				}
			}()
		}
		r.mu.Unlock()
		r.fails()
		if end != nil && !more {
			_, _ = o.Out.Write(append(b, paint.Leave...))
			return end
		}
		if len(b) > 0 {
			if _, err := o.Out.Write(b); err != nil {
				return err
			}
			b = b[:0]
		}
		// What comes within the pace comes with the next picture.
		timer.Reset(pace)
		select {
		case <-timer.C:
		case <-g.ctx.Done():
		}
		var fades <-chan time.Time
		if left > 0 {
			timer.Reset(left)
			fades = timer.C
		}
		select {
		case <-g.dirty:
		case <-fades:
		case size := <-o.Resized:
			p.Resize(size[0], size[1])
		case <-g.ctx.Done():
		}
	}
}
