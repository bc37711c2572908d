package auth

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/place"
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
	if r.Join != "" && r.Kind != api.Kind_KIND_SESSION {
		return nil, invalid("who joins a session asks for a session")
	}
	if r.Device == "" && r.Kind != api.Kind_KIND_CONNECTION && r.Join == "" {
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
	if e.Command != "" {
		e.CommandSource = "request"
	}
	res, err := s.admit(ctx, r, client, hub, c, &e)
	if ref, ok := errors.AsType[*refusal](err); ok {
		e.Type, e.Reason, e.Rule = "session.refuse", ref.reason, ref.rule
		s.record(e)
		return connect.NewResponse(&api.AdmitResponse{Refusal: &api.Refusal{Reason: ref.reason, Message: ref.message}}), nil
	}
	if err != nil {
		return nil, err
	}
	if len(res.Grant) > 0 {
		s.record(e)
	}
	return connect.NewResponse(res), nil
}

func (s *Server) admit(ctx context.Context, r *api.AdmitRequest, client netip.AddrPort, hub wire.UUID, c caller, e *Event) (*api.AdmitResponse, error) {
	now, decided := s.cfg.Now(), s.view.decisive()
	if !s.admits.take(c.id.UUID, now) {
		return nil, &refusal{reason: "rate", message: "this hub opens too many sessions; try again in a second"}
	}
	w, err := s.authenticate(r, client)
	if w.user != nil {
		e.User, e.Method, e.Roles = w.user.Name, w.method, roleNames(w.roles)
	}
	if err != nil {
		return nil, err
	}
	user, method := w.user, w.method
	sub := subjectOf(r.PublicKey, r.Certificate, client.Addr())
	sub.User, sub.Roles = user.Name, user.Roles
	if err := refusedBy(s.lockedOut(sub)); err != nil {
		return nil, err
	}
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
	if r.Device == "" && w.key != nil {
		res.Access.ForceCommand = w.key.ForceCommand // the hub itself is not for such a key
	}
	allRoles, rev := s.view.policies()
	g.PolicyRevision, res.PolicyRevision = rev, rev
	roles := inForce(allRoles, user.Roles, e.Roles)
	w.roles = roles
	if r.Join != "" {
		target, err := s.joinedBy(r, roles, c.id.UUID, e)
		if err != nil {
			return nil, err
		}
		if r.Device == "" { // its run of the agent is named when it is asked again
			return &api.AdmitResponse{DeviceUuid: target.device.UUID, DeviceName: target.device.Name}, nil
		}
		if r.Device != target.device.UUID {
			return nil, &refusal{reason: "join", rule: "another device", message: "that session is on another device"}
		}
		sess.joins, sess.joinMode, sess.joinRoles = target.id, cmp.Or(r.JoinMode, policy.JoinObserver), g.Roles
		g.Join, g.JoinMode = sess.joins, sess.joinMode
		r.Login, r.Channel = target.login, policy.JoinSession
		sess.channel, e.Channel = policy.JoinSession, policy.JoinSession
	}
	var access policy.Access
	if r.Device != "" {
		d, allowed, login, err := s.decide(r, roles, e)
		if access = allowed; err != nil {
			return nil, err
		}
		uuid, err := wire.ParseUUID(d.UUID)
		if err != nil {
			return nil, err
		}
		g.Device, g.Login, g.ForwardTo = uuid, login, access.ForwardTo
		g.Channels, g.DetachedLife = channelsFor(g.Kind, access.Channels), access.DetachedLife
		if err := w.restrict(r, &g); err != nil {
			return nil, err
		}
		res.Access = &api.Access{Login: login, Logins: access.Logins, Channels: g.Channels, ForwardTo: access.ForwardTo, DetachedLifeMs: uint64(access.DetachedLife.Milliseconds()), ForceCommand: g.ForceCommand}
		if sess.forced = g.ForceCommand; sess.forced != "" {
			e.Command, e.CommandSource = sess.forced, "key"
		}
		if r.Join != "" {
			if g.ForceCommand != "" {
				return nil, &refusal{reason: "join", rule: "forced command", message: "this key runs one command and joins nothing; use another key, or `hawser login`"}
			}
			g.Channels = []string{policy.JoinSession}
			res.Access.Channels = g.Channels
		}
		if r.Join == "" {
			if ref := requireModerators(d, access, &g, sess); ref != nil {
				return nil, ref
			}
		}
		// Who joins is in the recording of the session that he joins.
		if g.Kind == grant.Session && r.Join == "" && access.Record != "" && access.Record != "off" {
			g.Record, res.Access.Record, res.RecordingId = access.Record, access.Record, g.SessionID[:]
			g.RecordStdin, res.Access.RecordStdin = access.RecordStdin, access.RecordStdin
			g.Recipients = s.view.recipients()
			for _, to := range g.Recipients {
				res.Access.Recipients = append(res.Access.Recipients, to[:])
			}
			if r.Way != policy.WayHub { // the edge records, and no hub is to see what it could not see of the session
				g.SealKey = [32]byte(s.sealKey.PublicKey().Bytes())
			}
			sess.recorded = true
		}
		if g.Kind == grant.Forwards && r.Way != policy.WayHub { // so of what is forwarded
			g.SealKey = [32]byte(s.sealKey.PublicKey().Bytes())
		}
		res.DeviceUuid, res.DeviceName = d.UUID, d.Name
		sess.device, sess.login = d, login
		e.Device, e.DeviceUUID, e.Login = d.Name, d.UUID, login
		sub.Device, sub.Login = d.UUID, login
		if err := refusedBy(s.lockedOut(sub)); err != nil {
			return nil, err
		}
	}
	s.limit(res.Access, r, w, access)
	if g.Kind != grant.Forwards {
		res.SessionId = g.SessionID[:]
		e.Session = hex.EncodeToString(g.SessionID[:])
	}
	if sess.proof = (proof{PublicKey: r.PublicKey, Key: sub.Key, IssuedAt: sub.IssuedAt}); len(r.Certificate) > 0 {
		sess.proof.Roles = e.Roles
	}
	if err := s.checkDemands(r, c.id.UUID, w); err != nil {
		return nil, err
	}
	if w.key != nil {
		s.uses.used(user.Name, strings.TrimPrefix(method, "key "), r.ClientAddress, now)
	}
	// The forwards of a connection are asked for anew every few minutes; they take no second place.
	back := place.Returned{Run: place.Run{Hub: c.id.UUID}, ID: g.SessionID, Attempt: r.Attempt}
	if g.Kind != grant.Forwards {
		if len(r.HubIncarnation) == 16 {
			back.Run.Incarnation = [16]byte(r.HubIncarnation)
		}
		fresh, err := s.takePlace(ctx, sess, back.Run, r.Attempt, client, res.Access)
		if err != nil {
			return nil, err
		}
		if !fresh && e.Way == policy.WayDirect {
			s.hubs.move(sess)
		}
		if !s.hubs.add(sess) && (fresh || !s.hubs.again(sess)) {
			if fresh {
				s.places.release(back)
			}
			return nil, &refusal{reason: "places", message: "this hub has too many sessions, or one of this id; try again"}
		}
	}
	// What changed meanwhile was held against the live sessions, of which this was none yet.
	if s.view.decisive() != decided {
		if why := s.judgeAgain(sess); why != nil {
			s.giveBack(back)
			return nil, why
		}
	}
	if res.Grant, err = g.Sign(s.set.GrantKey()); err != nil {
		s.giveBack(back)
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

// decide evaluates the policy. A device that is unknown and one that is forbidden get the same answer.
func (s *Server) decide(r *api.AdmitRequest, roles []policy.Role, e *Event) (*deviceRecord, policy.Access, string, error) {
	no := func(rule string) error {
		return &refusal{reason: "device", rule: rule, message: fmt.Sprintf("no device %q that your roles allow; `ssh hub ls` shows those they do", wire.Quote(r.Device, 64))}
	}
	if !slices.Contains(policy.Ways(), r.Way) {
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
	if d.Quarantine != nil {
		return nil, policy.Access{}, "", &refusal{reason: "device", rule: "quarantine", message: quarantineText(d)}
	}
	if !slices.Contains(all.Ways, r.Way) {
		if ref := s.refuseWay(d, all, r.Way, r.Login, "", e.Hub); ref != nil {
			return nil, policy.Access{}, "", ref
		}
		return nil, policy.Access{}, "", &refusal{reason: "way", message: fmt.Sprintf("your roles do not allow the way %s to %s; they allow %s", r.Way, d.Name, strings.Join(all.Ways, ", "))}
	}
	login, err := s.resolveLogin(r, d, all, roles)
	if err != nil {
		return nil, policy.Access{}, "", err
	}
	if ref := d.refuseBehind(r.Way, login); ref != nil {
		return nil, policy.Access{}, "", ref
	}
	access := all.For(login, r.Way)
	if len(access.Channels) == 0 {
		if ref := s.refuseWay(d, all, r.Way, login, "", e.Hub); ref != nil {
			return nil, policy.Access{}, "", ref
		}
		return nil, policy.Access{}, "", &refusal{reason: "login", message: fmt.Sprintf("your roles do not allow login %s on %s; they allow %s", wire.Quote(login, 64), d.Name, strings.Join(all.Logins, ", "))}
	}
	if r.Channel != "" {
		if dec := policy.Evaluate(roles, dev, login, r.Channel, r.Way); !dec.Allowed {
			if ref := s.refuseWay(d, all, r.Way, login, r.Channel, e.Hub); ref != nil {
				return nil, policy.Access{}, "", ref
			}
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
	if t := d.Target; t != nil && len(t.Logins) > 0 && allowed(t.Logins[0]) {
		return t.Logins[0], nil
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

// giveBack ends a hub's session or connection, and frees its place; nil: it was not listed, or was asked for again since and goes on.
func (s *Server) giveBack(r place.Returned) *session {
	if s.places.release(r) {
		return nil
	}
	return s.hubs.release(r.Run.Hub, r.ID, s.cfg.Now())
}

// Release ends a session or a connection.
func (s hubService) Release(ctx context.Context, req *connect.Request[api.ReleaseRequest]) (*connect.Response[api.ReleaseResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.SessionId) != 16 {
		return nil, invalid("a session id has 16 bytes")
	}
	back := place.Returned{Run: place.Run{Hub: c.id.UUID}, ID: [16]byte(r.SessionId), Attempt: r.Attempt}
	if len(r.HubIncarnation) == 16 {
		back.Run.Incarnation = [16]byte(r.HubIncarnation)
	}
	sess := s.giveBack(back)
	s.recordStalled(ctx, c, back.ID, sess, r.Reason)
	if sess != nil {
		if r.Channel != "" {
			ran := *sess // whoever listed it reads it without the lock
			ran.channel, ran.command = clip(r.Channel), string(r.Command[:min(len(r.Command), maxCommand)])
			sess = &ran
		}
		s.recordEnd(sess, clip(r.Reason), &r.ExitStatus)
		if sess.kind == grant.Connection.String() {
			s.second.release(c.id.UUID, sess.connection, sess.user)
		}
	}
	return connect.NewResponse(&api.ReleaseResponse{}), nil
}

// ran says what runs in the session, and who said so.
func (s *session) ran(e *Event) {
	switch e.Channel, e.Command = s.channel, s.command; {
	case s.forced != "":
		e.Command, e.CommandSource = s.forced, "key"
	case e.Command != "":
		e.CommandSource = "request"
	}
}

func (s *Server) recordEnd(sess *session, reason string, exit *int32) {
	e := Event{
		Type: "session.end", Hub: sess.hubName, User: sess.user, Login: sess.login, Way: sess.way, Kind: sess.kind, Client: sess.client,
		Session: hex.EncodeToString(sess.id[:]), Connection: hex.EncodeToString(sess.connection[:]), Reason: reason, ExitStatus: exit,
	}
	sess.ran(&e)
	if sess.device != nil {
		e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
	}
	s.record(e)
}
