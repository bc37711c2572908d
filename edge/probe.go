package edge

import (
	"time"

	"hawser/tunnel"
)

// probe says when to try QUIC again while the tunnel runs on TLS: at 5, 15 and 60 min, then hourly.
type probe struct {
	timer *time.Timer
	round int
	of    *link
}

// probeAfter are the waits between the tries; the last repeats.
var probeAfter = []time.Duration{5 * time.Minute, 10 * time.Minute, 45 * time.Minute, time.Hour}

// busyProbe is how soon to look again when a try was due with a stream open: a change of carrier ends streams until they can be resumed.
const busyProbe = time.Minute

// due returns the channel that fires when a try is due for cur; nil while there is none.
func (p *probe) due(cur *link) <-chan time.Time {
	if cur.at.carrier != tunnel.CarrierTLS || cur.a.cfg.Carriers != AnyCarrier {
		p.stop()
		p.of, p.timer = nil, nil
		return nil
	}
	if p.of != cur {
		p.stop()
		p.of, p.round = cur, 0
		p.timer = time.NewTimer(probeAfter[0])
	}
	return p.timer.C
}

// fired sets the timer for the next try and reports whether to try now.
func (p *probe) fired(cur *link) bool {
	if cur.streams.Load() > 0 {
		p.timer.Reset(busyProbe)
		return false
	}
	p.round = min(p.round+1, len(probeAfter)-1)
	p.timer.Reset(probeAfter[p.round])
	return true
}

func (p *probe) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}
