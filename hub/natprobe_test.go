package hub

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel/wire"
)

type sentProbe struct {
	b  []byte
	to netip.AddrPort
	at time.Duration
}

func TestNATProbesAreAnsweredAfterTheirDelayAndToNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		device, stranger := wire.UUID{1}, wire.UUID{2}
		start := time.Now()
		sent := make(chan sentProbe, 100)
		p := newNATProbes(func(id wire.UUID) bool { return id == device },
			func(b []byte, to netip.AddrPort) { sent <- sentProbe{b, to, time.Since(start)} })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			p.run(ctx)
		}()
		defer func() { cancel(); <-done }()
		from := netip.MustParseAddrPort("192.0.2.1:4000")
		key, wrong := p.key(device), [16]byte{1}
		foreign := p.key(stranger)
		ask := func(key *[16]byte, id wire.UUID, delay time.Duration, n byte) {
			b := wire.Probe{Delay: delay, Device: id, Nonce: [16]byte{n}}.Append(nil, key)
			p.take(b, from, time.Now())
			p.take(b[:len(b)-1], from, time.Now())
		}
		ask(&key, device, 20*time.Second, 1)
		ask(&key, device, 10*time.Second, 2)
		ask(&wrong, device, time.Second, 3)
		ask(&foreign, stranger, time.Second, 4) // its key is right, but it is not registered here
		time.Sleep(15 * time.Second)
		synctest.Wait()
		for _, want := range []struct {
			nonce byte
			at    time.Duration
		}{{2, 10 * time.Second}, {1, 20 * time.Second}} {
			got := <-sent
			nonce, ok := wire.DecodeProbeAnswer(got.b, &key)
			if !ok || nonce != [16]byte{want.nonce} || got.at != want.at || got.to != from || len(got.b) > wire.ProbeLen {
				t.Errorf("got %+v after %v, want %+v", nonce, got.at, want)
			}
		}
		for i := range 20 {
			ask(&key, device, time.Second, byte(i))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(sent); n != maxProbesPerDevice {
			t.Errorf("%d answers, at most %d may be pending", n, maxProbesPerDevice)
		}
		if len(p.devices) != 0 || len(p.pending) != 0 {
			t.Errorf("%d and %d are left", len(p.devices), len(p.pending))
		}
	})
}
