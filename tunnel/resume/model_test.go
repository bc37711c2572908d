package resume

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

var modelSeed = flag.Uint64("model.seed", 0, "run the one schedule with this seed")

// schedules runs many short schedules, or the one that was asked for, several at a time.
func schedules(t *testing.T, n, workers int, run func(seed uint64) error) {
	t.Helper()
	if *modelSeed != 0 {
		if err := run(*modelSeed); err != nil {
			t.Errorf("seed %d: %v", *modelSeed, err)
		}
		return
	}
	first := uint64(time.Now().UnixNano())
	if testing.Short() {
		n /= 10
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	failed := false
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				err := run(first + uint64(i))
				mu.Lock()
				stop := failed
				if err != nil && !failed {
					failed = true
					t.Errorf("%v\nagain: go test ./tunnel/resume -run '%s' -model.seed %d", err, t.Name(), first+uint64(i))
				}
				mu.Unlock()
				if stop || err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

// netAttachment is an attachment on its way: what either side wrote to it and has not arrived.
type netAttachment struct {
	counter        uint32
	answered       bool
	sent, received uint64 // of Attach
	toA, toB       []byte
}

// network is two Machines and all that is between them: attachments that come late, twice, out of order or not at all, and the claims by
// which a Stream tells the right one.
type network struct {
	r        *rand.Rand
	a, b     *modelEnd
	counterA uint32
	counterB uint32
	attA     *netAttachment // nil: detached
	attB     *netAttachment
	attaches []*netAttachment // Attach is under way
	answers  []netAnswer
}

type netAnswer struct {
	att            *netAttachment
	sent, received uint64
}

func (n *network) loseA() { n.attA = nil; n.a.detach() }
func (n *network) loseB() { n.attB = nil; n.b.detach() }

// resume begins another attachment at a.
func (n *network) resume() {
	n.counterA++
	n.loseA()
	att := &netAttachment{counter: n.counterA}
	att.sent, att.received = n.a.m.Position()
	n.attaches = append(n.attaches, att)
}

// attach delivers an Attach to b.
func (n *network) attach(att *netAttachment) error {
	if att.counter <= n.counterB {
		return nil // refused
	}
	n.counterB = att.counter
	n.loseB()
	sent, received := n.b.m.Position()
	if err := n.b.m.Attach(att.sent, att.received); err != nil {
		return fmt.Errorf("b refuses attachment %d: %w", att.counter, err)
	}
	n.attB = att
	n.answers = append(n.answers, netAnswer{att, sent, received})
	return nil
}

// answer delivers an Attached to a.
func (n *network) answer(x netAnswer) error {
	if x.att.counter != n.counterA || x.att.answered {
		return nil // a later one began, or this one was answered
	}
	x.att.answered = true
	if err := n.a.m.Attach(x.sent, x.received); err != nil {
		return fmt.Errorf("a refuses the answer to %d: %w", x.att.counter, err)
	}
	n.attA = x.att
	return nil
}

// pick takes a random element out, or leaves it in and so duplicates it.
func pick[T any](r *rand.Rand, list *[]T) (x T, ok bool) {
	if len(*list) == 0 {
		return x, false
	}
	i := r.IntN(len(*list))
	x = (*list)[i]
	if r.IntN(4) > 0 {
		*list = append((*list)[:i], (*list)[i+1:]...)
	}
	return x, true
}

// move delivers up to k bytes of what e's peer wrote to the attachment they came by.
func (n *network) move(toB bool, k int) error {
	e, att := n.a, n.attA
	if toB {
		e, att = n.b, n.attB
	}
	if att == nil {
		return nil
	}
	q := &att.toA
	if toB {
		q = &att.toB
	}
	k = min(k, len(*q))
	e.in = append(e.in, (*q)[:k]...)
	*q = (*q)[k:]
	return e.parse()
}

func (n *network) emit(fromA bool) {
	e, att := n.b, n.attB
	if fromA {
		e, att = n.a, n.attA
	}
	e.emit(n.r)
	for e.pending != nil && n.r.IntN(3) > 0 {
		e.emit(n.r)
	}
	if att != nil {
		if fromA {
			att.toB = append(att.toB, e.out...)
		} else {
			att.toA = append(att.toA, e.out...)
		}
	}
	e.out = nil
}

func (n *network) step(want [2]int) error {
	r := n.r
	side := r.IntN(2)
	e := [2]*modelEnd{n.a, n.b}[side]
	switch op := r.IntN(100); {
	case op < 18:
		left := want[side] - len(e.wrote)
		if left == 0 {
			e.m.Finish()
			break
		}
		p := make([]byte, min(left, 1+r.IntN(200)))
		for i := range p {
			p[i] = byte(len(e.wrote) + i*7 + side)
		}
		e.wrote = append(e.wrote, p[:e.m.Append(p, len(p))]...)
	case op < 36:
		n.emit(side == 0)
	case op < 60:
		return n.move(side == 0, 1+r.IntN(400))
	case op < 74:
		e.consume(1 + r.IntN(300))
	case op < 78:
		n.loseA()
	case op < 82:
		n.loseB()
	case op < 85:
		if n.attA == nil || r.IntN(3) == 0 { // also while one stands
			n.resume()
		}
	case op < 92:
		if att, ok := pick(r, &n.attaches); ok {
			return n.attach(att)
		}
	case op < 99:
		if x, ok := pick(r, &n.answers); ok {
			return n.answer(x)
		}
	default:
		switch r.IntN(12) {
		case 0:
			e.m.Reset(wire.StreamCancelled, "")
		case 1:
			e.m.ResetAfterFin(wire.StreamCancelled)
		}
	}
	return nil
}

func isPrefix(got, of []byte) bool {
	return len(got) <= len(of) && string(got) == string(of[:len(got)])
}

func runNetwork(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 2))
	sizes := []int{4 << 10, 64 << 10}
	n := &network{
		r: r, a: &modelEnd{m: NewMachine(sizes[r.IntN(2)], sizes[r.IntN(2)])}, b: &modelEnd{m: NewMachine(sizes[r.IntN(2)], sizes[r.IntN(2)])},
	}
	first := new(netAttachment)
	n.attA, n.attB = first, first
	if err := errors.Join(n.a.m.Attach(0, 0), n.b.m.Attach(0, 0)); err != nil {
		return err
	}
	want := [2]int{r.IntN(600), r.IntN(600)}
	check := func() error {
		if !isPrefix(n.b.got, n.a.wrote) || !isPrefix(n.a.got, n.b.wrote) {
			return errors.New("SAFETY: bytes differ")
		}
		if n.a.m.Unread() != n.a.queue || n.b.m.Unread() != n.b.queue {
			return fmt.Errorf("unread: %d of %d, %d of %d", n.a.m.Unread(), n.a.queue, n.b.m.Unread(), n.b.queue)
		}
		return nil
	}
	for range 20 + r.IntN(200) {
		if err := errors.Join(n.step(want), check()); err != nil {
			return err
		}
		if n.a.m.PeerReset() != nil || n.b.m.PeerReset() != nil {
			return nil // who got it ends there and then
		}
	}
	// From here on the network is fair, and all must come to an end.
	for range 2000 {
		reset := n.a.m.resetOut != nil || n.b.m.resetOut != nil
		for side, e := range [2]*modelEnd{n.a, n.b} {
			if left := want[side] - len(e.wrote); left > 0 && e.m.resetIn == nil && e.m.resetOut == nil {
				p := make([]byte, left)
				for i := range p {
					p[i] = byte(len(e.wrote) + i)
				}
				e.wrote = append(e.wrote, p[:e.m.Append(p, len(p))]...)
			} else {
				e.m.Finish()
			}
		}
		if n.attA == nil || n.attA != n.attB {
			n.attaches, n.answers = nil, nil
			n.resume()
			if err := n.attach(n.attaches[0]); err != nil {
				return err
			}
			if err := n.answer(n.answers[len(n.answers)-1]); err != nil {
				return err
			}
		}
		n.emit(true)
		n.emit(false)
		if err := errors.Join(n.move(true, 1<<20), n.move(false, 1<<20)); err != nil {
			return err
		}
		n.a.consume(1 << 20)
		n.b.consume(1 << 20)
		if err := check(); err != nil {
			return err
		}
		if n.a.m.Over() && n.b.m.Over() {
			if !reset && (len(n.b.got) != want[0] || len(n.a.got) != want[1] || !n.a.sawFin || !n.b.sawFin) {
				return fmt.Errorf("over with %d of %d and %d of %d", len(n.b.got), want[0], len(n.a.got), want[1])
			}
			return nil
		}
		if n.a.m.PeerReset() != nil || n.b.m.PeerReset() != nil {
			if !reset {
				return errors.New("a RESET that nobody said")
			}
			return nil
		}
	}
	return fmt.Errorf("no end: a over %v, b over %v; %d of %d, %d of %d", n.a.m.Over(), n.b.m.Over(), len(n.b.got), want[0], len(n.a.got), want[1])
}

// The promise, for Machines: whatever is cut, delayed, doubled or delivered out of order at whatever point, each end has a beginning of the
// other's bytes at all times, and once the network is fair all of them, or both know of the reset.
func TestMachinesOverAHostileNetwork(t *testing.T) {
	schedules(t, 10_000, max(2, runtime.GOMAXPROCS(0)), runNetwork)
}

// counted is a program's half of a schedule: it writes counters or checks them.
type counted struct {
	r     *rand.Rand
	total int // counters of four bytes
}

func (c counted) write(s *Stream) error {
	b := make([]byte, 0, 4096)
	for i := 0; i < c.total; {
		b = b[:0]
		for k := 1 + c.r.IntN(300); k > 0 && i < c.total; k-- {
			b = binary.BigEndian.AppendUint32(b, uint32(i))
			i++
		}
		if _, err := s.Write(b); err != nil {
			return err
		}
	}
	return s.CloseWrite()
}

func (c counted) read(s *Stream) error {
	var rest []byte
	b := make([]byte, 2000)
	for next := 0; ; {
		if c.r.IntN(8) == 0 {
			time.Sleep(time.Duration(c.r.IntN(50)) * time.Microsecond) // a slow reader
		}
		n, err := s.Read(b[:1+c.r.IntN(len(b))])
		rest = append(rest, b[:n]...)
		for ; len(rest) >= 4; rest = rest[4:] {
			if got := binary.BigEndian.Uint32(rest); got != uint32(next) {
				return fmt.Errorf("%w: counter %d where %d was due", errWrong, got, next)
			}
			next++
		}
		if err == io.EOF {
			if next != c.total || len(rest) > 0 {
				return fmt.Errorf("%w: end after %d of %d counters", errWrong, next, c.total)
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var errWrong = errors.New("SAFETY: bytes differ")

// streamWorld is two Streams and what happens to their attachments.
type streamWorld struct {
	hubConn, edgeConn tunnel.Conn
	hub, edge         *Stream
	mu                sync.Mutex
	r                 *rand.Rand
	atts              []tunnel.Stream
	quiet             bool // nothing is spoilt any more
	wrong             error
}

func (w *streamWorld) chance(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.quiet && w.r.IntN(n) == 0
}

func (w *streamWorld) keep(att tunnel.Stream) tunnel.Stream {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.atts = append(w.atts, att)
	return att
}

// serve is the edge: it takes attachments, some late, some twice, some not at all.
func (w *streamWorld) serve(ctx context.Context, wg *sync.WaitGroup) {
	for {
		att, err := w.edgeConn.AcceptStream(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			a, err := ReadAttach(ctx, w.keep(att))
			if err != nil || w.chance(10) {
				att.Reset(wire.StreamCancelled)
				return
			}
			if w.chance(5) {
				time.Sleep(200 * time.Microsecond) // later ones may overtake it
			}
			err = w.edge.Reattach(att, a)
			if err == nil && w.chance(3) {
				err2 := w.edge.Reattach(nil, a)
				if !errors.Is(err2, ErrStale) && !errors.Is(err2, net.ErrClosed) {
					w.mu.Lock()
					w.wrong = fmt.Errorf("an attachment taken twice: %v", err2)
					w.mu.Unlock()
				}
			}
			if err != nil {
				Refuse(att, CodeOf(err), "")
			}
		})
	}
}

// drive is the hub: it resumes, sometimes twice at a time, sometimes what was not lost.
func (w *streamWorld) drive(ctx context.Context) {
	once := func() {
		att, err := w.hubConn.OpenStream(ctx)
		if err == nil {
			_ = w.hub.Resume(ctx, w.keep(att))
		}
	}
	for {
		select {
		case <-w.hub.Done():
			return
		case <-w.hub.Detached():
		}
		for !w.hub.Attached() {
			var both sync.WaitGroup
			if w.chance(4) {
				both.Go(once)
			}
			once()
			both.Wait()
			select {
			case <-w.hub.Done():
				return
			case <-ctx.Done():
				return
			default:
			}
		}
	}
}

// cut ends attachments at either end, or at both.
func (w *streamWorld) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, att := range w.atts {
		if w.r.IntN(2) == 0 {
			att.Reset(wire.StreamCancelled)
		}
	}
	w.atts = w.atts[max(0, len(w.atts)-4):]
}

func runStreams(t *testing.T, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 3))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w := &streamWorld{r: rand.New(rand.NewPCG(seed, 4))}
	w.hubConn, w.edgeConn = tunneltest.Pair(t)
	sizes := []int{4 << 10, 64 << 10, 256 << 10}
	o := func() Options {
		return Options{DetachedLife: time.Minute, SendBuffer: sizes[r.IntN(3)], RecvBuffer: sizes[r.IntN(3)]}
	}
	h, err := w.hubConn.OpenStream(ctx)
	if err != nil {
		return err
	}
	w.hub = Open(w.keep(h), wire.Attach{Kind: wire.KindSession, ID: wire.StreamID{1}}, o())
	e, err := w.edgeConn.AcceptStream(ctx)
	if err != nil {
		return err
	}
	a, err := ReadAttach(ctx, w.keep(e))
	if err != nil {
		return err
	}
	if w.edge, err = Accept(e, a, o()); err != nil {
		return err
	}
	if err := w.hub.WaitAttached(ctx); err != nil {
		return err
	}
	defer w.hub.End(net.ErrClosed)
	defer w.edge.End(net.ErrClosed)

	var machinery, programs sync.WaitGroup
	machinery.Go(func() { w.serve(ctx, &machinery) })
	machinery.Go(func() { w.drive(ctx) })
	reset := r.IntN(5) == 0
	resetAfter := time.Duration(r.IntN(2000)) * time.Microsecond
	resetter := []*Stream{w.hub, w.edge}[r.IntN(2)]
	cuts := r.IntN(12)
	ends := []*Stream{w.hub, w.edge}
	errs := make([]error, 4)
	for i, s := range ends {
		c := counted{total: r.IntN(1 << (2 + r.IntN(13)))}
		peer := ends[1-i]
		c.r = rand.New(rand.NewPCG(seed, uint64(10+i)))
		d := counted{rand.New(rand.NewPCG(seed, uint64(20+i))), c.total}
		programs.Go(func() { errs[2*i] = c.write(s) })
		programs.Go(func() { errs[2*i+1] = d.read(peer) })
	}
	if reset {
		programs.Go(func() {
			time.Sleep(resetAfter)
			resetter.Reset(wire.StreamDenied)
		})
	}
	for range cuts {
		time.Sleep(time.Duration(r.IntN(300)) * time.Microsecond)
		w.cut()
	}
	w.mu.Lock()
	w.quiet = true
	w.mu.Unlock()
	programs.Wait()
	for _, s := range ends {
		_ = s.Close()
	}
	for i, s := range ends {
		if i == 1 && s.over() { // it knows all, but not that the hub does too, and would wait for lastWords
			s.End(net.ErrClosed)
		}
		select {
		case <-s.Done():
		case <-ctx.Done():
			return fmt.Errorf("no end at %s after %d cuts, reset %v: over %v, attached %v", [2]string{"the hub", "the edge"}[i], cuts, reset, s.over(), s.Attached())
		}
	}
	cancel()
	machinery.Wait()
	for i, err := range errs {
		if errors.Is(err, errWrong) || err != nil && !reset {
			return fmt.Errorf("program %d: %w", i, err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wrong
}

func (s *Stream) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.Over()
}

// The promise, for Streams, with their goroutines, timers and races between attachments.
func TestStreamsOverAHostileNetwork(t *testing.T) {
	schedules(t, 1_000, 32, func(seed uint64) error { return runStreams(t, seed) })
}
