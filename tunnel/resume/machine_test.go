package resume

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"hawser/tunnel/wire"
)

// modelEnd is a Machine with the program and the parser around it.
type modelEnd struct {
	m       *Machine
	out     []byte // on the way to the peer, by the present attachment
	in      []byte // arrived, not yet a whole frame
	queue   int    // received, not consumed
	wrote   []byte
	got     []byte // received
	sawFin  bool
	pending *Frame
}

// emit moves frames to the link. When holding, a big frame stays "being written" for a while, as in Stream.
func (e *modelEnd) emit(r *rand.Rand) {
	if e.pending != nil {
		e.out = append(e.out, e.pending.Bytes...)
		e.m.Sent(e.pending)
		e.pending = nil
		return
	}
	small, big := e.m.Emit(make([]byte, 0, 64+r.IntN(40000)))
	e.out = append(e.out, small...)
	e.pending = big
	if big != nil && r.IntN(2) == 0 {
		e.emit(r)
	}
}

// parse feeds whole frames of in to the Machine.
func (e *modelEnd) parse() error {
	for len(e.in) >= frameHeader {
		t, n, err := ParseHeader([frameHeader]byte(e.in))
		if err != nil {
			return err
		}
		if len(e.in) < frameHeader+n {
			return nil
		}
		body := e.in[frameHeader : frameHeader+n]
		if t == FrameData || t == FrameDataAsk {
			if err := e.m.Data(n, t == FrameDataAsk); err != nil {
				return err
			}
			e.got = append(e.got, body...)
			e.queue += n
		} else if err := e.m.Control(t, body); err != nil {
			return err
		}
		e.in = e.in[frameHeader+n:]
	}
	return nil
}

func (e *modelEnd) consume(n int) {
	n = min(n, e.queue)
	e.queue -= n
	e.m.Consume(n)
	if e.queue == 0 && e.m.PeerFinished() {
		e.m.ConsumeFin()
		e.sawFin = true
	}
}

func (e *modelEnd) detach() {
	e.m.Detach()
	if e.pending != nil {
		e.m.Sent(e.pending)
		e.pending = nil
	}
	e.out, e.in = nil, nil
}

// The heart of the promise: whatever is cut wherever, each end gets the other's bytes, once, in order, and memory stays bounded.
func TestBytesSurviveEveryCut(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	for seed := range rounds {
		if err := runModel(uint64(seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func runModel(seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	sizes := []int{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20}
	a := &modelEnd{m: NewMachine(sizes[r.IntN(5)], sizes[r.IntN(5)])}
	b := &modelEnd{m: NewMachine(sizes[r.IntN(5)], sizes[r.IntN(5)])}
	if err := errors.Join(a.m.Attach(0, 0), b.m.Attach(0, 0)); err != nil {
		return err
	}
	want := [2]int{r.IntN(1 << 20), r.IntN(1 << 20)}
	cuts := r.IntN(40)
	aUp := true // a knows an attachment; b may lag behind
	ends := [2]*modelEnd{a, b}
	for step := 0; ; step++ {
		if step > 2_000_000 {
			return fmt.Errorf("no progress: a %d of %d, b %d of %d", len(b.got), want[0], len(a.got), want[1])
		}
		i := r.IntN(2)
		e, peer := ends[i], ends[1-i]
		switch op := r.IntN(100); {
		case op < 30:
			left := want[i] - len(e.wrote)
			if left == 0 {
				e.m.Finish()
				break
			}
			n := min(left, 1+r.IntN([]int{10, 1000, 40000, 100000}[r.IntN(4)]))
			p := make([]byte, n)
			for k := 0; k < len(p); k += 7 {
				p[k] = byte(r.Uint32())
			}
			n = e.m.Append(p, n)
			e.wrote = append(e.wrote, p[:n]...)
		case op < 60:
			e.emit(r)
		case op < 80:
			n := r.IntN(len(e.out) + 1)
			if r.IntN(2) == 0 {
				n = len(e.out)
			}
			peer.in = append(peer.in, e.out[:n]...)
			e.out = append([]byte(nil), e.out[n:]...)
			if err := peer.parse(); err != nil {
				return err
			}
		case op < 97:
			e.consume(1 + r.IntN(100000))
		case cuts > 0 && aUp: // the link goes: one end, or both, notice
			cuts--
			aUp = false
			a.detach()
			if r.IntN(2) == 0 {
				b.detach() // else b goes on emitting into the void until the next attachment comes
			}
			b.out = nil
		case !aUp: // resume, which may fail between Attach and Attached
			sent, received := a.m.Position()
			b.detach()
			_, answer := b.m.Position()
			if err := b.m.Attach(sent, received); err != nil {
				return err
			}
			if r.IntN(3) == 0 {
				if r.IntN(2) == 0 {
					b.emit(r)
				}
				b.out = nil
				break // Attached never arrives
			}
			if err := a.m.Attach(a.m.received, answer); err != nil {
				return err
			}
			aUp = true
		}
		if !aUp {
			b.out = nil
		}
		for _, e := range ends {
			if n := e.m.Unacknowledged(); uint64(n) > e.m.sendBuffer {
				return fmt.Errorf("send buffer holds %d", n)
			}
			if uint64(e.queue) > e.m.recvBuffer {
				return fmt.Errorf("receive queue holds %d", e.queue)
			}
		}
		if a.m.Over() && b.m.Over() {
			break
		}
	}
	if !bytes.Equal(a.wrote, b.got) || !bytes.Equal(b.wrote, a.got) || !a.sawFin || !b.sawFin {
		return fmt.Errorf("bytes differ: %d/%d and %d/%d", len(a.wrote), len(b.got), len(b.wrote), len(a.got))
	}
	return nil
}

func TestMachineRefusesWhatBreaksTheRules(t *testing.T) {
	fresh := func() *Machine {
		m := NewMachine(DefaultBuffer, InitialWindow)
		_ = m.Attach(0, 0)
		m.Append(make([]byte, 1000), 1000)
		m.Emit(nil)
		return m
	}
	for name, f := range map[string]func(m *Machine) error{
		"data past the window": func(m *Machine) error { return errors.Join(m.Data(InitialWindow, false), m.Data(1, false)) },
		"data after FIN":       func(m *Machine) error { return errors.Join(m.Control(FrameFin, nil), m.Data(1, false)) },
		"second FIN":           func(m *Machine) error { return errors.Join(m.Control(FrameFin, nil), m.Control(FrameFin, nil)) },
		"ack of the unsent":    func(m *Machine) error { return m.gotAck(1001, 1<<20) },
		"ack goes back":        func(m *Machine) error { return errors.Join(m.gotAck(500, 1<<20), m.gotAck(499, 1<<20)) },
		"limit goes back":      func(m *Machine) error { return m.gotAck(500, 100) },
		"ack overflows":        func(m *Machine) error { m.next = 1 << 63; m.next *= 2; m.next--; return m.gotAck(m.next, 5) },
		"short RESET":          func(m *Machine) error { return m.Control(FrameReset, []byte{0, 1}) },
		"RESET text length":    func(m *Machine) error { return m.Control(FrameReset, []byte{0, 1, 0, 9}) },
		"unknown frame":        func(m *Machine) error { return m.Control(9, nil) },
		"peer ahead of us":     func(m *Machine) error { return m.Attach(0, 1001) },
		"peer behind our ack":  func(m *Machine) error { return errors.Join(m.gotAck(500, 1<<20), m.Attach(0, 499)) },
		"peer forgot":          func(m *Machine) error { return errors.Join(m.Data(5, false), m.Attach(4, 0)) },
	} {
		if err := f(fresh()); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: got %v, want ErrProtocol", name, err)
		}
	}
}

func TestResetAfterFinComesBehindTheData(t *testing.T) {
	m := NewMachine(DefaultBuffer, DefaultBuffer)
	_ = m.Attach(0, 0)
	m.Append([]byte("last words"), 10)
	m.ResetAfterFin(wire.StreamCancelled)
	out, _ := m.Emit(make([]byte, 0, 100))
	var types []FrameType
	for len(out) > 0 {
		ft, n, err := ParseHeader([frameHeader]byte(out))
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, ft)
		out = out[frameHeader+n:]
	}
	want := []FrameType{FrameAck, FrameData, FrameFin, FrameReset}
	if fmt.Sprint(types) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", types, want)
	}
	if !m.Over() {
		t.Error("not over after RESET left")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte{1, 0, 0, 1, 'x', 4, 0, 0, 0})
	f.Add([]byte{3, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 5, 0, 1, 0, 0})
	f.Add([]byte{5, 0, 0, 4, 0, 1, 0, 0})
	f.Add([]byte{1, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := &modelEnd{m: NewMachine(DefaultBuffer, DefaultBuffer), in: b}
		_ = e.m.Attach(0, 0)
		e.m.Append(make([]byte, 50000), 50000)
		e.m.Emit(nil)
		if e.parse() == nil && uint64(e.queue) > e.m.recvBuffer {
			t.Errorf("took %d bytes", e.queue)
		}
		e.consume(1 << 30)
		e.m.Emit(nil)
	})
}
