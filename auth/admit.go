package auth

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// refusal is why a person may not; message is for him, rule and reason for the log.
type refusal struct{ reason, message, rule string }

func (r *refusal) Error() string { return r.message }

// forwardChannels are the channel kinds of a Forwards grant; a Session grant has the others.
var forwardChannels = []string{"local-forward", "remote-forward", "socket-forward"}

// Admit decides on one session, one connection's forwards, or one connection.
func (s hubService) Admit(ctx context.Context, req *connect.Request[api.AdmitRequest]) (*connect.Response[api.AdmitResponse], error) {
	c, r := callerOf(ctx), req.Msg
	client, err := netip.ParseAddrPort(r.ClientAddress)
	if err != nil {
		return nil, invalid("client address %q is not ip:port", wire.Quote(r.ClientAddress, 64))
	}
	if len(r.ConnectionId) != 16 || len(r.SessionId) != 0 && len(r.SessionId) != 16 || len(r.Incarnation) != 0 && len(r.Incarnation) != 16 {
		return nil, invalid("ids have 16 bytes")
	}
	if r.Kind < api.Kind_KIND_SESSION || r.Kind > api.Kind_KIND_CONNECTION {
		return nil, invalid("kind %d is unknown", r.Kind)
	}
	if r.Device == "" && r.Kind != api.Kind_KIND_CONNECTION {
		return nil, invalid("a session or forwards need a device")
	}
	hub, err := wire.ParseUUID(c.id.UUID)
	if err != nil {
		return nil, err
	}
	e := Event{
		Type: "session.admit", Actor: c.String(), Hub: c.id.Name, User: clip(r.User), Way: clip(r.Way), Client: r.ClientAddress,
		Device: clip(r.Device), Login: clip(r.Login), Channel: clip(r.Channel), Command: r.Command[:min(len(r.Command), maxCommand)],
		Connection: hex.EncodeToString(r.ConnectionId), Kind: strings.ToLower(strings.TrimPrefix(r.Kind.String(), "KIND_")),
	}
	res, err := s.admit(r, client, hub, c, &e)
	if ref, ok := errors.AsType[*refusal](err); ok {
		e.Type, e.Reason, e.Rule = "session.refuse", ref.reason, ref.rule
		s.record(e)
		return connect.NewResponse(&api.AdmitResponse{Refusal: &api.Refusal{Reason: ref.reason, Message: ref.message}}), nil
	}
	if err != nil {
		return nil, err
	}
	s.record(e)
	return connect.NewResponse(res), nil
}

func (s *Server) admit(r *api.AdmitRequest, client netip.AddrPort, hub wire.UUID, c caller, e *Event) (*api.AdmitResponse, error) {
	now := s.cfg.Now()
	if !s.admits.take(c.id.UUID, now) {
		return nil, &refusal{reason: "rate", message: "this hub opens too many sessions; try again in a second"}
	}
	user, roles, method, err := s.authenticate(r, client)
	if err != nil {
		return nil, err
	}
	e.User, e.Method, e.Roles = user.Name, method, roleNames(roles)
	g := grant.Grant{
		Cluster: s.info.Cluster, ConnectionID: [16]byte(r.ConnectionId), Kind: grant.Kind(r.Kind), User: user.Name,
		Method: kindOf(method), Roles: e.Roles, ClientAddr: client, EntryHub: hub,
	}
	rand.Read(g.ID[:])
	g.NotBefore, g.NotAfter = grant.Window(now)
	if len(r.Incarnation) == 16 {
		g.Incarnation = [16]byte(r.Incarnation)
	}
	switch {
	case r.Kind == api.Kind_KIND_FORWARDS: // names a connection, no session
	case len(r.SessionId) == 16:
		g.SessionID = [16]byte(r.SessionId)
	case r.Kind == api.Kind_KIND_CONNECTION:
		g.SessionID = g.ConnectionID // its place is released under the connection's id
	default:
		rand.Read(g.SessionID[:])
	}
	if g.Kind != grant.Forwards && g.SessionID == [16]byte{} || g.ConnectionID == [16]byte{} {
		return nil, invalid("an id is all zero")
	}
	sess := &session{
		id: g.SessionID, connection: g.ConnectionID, kind: g.Kind.String(), user: user.Name, way: e.Way, channel: e.Channel, command: e.Command,
		client: r.ClientAddress, hub: c.id.UUID, hubName: c.id.Name, start: now, admitted: now,
	}
	res := &api.AdmitResponse{Access: &api.Access{}, User: user.Name, Roles: e.Roles, NotAfterUnix: g.NotAfter.Unix()}
	allRoles, rev := s.view.policies()
	g.PolicyRevision, res.PolicyRevision = rev, rev
	roles = pick(allRoles, e.Roles)
	if r.Device != "" {
		d, access, login, err := s.decide(r, roles, e)
		if err != nil {
			return nil, err
		}
		uuid, err := wire.ParseUUID(d.UUID)
		if err != nil {
			return nil, err
		}
		g.Device, g.Login, g.ForwardTo = uuid, login, access.ForwardTo
		g.Channels, g.DetachedLife = channelsFor(g.Kind, access.Channels), access.DetachedLife
		res.Access = &api.Access{Login: login, Logins: access.Logins, Channels: g.Channels, ForwardTo: access.ForwardTo, DetachedLifeMs: uint64(access.DetachedLife.Milliseconds())}
		if g.Kind == grant.Session && access.Record != "" && access.Record != "off" {
			g.Record, res.Access.Record, res.RecordingId = access.Record, access.Record, g.SessionID[:]
			sess.recorded = true
		}
		res.DeviceUuid, res.DeviceName = d.UUID, d.Name
		sess.device, sess.login = d, login
		e.Device, e.DeviceUUID, e.Login = d.Name, d.UUID, login
	}
	if g.Kind != grant.Forwards {
		res.SessionId = g.SessionID[:]
		e.Session = hex.EncodeToString(g.SessionID[:])
	}
	// The forwards of a connection are asked for anew every few minutes; they take no second place.
	if g.Kind != grant.Forwards && !s.hubs.add(sess) {
		return nil, &refusal{reason: "places", message: "this hub has too many sessions, or one of this id; try again"}
	}
	if res.Grant, err = g.Sign(s.set.GrantKey()); err != nil {
		s.hubs.release(c.id.UUID, g.SessionID, now)
		return nil, fmt.Errorf("sign a grant: %w", err)
	}
	return res, nil
}

func channelsFor(kind grant.Kind, channels []string) []string {
	var out []string
	for _, ch := range channels {
		if kind == grant.Connection || slices.Contains(forwardChannels, ch) == (kind == grant.Forwards) {
			out = append(out, ch)
		}
	}
	return out
}

// authenticate checks the hub's claim of who signed, as far as it can be checked again here.
func (s *Server) authenticate(r *api.AdmitRequest, client netip.AddrPort) (*userRecord, []policy.Role, string, error) {
	var name, method string
	var certRoles []string
	switch {
	case len(r.Certificate) > 0 && len(r.PublicKey) == 0:
		key, err := ssh.ParsePublicKey(r.Certificate)
		cert, ok := key.(*ssh.Certificate)
		if err != nil || !ok {
			return nil, nil, "", &refusal{reason: "certificate", rule: "malformed", message: "the certificate cannot be read; log in again with `hawser login`"}
		}
		id, err := ca.VerifyUserCert(cert, &s.trust, s.cfg.Now(), net.TCPAddrFromAddrPort(client))
		if err != nil {
			return nil, nil, "", &refusal{reason: "certificate", rule: err.Error(), message: err.Error() + "; log in again with `hawser login`"}
		}
		name, certRoles = id.Name, id.Roles
		method = fmt.Sprintf("certificate %d", id.Serial)
	case len(r.PublicKey) > 0 && len(r.Certificate) == 0:
		key, err := ssh.ParsePublicKey(r.PublicKey)
		if err == nil {
			err = ca.CheckKey(key)
		}
		if err != nil {
			return nil, nil, "", &refusal{reason: "user", rule: "bad key", message: "this key is of a kind that is not accepted"}
		}
		name = s.view.owner(r.PublicKey)
		method = "key " + ssh.FingerprintSHA256(key)
	default:
		return nil, nil, "", invalid("give either the key or the certificate that signed")
	}
	user, roles := s.view.user(name)
	if user == nil || r.User != "" && r.User != user.Name {
		return nil, nil, "", &refusal{reason: "user", rule: "unknown", message: "no user has this key; an admin adds it with `hawser user add`"}
	}
	if certRoles != nil {
		// A role taken away is gone at once; one given comes with the next certificate.
		roles = slices.DeleteFunc(roles, func(r policy.Role) bool { return !slices.Contains(certRoles, r.Name) })
	}
	if len(roles) == 0 {
		return nil, nil, "", &refusal{reason: "user", rule: "no role", message: "you have no role; ask an admin for one"}
	}
	return user, roles, method, nil
}

// decide evaluates the policy. A device that is unknown and one that is forbidden get the same answer.
func (s *Server) decide(r *api.AdmitRequest, roles []policy.Role, e *Event) (*deviceRecord, policy.Access, string, error) {
	no := func(rule string) error {
		return &refusal{reason: "device", rule: rule, message: fmt.Sprintf("no device %q that your roles allow; `ssh hub ls` shows those they do", wire.Quote(r.Device, 64))}
	}
	if r.Way != "hub" && r.Way != "end-to-end" {
		return nil, policy.Access{}, "", invalid("way %q is unknown", wire.Quote(r.Way, 32))
	}
	d := s.view.device(r.Device)
	if d == nil {
		return nil, policy.Access{}, "", no("no such device")
	}
	dev := d.policy()
	all := policy.Merge(roles, dev)
	if len(all.Logins) == 0 {
		return nil, policy.Access{}, "", no("no role allows the device")
	}
	e.Device, e.DeviceUUID = d.Name, d.UUID
	if !slices.Contains(all.Ways, r.Way) {
		return nil, policy.Access{}, "", &refusal{reason: "way", message: fmt.Sprintf("your roles do not allow the way %s to %s; they allow %s", r.Way, d.Name, strings.Join(all.Ways, ", "))}
	}
	login, err := s.resolveLogin(r, d, all, roles)
	if err != nil {
		return nil, policy.Access{}, "", err
	}
	access := all.For(login, r.Way)
	if len(access.Channels) == 0 {
		return nil, policy.Access{}, "", &refusal{reason: "login", message: fmt.Sprintf("your roles do not allow login %s on %s; they allow %s", wire.Quote(login, 64), d.Name, strings.Join(all.Logins, ", "))}
	}
	if r.Channel != "" {
		if dec := policy.Evaluate(roles, dev, login, r.Channel, r.Way); !dec.Allowed {
			return nil, policy.Access{}, "", &refusal{reason: "channel", rule: dec.Rule, message: fmt.Sprintf("your roles do not allow %s on %s as %s; they allow %s",
				wire.Quote(r.Channel, 32), d.Name, wire.Quote(login, 64), strings.Join(access.Channels, ", "))}
		}
	}
	return d, access, login, nil
}

// resolveLogin finds the login of a person who gave none.
func (s *Server) resolveLogin(r *api.AdmitRequest, d *deviceRecord, all policy.Access, roles []policy.Role) (string, error) {
	allowed := func(login string) bool { return len(all.For(login, r.Way).Channels) > 0 }
	if r.Login != "" {
		if len(r.Login) > 64 || strings.ContainsFunc(r.Login, func(c rune) bool { return c <= ' ' || c == 0x7f || c == ':' || c == '/' }) {
			return "", &refusal{reason: "login", rule: "bad login", message: "the login is not a name of an account"}
		}
		return r.Login, nil
	}
	if len(all.Logins) == 1 && !strings.ContainsAny(all.Logins[0], "*?[") {
		return all.Logins[0], nil
	}
	tunnels, _, online := s.hubs.device(d.UUID)
	if online && tunnels[0].Uid == 0 && allowed("root") {
		return "root", nil
	}
	if r.DefaultLogin != "" && allowed(r.DefaultLogin) {
		return r.DefaultLogin, nil
	}
	return "", &refusal{reason: "login", rule: "none given", message: fmt.Sprintf("say which login on %s, as LOGIN=%s@hub; your roles allow %s", d.Name, d.Name, strings.Join(all.Logins, ", "))}
}

func roleNames(roles []policy.Role) []string {
	names := make([]string, len(roles))
	for i, r := range roles {
		names[i] = r.Name
	}
	return names
}

func kindOf(method string) string {
	kind, _, _ := strings.Cut(method, " ")
	return kind
}

// Release ends a session or a connection.
func (s hubService) Release(ctx context.Context, req *connect.Request[api.ReleaseRequest]) (*connect.Response[api.ReleaseResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.SessionId) != 16 {
		return nil, invalid("a session id has 16 bytes")
	}
	if sess := s.hubs.release(c.id.UUID, [16]byte(r.SessionId), s.cfg.Now()); sess != nil {
		s.recordEnd(sess, clip(r.Reason), &r.ExitStatus)
	}
	return connect.NewResponse(&api.ReleaseResponse{}), nil
}

func (s *Server) recordEnd(sess *session, reason string, exit *int32) {
	e := Event{
		Type: "session.end", Hub: sess.hubName, User: sess.user, Login: sess.login, Way: sess.way, Kind: sess.kind, Client: sess.client,
		Session: hex.EncodeToString(sess.id[:]), Connection: hex.EncodeToString(sess.connection[:]), Reason: reason, ExitStatus: exit,
	}
	if sess.device != nil {
		e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
	}
	s.record(e)
}
