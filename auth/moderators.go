package auth

import (
	"fmt"
	"slices"

	"hawser/auth/grant"
	"hawser/auth/policy"
)

// requireModerators puts into a grant who must be present. Where nobody could be, nothing is granted.
func requireModerators(d *deviceRecord, access policy.Access, g *grant.Grant, sess *session) *refusal {
	if g.Kind == grant.Connection {
		return nil
	}
	if g.Kind == grant.Forwards {
		g.Moderators = policy.ModeratorsFor(access.Moderators, g.Channels...)
	} else { // in a session are those, too, without whom no forward opens
		g.Moderators = policy.ModeratorsFor(access.Moderators, access.Channels...)
	}
	sess.moderators, sess.opens = g.Moderators, g.Channels
	if len(g.Moderators) == 0 {
		return nil
	}
	if needed := policy.ModeratorsFor(g.Moderators, g.Channels...); d.Target != nil && len(needed) > 0 {
		return &refusal{reason: "moderators", rule: "server without an agent", message: fmt.Sprintf(
			"your roles require %s, and on %s there is no agent that could wait for them; a role without require_moderators opens it", needed[0].Words(needed[0].Count), d.Name)}
	}
	g.PresenceCheck = access.PresenceCheck
	return nil
}

// judgeModerators is why a live session may not go on with the moderators that it was granted with; nil: it may. Of one that a hub told of, after a restart of
// this service, they are not known, and the device goes on to see to them.
func judgeModerators(access policy.Access, sess *session) *refusal {
	channels := sess.opens
	if slices.Contains(channels, sess.channel) {
		channels = []string{sess.channel}
	}
	for _, m := range policy.ModeratorsFor(access.Moderators, channels...) {
		if !slices.ContainsFunc(sess.moderators, func(held policy.Moderators) bool { return held.Covers(m) }) {
			return &refusal{reason: "moderators", message: "your roles require " + m.Words(m.Count) + " in this session by now; open it again"}
		}
	}
	return nil
}
