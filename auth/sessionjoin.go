package auth

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net"
	"slices"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// joinModes are those that there are, the one without a say first.
var joinModes = policy.JoinModes()

// joinedBy finds the live session that a request wants to join, and holds it against the roles of whoever asks. What is not there and what is not for him
// get the same answer. hub is the UUID of the one that asks.
func (s *Server) joinedBy(r *api.AdmitRequest, roles []policy.Role, hub string, e *Event) (*session, error) {
	mode := cmp.Or(r.JoinMode, policy.JoinObserver)
	if !slices.Contains(joinModes, mode) {
		return nil, invalid("mode %q is not one of observer, peer and moderator", wire.Quote(mode, 32))
	}
	var found []*session
	rule := "no such session"
	for _, sess := range s.hubs.list() {
		if sess.kind != grant.Session.String() || sess.device == nil || sess.joins != [16]byte{} || !begins(sess.id, r.Join) {
			continue
		}
		dec := s.mayJoin(roles, sess, r.Way, mode)
		if rule = dec.Rule; dec.Allowed {
			found = append(found, sess)
		}
	}
	switch {
	case len(found) == 0:
		return nil, &refusal{reason: "join", rule: rule, message: fmt.Sprintf(
			"no live session \"%s\" that your roles let you join as %s; `hawser sessions ls` lists those you see, and a session's id takes 6 digits at least", wire.Quote(r.Join, 40), mode)}
	case len(found) > 1:
		return nil, &refusal{reason: "join", rule: "ambiguous", message: fmt.Sprintf("%d live sessions begin with %s; give more of the id", len(found), wire.Quote(r.Join, 40))}
	}
	target := found[0]
	e.Object = hex.EncodeToString(target.id[:])
	if ref := s.unjoinable(target); ref != nil {
		return nil, ref
	}
	// What follows tells of a session to somebody who may join it.
	switch ref := s.hiddenFromHubs(target, r.Way); {
	case ref != nil:
		return nil, ref
	case mode == policy.JoinModerator && target.user == e.User:
		return nil, &refusal{reason: "join", rule: "own session", message: "you started that session, and who moderates it is somebody else; as a peer you may join it"}
	case target.device.Target != nil && target.hub != hub:
		return nil, &refusal{reason: "join", rule: "another hub", message: fmt.Sprintf(
			"%s has no agent, so its screen is at the hub that logs in to it, %s: join it there, as `hawser join` does, or by `%s`", target.device.Name, target.hubName, s.joinCommand(target, mode))}
	case r.Way != policy.WayHub && r.Device != target.device.UUID:
		return nil, &refusal{reason: "join", rule: "another device", message: "that session is on " + target.device.Name + ", and so not here: connect to that device, or `" + s.joinCommand(target, mode) + "`"}
	case r.Way != policy.WayHub && r.Login != target.login:
		return nil, &refusal{reason: "join", rule: "another login", message: fmt.Sprintf("that session is of the login %s: connect as %s to join it", target.login, target.login)}
	}
	return target, nil
}

// hiddenFromHubs is why nobody joins a session by a hub: its owner came past the hubs, by roles that let no hub open a session for him there. A hub in wrong
// hands says who has come to it, and would let itself in. Nil: a hub could as well.
func (s *Server) hiddenFromHubs(target *session, way string) *refusal {
	if way != policy.WayHub || target.way == policy.WayHub {
		return nil
	}
	all, _ := s.view.policies()
	if owner, _ := s.view.user(target.user); owner != nil {
		roles := inForce(all, owner.Roles, s.rolesOf(target))
		for _, channel := range []string{policy.Shell, policy.Exec} {
			if policy.Evaluate(roles, target.device.policy(), target.login, channel, policy.WayHub).Allowed {
				return nil
			}
		}
	}
	return &refusal{reason: "join", rule: "past the hubs", message: fmt.Sprintf(
		"the roles of %s let no hub show that session: join it past the hubs, by your own certificate, with `hawser join %x`", target.user, target.id[:4])}
}

// unjoinable is why nobody can join a live session, whatever he may; nil: it can be joined.
func (s *Server) unjoinable(target *session) *refusal {
	known := len(target.opens) > 0 // of a session from before this service was started, the device alone knows who must be in it
	if target.channel != "" && target.channel != policy.Shell && target.channel != policy.Exec && known && len(target.moderators) == 0 {
		return &refusal{reason: "join", rule: "no terminal", message: "that session is " + target.channel + ": there is no screen to see"}
	}
	return nil
}

// joinCommand is how a session is joined with ssh alone, by its own hub.
func (s *Server) joinCommand(target *session, mode string) string {
	to := "hawser@" + target.hubName
	for _, h := range s.view.allHubs() {
		if h.UUID != target.hub || len(h.SSH) == 0 {
			continue
		}
		if host, port, err := net.SplitHostPort(h.SSH[0]); err == nil {
			if to = "hawser@" + host; port != "22" {
				to = "-p " + port + " " + to
			}
		}
	}
	command := "ssh -t " + to + " join " + hex.EncodeToString(target.id[:4])
	if mode != policy.JoinObserver {
		command += " --mode " + mode
	}
	return command
}

// mayJoin holds a live session against the roles of somebody who wants to join it, or has.
func (s *Server) mayJoin(roles []policy.Role, target *session, way, mode string) policy.Decision {
	q := policy.Joined{Login: target.login, Way: way, Mode: mode}
	if owner, _ := s.view.user(target.user); owner != nil {
		q.Roles = owner.Roles
	}
	return policy.MayJoin(roles, target.device.policy(), q)
}

// judgeJoin is why somebody may not be in another's session any more; empty: he may, or that has ended, which the device says.
func (s *Server) judgeJoin(roles []policy.Role, sess *session) *refusal {
	for _, target := range s.hubs.list() {
		if target.id != sess.joins || target.device == nil {
			continue
		}
		if ref := s.hiddenFromHubs(target, sess.way); ref != nil {
			return ref
		}
		if dec := s.mayJoin(roles, target, sess.way, sess.joinMode); !dec.Allowed {
			return &refusal{reason: "join", rule: dec.Rule, message: "your roles do not let you be in that session as " + sess.joinMode + " any more"}
		}
	}
	return nil
}

// hostedBy are the sessions of a user that others may be in.
func (s *Server) hostedBy(user string) map[[16]byte]bool {
	hosted := map[[16]byte]bool{}
	for _, sess := range s.hubs.list() {
		if sess.user == user && sess.kind == grant.Session.String() {
			hosted[sess.id] = true
		}
	}
	return hosted
}
