package ca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// Phase is how far the replacement of an authority is.
type Phase uint8

// The phases, in their order. Their numbers are stored and must not change.
const (
	// PhaseStandby: there is one authority of the kind.
	PhaseStandby Phase = 0
	// PhaseInit: its successor is trusted and signs nothing yet, so that everybody knows it before the first thing it signs.
	PhaseInit Phase = 1
	// PhaseUpdateClients: the successor signs for users and devices, grants and time; hubs, auth and host keys still show the old one.
	PhaseUpdateClients Phase = 2
	// PhaseUpdateServers: the successor signs everything; the old one is still trusted.
	PhaseUpdateServers Phase = 3
	// PhaseRollback: the old one signs everything again; the successor is still trusted, for what it had signed.
	PhaseRollback Phase = 4

	phases = 4
)

var phaseNames = [phases + 1]string{"standby", "init", "update-clients", "update-servers", "rollback"}

func (p Phase) String() string {
	if p > phases {
		return "unknown phase"
	}
	return phaseNames[p]
}

// Rotation is how far the replacement of one kind's authority is.
type Rotation struct {
	Phase Phase
	Since time.Time     // when the phase began; zero in standby
	Until time.Time     // when the next begins by itself; zero: when somebody says so
	Grace time.Duration // of the whole rotation
	// Compromised: the old key is in another's hands. There is no cross-certificate, and nothing of the old one is kept.
	Compromised bool
}

// Retired is an authority that signs nothing any more. Its private key is gone.
type Retired struct {
	Kind   Kind
	At     time.Time
	Public ed25519.PublicKey
	// Certificate is the tunnel CA's, nil for other kinds; Cross certifies the CA that took its place, nil where none did or may vouch.
	Certificate, Cross []byte
	Compromised        bool
}

// Errors of rotations. After one the Set is as it was.
var (
	ErrRotating    = errors.New("is being rotated already")
	ErrNotRotating = errors.New("is not being rotated")
	ErrNoRollback  = errors.New("cannot be rolled back")
	ErrGrace       = errors.New("grace is out of bounds")
)

// RotateOptions say how a rotation goes.
type RotateOptions struct {
	Now time.Time
	// Grace is what the three phases take together, and devices spread their renewals over their part of it. Between MinGrace and MaxGrace.
	Grace time.Duration
	// Manual: each phase lasts until Advance.
	Manual bool
	// Compromised makes the tunnel CA's rotation take Handover in all, whatever Grace and Manual say, and every other's no time.
	Compromised bool
}

// Bounds of a rotation.
const (
	MinGrace = 3 * time.Second
	MaxGrace = 90 * 24 * time.Hour
	// Handover is how long parts that are connected have to take over from a compromised tunnel CA: what cannot be told to them over
	// a connection that stands needs a new token each. Two thirds are for devices, the rest for hubs.
	Handover = 30 * time.Second
)

// slot is one kind's authority, and what takes its place.
type slot struct {
	Rotation
	current, next *Authority
	cross         []byte // of the tunnel CA: next, certified by current
}

// setState is what a Set holds at a moment. It is never changed.
type setState struct {
	cluster  string
	revision uint64 // of the Trust it makes
	byKind   [kinds + 1]slot
	retired  []Retired // newest first
	secret   [32]byte  // see Set.SecretKey
}

// clone copies what a change of phase replaces, and raises the revision: to the time in seconds at least, so that it grows over what
// others hold even after a backup was restored.
func (s *setState) clone(now time.Time) *setState {
	c := *s
	c.retired = slices.Clone(s.retired)
	c.revision = max(s.revision+1, uint64(max(0, now.Unix())))
	return &c
}

// signer is who signs for devices and users, or where servers is set for hubs and auth; it matters to the tunnel CA alone.
func (s *setState) signer(k Kind, servers bool) *Authority {
	e := &s.byKind[k]
	from := PhaseUpdateClients
	if servers || k == HubHostCA || k == DeviceHostCA || k == TargetCA {
		from = PhaseUpdateServers
	}
	if e.next != nil && e.Phase != PhaseRollback && e.Phase >= from {
		return e.next
	}
	return e.current
}

// list is what is trusted of a kind: what signs for users and devices first.
func (s *setState) list(k Kind) []*Authority {
	e := &s.byKind[k]
	switch {
	case e.next == nil:
		return []*Authority{e.current}
	case s.signer(k, false) == e.next:
		return []*Authority{e.next, e.current}
	}
	return []*Authority{e.current, e.next}
}

// crosses are the certificates that lead from the tunnel CAs of now to those they replaced, newest first, at most max.
func (s *setState) crosses(limit int) [][]byte {
	var out [][]byte
	if c := s.byKind[TunnelCA].cross; c != nil {
		out = append(out, c)
	}
	for _, r := range s.retired {
		if r.Kind == TunnelCA && r.Cross != nil {
			out = append(out, r.Cross)
		}
	}
	return out[:min(len(out), limit)]
}

// Rotation returns how far a kind's replacement is.
func (s *Set) Rotation(k Kind) Rotation { return s.state().byKind[k].Rotation }

// Next returns the authority that is to take a kind's place, nil where there is none.
func (s *Set) Next(k Kind) *Authority { return s.state().byKind[k].next }

// Retired returns those that sign nothing any more, newest first.
func (s *Set) Retired() []Retired { return slices.Clone(s.state().retired) }

// Revision is that of the Trust of this Set.
func (s *Set) Revision() uint64 { return s.state().revision }

// Ever returns the public keys that are trusted of a kind and, after them, those that were: for what was signed to be kept.
func (s *Set) Ever(k Kind) []ed25519.PublicKey {
	st := s.state()
	var out []ed25519.PublicKey
	for _, a := range st.list(k) {
		out = append(out, a.Public())
	}
	for _, r := range st.retired {
		if r.Kind == k && !r.Compromised {
			out = append(out, r.Public)
		}
	}
	return out
}

// RetiredTrust trusts the tunnel CAs that were, and nothing else. What it verifies has no right but to be renewed, by the key that is
// known.
func (s *Set) RetiredTrust() *Trust {
	st := s.state()
	t := &Trust{Cluster: st.cluster}
	for _, r := range st.retired {
		if r.Kind == TunnelCA && len(t.TunnelCA) < maxTrustKeys {
			t.TunnelCA = append(t.TunnelCA, r.Certificate)
		}
	}
	return t
}

// Become makes the Set what next is: what a change of phase returned, once it is stored.
func (s *Set) Become(next *Set) { s.p.Store(next.state()) }

func (s *Set) change(kinds []Kind, now time.Time, f func(*setState, Kind, *slot) error) (*Set, error) {
	st := s.state().clone(now)
	if len(kinds) == 0 {
		return nil, ErrNotRotating
	}
	for _, k := range kinds {
		if s.Authority(k) == nil {
			return nil, fmt.Errorf("%v", k)
		}
		if err := f(st, k, &st.byKind[k]); err != nil {
			return nil, fmt.Errorf("%v: %w", k, err)
		}
	}
	return setOf(st), nil
}

// Rotate returns the Set with a rotation of each kind begun. A rotation in progress can only be made a Compromised one.
func (s *Set) Rotate(kinds []Kind, o RotateOptions) (*Set, error) {
	if !o.Compromised && (o.Grace < MinGrace || o.Grace > MaxGrace) {
		return nil, fmt.Errorf("%w: %v is not between %v and %v", ErrGrace, o.Grace, MinGrace, MaxGrace)
	}
	return s.change(kinds, o.Now, func(st *setState, k Kind, e *slot) error {
		if e.Phase != PhaseStandby && (!o.Compromised || e.Compromised || e.Phase == PhaseRollback) {
			return ErrRotating
		}
		if e.next == nil {
			next, err := Generate(k, st.cluster, o.Now)
			if err != nil {
				return err
			}
			e.next = next
		}
		if !o.Compromised {
			if k == TunnelCA {
				cross, err := crossCertificate(e.next, e.current, o.Now)
				if err != nil {
					return err
				}
				e.cross = cross
			}
			e.Rotation = Rotation{Grace: o.Grace}
			e.enter(PhaseInit, o.Now, o.Manual)
			return nil
		}
		if k != TunnelCA {
			st.retire(k, e, o.Now, true)
			return nil
		}
		// Nobody is to believe the old one's word any more, the older ones' of it neither.
		e.cross = nil
		for i := range st.retired {
			st.retired[i].Cross = nil
		}
		e.Rotation = Rotation{Grace: Handover, Compromised: true}
		e.enter(max(e.Phase, PhaseUpdateClients), o.Now, false)
		return nil
	})
}

// enter begins a phase. A rollback lasts as long as one of the three.
func (e *slot) enter(p Phase, now time.Time, manual bool) {
	e.Phase, e.Since, e.Until = p, now.UTC().Truncate(time.Millisecond), time.Time{}
	if !manual {
		e.Until = e.Since.Add(e.part())
	}
}

// part is how long the phase lasts, or would if it ended by itself.
func (e *slot) part() time.Duration {
	if e.Compromised && e.Phase == PhaseUpdateClients {
		return e.Grace * 2 / 3
	}
	return e.Grace / 3
}

// retire puts next into current's place.
func (st *setState) retire(k Kind, e *slot, now time.Time, compromised bool) {
	old := Retired{
		Kind: k, At: now.UTC().Truncate(time.Millisecond), Public: e.current.Public(), Certificate: e.current.certificate,
		Cross: e.cross, Compromised: compromised,
	}
	*e = slot{current: e.next}
	st.keep(old)
}

// keep puts r in front of the retired and forgets the oldest of its kind beyond maxRetired.
func (st *setState) keep(r Retired) {
	st.retired = append([]Retired{r}, st.retired...)
	n := 0
	st.retired = slices.DeleteFunc(st.retired, func(r2 Retired) bool {
		if r2.Kind == r.Kind {
			n++
		}
		return r2.Kind == r.Kind && n > maxRetired
	})
}

// Advance returns the Set with each kind in its next phase.
func (s *Set) Advance(kinds []Kind, now time.Time) (*Set, error) {
	return s.change(kinds, now, func(st *setState, k Kind, e *slot) error {
		switch e.Phase {
		case PhaseInit, PhaseUpdateClients:
			e.enter(e.Phase+1, now, e.Until.IsZero())
		case PhaseUpdateServers:
			st.retire(k, e, now, e.Compromised)
		case PhaseRollback:
			st.drop(k, e, now)
		default:
			return ErrNotRotating
		}
		return nil
	})
}

// drop ends a rotation without its successor.
func (st *setState) drop(k Kind, e *slot, now time.Time) {
	gone := Retired{Kind: k, At: now.UTC().Truncate(time.Millisecond), Public: e.next.Public(), Certificate: e.next.certificate}
	*e = slot{current: e.current}
	st.keep(gone)
}

// Rollback returns the Set with each kind on its way back: at once where the successor has signed nothing yet.
func (s *Set) Rollback(kinds []Kind, now time.Time) (*Set, error) {
	return s.change(kinds, now, func(st *setState, k Kind, e *slot) error {
		switch {
		case e.Phase == PhaseStandby:
			return ErrNotRotating
		case e.Compromised:
			return fmt.Errorf("%w: the old key is compromised", ErrNoRollback)
		case e.Phase == PhaseRollback:
			return fmt.Errorf("%w: it is being rolled back", ErrNoRollback)
		case e.Phase == PhaseInit:
			st.drop(k, e, now)
		default:
			e.enter(PhaseRollback, now, e.Until.IsZero())
		}
		return nil
	})
}

// Rotating returns the kinds that are not in standby.
func (s *Set) Rotating() []Kind {
	var out []Kind
	st := s.state()
	for k := Kind(1); k <= kinds; k++ {
		if st.byKind[k].Phase != PhaseStandby {
			out = append(out, k)
		}
	}
	return out
}

// Due returns the kinds whose phase is over at now, and when the next one's is; zero: none ends by itself.
func (s *Set) Due(now time.Time) (due []Kind, next time.Time) {
	st := s.state()
	for _, k := range s.Rotating() {
		switch until := st.byKind[k].Until; {
		case until.IsZero():
		case !now.Before(until):
			due = append(due, k)
		case next.IsZero() || until.Before(next):
			next = until
		}
	}
	return due, next
}

// Forget returns the Set without what was retired before then, and whether that is anything: cross-certificates, too, vouch no longer.
func (s *Set) Forget(before, now time.Time) (*Set, bool) {
	old := func(r Retired) bool { return r.At.Before(before) }
	if !slices.ContainsFunc(s.state().retired, old) {
		return s, false
	}
	st := s.state().clone(now)
	st.retired = slices.DeleteFunc(st.retired, old)
	return setOf(st), true
}

// Behind reports whether certificates of a device or a hub are by another than signs for it now. Those that cannot be read are.
func (s *Set) Behind(role Role, chain [][]byte, sshCert []byte) bool {
	st := s.state()
	kind := DeviceHostCA
	if role == RoleHub {
		kind = HubHostCA
	}
	if len(chain) == 0 || !signedBy(chain[0], st.signer(TunnelCA, role == RoleHub).certificate) {
		return true
	}
	key, err := ssh.ParsePublicKey(sshCert)
	cert, ok := key.(*ssh.Certificate)
	return err != nil || !ok || !bytes.Equal(cert.SignatureKey.Marshal(), st.signer(kind, role == RoleHub).SSHPublic())
}

// Stranded reports whether a device or a hub with this chain can no longer recognise the cluster: what it trusts is neither trusted now
// nor leads there.
func (s *Set) Stranded(chain [][]byte) bool {
	st := s.state()
	if len(chain) == 0 {
		return true
	}
	for _, a := range st.list(TunnelCA) {
		if signedBy(chain[0], a.certificate) {
			return false
		}
	}
	for _, r := range st.retired {
		if r.Kind == TunnelCA && !r.Compromised && signedBy(chain[0], r.Certificate) {
			// One that was rolled back signed for those who trust the one that stayed.
			return r.Cross == nil && st.compromisedSince(r.At)
		}
	}
	return true
}

func (s *setState) compromisedSince(t time.Time) bool {
	return slices.ContainsFunc(s.retired, func(r Retired) bool { return r.Kind == TunnelCA && r.Compromised && r.At.After(t) })
}

func signedBy(leaf, ca []byte) bool {
	c, err := x509.ParseCertificate(leaf)
	if err != nil {
		return false
	}
	root, err := x509.ParseCertificate(ca)
	return err == nil && bytes.Equal(c.AuthorityKeyId, root.SubjectKeyId) && len(root.SubjectKeyId) > 0
}
