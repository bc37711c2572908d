package hub

import (
	"slices"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/hub/front"
)

// limitsIn are those of auth's answer.
func limitsIn(a *api.Access) policy.SessionLimits {
	return policy.SessionLimits{
		Idle: limitOf(a.GetIdleTimeoutMs()), Duration: limitOf(a.GetMaxDurationMs()), EndWithCredential: a.GetEndWithCredential(),
	}
}

// limitOf reads milliseconds. What no time.Duration can hold, 290 years, is no limit.
func limitOf(ms uint64) time.Duration {
	if ms > uint64(1<<63-1)/uint64(time.Millisecond) {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

func timeOf(unixNano int64) time.Time {
	if unixNano == 0 {
		return time.Time{}
	}
	return time.Unix(0, unixNano)
}

// limitsNow is front.Config.Limits, by the policy that auth told last.
func (h *Hub) limitsNow(l front.Live, wanted string) (policy.SessionLimits, bool) {
	d := h.auth.Cache.Device(l.Device)
	if l.Device.IsZero() && wanted != "" {
		d = h.auth.Cache.ByName(wanted)
	}
	user, known := h.auth.Cache.User(l.Identity.User)
	if d == nil || !known {
		return policy.SessionLimits{}, false
	}
	access := d.Compiled.Access(heldRoles(user.Roles, l.Identity))
	if l.Login != "" {
		access = access.For(l.Login, policy.WayHub)
	}
	return access.Session, len(access.Channels) > 0 // with nothing allowed there are no limits either: what was granted stays until it is cut
}

// heldRoles are a person's roles now that his credential has too.
func heldRoles(now []string, id front.Identity) []string {
	if id.Certificate == nil {
		return now
	}
	return slices.DeleteFunc(slices.Clone(now), func(r string) bool { return !slices.Contains(id.Roles, r) })
}
