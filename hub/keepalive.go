package hub

import (
	"sync"
	"time"

	"hawser/tunnel"
)

const (
	// heardGrain is how exactly the hub knows when an edge's keepalive probe came, and repeatedProbes the time of two repetitions of one.
	heardGrain     = 2 * time.Second
	repeatedProbes = 30 * time.Second
	// shortestProbes is the shortest keepalive interval that is listened for, and watchedKeepAlive the hub's own meanwhile.
	shortestProbes   = 30 * time.Second
	watchedKeepAlive = 6 * time.Hour
	// maxAlarms in a row that turned out false end the listening: something between, a proxy, answers the edge's probes itself.
	maxAlarms = 3
)

// heard is what a TLS tunnel tells about its TCP connection.
type heard interface {
	Heard() (segments uint32, ok bool)
	SetKeepAlive(time.Duration) error
}

// keepAliveWatch sees that an idle TLS tunnel's edge is there by the keepalive probes that edge sends anyway. The hub's own would cost a device
// as much again, and a metered one its day's bytes; they are sent only when the edge's fail to come, and then the kernel decides.
type keepAliveWatch struct {
	mu    sync.Mutex
	timer *time.Timer // nil: nothing was told yet
	ended bool

	conn     heard
	probes   time.Duration // the edge's interval; 0: not watched
	segments uint32
	at       time.Time // when they grew
	alarmed  bool      // the hub probes
	alarms   int       // false ones in a row
}

// told takes the interval of an edge's probes.
func (w *keepAliveWatch) told(c tunnel.Conn, probes time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	wait := w.start(c, probes)
	if w.ended || wait == 0 {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(wait, w.look)
	}
	w.timer.Reset(wait)
}

func (w *keepAliveWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	if wait := w.listen(time.Now()); wait > 0 {
		w.timer.Reset(wait)
	}
}

// end stops the timer for good.
func (w *keepAliveWatch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended = true; w.timer != nil {
		w.timer.Stop()
	}
}

// start begins to watch, if the edge said how often it probes and the system counts what comes. It returns when listen is to be called; 0: never.
func (w *keepAliveWatch) start(c tunnel.Conn, probes time.Duration) time.Duration {
	h, ok := c.(heard)
	if !ok {
		return 0
	}
	n, ok := h.Heard()
	if !ok || probes < shortestProbes {
		w.stop()
		return 0
	}
	w.conn, w.probes, w.segments, w.at, w.alarmed, w.alarms = h, probes, n, time.Now(), false, 0
	_ = h.SetKeepAlive(watchedKeepAlive) // if not, it probes more than it must
	return probes - heardGrain
}

// stop leaves the watching to the hub's kernel.
func (w *keepAliveWatch) stop() {
	if w.probes > 0 {
		w.probes = 0
		_ = w.conn.SetKeepAlive(activeKeepAlive)
	}
}

// listen looks whether something came. It returns when it is to be called again; 0: never.
func (w *keepAliveWatch) listen(now time.Time) time.Duration {
	if w.probes == 0 {
		return 0
	}
	n, ok := w.conn.Heard()
	if !ok {
		w.stop()
		return 0
	}
	if n != w.segments {
		w.segments, w.at = n, now
		if !w.alarmed {
			w.alarms = 0
			return w.probes - heardGrain
		}
		w.alarmed = false
		if w.alarms++; w.alarms == maxAlarms {
			w.stop()
			return 0
		}
		_ = w.conn.SetKeepAlive(watchedKeepAlive)
		return w.probes - heardGrain
	}
	// The kernel's timers are late by up to an eighth.
	if !w.alarmed && now.Sub(w.at) >= w.probes+w.probes/8+repeatedProbes {
		w.alarmed = true
		_ = w.conn.SetKeepAlive(time.Second) // it has idled for longer: the first goes at once
	}
	return heardGrain
}
