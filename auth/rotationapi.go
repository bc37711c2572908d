package auth

import (
	"context"
	"errors"
	"slices"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"crypto/ed25519"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/tunnel/wire"
)

type caService struct{ *Server }

// kindNames are the kinds as people say them.
var kindNames = []struct {
	kind ca.Kind
	name string
}{
	{ca.UserCA, "user"}, {ca.HubHostCA, "hub"}, {ca.DeviceHostCA, "device"}, {ca.TargetCA, "target"},
	{ca.TunnelCA, "tunnel"}, {ca.GrantKey, "grant"}, {ca.TimeKey, "time"},
}

func kindName(k ca.Kind) string {
	for _, n := range kindNames {
		if n.kind == k {
			return n.name
		}
	}
	return k.String()
}

func kindsOf(names []string) ([]ca.Kind, error) {
	var out []ca.Kind
	for _, name := range names {
		i := slices.IndexFunc(kindNames, func(n struct {
			kind ca.Kind
			name string
		}) bool {
			return n.name == name
		})
		if i < 0 {
			return nil, invalid("no CA of kind %q: user, hub, device, target, tunnel, grant or time", wire.Quote(name, 32))
		}
		if !slices.Contains(out, kindNames[i].kind) {
			out = append(out, kindNames[i].kind)
		}
	}
	return out, nil
}

// RotateCA begins a rotation.
func (s caService) RotateCA(ctx context.Context, req *connect.Request[api.RotateCARequest]) (*connect.Response[api.CAStatusResponse], error) {
	r := req.Msg
	kinds, err := kindsOf(r.Kinds)
	if err != nil {
		return nil, err
	}
	if len(kinds) == 0 {
		for _, n := range kindNames {
			kinds = append(kinds, n.kind)
		}
	}
	grace := time.Duration(min(r.GraceMs, uint64(2*ca.MaxGrace/time.Millisecond))) * time.Millisecond
	switch {
	case grace == 0 && r.Manual:
		grace = defaultManual
	case grace == 0:
		grace = defaultGrace
	}
	return s.step(ctx, "ca.rotate", kinds, func(set *ca.Set) (*ca.Set, error) {
		return set.Rotate(kinds, ca.RotateOptions{Now: s.cfg.Now(), Grace: grace, Manual: r.Manual, Compromised: r.Compromised})
	})
}

// AdvanceCA begins the next phase.
func (s caService) AdvanceCA(ctx context.Context, req *connect.Request[api.AdvanceCARequest]) (*connect.Response[api.CAStatusResponse], error) {
	kinds, err := s.rotating(req.Msg.Kinds)
	if err != nil {
		return nil, err
	}
	return s.step(ctx, "ca.phase", kinds, func(set *ca.Set) (*ca.Set, error) { return set.Advance(kinds, s.cfg.Now()) })
}

// RollBackCA goes back.
func (s caService) RollBackCA(ctx context.Context, req *connect.Request[api.RollBackCARequest]) (*connect.Response[api.CAStatusResponse], error) {
	kinds, err := s.rotating(req.Msg.Kinds)
	if err != nil {
		return nil, err
	}
	return s.step(ctx, "ca.rollback", kinds, func(set *ca.Set) (*ca.Set, error) { return set.Rollback(kinds, s.cfg.Now()) })
}

// rotating are the kinds named, or all that are being rotated.
func (s caService) rotating(names []string) ([]ca.Kind, error) {
	kinds, err := kindsOf(names)
	if err != nil {
		return nil, err
	}
	if len(kinds) == 0 {
		kinds = s.set.Rotating()
	}
	if len(kinds) == 0 {
		return nil, conflict("no CA is being rotated; `hawser ca rotate` begins")
	}
	return kinds, nil
}

func conflict(format string, args ...any) error {
	return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, format, args...)
}

func (s caService) step(ctx context.Context, event string, kinds []ca.Kind, change func(*ca.Set) (*ca.Set, error)) (*connect.Response[api.CAStatusResponse], error) {
	c := callerOf(ctx)
	err := s.changeSet(Event{Type: event, Actor: c.String(), Source: c.addr, Via: c.via}, kinds, change)
	switch {
	case err == nil:
		return connect.NewResponse(s.caStatus()), nil
	case errors.Is(err, ca.ErrRotating):
		return nil, conflict("%w; `hawser ca status` tells how far, `hawser ca rollback` goes back", err)
	case errors.Is(err, ca.ErrNotRotating):
		return nil, conflict("%w; `hawser ca rotate` begins", err)
	case errors.Is(err, ca.ErrNoRollback):
		return nil, conflict("%w; `hawser ca advance` goes on", err)
	case errors.Is(err, ca.ErrGrace):
		return nil, invalid("%w", err)
	}
	s.record(Event{Type: event + ".refuse", Actor: c.String(), Source: c.addr, Via: c.via, Reason: clip(err.Error())})
	return nil, err
}

// CAStatus tells how far the rotations are.
func (s caService) CAStatus(context.Context, *connect.Request[api.CAStatusRequest]) (*connect.Response[api.CAStatusResponse], error) {
	return connect.NewResponse(s.caStatus()), nil
}

const maxLaggards = 1000

func (s *Server) caStatus() *api.CAStatusResponse {
	res := &api.CAStatusResponse{TrustRevision: s.set.Revision()}
	retired := s.set.Retired()
	for _, n := range kindNames {
		a, r := s.set.Authority(n.kind), s.set.Rotation(n.kind)
		out := &api.Authority{
			Kind: n.name, Phase: r.Phase.String(), Fingerprint: authorityFingerprint(n.kind, a.Public(), a.Certificate()), CreatedUnix: a.Created.Unix(), Compromised: r.Compromised,
		}
		if next := s.set.Next(n.kind); next != nil {
			out.NextFingerprint = authorityFingerprint(n.kind, next.Public(), next.Certificate())
			out.SinceUnixMilli = r.Since.UnixMilli()
		}
		if !r.Until.IsZero() {
			out.UntilUnixMilli = r.Until.UnixMilli()
		}
		for _, old := range retired {
			if old.Kind == n.kind {
				out.Retired = append(out.Retired, &api.RetiredAuthority{
					Fingerprint: authorityFingerprint(n.kind, old.Public, old.Certificate), AtUnix: old.At.Unix(), Compromised: old.Compromised,
				})
			}
		}
		res.Authorities = append(res.Authorities, out)
	}
	add := func(kind, name, uuid string, online bool, chain [][]byte) {
		res.BehindTotal++
		if len(res.Behind) < maxLaggards {
			res.Behind = append(res.Behind, &api.Laggard{Kind: kind, Name: name, Uuid: uuid, Online: online, MustRejoin: s.set.Stranded(chain)})
		}
	}
	for _, h := range s.view.allHubs() {
		if s.set.Behind(ca.RoleHub, h.Chain, h.SSHCert) {
			up, _ := s.hubs.up(h.UUID)
			add("hub", h.Name, h.UUID, up, h.Chain)
		}
	}
	for _, d := range s.view.allDevices() {
		if s.set.Behind(ca.RoleDevice, d.Chain, d.SSHCert) {
			_, _, online := s.hubs.device(d.UUID)
			add("device", d.Name, d.UUID, online, d.Chain)
		}
	}
	return res
}

// authorityFingerprint names a key: the tunnel CA's by its pin, others as ssh-keygen does.
func authorityFingerprint(k ca.Kind, key ed25519.PublicKey, certificate []byte) string {
	if k == ca.TunnelCA {
		if pin, err := ca.Pin(certificate); err == nil {
			return pin
		}
	}
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(pub)
}
