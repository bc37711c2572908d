package policy

import (
	"fmt"
	"time"

	"hawser/auth/internal/tlv"
)

// SessionLimits are what roles say of how long a session, or a connection, may last. The zero value sets no limit.
type SessionLimits struct {
	// Idle is how long nothing may come from the person, or where there is no terminal pass in either direction. 0: for ever.
	Idle time.Duration
	// Duration is how long it may last at all. 0: for ever.
	Duration time.Duration
	// EndWithCredential ends it when what the person logged in with expires.
	EndWithCredential bool
}

// minLimit bounds idle_timeout and max_session_duration from below: less would end what has not begun.
const minLimit = time.Second

// Merge is what holds for a person to whom both apply: the shorter of each.
func (l SessionLimits) Merge(o SessionLimits) SessionLimits {
	return SessionLimits{shorter(l.Idle, o.Idle), shorter(l.Duration, o.Duration), l.EndWithCredential || o.EndWithCredential}
}

func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (o *Options) sessionLimits() SessionLimits {
	return SessionLimits{o.IdleTimeout, o.MaxSessionDuration, o.DisconnectExpiredCert}
}

// LimitsOf are the limits of all of roles together: for where no device is known, as for a connection to the hub itself.
func LimitsOf(roles []Role) (l SessionLimits) {
	for i := range roles {
		l = l.Merge(roles[i].Options.sessionLimits())
	}
	return l
}

// limit validates one.
func (v *validator) limit(path string, d time.Duration) {
	if d != 0 && d < minLimit {
		v.add(path, "0, which is no limit, or at least %s", durationText(minLimit))
	}
}

// appendLimit writes a limit, rounded up to whole milliseconds: rounded down it could become none.
func appendLimit(b []byte, tag uint8, d time.Duration) []byte {
	if d <= 0 {
		return b
	}
	return tlv.AppendUint(b, tag, uint64((d+time.Millisecond-1)/time.Millisecond))
}

// maxLimit is the longest limit in milliseconds that is a time.Duration.
const maxLimit = uint64(1<<63-1) / uint64(time.Millisecond)

func decodeLimit(v []byte) (time.Duration, error) {
	ms, err := tlv.Uint(v)
	if err == nil && ms > maxLimit {
		err = fmt.Errorf("limit: %w", tlv.ErrLength)
	}
	return time.Duration(ms) * time.Millisecond, err
}
