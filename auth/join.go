package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

type joinService struct{ *Server }

// JoinHub spends a token and makes a hub of the TLS peer's key.
func (s joinService) JoinHub(ctx context.Context, req *connect.Request[api.JoinHubRequest]) (*connect.Response[api.JoinHubResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if err := checkHub(r.SshAddresses, r.TunnelAddresses, r.Zone); err != nil {
		return nil, err
	}
	source := hostOf(c.addr)
	var h hubRecord
	err := retryConflict(ctx, func() error {
		t, conds, ops, err := s.useToken(ctx, r.Secret, "hub", source)
		if err != nil {
			return err
		}
		now := s.cfg.Now()
		h = hubRecord{UUID: wire.NewUUID().String(), Key: c.tlsKey(), SSH: r.SshAddresses, Tunnel: r.TunnelAddresses, Version: clip(r.Version), Zone: r.Zone, Joined: now, Counter: 1}
		if h.Name, err = s.freeName(ctx, hubName(r.Name)); err != nil {
			return err
		}
		if err := s.issueHub(&h); err != nil {
			return err
		}
		conds = append(conds, store.IfAbsent(namePrefix+h.Name))
		ops = append(ops, store.Put(namePrefix+h.Name, []byte(h.UUID)), put(hubPrefix+h.UUID, h))
		if err := s.commit(ctx, conds, ops...); err != nil {
			return err
		}
		s.record(Event{Type: "hub.join", Hub: h.Name, Source: c.addr, Object: t.ID})
		return nil
	})
	if err != nil {
		s.record(Event{Type: "hub.join.refuse", Source: c.addr, Reason: api.CodeOf(err).String()})
		return nil, err
	}
	return connect.NewResponse(s.hubResponse(&h)), nil
}

// RenewHub gives the hub new certificates for its key.
func (s joinService) RenewHub(ctx context.Context, req *connect.Request[api.RenewHubRequest]) (*connect.Response[api.JoinHubResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if err := checkHub(r.SshAddresses, r.TunnelAddresses, r.Zone); err != nil {
		return nil, err
	}
	var h hubRecord
	err := retryConflict(ctx, func() error {
		h = hubRecord{}
		rev, err := s.get(ctx, hubPrefix+c.id.UUID, &h)
		if errors.Is(err, store.ErrNotFound) {
			return api.NewError(connect.CodeNotFound, api.Code_CODE_HUB_UNKNOWN, "the cluster no longer knows this hub; join it anew with a token")
		} else if err != nil {
			return err
		}
		switch r.Counter {
		case h.Counter:
		case h.Counter - 1:
			if s.cfg.Now().Before(h.NotAfter) {
				return nil // the reply was lost: the same answer again
			}
		default:
			return counterMismatch(h.Name)
		}
		h.Counter++
		h.SSH, h.Tunnel, h.Version, h.Zone = r.SshAddresses, r.TunnelAddresses, clip(r.Version), r.Zone
		if err := s.issueHub(&h); err != nil {
			return err
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(hubPrefix+h.UUID, rev)}, put(hubPrefix+h.UUID, h))
	})
	if err != nil {
		s.record(Event{Type: "hub.renew.refuse", Hub: c.id.Name, Source: c.addr, Reason: api.CodeOf(err).String()})
		return nil, err
	}
	s.record(Event{Type: "hub.renew", Hub: h.Name, Source: c.addr})
	return connect.NewResponse(s.hubResponse(&h)), nil
}

func (s *Server) issueHub(h *hubRecord) error {
	now := s.cfg.Now()
	principals := []string{h.UUID, h.Name}
	for _, a := range h.SSH {
		host := hostOf(a)
		if host != "" {
			principals = append(principals, host)
		}
	}
	chain, cert, err := s.set.IssueHub(ca.HubRequest{UUID: h.UUID, Name: h.Name, Cluster: s.info.Cluster, Principals: principals, Key: h.Key, TTL: s.cfg.HubTTL, Now: now})
	if err != nil {
		return fmt.Errorf("issue hub certificates: %w", err)
	}
	h.Chain, h.SSHCert, h.NotAfter = chain, cert, now.Add(s.cfg.HubTTL)
	return nil
}

func (s *Server) hubResponse(h *hubRecord) *api.JoinHubResponse {
	return &api.JoinHubResponse{
		Uuid: h.UUID, Name: h.Name, Cluster: s.info.Cluster, Chain: h.Chain, SshCertificate: h.SSHCert,
		Trust: s.trustBlob, Counter: h.Counter, NotAfterUnix: h.NotAfter.Unix(),
	}
}

type hubService struct{ *Server }

// JoinDevice spends a token and makes a device of the key the hub saw in the handshake.
func (s hubService) JoinDevice(ctx context.Context, req *connect.Request[api.JoinDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.PublicKey) != ed25519.PublicKeySize {
		return nil, invalid("the device's key is not an Ed25519 key")
	}
	if r.Name != "" {
		if err := wire.CheckDeviceName(r.Name); err != nil {
			return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "%w", err)
		}
	}
	labels, err := labelMap(r.Labels)
	if err != nil {
		return nil, err
	}
	evidence, err := labelMap(r.Evidence)
	if err != nil {
		return nil, err
	}
	source := hostOf(r.Source)
	if source == "" {
		source = c.String()
	}
	var d deviceRecord
	err = retryConflict(ctx, func() error {
		t, conds, ops, err := s.useToken(ctx, r.Secret, "edge", source)
		if err != nil {
			return err
		}
		d = deviceRecord{
			UUID: wire.NewUUID().String(), Key: r.PublicKey, Labels: maps.Clone(labels), Evidence: evidence,
			Hostname: clip(r.Hostname), Arch: clip(r.Arch), OS: clip(r.Os), Version: clip(r.AgentVersion), Joined: s.cfg.Now(), Counter: 1,
		}
		// What the token says about the device outweighs what it says about itself.
		maps.Copy(d.Labels, t.Labels)
		wish := r.Name
		if wish == "" {
			wish = wire.CleanName(r.Hostname)
		}
		if d.Name, err = s.freeName(ctx, wish); err != nil {
			return err
		}
		if err := s.issueDevice(&d); err != nil {
			return err
		}
		conds = append(conds, store.IfAbsent(namePrefix+d.Name))
		ops = append(ops, store.Put(namePrefix+d.Name, []byte(d.UUID)), put(devicePrefix+d.UUID, d))
		if err := s.commit(ctx, conds, ops...); err != nil {
			return err
		}
		s.record(Event{Type: "device.join", Actor: c.String(), Device: d.Name, DeviceUUID: d.UUID, Source: r.Source, Object: t.ID})
		return nil
	})
	if err != nil {
		s.record(Event{Type: "device.join.refuse", Actor: c.String(), Source: r.Source, Reason: api.CodeOf(err).String()})
		return nil, err
	}
	return connect.NewResponse(s.deviceCredentials(&d)), nil
}

// RenewDevice compares and sets the generation counter and answers with new certificates.
func (s hubService) RenewDevice(ctx context.Context, req *connect.Request[api.RenewDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	var d deviceRecord
	err := retryConflict(ctx, func() error {
		d = deviceRecord{}
		rev, err := s.get(ctx, devicePrefix+r.Uuid, &d)
		if errors.Is(err, store.ErrNotFound) {
			return api.NewError(connect.CodeNotFound, api.Code_CODE_DEVICE_UNKNOWN, "the cluster no longer knows this device; join it anew with a token")
		} else if err != nil {
			return err
		}
		if !bytes.Equal(d.Key, r.PublicKey) {
			return api.NewError(connect.CodePermissionDenied, api.Code_CODE_KEY_MISMATCH, "the key is not that of device %s", d.Name)
		}
		now := s.cfg.Now()
		if now.After(d.NotAfter.Add(rejoinWindow)) {
			return api.NewError(connect.CodePermissionDenied, api.Code_CODE_IDENTITY_EXPIRED, "the device's certificate expired more than %v ago; join it anew with a token", rejoinWindow)
		}
		switch r.Counter {
		case d.Counter:
		case d.Counter - 1:
			if now.Before(d.NotAfter) {
				return nil // the reply was lost: the same answer again
			}
		default:
			return counterMismatch(d.Name)
		}
		d.Counter++
		if err := s.issueDevice(&d); err != nil {
			return err
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, put(devicePrefix+d.UUID, d))
	})
	e := Event{Type: "device.renew", Actor: c.String(), Device: d.Name, DeviceUUID: clip(r.Uuid), Source: r.Source}
	if err != nil {
		e.Type, e.Reason = "device.renew.refuse", api.CodeOf(err).String()
		s.record(e)
		return nil, err
	}
	s.record(e)
	return connect.NewResponse(s.deviceCredentials(&d)), nil
}

func counterMismatch(name string) error {
	return api.NewError(connect.CodeAborted, api.Code_CODE_COUNTER_MISMATCH, "%s renews with a counter that is not its own: its files may have been copied; remove it and join it anew", name)
}

func (s *Server) issueDevice(d *deviceRecord) error {
	now := s.cfg.Now()
	chain, cert, err := s.set.IssueDevice(ca.DeviceRequest{UUID: d.UUID, Name: d.Name, Cluster: s.info.Cluster, Key: d.Key, TTL: s.cfg.DeviceTTL, Now: now})
	if err != nil {
		return fmt.Errorf("issue device certificates: %w", err)
	}
	d.Chain, d.SSHCert, d.NotAfter = chain, cert, now.Add(s.cfg.DeviceTTL)
	return nil
}

func (s *Server) deviceCredentials(d *deviceRecord) *api.DeviceCredentials {
	return &api.DeviceCredentials{
		Uuid: d.UUID, Name: d.Name, Cluster: s.info.Cluster, Chain: d.Chain, SshCertificate: d.SSHCert,
		Trust: s.trustBlob, Hubs: s.tunnelAddrs(), Counter: d.Counter, NotAfterUnix: d.NotAfter.Unix(),
	}
}

// freeName returns name, or name-2, name-3... where it is taken. The caller's transaction takes it, and comes
// here again if another was quicker.
func (s *Server) freeName(ctx context.Context, name string) (string, error) {
	for i := 1; ; i++ {
		try := name
		if i > 1 {
			suffix := fmt.Sprintf("-%d", i)
			try = strings.TrimRight(name[:min(len(name), 63-len(suffix))], "-_") + suffix
		}
		if try == s.info.Cluster {
			continue // a device that is named as the cluster would be taken for it
		}
		_, err := s.state.Get(ctx, namePrefix+try)
		if errors.Is(err, store.ErrNotFound) {
			return try, nil
		}
		if err != nil {
			return "", err
		}
	}
}

// hubName is CleanName, but a hub may be called "hub".
func hubName(name string) string {
	if name == "" || name == "hub" {
		return "hub"
	}
	return wire.CleanName(name)
}

// checkHub holds what a hub says of itself against what others may hold.
func checkHub(ssh, tunnel []string, zone string) error {
	if len(zone) > maxZone || strings.ContainsFunc(zone, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return invalid("zone %q has other characters than printable ASCII, or more than %d", wire.Quote(zone, maxZone), maxZone)
	}
	return checkAddrs(ssh, tunnel)
}

func checkAddrs(lists ...[]string) error {
	for _, list := range lists {
		if len(list) > maxAddresses {
			return invalid("more than %d addresses", maxAddresses)
		}
		for _, a := range list {
			if err := checkAddr(a); err != nil {
				return invalid("%w", err)
			}
		}
	}
	return nil
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}

// clip bounds what a peer says about itself.
func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "?") }
