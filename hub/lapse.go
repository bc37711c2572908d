package hub

import (
	"net/netip"
	"time"
)

// lapsedText is what people read whose sessions end because this hub cannot renew their places.
const lapsedText = "this hub has lost touch with the auth service, which may now give your place to others (cap_mode exact); connect again when it is back"

// pipeGrace is what a device gets to say that to somebody who is on end to end, before the hub cuts the pipe. With what a session takes to be
// killed it stays below place.Margin.
const pipeGrace = 700 * time.Millisecond

// lapsed ends sessions and connections whose places may soon be others'. It is called again while they last; only the goroutine of
// authclient's fence calls it.
func (h *Hub) lapsed(ids [][16]byte) {
	again := make(map[[16]byte]bool, len(ids))
	for _, id := range ids {
		again[id] = true
		if h.ending[id] {
			continue
		}
		client, inner := h.granted.clientOf(id)
		h.kill(id, lapsedText)
		if inner {
			time.AfterFunc(pipeGrace, func() { h.front.CutClient(client, lapsedText) })
		}
	}
	h.ending = again
}

// clientOf is whence somebody came who is on end to end.
func (g *grantedSessions) clientOf(id [16]byte) (netip.AddrPort, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.live[id]
	if !ok || p.state == nil {
		return netip.AddrPort{}, false
	}
	client, err := netip.ParseAddrPort(p.state.ClientAddress)
	return client, err == nil
}
