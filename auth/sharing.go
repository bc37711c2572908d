package auth

import (
	"cmp"
	"context"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

type sharingService struct{ *Server }

// ListJoinable lists what the caller may join, and what he was invited to.
func (s sharingService) ListJoinable(ctx context.Context, req *connect.Request[api.ListJoinableRequest]) (*connect.Response[api.ListJoinableResponse], error) {
	c := callerOf(ctx)
	return connect.NewResponse(&api.ListJoinableResponse{Sessions: s.joinableBy(c.id.Name, c.roles, req.Msg.Id)}), nil
}

// ListJoinableOf does so for a hub, of whom it authenticated.
func (s sharingService) ListJoinableOf(ctx context.Context, req *connect.Request[api.ListJoinableOfRequest]) (*connect.Response[api.ListJoinableResponse], error) {
	r := req.Msg
	client, err := netip.ParseAddrPort(r.ClientAddress)
	if err != nil {
		return nil, invalid("client address %q is not ip:port", wire.Quote(r.ClientAddress, 64))
	}
	if !s.admits.take(callerOf(ctx).id.UUID, s.cfg.Now()) {
		return nil, connect.NewError(connect.CodeResourceExhausted, errTooOften)
	}
	w, err := s.authenticate(&api.AdmitRequest{User: r.User, PublicKey: r.PublicKey, Certificate: r.Certificate}, client)
	if err == nil {
		sub := subjectOf(r.PublicKey, r.Certificate, client.Addr())
		sub.User, sub.Roles = w.user.Name, w.user.Roles
		err = refusedBy(s.lockedOut(sub))
	}
	if err != nil {
		return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "%s", err.Error())
	}
	all, _ := s.view.policies()
	roles := inForce(all, w.user.Roles, roleNames(w.roles))
	return connect.NewResponse(&api.ListJoinableResponse{Sessions: s.joinableBy(w.user.Name, roles, r.Id)}), nil
}

// joinableBy are the live sessions that somebody may join or was invited to: the latter first, then the oldest. A prefix, where given, has 6 digits at least.
func (s *Server) joinableBy(name string, roles []policy.Role, prefix string) []*api.JoinableSession {
	now, list := s.cfg.Now(), s.hubs.list()
	some := slices.ContainsFunc(roles, func(r policy.Role) bool { return len(r.Allow.Join) > 0 })
	guests := make(map[[16]byte]uint32)
	for _, sess := range list {
		if sess.joins != [16]byte{} {
			guests[sess.joins]++
		}
	}
	var out []*api.JoinableSession
	for _, sess := range list {
		if !sess.hosts() || prefix != "" && !begins(sess.id, prefix) || s.unjoinable(sess) != nil {
			continue
		}
		invited, isInvited := s.invited.get(sess.id, name, now)
		j := &api.JoinableSession{
			Id: sess.id[:], User: sess.user, Device: sess.device.Name, DeviceUuid: sess.device.UUID, Login: sess.login, Way: sess.way, Channel: sess.channel,
			StartUnixNano: sess.start.UnixNano(), Recorded: sess.recorded, Hub: sess.hubName, Guests: guests[sess.id], Behind: sess.device.Target != nil,
		}
		if some {
			j.ModesByHub, j.ModesEndToEnd = s.modesOf(name, roles, sess, policy.WayHub), s.modesOf(name, roles, sess, policy.WayEndToEnd)
		}
		if !isInvited && len(j.ModesByHub)+len(j.ModesEndToEnd) == 0 {
			continue
		}
		if isInvited {
			j.Invitation = &api.Invitation{By: invited.by, Mode: invited.mode, UntilUnix: invited.until.Unix()}
		}
		if h := s.view.hub(sess.hub); h != nil {
			j.HubSshAddresses = h.SSH
		}
		out = append(out, j)
	}
	slices.SortStableFunc(out, func(a, b *api.JoinableSession) int {
		if (a.Invitation != nil) != (b.Invitation != nil) {
			return cmp.Compare(b.Invitation.GetUntilUnix(), a.Invitation.GetUntilUnix())
		}
		return cmp.Compare(a.StartUnixNano, b.StartUnixNano)
	})
	return out[:min(len(out), maxJoinable)]
}

// hosts tells whether it is a session that others may be in: one of its own, on a device.
func (s *session) hosts() bool {
	return s.kind == grant.Session.String() && s.device != nil && s.joins == [16]byte{}
}

// modesOf are those in which somebody may join; nobody moderates himself.
func (s *Server) modesOf(name string, roles []policy.Role, target *session, way string) []string {
	if s.hiddenFromHubs(target, way) != nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(joinModes), func(mode string) bool {
		return mode == policy.JoinModerator && name == target.user || !s.mayJoin(roles, target, way, mode).Allowed
	})
}

// shared is a live session that the caller has something to say in, by the beginning of its id. What is not there and what is not for him get the same answer.
func (s *Server) shared(c caller, id string, guestsToo bool) (*session, error) {
	all := policy.MayAdmin(c.roles, "session", "delete").Allowed
	list := s.hubs.list()
	in := make(map[[16]byte]bool) // those he is a guest of
	if guestsToo {
		for _, sess := range list {
			if sess.user == c.id.Name && sess.joins != [16]byte{} {
				in[sess.joins] = true
			}
		}
	}
	var found []*session
	for _, sess := range list {
		if sess.hosts() && begins(sess.id, id) && (all || sess.user == c.id.Name || in[sess.id]) {
			found = append(found, sess)
		}
	}
	switch {
	case len(found) > 1:
		return nil, invalid("%d sessions begin with %s; give more of the id", len(found), wire.Quote(id, 40))
	case len(found) == 0 && guestsToo:
		return nil, notFound("no live session %q that is yours, or that you are in; `hawser sessions ls` lists them, and 6 digits of an id are enough", wire.Quote(id, 40))
	case len(found) == 0:
		return nil, notFound("no live session %q of yours; `hawser sessions ls --user me` lists them, and 6 digits of an id are enough", wire.Quote(id, 40))
	}
	if ref := s.unjoinable(found[0]); ref != nil {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%s", ref.message)
	}
	if !s.shares.take(c.id.Name, s.cfg.Now()) {
		return nil, connect.NewError(connect.CodeResourceExhausted, errTooOften)
	}
	return found[0], nil
}

// rules tells whether the caller decides who is in the session.
func (s *Server) rules(c caller, sess *session) bool {
	return sess.user == c.id.Name || policy.MayAdmin(c.roles, "session", "delete").Allowed
}

func sharingEvent(kind string, c caller, sess *session) Event {
	return Event{
		Type: kind, Actor: c.String(), Source: c.addr, Via: c.via, Session: hex.EncodeToString(sess.id[:]),
		Device: sess.device.Name, DeviceUUID: sess.device.UUID, Login: sess.login, Hub: sess.hubName,
	}
}

// InviteToSession keeps an invitation. A user who is not there is answered as one who may not.
func (s sharingService) InviteToSession(ctx context.Context, req *connect.Request[api.InviteToSessionRequest]) (*connect.Response[api.InviteToSessionResponse], error) {
	c, r, now := callerOf(ctx), req.Msg, s.cfg.Now()
	mode, life := cmp.Or(r.Mode, policy.JoinObserver), time.Duration(r.TtlSeconds)*time.Second
	if !slices.Contains(joinModes, mode) {
		return nil, invalid("mode %q is not one of observer, peer and moderator", wire.Quote(mode, 32))
	}
	if r.TtlSeconds > uint64(maxInviteLife/time.Second) {
		return nil, invalid("an invitation is good for a day at most")
	}
	if r.User == "" || len(r.User) > maxText {
		return nil, invalid("say who is invited")
	}
	sess, err := s.shared(c, r.Id, true)
	if err != nil {
		return nil, err
	}
	if sess.user == r.User {
		return nil, invalid("that is %s's own session, which needs no invitation", wire.Quote(r.User, 64))
	}
	i := invitation{user: r.User, by: c.id.Name, mode: mode, until: now.Add(cmp.Or(life, inviteLife))}
	res := &api.InviteToSessionResponse{
		Id: sess.id[:], Owner: sess.user, Device: sess.device.Name, Login: sess.login, Mode: mode, UntilUnix: i.until.Unix(),
	}
	e := sharingEvent("session.invite", c, sess)
	e.User, e.Object = clip(r.User), mode
	if u, _ := s.view.user(r.User); u != nil {
		all, _ := s.view.policies()
		roles := inForce(all, u.Roles, u.Roles)
		res.May = slices.ContainsFunc(joinWays, func(way string) bool { return s.mayJoin(roles, sess, way, mode).Allowed })
		if !s.invited.add(sess.id, i, now, s.hubs.live) {
			return nil, connect.NewError(connect.CodeResourceExhausted, errManyInvited)
		}
	}
	if !res.May {
		e.Reason = "roles"
	}
	s.record(e)
	if s.rules(c, sess) {
		s.hubs.tell(sess, &api.Tell{SessionId: sess.id[:], What: wire.TellLetIn, User: r.User}) // he may have been put out
	}
	if c.id.Name != sess.user {
		s.hubs.tell(sess, &api.Tell{SessionId: sess.id[:], What: wire.TellAll, Text: c.id.Name + " invites " + wire.Quote(r.User, 64) + " as " + mode})
	}
	return connect.NewResponse(res), nil
}

// MessageSession shows a line to all who are in a session.
func (s sharingService) MessageSession(ctx context.Context, req *connect.Request[api.MessageSessionRequest]) (*connect.Response[api.MessageSessionResponse], error) {
	c, r := callerOf(ctx), req.Msg
	text := strings.TrimSpace(r.Text)
	switch {
	case text == "":
		return nil, invalid("the message is empty")
	case len(text) > maxMessage:
		return nil, invalid("a message has %d bytes at most", maxMessage)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }):
		return nil, invalid("a message is one line of text, without controls")
	}
	sess, err := s.shared(c, r.Id, true)
	if err != nil {
		return nil, err
	}
	if !s.hubs.tell(sess, &api.Tell{SessionId: sess.id[:], What: wire.TellAll, Text: c.id.Name + ": " + text}) {
		return nil, hubAway(sess, "nobody was told")
	}
	e := sharingEvent("session.message", c, sess)
	e.User, e.Message = sess.user, text
	s.record(e)
	return connect.NewResponse(&api.MessageSessionResponse{Id: sess.id[:]}), nil
}

// PutOutOfSession ends the stay of a guest: the device does, and tells the others. Who has not gone soon after is ended like any session, which says less.
func (s sharingService) PutOutOfSession(ctx context.Context, req *connect.Request[api.PutOutOfSessionRequest]) (*connect.Response[api.PutOutOfSessionResponse], error) {
	c, r := callerOf(ctx), req.Msg
	sess, err := s.shared(c, r.Id, false)
	if err != nil {
		return nil, err
	}
	guests := slices.DeleteFunc(s.hubs.list(), func(g *session) bool { return g.joins != sess.id || g.user != r.User })
	if len(guests) == 0 {
		return nil, notFound("%q is not in that session; `hawser sessions ls` shows who is", wire.Quote(r.User, 64))
	}
	s.invited.take(sess.id, r.User)
	reason := "put out by " + c.id.Name
	for _, g := range guests {
		e := sharingEvent("session.put-out", c, sess)
		e.User, e.Object = g.user, hex.EncodeToString(g.id[:])
		s.record(e)
	}
	if s.hubs.tell(sess, &api.Tell{SessionId: sess.id[:], What: wire.TellOut, User: r.User, Text: reason}) {
		s.waitGone(ctx, guests)
	}
	for _, g := range guests {
		if s.hubs.of(g.id) != nil {
			s.hubs.kill(g, reason)
		}
	}
	return connect.NewResponse(&api.PutOutOfSessionResponse{Id: sess.id[:], Guests: uint32(len(guests))}), nil
}

// waitGone waits until sessions have ended, for outWait at most.
func (s *Server) waitGone(ctx context.Context, list []*session) {
	ctx, cancel := context.WithTimeout(ctx, outWait)
	defer cancel()
	tick := time.NewTicker(outLook)
	defer tick.Stop()
	for slices.ContainsFunc(list, func(g *session) bool { return s.hubs.of(g.id) != nil }) {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		case <-ctx.Done():
			return
		}
	}
}

func hubAway(sess *session, what string) error {
	return api.NewError(connect.CodeUnavailable, api.Code_CODE_UNSPECIFIED, "hub %s, which serves that session, is not connected: %s; try again when `hawser hub ls` has it up", sess.hubName, what)
}
