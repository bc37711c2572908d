package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// natBox is a NAT that forgets a mapping after life without traffic, and the hub behind it.
type natBox struct {
	life  time.Duration
	asked []time.Duration
	fail  error
}

func (b *natBox) ask(ctx context.Context, d time.Duration) (bool, error) {
	b.asked = append(b.asked, d)
	if b.fail != nil {
		return false, b.fail
	}
	if d >= b.life {
		return false, sleep(ctx, d+natAnswer)
	}
	return true, sleep(ctx, d)
}

func TestANATsLifetimeIsLearnedAndBeatenJustUnder(t *testing.T) {
	for _, tt := range []struct{ life, want time.Duration }{
		{20 * time.Second, 15 * time.Second},
		{30 * time.Second, defaultHeartbeat},
		{60 * time.Second, 58*9*time.Second/10 - 5*time.Second},
		{120 * time.Second, 118*9*time.Second/10 - 5*time.Second},
		{179 * time.Second, 178*9*time.Second/10 - 5*time.Second},
		{time.Hour, 298*9*time.Second/10 - 5*time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var n nat
			if got := n.interval("x", tunnel.CarrierQUIC); got != defaultHeartbeat {
				t.Errorf("unlearned: %s", got)
			}
			b := &natBox{life: tt.life}
			if ok, _ := n.begin("x"); !ok {
				t.Fatal("no run is due")
			}
			if ok, _ := n.begin("x"); ok {
				t.Error("two runs at once")
			}
			err := n.run(t.Context(), "x", b.ask)
			n.end("x", err)
			got := n.interval("x", tunnel.CarrierQUIC)
			if err != nil || got != tt.want || got >= tt.life || got < natMin || got > natMax {
				t.Errorf("a NAT of %s: interval %s, want %s, %v", tt.life, got, tt.want, err)
			}
			if ok, _ := n.begin("x"); ok {
				t.Error("learned twice a day")
			}
			time.Sleep(natEvery)
			if ok, _ := n.begin("x"); !ok {
				t.Error("not learned anew after a day")
			}
		})
	}
}

func TestWhatWasLearnedAndIsWrongIsForgottenForLongerEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n nat
		learn := func() {
			t.Helper()
			if ok, wait := n.begin("x"); !ok {
				t.Fatalf("no run is due for %s", wait)
			}
			err := n.run(t.Context(), "x", (&natBox{life: 61 * time.Second}).ask)
			n.end("x", err)
			if got := n.interval("x", tunnel.CarrierQUIC); err != nil || got <= defaultHeartbeat {
				t.Fatalf("interval %s, %v", got, err)
			}
		}
		n.missed("x") // nothing was learned: no cool-down
		for _, cool := range []time.Duration{time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 16 * time.Hour, 24 * time.Hour, 24 * time.Hour} {
			learn()
			n.addressChanged("x")
			n.missed("x") // of the same cause: counts once
			if got := n.interval("x", tunnel.CarrierQUIC); got != defaultHeartbeat {
				t.Errorf("interval %s", got)
			}
			time.Sleep(cool - time.Second)
			if ok, _ := n.begin("x"); ok {
				t.Fatalf("learned again within %s", cool)
			}
			time.Sleep(time.Second)
		}
		learn()
		time.Sleep(2 * natEvery)
		n.missed("x")
		time.Sleep(natCool)
		learn()
	})
}

func TestARunThatIsBrokenOffGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n nat
		b := &natBox{life: time.Hour}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		_, _ = n.begin("x")
		err := n.run(ctx, "x", b.ask)
		n.end("x", err)
		if err == nil || n.interval("x", tunnel.CarrierQUIC) != defaultHeartbeat {
			t.Errorf("half a run: %v, interval %s", err, n.interval("x", tunnel.CarrierQUIC))
		}
		if ok, _ := n.begin("x"); ok {
			t.Error("begun again at once")
		}
		time.Sleep(natRetry)
		_, _ = n.begin("x")
		b.asked = nil
		err = n.run(t.Context(), "x", b.ask)
		n.end("x", err)
		if err != nil || b.asked[2] != natCliffs[1]-natUnder || n.interval("x", tunnel.CarrierQUIC) < 4*time.Minute {
			t.Errorf("%v, asked %v", err, b.asked)
		}
	})
}

// The answer may be eaten by more than a NAT: a hub that went away must not be taken for a short mapping.
func TestAHubThatDoesNotAnswerTeachesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n nat
		_, _ = n.begin("x")
		err := n.run(t.Context(), "x", func(ctx context.Context, d time.Duration) (bool, error) { return false, sleep(ctx, d+natAnswer) })
		n.end("x", err)
		if !errors.Is(err, errNoProbeAnswer) || n.interval("x", tunnel.CarrierQUIC) != defaultHeartbeat {
			t.Errorf("%v, interval %s", err, n.interval("x", tunnel.CarrierQUIC))
		}
	})
}

func TestTCPKeepaliveGrowsWhileItHoldsAndStepsBackOnce(t *testing.T) {
	var n natLearner
	now := time.Now()
	for range 100 {
		n.tcpHeld("x", now)
	}
	if got := n.interval("x", tunnel.CarrierTLS, now); got != tcpMax {
		t.Errorf("%s", got)
	}
	n.tcpLost("x", now)
	back := n.interval("x", tunnel.CarrierTLS, now)
	for range 100 {
		n.tcpHeld("x", now.Add(tcpHold-time.Second))
	}
	if got := n.interval("x", tunnel.CarrierTLS, now); got != back || back != tcpMax-tcpStep {
		t.Errorf("%s, then %s", back, got)
	}
	n.tcpHeld("x", now.Add(tcpHold))
	if got := n.interval("x", tunnel.CarrierTLS, now); got != tcpMax {
		t.Errorf("not tried again after a week: %s", got)
	}
	for range 100 {
		n.tcpLost("x", now)
	}
	if got := n.interval("x", tunnel.CarrierTLS, now); got != tcpStart {
		t.Errorf("%s", got)
	}
}

// Whatever order things come in, the interval stays within its bounds and no more networks are kept than that.
func TestWhatWasLearnedBeforeTheGatewaysMACWasKnownHolds(t *testing.T) {
	var n natLearner
	now := time.Unix(1e9, 0)
	const short, full = "eth0 192.168.1.1", "eth0 192.168.1.1 9c:3d:cf:00:00:01"
	for range natPasses * len(natCliffs) {
		n.result(short, true, now)
	}
	want := n.interval(short, tunnel.CarrierQUIC, now)
	if want <= defaultHeartbeat {
		t.Fatalf("learned %s", want)
	}
	if got := n.interval(full, tunnel.CarrierQUIC, now); got != want {
		t.Errorf("%s with the MAC, %s without", got, want)
	}
	if got := n.interval("eth0 192.168.1.1 9c:3d:cf:00:00:02", tunnel.CarrierQUIC, now); got != defaultHeartbeat {
		t.Errorf("another gateway's site: %s", got)
	}
	if len(n.networks) != 2 {
		t.Errorf("%d networks", len(n.networks))
	}
}

func TestNATLearningIsBounded(t *testing.T) {
	var n natLearner
	now := time.Now()
	r := rand.New(rand.NewPCG(1, 2))
	for range 200000 {
		id := strconv.Itoa(r.IntN(2 * natNetworks))
		now = now.Add(time.Duration(r.Int64N(int64(2 * time.Hour))))
		switch r.IntN(6) {
		case 0:
			n.wrong(id, now)
		case 1, 2, 3:
			if _, ok := n.next(id); ok && n.due(id, now) <= 0 {
				n.result(id, r.IntN(8) > 0, now)
			}
		case 4:
			n.tcpHeld(id, now)
		case 5:
			n.tcpLost(id, now)
		}
		if d := n.interval(id, tunnel.CarrierQUIC, now); d < natMin || d > natMax {
			t.Fatalf("UDP interval %s", d)
		}
		if d := n.interval(id, tunnel.CarrierTLS, now); d < tcpStart || d > tcpMax {
			t.Fatalf("TCP interval %s", d)
		}
		if len(n.networks) > natNetworks {
			t.Fatalf("%d networks", len(n.networks))
		}
	}
}

func TestAProbeTakesOnlyItsOwnAnswer(t *testing.T) {
	hub, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	key := [16]byte{1}
	done := make(chan struct{})
	t.Cleanup(func() { hub.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := hub.ReadFrom(b)
			if err != nil {
				return
			}
			p, err := wire.DecodeProbe(b[:n])
			if err != nil || !wire.VerifyProbe(b[:n], &key) {
				continue
			}
			other := [16]byte{2}
			for _, answer := range [][]byte{{}, []byte("noise"), wire.AppendProbeAnswer(nil, [16]byte{9}, &key), wire.AppendProbeAnswer(nil, p.Nonce, &other),
				wire.AppendProbeAnswer(nil, p.Nonce, &key)} {
				_, _ = hub.WriteTo(answer, from)
			}
		}
	}()
	nc, err := net.Dial("udp", hub.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	busy := false
	p := &natProbe{conn: nc, key: key, slice: 10 * time.Millisecond, busy: func() bool { return busy }}
	for range 3 {
		if pass, err := p.ask(t.Context(), 0); !pass || err != nil {
			t.Errorf("%v, %v", pass, err)
		}
	}
	if pass, err := p.ask(t.Context(), time.Minute); pass || err == nil {
		t.Error("an answer that came at once passed for one after a minute")
	}
	p.key = [16]byte{3} // the hub is silent from here on
	busy = true
	if _, err := p.ask(t.Context(), time.Minute); !errors.Is(err, errProbeBusy) {
		t.Errorf("with a session open: %v", err)
	}
	busy = false
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.ask(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestAnIdleTunnelBeatsAsItsNATWants(t *testing.T) {
	now := time.Now()
	for _, tt := range []struct{ wish, nat, want time.Duration }{
		{defaultHeartbeat, 0, defaultHeartbeat},
		{defaultHeartbeat, 101 * time.Second, 101 * time.Second},
		{defaultHeartbeat, natMin, natMin},
		{5 * time.Second, 101 * time.Second, 5 * time.Second},
		{time.Minute, natMin, natMin}, // a hub does not know better what a NAT bears
	} {
		b := beater{idle: tt.wish, nat: tt.nat}
		h, ok := b.beat(now, paceIdle, func(int64) int64 { return 0 })
		b.early = 0
		b.answered(now, &wire.HeartbeatAnswer{Seq: h.Seq})
		at, _ := b.due(paceIdle)
		if !ok || h.Interval != tt.want || at.Sub(now) != tt.want {
			t.Errorf("wish %s, NAT %s: told %s, due after %s, want %s", tt.wish, tt.nat, h.Interval, at.Sub(now), tt.want)
		}
		if got := b.interval(paceLively); got > livelyHeartbeat {
			t.Errorf("with people at work %s", got)
		}
	}
}

// The short form says "as the last whole one", so it may follow only when the hub is known to have that; a tenth of them are whole and ask.
func TestIdleHeartbeatsAreShortOnceTheHubKnowsTheInterval(t *testing.T) {
	now := time.Now()
	b := beater{idle: defaultHeartbeat, nat: defaultHeartbeat}
	beat := func() wire.Heartbeat {
		t.Helper()
		at, ok := b.due(paceIdle)
		if now = at; b.sent.IsZero() {
			now = time.Now()
		}
		h, ok2 := b.beat(now, paceIdle, func(int64) int64 { return 0 })
		if !ok || !ok2 {
			t.Fatal("no beat when it was due")
		}
		return h
	}
	for range 3 {
		if h := beat(); h.Again || h.Flags == 0 {
			t.Fatalf("%+v before any answer", h)
		}
	}
	b.answered(now, &wire.HeartbeatAnswer{Seq: b.seq})
	whole := 0
	for range 100 {
		h := beat()
		if h.Again && (h != wire.Heartbeat{Again: true}) {
			t.Fatalf("%+v", h)
		}
		if !h.Again {
			whole++
			b.answered(now, &wire.HeartbeatAnswer{Seq: h.Seq})
		}
	}
	if whole != 10 {
		t.Errorf("%d of 100 are whole, want 10", whole)
	}
	b.nat = 101 * time.Second
	if h := beat(); h.Again || h.Flags == 0 || h.Interval != b.nat {
		t.Errorf("another interval: %+v", h)
	}
	// An answer to what was sent before it does not tell that it came.
	b.answered(now, &wire.HeartbeatAnswer{Seq: b.told - 1})
	if h := beat(); h.Again {
		t.Error("short, but the interval may be unknown to the hub")
	}
}

// A hub counts by the interval the last heartbeat told: one that grows is told before it is used.
func TestALongerIntervalIsToldBeforeItIsUsed(t *testing.T) {
	now := time.Now()
	b := beater{idle: defaultHeartbeat, nat: defaultHeartbeat}
	none := func(int64) int64 { return 0 }
	var told time.Duration
	var sent time.Time
	for i, step := range []struct {
		p   pace
		nat time.Duration
	}{{paceIdle, defaultHeartbeat}, {paceIdle, natMax}, {paceIdle, natMax}, {paceLively, natMax}, {paceIdle, natMax}, {paceIdle, natMax}, {paceIdle, natMin}, {paceIdle, natMax}} {
		b.nat = step.nat
		at, ok := b.due(step.p)
		if !ok || i > 0 && at.Sub(sent) > told {
			t.Errorf("step %d: due %s after the last, which told %s", i, at.Sub(sent), told)
		}
		if i > 0 {
			now = at
		}
		h, ok := b.beat(now, step.p, none)
		if !ok {
			t.Fatalf("step %d: no beat when it was due", i)
		}
		b.answered(now, &wire.HeartbeatAnswer{Seq: h.Seq})
		if sent = now; !h.Again {
			told = h.Interval
		}
	}
}
