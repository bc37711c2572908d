package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/inner"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

const (
	// maxHandshakes is how many TLS handshakes inside streams run at once: one costs a small processor 50 ms, and a hub that comes by another way
	// brings all its streams at once. The next ones wait, within messageTimeout.
	maxHandshakes = 4
	// maxDetached is how many sessions without a tunnel are kept; one more ends the one that has waited longest.
	maxDetached = 8
	// maxDetachedBytes is what all detached streams may hold together; beyond it the one that has waited longest ends.
	maxDetachedBytes = 1 << 20
	// moveGrace is how long a stream is detached before it counts for the two above: a move to another tunnel or hub takes less, and then all
	// streams wait at once. What they hold meanwhile is bounded as while they are attached: as many as there are slots, with streamBuffer each way.
	moveGrace = 15 * time.Second
	// detachedCheck is how often that is looked at while one is detached, for their programs go on writing.
	detachedCheck = time.Second
	// askEvery is how often, while a stream is detached, the hubs are asked after its entry hub.
	askEvery = 5 * time.Second
	// answerWait is how long the other hubs' answers are waited for when one says that the entry hub is gone.
	answerWait = 2 * time.Second
	// hubGone is how long a hub must be away, as another hub sees it, for its sessions to end.
	hubGone = 15 * time.Second
)

// Errors of attachments. The hub learns the code, our log the words, once each.
var (
	errHubRestarted = errors.New("the hub that this session came by has restarted")
	errHubGone      = errors.New("the hub that this session came by is gone")
	errBanned       = errors.New("the device was removed from the cluster, or locked")
	errNoStream     = errors.New("no such stream here, or no longer")
	errForeign      = errors.New("the stream was opened by another hub, another run of it, or as another kind")
	errIdleControl  = errors.New("nobody has come by its hub for a while")
	errDuplicate    = errors.New("a stream of this id is open already")
	errBusy         = errors.New("as many streams as this device serves are open")
)

// entry is the hub that a stream is from, as TLS proved it, and the run of it.
type entry struct {
	hub         wire.UUID
	incarnation wire.Incarnation
}

// stream is a resumable stream being served. It belongs to the agent: tunnels come and go under it.
type stream struct {
	*resume.Stream
	kind   wire.StreamKind
	from   entry
	cancel context.CancelCauseFunc // ends what is served on it
	life   time.Duration           // as it was opened with

	// Guarded by streams.mu.
	link     *link     // that carries it; nil while detached
	detached time.Time // since when; zero while attached
	ending   bool      // it was told to
}

// session tells a stream that a person sits at.
func (st *stream) session() bool { return st.kind == wire.KindSession || st.kind == wire.KindEndToEnd }

// kill ends the stream and what it serves; processes end as by a kill, for their context goes first.
func (st *stream) kill(why error) {
	st.cancel(why)
	st.End(why)
}

// streams are those an agent serves. Safe for concurrent use.
type streams struct {
	log        tunnel.Logger
	attaching  chan struct{} // one token per attachment whose header is being read
	handshakes chan struct{} // one token per TLS handshake inside a stream
	refused    refusals

	wg sync.WaitGroup // every goroutine that serves a stream

	mu      sync.Mutex
	byID    map[wire.StreamID]*stream // at most one per slot
	links   map[*link]chan struct{}   // the registered tunnels, and what wakes their askLoop
	hubs    map[wire.UUID]*hubView    // what was heard of the entry hubs of detached streams
	minding bool                      // mind runs
	closing chan struct{}             // closed by close
	over    error                     // set by close: nothing is admitted any more
}

func newStreams(log tunnel.Logger, slots int) *streams {
	return &streams{
		log: log, refused: refusals{log: log}, attaching: make(chan struct{}, slots), handshakes: make(chan struct{}, maxHandshakes),
		closing: make(chan struct{}),
		byID:    map[wire.StreamID]*stream{}, links: map[*link]chan struct{}{}, hubs: map[wire.UUID]*hubView{},
	}
}

// open is how many attachments of streams this tunnel carries.
func (l *link) open() int { return int(l.streams.Load()) }

// openStreams is how many streams of people are open, attached or not.
func (a *Agent) openStreams() (n int) {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for _, st := range a.streams.byID {
		if st.kind != wire.KindUpload && st.kind != wire.KindControl {
			n++
		}
	}
	return n
}

// moved grows whenever bytes pass on any stream.
func (a *Agent) moved() (sum uint64) {
	a.streams.mu.Lock()
	defer a.streams.mu.Unlock()
	for _, st := range a.streams.byID {
		sum += st.Activity()
	}
	return sum
}

// goDo runs f in a goroutine that close waits for; false: nothing is admitted any more.
func (s *streams) goDo(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return false
	}
	s.wg.Go(f)
	return true
}

// close ends all streams, admits no more and waits for everything that served one.
func (s *streams) close(why error) {
	s.mu.Lock()
	s.over = why
	close(s.closing)
	all := make([]*stream, 0, len(s.byID))
	for _, st := range s.byID {
		all = append(all, st)
	}
	s.mu.Unlock()
	for _, st := range all {
		st.kill(why)
	}
	s.wg.Wait()
}

// acceptStreams takes attachments until the tunnel ends. None waits for another: one too many is refused at once.
func (l *link) acceptStreams(ctx, serving context.Context) error {
	s := l.a.streams
	for {
		att, err := l.conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		select {
		case s.attaching <- struct{}{}:
		default:
			att.Reset(wire.StreamResourceShortage)
			s.refused.add("stream, one too many", fmt.Errorf("%d come at once", cap(s.attaching)))
			continue
		}
		if !s.goDo(func() { l.attach(ctx, serving, att) }) {
			<-s.attaching
			att.Reset(wire.StreamCancelled)
		}
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// attach takes one attachment: the first of a stream, which it serves to its end, or a later one, which it hands to its stream.
func (l *link) attach(ctx, serving context.Context, att tunnel.Stream) {
	a := l.a
	in := &incoming{l: l, att: att}
	defer a.guard("stream", func() {
		in.att.Reset(wire.StreamInternal)
		if in.st != nil {
			in.st.kill(errors.New("internal error"))
		}
	})
	err := func() error {
		defer func() { <-a.streams.attaching }()
		return in.identify(ctx)
	}()
	switch {
	case err != nil:
		err = fmt.Errorf("not identified: %w", err)
	case in.head.Counter != 0:
		a.streams.reattach(in)
		return
	default:
		err = in.serve(ctx, serving)
	}
	if err != nil && ctx.Err() == nil {
		a.streams.refused.add("stream", err)
	}
}

// identify reads what the attachment is and proves who sent it: the hub of the tunnel, or another by TLS inside the stream.
func (in *incoming) identify(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, messageTimeout)
	defer cancel()
	l := in.l
	if err := in.readHead(ctx); err != nil {
		return err
	}
	if !in.head.InnerTLS {
		in.from, in.hubName = entry{l.challenge.HubUUID, l.challenge.HubIncarnation}, l.challenge.HubName
		if in.from != (entry{in.head.EntryHub, in.head.EntryHubIncarnation}) {
			return in.refuse(wire.StreamDenied, errors.New("the stream names another hub than the tunnel's"))
		}
		return nil
	}
	// Before the handshake: only with the time that the ACK announced does a certificate's prove anything.
	if err := l.ready(ctx); err != nil {
		in.att.Reset(wire.StreamRefused)
		return err
	}
	hub, err := in.handshake(ctx)
	if err != nil {
		in.att.Reset(wire.StreamDenied)
		return fmt.Errorf("TLS inside the stream: %w", err)
	}
	if err := in.readHead(ctx); err != nil {
		return err
	}
	in.from = entry{hub, in.head.EntryHubIncarnation}
	if in.head.InnerTLS || in.head.EntryHub != hub {
		return in.refuse(wire.StreamDenied, errors.New("the stream names another hub than the one inside it"))
	}
	return nil
}

func (in *incoming) readHead(ctx context.Context) (err error) {
	if in.head, err = resume.ReadAttach(ctx, in.att); err != nil {
		in.att.Reset(wire.StreamProtocol)
		return fmt.Errorf("read the stream's header: %w", err)
	}
	return nil
}

// handshake is TLS inside the stream with a hub that reached us through another; from here on the attachment is what it carries.
func (in *incoming) handshake(ctx context.Context) (wire.UUID, error) {
	a := in.l.a
	select {
	case a.streams.handshakes <- struct{}{}:
		defer func() { <-a.streams.handshakes }()
	case <-ctx.Done():
		return wire.UUID{}, context.Cause(ctx)
	}
	cert := a.state.get().TLSCertificate()
	var hub wire.UUID
	st, _, err := inner.Server(ctx, in.att, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{inner.ALPN}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		// Any, with no list of CAs: VerifyConnection decides, cross-certificates included.
		ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) error {
			id, err := a.hubIdentity(cs, a.state.anchors(), 0)
			if err != nil {
				return err
			}
			in.hubName = id.Name
			hub, err = wire.ParseUUID(id.UUID)
			return err
		},
	})
	if err != nil {
		return wire.UUID{}, err
	}
	in.att = st
	return hub, nil
}

// accept takes in's stream into the table and begins it.
func (s *streams) accept(in *incoming, life time.Duration) (*stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil {
		return nil, s.over
	}
	if s.byID[in.head.ID] != nil {
		return nil, errDuplicate
	}
	rs, err := resume.Accept(in.att, in.head, resume.Options{SendBuffer: streamBuffer, RecvBuffer: streamBuffer, DetachedLife: life})
	if err != nil {
		return nil, err
	}
	st := &stream{Stream: rs, kind: in.head.Kind, from: in.from, cancel: in.cancel, life: life}
	s.byID[in.head.ID] = st
	s.carryLocked(st, in.l)
	s.wg.Go(func() { s.watch(st) })
	return st, nil
}

// find returns an open stream; nil: there is none of that id.
func (s *streams) find(id wire.StreamID) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[id]
}

// reattach hands an attachment to its stream, if it comes from who opened that. A refusal disturbs nothing.
func (s *streams) reattach(in *incoming) {
	st := s.find(in.head.ID)
	code, err := wire.StreamOK, error(nil)
	switch {
	case st == nil:
		code, err = wire.StreamNotFound, errNoStream
	case st.from != in.from || st.kind != in.head.Kind:
		code, err = wire.StreamDenied, errForeign
	default:
		switch err = st.Reattach(in.att, in.head); {
		case err == nil:
			s.mu.Lock()
			defer s.mu.Unlock()
			if st.Attached() { // else it was lost again, and watch knows
				s.carryLocked(st, in.l)
			}
			return
		case errors.Is(err, resume.ErrProtocol):
			code = wire.StreamProtocol
		default: // it ended in this moment
			code = wire.StreamNotFound
		}
	}
	err = in.refuse(code, err)
	s.refused.add("resumption of a stream, code "+strconv.Itoa(int(code)), err)
}

// carried tells whether a tunnel that answers carries the stream.
func (s *streams) carried(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return st.link != nil && !st.link.suspect.Load()
}

// carryLocked notes which tunnel carries the stream; nil: none does.
func (s *streams) carryLocked(st *stream, l *link) {
	if l == nil && st.detached.IsZero() {
		st.detached = time.Now()
	} else if l != nil {
		st.detached = time.Time{}
	}
	if st.link == l {
		return
	}
	if st.link != nil && st.link.streams.Add(-1) == 0 {
		nudge(st.link.idle)
	}
	st.link = l
	if l != nil && l.streams.Add(1) == 1 {
		nudge(l.busy)
	}
}

// watch keeps the table true while the stream lives, and takes it out at its end.
func (s *streams) watch(st *stream) {
	for {
		select {
		case <-st.Detached():
			s.mu.Lock()
			if !st.Attached() {
				s.carryLocked(st, nil)
				if !s.minding && s.over == nil {
					s.minding = true
					s.wg.Go(s.mind)
				}
				s.nudgeLocked()
			}
			s.mu.Unlock()
		case <-st.Done():
			s.mu.Lock()
			defer s.mu.Unlock()
			s.carryLocked(st, nil)
			delete(s.byID, st.ID())
			return
		}
	}
}

// mind holds the detached streams to their limits, while there are any.
func (s *streams) mind() {
	tick := time.NewTicker(detachedCheck)
	defer tick.Stop()
	for {
		s.mu.Lock()
		over, why, some := s.overLimitLocked()
		if !some {
			s.minding = false
			clear(s.hubs)
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		if over != nil {
			tunnel.Info(s.log, "detached stream ended", "kind", over.kind, "error", why)
			over.End(why)
			continue
		}
		select {
		case now := <-tick.C:
			s.judge(now)
		case <-s.closing:
			return
		}
	}
}

// overLimitLocked picks the stream that must end for the limits, and marks it; some: streams are detached.
func (s *streams) overLimitLocked() (over *stream, why error, some bool) {
	var session, holder *stream // that have waited longest
	var control *stream         // that has nothing to wait for
	sessions, held := 0, 0
	for _, st := range s.byID {
		if st.detached.IsZero() || st.ending {
			continue
		}
		some = true
		waits := time.Since(st.detached) > moveGrace
		if waits && st.session() {
			sessions++
			session = longest(session, st)
		}
		if st.kind == wire.KindControl && time.Since(st.detached) > controlIdle && !s.connectedLocked(st.from) {
			control = st
		}
		if n := st.Buffered(); waits && n > 0 {
			held += n
			holder = longest(holder, st)
		}
	}
	switch {
	case control != nil:
		over, why = control, errIdleControl
	case sessions > maxDetached:
		over, why = session, fmt.Errorf("more than %d sessions wait for a tunnel", maxDetached)
	case held > maxDetachedBytes:
		over, why = holder, fmt.Errorf("streams that wait for a tunnel hold more than %d bytes", maxDetachedBytes)
	default:
		return nil, nil, some
	}
	over.ending = true
	return over, why, true
}

// connectedLocked tells whether somebody who came by the hub is connected end to end.
func (s *streams) connectedLocked(from entry) bool {
	for _, st := range s.byID {
		if st.kind == wire.KindEndToEnd && st.from == from {
			return true
		}
	}
	return false
}

// longest is the one of two that has been detached longer.
func longest(a, b *stream) *stream {
	if a == nil || b.detached.Before(a.detached) {
		return b
	}
	return a
}

// hubView is what was heard of the entry hub of detached streams.
type hubView struct {
	by   map[*link]hubAnswer // the last answer of each tunnel's hub
	gone time.Time           // when the first said that it is gone; zero: none does
}

type hubAnswer struct {
	wire.HubStatus
	at time.Time
}

// join counts a registered tunnel in and returns what wakes its askLoop. Its hub has just shown which run of it this is: streams of an earlier run
// will not be resumed by anybody.
func (s *streams) join(l *link) <-chan struct{} {
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	s.links[l] = wake
	var dead []*stream
	for _, st := range s.byID {
		if st.from.hub == l.challenge.HubUUID && st.from.incarnation != l.challenge.HubIncarnation {
			dead = append(dead, st)
		}
	}
	s.mu.Unlock()
	s.kill(dead, errHubRestarted)
	return wake
}

// leave counts it out.
func (s *streams) leave(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
	for _, v := range s.hubs {
		delete(v.by, l)
	}
}

// banned takes a hub's word that this device is not in the cluster any more: it ends what came by that hub. What came by others ends with it only
// where no other hub has a tunnel of ours, for one hub that lies must not end it.
func (s *streams) banned(hub wire.UUID) {
	s.mu.Lock()
	others := false
	for l := range s.links {
		others = others || l.challenge.HubUUID != hub && l.conn.Context().Err() == nil
	}
	var dead []*stream
	for _, st := range s.byID {
		if st.from.hub == hub || !others {
			dead = append(dead, st)
		}
	}
	s.mu.Unlock()
	s.kill(dead, errBanned)
}

func (s *streams) nudgeLocked() {
	for _, wake := range s.links {
		nudge(wake)
	}
}

// lostHubs are the entry hubs of detached streams.
func (s *streams) lostHubs() []wire.UUID {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []wire.UUID
	for _, st := range s.byID {
		if !st.detached.IsZero() && !slices.Contains(list, st.from.hub) {
			list = append(list, st.from.hub)
		}
	}
	return list
}

// hubStatus takes what the hub of l says of another hub, and ends the detached streams that nobody will resume.
func (s *streams) hubStatus(l *link, m *wire.HubStatus) {
	now := time.Now()
	s.mu.Lock()
	for _, st := range s.byID {
		if st.from.hub != m.Hub || st.detached.IsZero() {
			continue
		}
		view := s.hubs[m.Hub]
		if view == nil {
			view = &hubView{by: map[*link]hubAnswer{}}
			s.hubs[m.Hub] = view
		}
		view.by[l] = hubAnswer{*m, now}
		break
	}
	s.mu.Unlock()
	s.judge(now)
}

// judge ends the detached streams whose hubs are no more, by what was heard until now.
func (s *streams) judge(now time.Time) {
	var restarted, gone []*stream
	s.mu.Lock()
	for _, st := range s.byID {
		view := s.hubs[st.from.hub]
		if view == nil || st.detached.IsZero() || st.ending {
			continue
		}
		switch view.verdict(st.from.incarnation, s.links, now) {
		case verdictRestarted:
			restarted = append(restarted, st)
		case verdictGone:
			gone = append(gone, st)
		default:
			continue
		}
		st.ending = true
	}
	s.mu.Unlock()
	s.kill(restarted, errHubRestarted)
	s.kill(gone, errHubGone)
}

// What becomes of the streams of a run of a hub.
const (
	verdictWait = iota
	verdictRestarted
	verdictGone
)

// verdict decides about the streams of one run of the hub. Who sees that run alive is believed before who does not: a part of the mesh may be cut off.
func (v *hubView) verdict(run wire.Incarnation, links map[*link]chan struct{}, now time.Time) int {
	restarted, gone, answers := false, false, 0
	for l, a := range v.by {
		if _, ok := links[l]; !ok || now.Sub(a.at) > 2*askEvery {
			continue
		}
		answers++
		switch {
		case a.State == wire.HubUp && a.Incarnation == run:
			v.gone = time.Time{}
			return verdictWait
		case a.State == wire.HubUp:
			restarted = true
		case a.State == wire.HubGone && a.Gone >= hubGone:
			gone = true
		}
	}
	if !gone {
		v.gone = time.Time{}
	} else if v.gone.IsZero() {
		v.gone = now
	}
	switch {
	case restarted:
		return verdictRestarted
	// A tunnel that answers nothing may be dead itself.
	case gone && (answers >= len(links) || now.Sub(v.gone) >= answerWait):
		return verdictGone
	}
	return verdictWait
}

// kill ends streams whose entry hub is no more.
func (s *streams) kill(list []*stream, why error) {
	for _, st := range list {
		tunnel.Warn(s.log, "stream ended", "kind", st.kind, "error", why)
		st.kill(why)
	}
}
