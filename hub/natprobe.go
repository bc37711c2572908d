package hub

import (
	"container/heap"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

const (
	// maxProbes answers may be pending, and maxProbesPerDevice of one device.
	maxProbes          = 8192
	maxProbesPerDevice = 4
)

// natProbes answers NAT probes after the delay they ask for: so an edge learns how long its NAT keeps a mapping, on a socket that is
// no tunnel. Nothing is answered that is not under the key of a device registered here, and no answer is longer than its request.
type natProbes struct {
	secret     [32]byte
	registered func(wire.UUID) bool
	send       func(b []byte, to netip.AddrPort)

	mu      sync.Mutex
	pending probeHeap
	devices map[wire.UUID]int
	wake    chan struct{}
}

// pendingProbe is an answer that waits.
type pendingProbe struct {
	due    time.Time
	device wire.UUID
	nonce  [16]byte
	to     netip.AddrPort
}

func newNATProbes(registered func(wire.UUID) bool, send func(b []byte, to netip.AddrPort)) *natProbes {
	p := &natProbes{registered: registered, send: send, devices: make(map[wire.UUID]int), wake: make(chan struct{}, 1)}
	_, _ = rand.Read(p.secret[:]) // never fails
	return p
}

// key is what authorises a device's probes while this process lives.
func (p *natProbes) key(device wire.UUID) [16]byte {
	mac := hmac.New(sha256.New, p.secret[:])
	mac.Write(device[:])
	return [16]byte(mac.Sum(nil)[:16])
}

// take handles a datagram from anybody.
func (p *natProbes) take(b []byte, from netip.AddrPort, now time.Time) {
	m, err := wire.DecodeProbe(b)
	if err != nil {
		return
	}
	key := p.key(m.Device)
	if !wire.VerifyProbe(b, &key) || !p.registered(m.Device) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) >= maxProbes || p.devices[m.Device] >= maxProbesPerDevice {
		return
	}
	p.devices[m.Device]++
	heap.Push(&p.pending, pendingProbe{due: now.Add(m.Delay), device: m.Device, nonce: m.Nonce, to: from})
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// run sends what is due until ctx ends.
func (p *natProbes) run(ctx context.Context) {
	t := time.NewTimer(time.Hour)
	defer t.Stop()
	for {
		t.Reset(p.sendDue(time.Now()))
		select {
		case <-t.C:
		case <-p.wake:
		case <-ctx.Done():
			return
		}
	}
}

// sendDue tells how long the next answer has to wait.
func (p *natProbes) sendDue(now time.Time) time.Duration {
	for {
		p.mu.Lock()
		if len(p.pending) == 0 {
			p.mu.Unlock()
			return time.Hour
		}
		if wait := p.pending[0].due.Sub(now); wait > 0 {
			p.mu.Unlock()
			return wait
		}
		x := heap.Pop(&p.pending).(pendingProbe)
		if p.devices[x.device]--; p.devices[x.device] == 0 {
			delete(p.devices, x.device)
		}
		p.mu.Unlock()
		if p.registered(x.device) {
			key := p.key(x.device)
			p.send(wire.AppendProbeAnswer(nil, x.nonce, &key), x.to)
		}
	}
}

// probeHeap has the earliest first.
type probeHeap []pendingProbe

func (h probeHeap) Len() int           { return len(h) }
func (h probeHeap) Less(i, j int) bool { return h[i].due.Before(h[j].due) }
func (h probeHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }

// Push implements heap.Interface.
func (h *probeHeap) Push(x any) { *h = append(*h, x.(pendingProbe)) }

// Pop implements heap.Interface.
func (h *probeHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
