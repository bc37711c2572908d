package auth

import (
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
)

// limit puts into an answer how long what is admitted may last: for a session and forwards by the roles that count for its login on its
// device; for a connection by those for the device it is meant for, or by all where none is known.
func (s *Server) limit(res *api.Access, r *api.AdmitRequest, w who, access policy.Access) {
	l := access.Session
	if r.Device == "" {
		if wanted, ok := s.wantedAccess(r, w.roles); ok {
			l = wanted.Session
		} else {
			l = policy.LimitsOf(w.roles)
		}
	}
	res.IdleTimeoutMs, res.MaxDurationMs = milliseconds(l.Idle), milliseconds(l.Duration)
	if res.EndWithCredential = l.EndWithCredential; !w.until.IsZero() {
		res.CredentialExpiresUnixNano = w.until.UnixNano()
	}
}

// milliseconds rounds up: a limit is not to become none.
func milliseconds(d time.Duration) uint64 {
	if d <= 0 {
		return 0
	}
	return uint64((d + time.Millisecond - 1) / time.Millisecond)
}
