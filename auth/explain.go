package auth

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

type policyService struct{ *Server }

// asked are the roles in force of the user that is asked about, who is the caller where none is named. About others may ask
// who may get users; to the rest another user is as unknown as one that never was.
func (s policyService) asked(c caller, name string) (*userRecord, []policy.Role, error) {
	if name == "" {
		name = c.id.Name
	}
	if name != c.id.Name {
		if err := s.mayAdmin(c, "user", "get"); err != nil {
			return nil, nil, err
		}
	}
	u, roles := s.view.user(name)
	if u == nil {
		return nil, nil, notFound("no user %q; `hawser user ls` lists them", wire.Quote(name, 64))
	}
	return u, roles, nil
}

// askedDevice finds a device for a question about a user. Who asks about himself learns of no device that he does not see.
func (s policyService) askedDevice(c caller, name string) (*deviceRecord, error) {
	d, _, err := s.visibleDevice(c, name)
	return d, err
}

// ExplainAccess says what a user may do on a device, and by which rule.
func (s policyService) ExplainAccess(
	ctx context.Context, req *connect.Request[api.ExplainAccessRequest],
) (*connect.Response[api.ExplainAccessResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if r.Channel != "" && !slices.Contains(policy.Channels(), r.Channel) {
		return nil, invalid("channel %q is not one of %s", wire.Quote(r.Channel, 32), strings.Join(policy.Channels(), ", "))
	}
	if r.Way != "" && !slices.Contains(policy.Ways(), r.Way) {
		return nil, invalid("way %q is not one of %s", wire.Quote(r.Way, 32), strings.Join(policy.Ways(), ", "))
	}
	u, roles, err := s.asked(c, r.User)
	if err != nil {
		return nil, err
	}
	d, err := s.askedDevice(c, r.Device)
	if err != nil {
		return nil, err
	}
	dev, q := d.policy(), policy.Question{Login: r.Login, Channel: r.Channel, Way: r.Way}
	res := &api.ExplainAccessResponse{User: u.Name, Device: d.Name, DeviceUuid: d.UUID, Roles: roleNames(roles)}
	for _, l := range policy.Explain(roles, dev, q) {
		res.Lines = append(res.Lines, &api.RoleLine{Role: l.Role, Effect: l.Effect, Text: l.Text})
	}
	compiled := policy.Compile(0, roles, dev)
	access := compiled.Access(res.Roles)
	if q.Login == "" {
		res.Reach = reachOf(u.Name, d, narrowed(policy.Review(roles, dev), q))
		res.Allowed = len(res.Reach) > 0
	} else {
		for _, v := range verdicts(compiled, res.Roles, q) {
			res.Verdicts = append(res.Verdicts, v)
			res.Allowed = res.Allowed || v.Allowed
			if v.Allowed {
				access = access.For(q.Login, v.Way)
			}
		}
	}
	if res.Allowed {
		res.Demands = &api.Demands{
			Record: access.Record, RecordStdin: access.RecordStdin, Mfa: access.MFA(), Credentials: access.Credentials(), LockMode: access.LockMode(), ForwardTo: access.ForwardTo,
			SessionTtlMs: uint64(policy.SessionTTL(roles, s.cfg.UserTTL).Milliseconds()), DetachedLifeMs: uint64(access.DetachedLife.Milliseconds()),
			IdleTimeoutMs: milliseconds(access.Session.Idle), MaxSessionDurationMs: milliseconds(access.Session.Duration),
			DisconnectExpiredCert: access.Session.EndWithCredential,
		}
		for _, m := range access.Moderators {
			res.Notes = append(res.Notes, fmt.Sprintf("needs %s for %s, on_leave: %s", m.Words(m.Count), strings.Join(m.Channels, ", "), m.OnLeave))
		}
	}
	if denied := s.lockedOut(lock.Subject{User: u.Name, Roles: u.Roles, Login: q.Login, Device: d.UUID}); denied != nil {
		res.Notes = append(res.Notes, "refused whatever the roles say: "+denied.Rule())
	}
	res.Notes = append(res.Notes, s.notes(u, roles)...)
	if !res.Allowed && policy.MayAdmin(c.roles, "role", "list").Allowed {
		all, _ := s.view.policies()
		for _, one := range all {
			if !slices.Contains(res.Roles, one.Name) && allowsSome(append(slices.Clone(roles), one), dev, q) {
				res.Would = append(res.Would, one.Name)
			}
		}
	}
	return connect.NewResponse(res), nil
}

// verdicts decides each channel and way asked for.
func verdicts(c policy.Compiled, roles []string, q policy.Question) []*api.Verdict {
	var list []*api.Verdict
	for _, channel := range orAll(q.Channel, policy.Channels()) {
		for _, way := range orAll(q.Way, policy.Ways()) {
			d := c.Evaluate(roles, q.Login, channel, way)
			list = append(list, &api.Verdict{Channel: channel, Way: way, Allowed: d.Allowed, Rule: d.Rule})
		}
	}
	return list
}

func orAll(one string, all []string) []string {
	if one != "" {
		return []string{one}
	}
	return all
}

func allowsSome(roles []policy.Role, dev policy.Device, q policy.Question) bool {
	if q.Login == "" {
		return len(narrowed(policy.Review(roles, dev), q)) > 0
	}
	return slices.ContainsFunc(verdicts(policy.Compile(0, roles, dev), roleNames(roles), q), func(v *api.Verdict) bool { return v.Allowed })
}

// narrowed keeps what concerns the channel and way asked for.
func narrowed(list []policy.Reach, q policy.Question) []policy.Reach {
	keep := func(of []string, one string) []string {
		if one == "" {
			return of
		}
		if slices.Contains(of, one) {
			return []string{one}
		}
		return nil
	}
	var out []policy.Reach
	for _, r := range list {
		r.Channels, r.Ways = keep(r.Channels, q.Channel), keep(r.Ways, q.Way)
		if len(r.Channels) > 0 && len(r.Ways) > 0 {
			out = append(out, r)
		}
	}
	return out
}

// notes are what else a reader of an explanation must know.
func (s *Server) notes(u *userRecord, roles []policy.Role) []string {
	var notes []string
	for _, name := range u.Roles {
		if !slices.ContainsFunc(roles, func(r policy.Role) bool { return r.Name == name }) {
			notes = append(notes, "role "+wire.Quote(name, 64)+" does not exist: it counts for nothing")
		}
	}
	for _, use := range s.capUse(u.Name) {
		notes = append(notes, fmt.Sprintf("%s: %d at once over the cluster, %d are open; `hawser sessions ls --user %s` shows them", use.Cap, use.Max, use.Held, u.Name))
	}
	for _, r := range s.view.givenRoles() {
		if slices.ContainsFunc(roles, func(held policy.Role) bool { return held.Name == r.Name }) {
			for _, p := range policy.Pending(r) {
				notes = append(notes, "role "+r.Name+": "+p)
			}
		}
	}
	return notes
}

// ReviewAccess lists what a user reaches, or who reaches a device.
func (s policyService) ReviewAccess(
	ctx context.Context, req *connect.Request[api.ReviewAccessRequest],
) (*connect.Response[api.ReviewAccessResponse], error) {
	c, r := callerOf(ctx), req.Msg
	res := &api.ReviewAccessResponse{}
	if r.Device == "" {
		u, roles, err := s.asked(c, r.User)
		if err != nil {
			return nil, err
		}
		for _, d := range s.view.allDevices() {
			res.Reach = append(res.Reach, reachOf(u.Name, d, policy.Review(roles, d.policy()))...)
		}
		return connect.NewResponse(res), nil
	}
	d, err := s.askedDevice(c, r.Device)
	if err != nil {
		return nil, err
	}
	var users []string
	if r.User != "" {
		users = []string{r.User}
	} else {
		if err := s.mayAdmin(c, "user", "list"); err != nil {
			return nil, err
		}
		for _, u := range s.view.allUsers() {
			users = append(users, u.Name)
		}
	}
	for _, name := range users {
		u, roles, err := s.asked(c, name)
		if err != nil {
			if r.User == "" {
				continue // removed meanwhile
			}
			return nil, err
		}
		res.Reach = append(res.Reach, reachOf(u.Name, d, policy.Review(roles, d.policy()))...)
	}
	return connect.NewResponse(res), nil
}

func reachOf(user string, d *deviceRecord, list []policy.Reach) []*api.Reach {
	out := make([]*api.Reach, len(list))
	for i, r := range list {
		out[i] = &api.Reach{
			User: user, Device: d.Name, DeviceUuid: d.UUID, Role: r.Role, Logins: r.Logins, Except: r.Except, Channels: r.Channels, Ways: r.Ways,
			ForwardTo: r.ForwardTo,
		}
	}
	return out
}

// refuseWay says that a way in is not open to a person who has another, and how that one is taken. all is what his roles allow
// on d, hub the one he came to; nil: no other way is open for this login and channel, of which either may be empty.
func (s *Server) refuseWay(d *deviceRecord, all policy.Access, way, login, channel, hub string) *refusal {
	var ways []string
	for _, w := range all.Ways {
		narrow := all
		if login != "" {
			narrow = all.For(login, w)
		}
		if w != way && len(narrow.Channels) > 0 && (channel == "" || slices.Contains(narrow.Channels, channel)) {
			ways = append(ways, w)
		}
	}
	at := hub
	for _, h := range s.view.allHubs() {
		if h.Name == hub && len(h.SSH) > 0 {
			at = h.SSH[0]
		}
	}
	command := policy.WayIn(ways, d.Name, login, at)
	if command == "" {
		return nil
	}
	what := ""
	if channel != "" {
		what = channel + " by "
	}
	return &refusal{
		reason:  "way",
		rule:    "allowed by " + strings.Join(ways, ", "),
		message: fmt.Sprintf("your roles do not allow %sthe way %s to %s; this way works: %s", what, way, d.Name, command),
	}
}
