package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"hawser/auth/ca"
	"hawser/hub/front"
	"hawser/hub/mesh"
	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/inner"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// routeTimeout is how long one way to a device is tried before the next, and lastTimeout how long the last.
const routeTimeout, lastTimeout = 3 * time.Second, 8 * time.Second

// impostor is the incident of a hub that answered in a device's place.
const impostor = "peer-impostor"

// newMesh makes the hub's connections with the others.
func (h *Hub) newMesh(l *quicconn.Listener) *mesh.Mesh {
	creds := h.auth.Credentials()
	return mesh.New(mesh.Config{
		Self: mesh.Hub{UUID: h.auth.UUID(), Name: creds.Name}, Cluster: creds.Cluster, Incarnation: h.incarnation, Registry: &h.registry,
		Transport: l, TLS: h.peerTLS, Identify: h.identifyHub,
		Hubs: func() []mesh.Hub {
			var all []mesh.Hub
			for _, x := range h.auth.Cache.Hubs() {
				all = append(all, mesh.Hub{UUID: x.UUID, Name: x.Name, Addrs: x.Tunnel})
			}
			return all
		},
		DeviceKey: func(id wire.UUID) ed25519.PublicKey {
			if d := h.auth.Cache.Device(id); d != nil {
				return d.Key
			}
			return nil
		},
		Changed: h.auth.Cache.Changed,
		Displaced: func(all []*registry.Tunnel) {
			for _, t := range all {
				h.tunnels.spawn(func() {
					_ = t.Conn.CloseWithError(wire.CloseSuperseded, "a newer tunnel of this device, at another hub")
				})
			}
		},
		OpenLocal: h.openLocal, HubChanged: h.hubChanged,
		Incident: func(i mesh.Incident) { h.auth.ReportIncident(i.Kind, i.Peer.String(), i.Device, i.Detail) },
		Logger:   h.config.Logger, Now: h.config.Now,
	})
}

// awayGrace is how long somebody who comes for a device without a tunnel waits for one before he is told that it is offline: a device that
// changes hubs is away for less, and so is one that another hub has just begun to announce.
const awayGrace = 1500 * time.Millisecond

// routes are the ways to a device, waited for when there are none.
func (h *Hub) routes(ctx context.Context, device wire.UUID) []registry.Route {
	ctx, cancel := context.WithTimeout(ctx, awayGrace)
	defer cancel()
	for {
		changed := h.registry.Changed(device)
		if routes := h.registry.Routes(device); len(routes) > 0 {
			return routes
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// openStream opens a stream for a device at whatever hub it is, and fills in the EntryHub fields of a, which the caller writes to it. The
// ways are tried in their order. When there is none the error wraps front.ErrOffline, when all failed front.ErrSilent too; tunnel.ErrTooManyStreams when
// that is why, and front.ErrRemoved for a device that is none.
func (h *Hub) openStream(ctx context.Context, device wire.UUID, a *wire.Attach) (tunnel.Stream, error) {
	a.EntryHub, a.EntryHubIncarnation = h.auth.UUID(), h.incarnation
	if h.auth.Cache.Removed(device) {
		return nil, front.ErrRemoved
	}
	errs := []error{front.ErrOffline}
	routes := h.registry.Routes(device)
	for i, r := range routes {
		timeout := routeTimeout
		if i == len(routes)-1 {
			timeout = lastTimeout
		}
		s, err := h.openRoute(ctx, device, r, a, timeout)
		switch {
		case err == nil:
			return s, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, tunnel.ErrTooManyStreams):
			errs[0] = tunnel.ErrTooManyStreams
		}
		errs = append(errs, err)
	}
	if len(routes) > 0 && errs[0] == front.ErrOffline {
		errs = append(errs, front.ErrSilent)
		h.config.Logger.Warn("no way to the device answers", "device", h.deviceName(device), "error", errors.Join(errs[1:]...))
	}
	return nil, errors.Join(errs...)
}

func (h *Hub) openRoute(ctx context.Context, device wire.UUID, r registry.Route, a *wire.Attach, timeout time.Duration) (tunnel.Stream, error) {
	if r.Tunnel != nil {
		return h.openLocal(ctx, r.Tunnel)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	s, err := h.mesh.Open(ctx, r.Hub, device, r.Slot)
	if err != nil {
		return nil, err
	}
	var wrong error
	in, err := inner.Client(ctx, s, *a, h.deviceTLS(device, &wrong))
	if wrong != nil {
		h.config.Logger.Warn("a hub broke the rules", "kind", impostor, "hub", r.Hub.String(), "device", device.String(), "error", wrong)
		h.auth.ReportIncident(impostor, r.Hub.String(), device, "answered in the device's place: "+wrong.Error())
	}
	if e, ok := errors.AsType[*tunnel.StreamError](err); ok && e.Code == wire.StreamResourceShortage {
		err = fmt.Errorf("%w: %w", tunnel.ErrTooManyStreams, err)
	}
	if err != nil {
		return nil, fmt.Errorf("by hub %s: %w", r.Hub, err)
	}
	away := &awayStream{Stream: in, ended: make(chan struct{})}
	h.tunnels.spawn(func() { h.watchRoute(away, device, r) })
	return away, nil
}

// awayStream is a stream for a device at another hub.
type awayStream struct {
	tunnel.Stream
	once  sync.Once
	ended chan struct{}
}

func (s *awayStream) end() { s.once.Do(func() { close(s.ended) }) }

func (s *awayStream) Close() error {
	defer s.end()
	return s.Stream.Close()
}

func (s *awayStream) Reset(code wire.StreamCode) {
	defer s.end()
	s.Stream.Reset(code)
}

// watchRoute ends a stream whose way is no more. When the other hub died, the device, which knows at once, has moved before the
// heartbeats between the hubs are missed.
func (h *Hub) watchRoute(s *awayStream, device wire.UUID, r registry.Route) {
	for {
		changed := h.registry.Changed(device)
		if !slices.ContainsFunc(h.registry.Routes(device), func(x registry.Route) bool {
			return x.Hub == r.Hub && x.Slot == r.Slot && x.Incarnation == r.Incarnation
		}) {
			s.Reset(wire.StreamCancelled)
			return
		}
		select {
		case <-changed:
		case <-s.ended:
			return
		case <-h.mesh.Done(): // and with it the stream
			return
		}
	}
}

// deviceTLS admits that device and nobody else. What was wrong with another is told in wrong.
func (h *Hub) deviceTLS(device wire.UUID, wrong *error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // VerifyConnection decides
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.auth.Certificate(), nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			err := h.checkDevice(cs, device)
			if !errors.Is(err, ca.ErrExpired) || !h.isKeyOf(cs, device) { // the device's own certificate that ran out accuses nobody
				*wrong = err
			}
			return err
		},
	}
}

func (h *Hub) checkDevice(cs tls.ConnectionState, device wire.UUID) error {
	id, err := ca.VerifyPeer(cs.PeerCertificates, h.auth.Trust(), h.config.Now())
	if err != nil {
		return err
	}
	if err := id.Require(ca.RoleDevice); err != nil {
		return fmt.Errorf("%w: role %s", err, id.Role)
	}
	if id.UUID != device.String() || !h.isKeyOf(cs, device) {
		return fmt.Errorf("%w: it is device %s", errNotDevice, id.UUID)
	}
	return nil
}

// isKeyOf tells whether a certificate is of the device's key.
func (h *Hub) isKeyOf(cs tls.ConnectionState, device wire.UUID) bool {
	d := h.auth.Cache.Device(device)
	return d != nil && len(cs.PeerCertificates) > 0 && d.Key.Equal(cs.PeerCertificates[0].PublicKey)
}

// peerTLS is for dialling that hub.
func (h *Hub) peerTLS(hub wire.UUID) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // VerifyConnection decides
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return h.auth.Certificate(), nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			if id, err := h.identifyHub(cs); err != nil || id != hub {
				return errors.Join(errNotHub, err)
			}
			return nil
		},
	}
}

var errNotHub = errors.New("certificate is not that hub's")

// identifyHub tells which hub of the cluster a certificate is of.
func (h *Hub) identifyHub(cs tls.ConnectionState) (wire.UUID, error) {
	id, err := ca.VerifyPeer(cs.PeerCertificates, h.auth.Trust(), h.config.Now())
	if err != nil {
		return wire.UUID{}, err
	}
	if err := id.Require(ca.RoleHub); err != nil {
		return wire.UUID{}, fmt.Errorf("%w: role %s", err, id.Role)
	}
	return wire.ParseUUID(id.UUID)
}
