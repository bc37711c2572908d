package hub

import (
	"hawser/auth/api"
	"hawser/hub/front"
	"hawser/tunnel/wire"
)

// Forwarded implements front.Backend.
func (b *backend) Forwarded(f front.Forwarded) {
	b.h.auth.ReportForward(f.ID, &api.ForwardReport{
		ConnectionId: f.Connection[:], DeviceUuid: f.Device.String(), User: f.User, Login: f.Login, ClientAddress: f.Client, Channel: f.Channel,
		Target: f.Target, Origin: f.Origin, Closed: f.Closed, BytesIn: f.In, BytesOut: f.Out, LastedMs: uint64(f.Lasted.Milliseconds()),
	})
}

// forwarded passes on what a device says to auth of a connection that it has with somebody end to end; the hub says whose it is.
func (h *Hub) forwarded(device wire.UUID, m *wire.Forwarded) {
	st, ok := h.granted.stateOf(m.ConnectionID, device)
	if !ok {
		return
	}
	h.auth.ReportForward(0, &api.ForwardReport{
		ConnectionId: m.ConnectionID[:], DeviceUuid: device.String(), Sealed: m.Sealed, User: st.User, Login: st.Login, ClientAddress: st.ClientAddress,
	})
}

// stateOf is what is told of a session or connection of a device's that is live.
func (g *grantedSessions) stateOf(id [16]byte, device wire.UUID) (*api.SessionState, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p, ok := g.live[id]
	if !ok || p.state == nil || p.stream.c.device != device {
		return nil, false
	}
	return p.state, true
}
