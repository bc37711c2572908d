package auth

import (
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// KillSession has hubs end one session, or all of a user or on a device. His own everybody may end: they may be what keeps him out. So he may those of guests
// in one of his own.
func (s adminService) KillSession(ctx context.Context, req *connect.Request[api.KillSessionRequest]) (*connect.Response[api.KillSessionResponse], error) {
	c, r := callerOf(ctx), req.Msg
	may := policy.MayAdmin(c.roles, "session", "delete")
	reason := clip(r.Reason)
	if reason == "" {
		reason = "ended by " + c.id.Name
	}
	var match func(*session) bool
	all := &api.Kill{Reason: reason}
	e := Event{Type: "admin.session.kill", Actor: c.String(), Source: c.addr, Via: c.via, Reason: reason}
	named := 0
	if r.Id != "" {
		named++
		hosted := s.hostedBy(c.id.Name)
		match = func(sess *session) bool {
			return begins(sess.id, r.Id) && (may.Allowed || sess.user == c.id.Name || hosted[sess.joins])
		}
	}
	if r.User != "" {
		named++
		if all.User = r.User; r.User == "me" {
			all.User = c.id.Name
		}
		if !may.Allowed && all.User != c.id.Name {
			return nil, s.mayAdmin(c, "session", "delete")
		}
		e.User = clip(all.User)
		match = func(sess *session) bool { return sess.user == all.User }
	}
	if r.Device != "" {
		named++
		if !may.Allowed {
			return nil, s.mayAdmin(c, "session", "delete")
		}
		d := s.view.device(r.Device)
		if d == nil {
			return nil, notFound("no device %q; `hawser ls` lists them", wire.Quote(r.Device, 64))
		}
		all.DeviceUuid, e.Device, e.DeviceUUID = d.UUID, d.Name, d.UUID
		match = func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID }
	}
	if named != 1 {
		return nil, invalid("name one of: a session by its id, a user, a device")
	}
	var found []*session
	for _, sess := range s.hubs.list() {
		if match(sess) {
			found = append(found, sess)
		}
	}
	res := &api.KillSessionResponse{}
	if r.Id != "" {
		switch {
		case len(found) == 0:
			return nil, notFound("no open session %q; `hawser sessions ls` lists them", wire.Quote(r.Id, 40))
		case len(found) > 1:
			return nil, invalid("%d sessions begin with %s; give more of the id", len(found), wire.Quote(r.Id, 40))
		}
		res.Id = found[0].id[:]
	} else {
		if r.User != "" && len(found) == 0 {
			if u, _ := s.view.user(all.User); u == nil {
				return nil, notFound("no user %q; `hawser user ls` lists them", wire.Quote(r.User, 64))
			}
		}
		s.hubs.killAll(all) // what is only being opened too, and forwards, which nobody here knows of
	}
	away := make(map[string]struct{})
	for _, sess := range found {
		res.Ids = append(res.Ids, sess.id[:])
		e := e
		e.Session, e.User = hex.EncodeToString(sess.id[:]), sess.user
		if sess.device != nil {
			e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
		}
		s.record(e)
		if up, _ := s.hubs.up(sess.hub); r.Id != "" || !up {
			if !s.hubs.kill(sess, reason) {
				away[sess.hubName] = struct{}{}
			}
		}
	}
	if len(found) == 0 {
		s.record(e)
	}
	res.HubsAway = slices.Sorted(maps.Keys(away))
	if r.Id != "" && len(away) > 0 {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("hub %s is not connected; the session ends when it is", found[0].hubName))
	}
	return connect.NewResponse(res), nil
}
