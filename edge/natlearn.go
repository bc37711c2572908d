package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// natMin and natMax bound a learned UDP interval: RFC 8085 sends keepalives no more often, and a hub that is asked for less learns too late of a loss.
	natMin, natMax = 15 * time.Second, 300 * time.Second
	// natUnder is how much before a cliff the answer is asked for: NATs forget at these round numbers, not after them.
	natUnder = 2 * time.Second
	// natPasses is how many answers in a row prove a cliff.
	natPasses = 2
	// natEvery is how often a network is learned.
	natEvery = 24 * time.Hour
	// natRetry is when to try again a run that came to nothing: a session opened, the hub or the network was away.
	natRetry = 10 * time.Minute
	// natCool and natCoolMax are for how long a network is beaten at the start interval after what was learned of it proved wrong; it doubles.
	natCool, natCoolMax = time.Hour, 24 * time.Hour
	// natNetworks is how many networks are remembered: a vehicle's sites, not a year of its hotspots.
	natNetworks = 16
	// natSettle is how long a tunnel stands before a run: one that is lost at once teaches nothing.
	natSettle = 30 * time.Second
	// natTwoWay is the pause between the two exchanges that begin a run: Linux takes a mapping for a stream that was used both ways for more than 2 s.
	natTwoWay = 3 * time.Second
	// natAnswer is how long past its delay an answer may come.
	natAnswer = 5 * time.Second

	// tcpStart is the kernel's keepalive interval on TCP to begin with, tcpMax the longest; tcpGood intervals survived add tcpStep.
	tcpStart, tcpStep, tcpMax = 270 * time.Second, 60 * time.Second, 590 * time.Second
	tcpGood                   = 3
	// tcpHold is how long an interval that was too long is not tried again.
	tcpHold = 7 * 24 * time.Hour
)

// natCliffs are the lifetimes of UDP mappings in use: what a NAT does lies at one of them.
var natCliffs = [...]time.Duration{30 * time.Second, 60 * time.Second, 120 * time.Second, 180 * time.Second, 300 * time.Second}

// natLearner decides how often each network wants to be reminded of a tunnel. It has no clock: times in, durations out. It is not safe for
// concurrent use, and in memory alone: a flash is not worn by this.
type natLearner struct {
	networks []*natNetwork // the most recently used last, at most natNetworks
}

// natNetwork is what was learned of one network.
type natNetwork struct {
	id      string
	learned bool          // a run was finished
	proven  time.Duration // the longest silence that the mapping survived; 0 with learned: not even the shortest cliff

	step, passes int           // of the run under way
	reached      time.Duration // proven of it
	again        time.Time     // when the next run may begin
	until        time.Time     // the start interval holds so long
	cool         time.Duration // how long it did the last time

	tcp     time.Duration
	tcpGood int
	tcpHold time.Time
}

func (n *natLearner) at(id string) *natNetwork {
	for i, w := range n.networks {
		if w.id == id {
			n.networks = append(append(n.networks[:i], n.networks[i+1:]...), w)
			return w
		}
	}
	for i, w := range n.networks {
		if len(w.id) < len(id) && netwatch.Same(w.id, id) { // learned before the gateway's MAC was known
			n.networks = append(append(n.networks[:i], n.networks[i+1:]...), w)
			w.id = id
			return w
		}
	}
	if len(n.networks) == natNetworks {
		n.networks = append(n.networks[:0], n.networks[1:]...)
	}
	w := &natNetwork{id: id, tcp: tcpStart}
	n.networks = append(n.networks, w)
	return w
}

// interval is how often to beat.
func (n *natLearner) interval(id string, carrier tunnel.Carrier, now time.Time) time.Duration {
	w := n.at(id)
	if carrier == tunnel.CarrierTLS {
		return w.tcp
	}
	return w.udp(now)
}

func (w *natNetwork) udp(now time.Time) time.Duration {
	switch {
	case !w.learned || now.Before(w.until):
		return defaultHeartbeat
	case w.proven == 0:
		return natMin
	}
	// The first cliff is above the start interval, which its proof makes no worse.
	return min(max(w.proven*9/10-5*time.Second, defaultHeartbeat), natMax)
}

// wrong is told when a mapping was lost although the network was beaten as learned. What was not learned cannot be wrong.
func (n *natLearner) wrong(id string, now time.Time) {
	w := n.at(id)
	if w.udp(now) <= defaultHeartbeat {
		return
	}
	if now.Sub(w.until) > natEvery {
		w.cool = 0 // it held for a day since
	}
	w.cool = min(max(2*w.cool, natCool), natCoolMax)
	w.until = now.Add(w.cool)
	w.learned, w.proven = false, 0
	w.step, w.passes, w.reached, w.again = 0, 0, 0, w.until
}

// due is how long until a run may begin, or go on.
func (n *natLearner) due(id string, now time.Time) time.Duration { return n.at(id).again.Sub(now) }

// next is the delay to ask for; ok is false when all is proven.
func (n *natLearner) next(id string) (delay time.Duration, ok bool) {
	w := n.at(id)
	if w.step >= len(natCliffs) {
		return 0, false
	}
	return natCliffs[w.step] - natUnder, true
}

// result takes whether the answer came to what next said. It reports whether the run is over.
func (n *natLearner) result(id string, pass bool, now time.Time) (over bool) {
	w := n.at(id)
	if w.step >= len(natCliffs) {
		return true
	}
	if pass {
		if w.passes++; w.passes < natPasses {
			return false
		}
		w.reached, w.passes = natCliffs[w.step]-natUnder, 0
		if w.step++; w.step < len(natCliffs) {
			return false
		}
	}
	w.learned, w.proven = true, w.reached
	w.step, w.passes, w.reached, w.again = 0, 0, 0, now.Add(natEvery)
	return true
}

// postpone takes that a run was broken off without an answer to its question. It goes on where it was.
func (n *natLearner) postpone(id string, now time.Time) { n.at(id).again = now.Add(natRetry) }

// tcpHeld takes that an idle TCP connection outlived one keepalive interval, and reports whether the interval grew.
func (n *natLearner) tcpHeld(id string, now time.Time) bool {
	w := n.at(id)
	if w.tcpGood++; w.tcpGood < tcpGood || w.tcp >= tcpMax || now.Before(w.tcpHold) {
		return false
	}
	w.tcp, w.tcpGood = min(w.tcp+tcpStep, tcpMax), 0
	return true
}

// tcpLost takes that one was lost while idle: a step back, and no further try for a week.
func (n *natLearner) tcpLost(id string, now time.Time) {
	w := n.at(id)
	if w.tcpGood = 0; w.tcp > tcpStart {
		w.tcp, w.tcpHold = max(w.tcp-tcpStep, tcpStart), now.Add(tcpHold)
	}
}

// nat is the agent's natLearner. The zero value knows nothing. Safe for concurrent use.
type nat struct {
	mu      sync.Mutex
	learner natLearner
	running bool // one run at a time
}

// interval is how often to send something on a carrier over this network: heartbeats on QUIC, kernel keepalives on TLS.
func (n *nat) interval(network string, carrier tunnel.Carrier) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.learner.interval(network, carrier, time.Now())
}

// addressChanged tells that the hub saw another address of ours after an idle interval, though ours had not changed.
func (n *nat) addressChanged(network string) { n.missed(network) }

// missed tells that an idle tunnel's heartbeat went unanswered.
func (n *nat) missed(network string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.learner.wrong(network, time.Now())
}

// begin takes the right to run, when a run is due; wait is how long to ask again after.
func (n *nat) begin(network string) (ok bool, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if network == "" || n.running {
		return false, natRetry
	}
	if d := n.learner.due(network, time.Now()); d > 0 {
		return false, min(d, natRetry) // the network may be another by then
	}
	n.running = true
	return true, 0
}

func (n *nat) end(network string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running = false
	if err != nil {
		n.learner.postpone(network, time.Now())
	}
}

func (n *nat) next(network string) (time.Duration, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.learner.next(network)
}

func (n *nat) result(network string, pass bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.learner.result(network, pass, time.Now())
}

// run asks until the network is learned. ask sends a probe and waits for its answer; its error breaks the run off.
func (n *nat) run(ctx context.Context, network string, ask func(context.Context, time.Duration) (bool, error)) error {
	reachable := func() error {
		for range 3 {
			if pass, err := ask(ctx, 0); pass || err != nil {
				return err
			}
		}
		return errNoProbeAnswer
	}
	if err := reachable(); err != nil {
		return err
	}
	if err := sleep(ctx, natTwoWay); err != nil {
		return err
	}
	if err := reachable(); err != nil {
		return err
	}
	for {
		delay, ok := n.next(network)
		if !ok {
			return nil
		}
		pass, err := ask(ctx, delay)
		if err == nil && !pass {
			err = reachable() // else it was not the NAT that ate the answer
		}
		if err != nil {
			return err
		}
		if n.result(network, pass) {
			return nil
		}
	}
}

// errNoProbeAnswer is a hub that answers no probes, or cannot be reached.
var errNoProbeAnswer = errors.New("the hub does not answer NAT probes")

// errProbeBusy breaks a run off for something that matters more.
var errProbeBusy = errors.New("a session was opened, or the network changed")

// learnNAT learns the network while this tunnel stands and nobody works on the device. The tunnel itself is never put at risk: UDP is learned on a
// socket of its own, TCP by what an idle connection survived.
func (l *link) learnNAT(ctx context.Context) error {
	if l.dialled { // no NAT has anything to keep for us
		return nil
	}
	if l.at.carrier == tunnel.CarrierTLS {
		if l.a.cfg.Metered { // which has said how long
			l.probesEvery(meteredKeepAlive)
		} else {
			l.learnTCP(ctx)
		}
		return nil
	}
	if l.ack.ProbeKey == [16]byte{} {
		return nil
	}
	for wait := natSettle; sleep(ctx, wait) == nil; {
		if l.a.openStreams() > 0 {
			wait = natRetry
			continue
		}
		network := netwatch.Network()
		var ok bool
		if ok, wait = l.a.nat.begin(network); !ok {
			continue
		}
		err := l.runProbe(ctx, network)
		l.a.nat.end(network, err)
		if err != nil {
			tunnel.Debug(l.a.log, "NAT not learned", "network", network, "error", err)
		} else {
			tunnel.Info(l.a.log, "NAT learned", "network", network, "interval", l.a.nat.interval(network, tunnel.CarrierQUIC))
		}
		wait = natRetry
	}
	return nil
}

func (l *link) runProbe(ctx context.Context, network string) error {
	device, err := wire.ParseUUID(l.a.state.get().UUID)
	if err != nil {
		return err
	}
	nc, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(l.conn.RemoteAddr()))
	if err != nil {
		return err
	}
	defer nc.Close()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	p := &natProbe{conn: nc, device: device, key: l.ack.ProbeKey, slice: natAnswer, busy: func() bool {
		return l.a.openStreams() > 0 || !netwatch.Same(netwatch.Network(), network)
	}}
	return l.a.nat.run(ctx, network, p.ask)
}

// natProbe is a throw-away socket to a hub.
type natProbe struct {
	conn   net.Conn
	device wire.UUID
	key    [16]byte
	slice  time.Duration // how often busy is asked
	busy   func() bool
}

// ask sends one probe and reports whether its answer came.
func (p *natProbe) ask(ctx context.Context, delay time.Duration) (bool, error) {
	probe := wire.Probe{Delay: delay, Device: p.device, Nonce: [16]byte(wire.NewIncarnation())}
	sent := time.Now()
	if _, err := p.conn.Write(probe.Append(nil, &p.key)); err != nil {
		return false, err
	}
	buffer := make([]byte, 2*wire.ProbeLen)
	end := sent.Add(delay + natAnswer)
	for {
		next := time.Now().Add(p.slice)
		if end.Before(next) {
			next = end
		}
		if err := p.conn.SetReadDeadline(next); err != nil {
			return false, err
		}
		n, err := p.conn.Read(buffer)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if p.busy() {
			return false, errProbeBusy
		}
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return false, err
			}
			if !time.Now().Before(end) {
				return false, nil
			}
			continue
		}
		if nonce, ok := wire.DecodeProbeAnswer(buffer[:n], &p.key); !ok || nonce != probe.Nonce {
			continue // of an earlier question, or not the hub's
		}
		if early := delay - time.Since(sent); early > time.Second {
			return false, fmt.Errorf("the hub answered %s too early", early)
		}
		return true, nil
	}
}

// probesEvery has the heartbeat tell the hub how often the kernel probes.
func (l *link) probesEvery(d time.Duration) {
	l.keepAlive.Store(int64(d))
	nudge(l.busy)
}

// learnTCP lengthens the keepalive of an idle TCP connection step by step.
func (l *link) learnTCP(ctx context.Context) {
	const answered = 75 * time.Second // a keepalive and its four repetitions; then the kernel gives up
	network := netwatch.Network()
	idle := false
	for {
		interval := l.a.nat.interval(network, tunnel.CarrierTLS)
		if k, ok := l.conn.(interface{ SetKeepAlive(time.Duration) error }); ok {
			_ = k.SetKeepAlive(interval) // it was set before, so it can be
			l.probesEvery(interval)
		}
		if sleep(ctx, interval+answered) != nil {
			break
		}
		last := network
		network = netwatch.Network()
		same := netwatch.Same(last, network)
		if idle = l.open() == 0 && same; idle {
			l.a.nat.mu.Lock()
			l.a.nat.learner.tcpHeld(network, time.Now())
			l.a.nat.mu.Unlock()
		}
	}
	// Only a loss without a word, of a connection that was idle, on a network that still stands, is a mapping's.
	if _, said := errors.AsType[*wire.CloseError](context.Cause(ctx)); idle && !said && netwatch.Same(netwatch.Network(), network) {
		l.a.nat.mu.Lock()
		l.a.nat.learner.tcpLost(network, time.Now())
		l.a.nat.mu.Unlock()
	}
}
