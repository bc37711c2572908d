package hub

import (
	"crypto/ed25519"
	"time"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/hub/authclient"
	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// quarantineRetry is when a device in quarantine may ask again; edges take minutes all the same.
const quarantineRetry = 5 * time.Minute

// unfit says why a tunnel of the device is not to be served; nil if it is.
func unfit(d *authclient.Device, c tunnel.Conn) *wire.CloseError {
	if d.Quarantine != "" {
		return &wire.CloseError{Code: wire.CloseClone, Reason: d.Quarantine, RetryAfter: quarantineRetry}
	}
	if certs := c.ConnectionState().PeerCertificates; !d.IssuedAfter.IsZero() && len(certs) > 0 &&
		certs[0].NotBefore.Add(ca.DeviceBackdate).Before(d.IssuedAfter) {
		return &wire.CloseError{Code: wire.CloseExpired, Reason: "the certificate is of before the device was recovered; it must be renewed first"}
	}
	return nil
}

// deviceChanged acts on what auth says of a device that has tunnels here.
func (h *Hub) deviceChanged(d *authclient.Device) {
	if d.Quarantine != "" {
		h.registry.Forgive(d.UUID)
	}
	for _, t := range h.registry.Tunnels(d.UUID) {
		if certs := t.Conn.ConnectionState().PeerCertificates; len(certs) > 0 {
			if key, ok := certs[0].PublicKey.(ed25519.PublicKey); ok && !key.Equal(d.Key) {
				h.dropDevice(d.UUID, "the device goes on with another key; this one is void")
				return
			}
		}
		if why := unfit(d, t.Conn); why != nil {
			h.config.Logger.Warn("tunnel closed", "device", d.Name, "client", t.Conn.RemoteAddr().String(), "reason", why.Reason)
			h.tunnels.spawn(func() { _ = t.Conn.CloseWith(why) })
		} else if s := h.tunnels.of(t.Conn); s != nil {
			h.sendCertificate(s, d)
		}
	}
}

// sendCertificate brings a device the certificates for its name, unless its tunnel began with it or they are on their way.
func (h *Hub) sendCertificate(s *served, d *authclient.Device) {
	s.mu.Lock()
	known := s.name == d.Name
	s.name = d.Name
	s.mu.Unlock()
	if known {
		return
	}
	s.spawn(func() {
		r, err := h.auth.RenewDevice(s.t.Conn.Context(), &api.RenewDeviceRequest{
			Uuid: d.UUID.String(), PublicKey: d.Key, Again: true, Source: s.t.Conn.RemoteAddr().String(),
		})
		if err != nil {
			h.config.Logger.Warn("the device keeps the certificate of its former name until it comes again", "device", d.Name, "error", err)
			return
		}
		s.send(wire.Renewed{Chain: r.Chain, SSHCert: r.SshCertificate, Trust: r.Trust, Counter: r.Counter})
	})
}

// mayReplace asks auth what becomes of a machine that took turns with others for the third time; theirs are the tunnels. It tells whether the machine is
// to be served in their place; if not, err is the refusal.
func (h *Hub) mayReplace(c tunnel.Conn, p peer, theirs []*registry.Tunnel, err *error) bool {
	r := &api.ReportCloneRequest{Uuid: p.uuid.String(), PublicKey: p.key, Sources: []string{c.RemoteAddr().String()}}
	for _, t := range theirs {
		r.Sources = append(r.Sources, t.Conn.RemoteAddr().String())
	}
	h.config.Logger.Error("two machines use one identity", "device", p.name, "seen", r.Sources)
	res, callErr := h.auth.ReportClone(c.Context(), r)
	if callErr != nil {
		h.config.Logger.Warn("clone not reported; the machine that came last is refused", "device", p.name, "error", callErr)
		return false
	}
	h.registry.Forgive(p.uuid)
	if res.Serve {
		return true
	}
	*err = refuseWith(c, wire.CloseClone, res.Message, quarantineRetry, res.Order)
	return false
}
