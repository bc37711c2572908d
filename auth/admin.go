package auth

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
)

type adminService struct{ *Server }

func (s *Server) killWhere(reason string, match func(*session) bool) {
	for _, sess := range s.hubs.list() {
		if match(sess) {
			s.hubs.kill(sess, reason)
		}
	}
}

// ListSessions lists open sessions and connections, as the caller's roles allow.
func (s adminService) ListSessions(ctx context.Context, req *connect.Request[api.ListSessionsRequest]) (*connect.Response[api.ListSessionsResponse], error) {
	c, res := callerOf(ctx), &api.ListSessionsResponse{}
	of, list := req.Msg.User, s.seen(c)
	switch of {
	case "":
		res.Caps = s.capUse(c.id.Name)
	case "me", c.id.Name: // whoever is refused for what he has open may see that
		of, list = c.id.Name, s.hubs.list()
		res.Caps = s.capUse(of)
	default:
		if policy.SessionScope(c.roles) == policy.ScopeAll {
			res.Caps = s.capUse(of)
		}
	}
	hosted := s.hostedBy(c.id.Name)
	told := map[string]bool{c.id.Name: of == "", of: of != ""} // whose caps are in the answer
	for _, sess := range list {
		if of != "" && sess.user != of && !(of == c.id.Name && hosted[sess.joins]) {
			continue
		}
		if req.Msg.AllCaps && !told[sess.user] {
			told[sess.user] = true
			res.Caps = append(res.Caps, s.capUse(sess.user)...)
		}
		out := &api.Session{
			Id: sess.id[:], ConnectionId: sess.connection[:], Kind: sess.kind, User: sess.user, Login: sess.login, Way: sess.way, Channel: sess.channel,
			Command: sess.command, ClientAddress: sess.client, Hub: sess.hubName, StartUnixNano: sess.start.UnixNano(), Recorded: sess.recorded,
			Roles: s.rolesOf(sess), BytesIn: sess.in, BytesOut: sess.out, LastActivityUnixNano: unixNanoOf(sess.active),
		}
		if sess.joins != [16]byte{} {
			out.Joins, out.JoinMode = sess.joins[:], sess.joinMode
		}
		if !sess.detached.IsZero() {
			out.DetachedSinceUnixNano = sess.detached.UnixNano()
		} else if sess.device != nil {
			// Its stream may stand on a tunnel whose other end has fallen silent: nothing is heard of the device.
			if _, last, online := s.hubs.device(sess.device.UUID); !online && !last.At.IsZero() {
				out.DetachedSinceUnixNano = last.At.UnixNano()
			}
		}
		if up, seen := s.hubs.up(sess.hub); !up && !seen.IsZero() {
			out.HubGoneSinceUnixNano = seen.UnixNano()
		}
		if sess.device != nil {
			out.Device, out.DeviceUuid, out.DeviceAddress = sess.device.Name, sess.device.UUID, s.addressOf(sess.device)
		}
		res.Sessions = append(res.Sessions, out)
	}
	return connect.NewResponse(res), nil
}

func (s *Server) seen(c caller) []*session {
	scope := policy.SessionScope(c.roles)
	hosted := s.hostedBy(c.id.Name)
	return slices.DeleteFunc(s.hubs.list(), func(sess *session) bool {
		return scope != "all" && (scope != "own" || sess.user != c.id.Name && !hosted[sess.joins])
	})
}

// rolesOf are the roles by which the user of a session is there: his, and those of the certificate he came with.
func (s *Server) rolesOf(sess *session) []string {
	user, _ := s.view.user(sess.user)
	if user == nil {
		return nil
	}
	if sess.proof.Roles == nil {
		return user.Roles
	}
	return slices.DeleteFunc(slices.Clone(user.Roles), func(r string) bool { return !slices.Contains(sess.proof.Roles, r) })
}

// addressOf is where a device's tunnel comes from, or where a server without an agent is.
func (s *Server) addressOf(d *deviceRecord) string {
	if d.Target != nil {
		return d.Target.Address
	}
	if tunnels, _, online := s.hubs.device(d.UUID); online && len(tunnels) > 0 {
		return tunnels[0].Observed
	}
	return ""
}

func unixNanoOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
