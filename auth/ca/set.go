package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/internal/tlv"
)

// Authority is one signing key and, for the tunnel CA, its certificate. It prints without its key.
type Authority struct {
	Kind    Kind
	Cluster string
	Created time.Time

	key         ed25519.PrivateKey
	certificate []byte // DER, of the tunnel CA only
}

// Generate makes a new authority.
func Generate(kind Kind, cluster string, now time.Time) (*Authority, error) {
	if kind < 1 || kind > kinds {
		return nil, fmt.Errorf("generate: %v", kind)
	}
	if err := CheckCluster(cluster); err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	a := &Authority{Kind: kind, Cluster: cluster, Created: now.UTC().Truncate(time.Millisecond), key: key}
	if kind == TunnelCA {
		a.certificate, err = selfSignedCA(cluster, key, now)
	}
	return a, err
}

// Format prints kind and cluster whatever the verb, never the key.
func (a *Authority) Format(s fmt.State, _ rune) {
	fmt.Fprintf(s, "%v of %s [key redacted]", a.Kind, a.Cluster)
}

// Public returns the authority's public key.
func (a *Authority) Public() ed25519.PublicKey { return a.key.Public().(ed25519.PublicKey) }

// SSHPublic returns the public key in SSH wire format.
func (a *Authority) SSHPublic() []byte {
	k, err := ssh.NewPublicKey(a.Public())
	if err != nil {
		panic("ca: " + err.Error()) // an Ed25519 key always converts
	}
	return k.Marshal()
}

// Certificate returns the tunnel CA's certificate in DER, nil for the other kinds.
func (a *Authority) Certificate() []byte { return a.certificate }

func (a *Authority) sshSigner() (ssh.Signer, error) { return ssh.NewSignerFromKey(a.key) }

// Set holds one authority of each kind, all of one cluster, two while one is replaced (rotation.go). Safe for concurrent use, Become
// included.
type Set struct{ p atomic.Pointer[setState] }

func setOf(st *setState) *Set {
	s := new(Set)
	s.p.Store(st)
	return s
}

func (s *Set) state() *setState { return s.p.Load() }

// NewSet generates all authorities of a new cluster.
func NewSet(cluster string, now time.Time) (*Set, error) {
	st := &setState{cluster: cluster, revision: 1}
	for k := Kind(1); k <= kinds; k++ {
		a, err := Generate(k, cluster, now)
		if err != nil {
			return nil, err
		}
		st.byKind[k].current = a
	}
	st.secret = st.firstSecret()
	return setOf(st), nil
}

// Cluster returns the cluster's name.
func (s *Set) Cluster() string { return s.state().cluster }

// Authority returns the authority of a kind, the old one while it is replaced; nil for an unknown kind.
func (s *Set) Authority(k Kind) *Authority {
	if k < 1 || k > kinds {
		return nil
	}
	return s.state().byKind[k].current
}

// GrantKey returns the private key that signs grants and compiled policies now.
func (s *Set) GrantKey() ed25519.PrivateKey { return s.state().signer(GrantKey, false).key }

// Format prints the cluster's name whatever the verb.
func (s *Set) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "authorities of "+s.Cluster()) }

// Marshal encodes the Set with its private keys in the clear: Seal the result before it is stored.
//
// Layout, in TLV: 1 cluster; 2 authority, repeated, itself TLV: 1 kind, 2 Ed25519 seed (32 bytes), 3 created (Unix
// milliseconds), 4 certificate (DER, tunnel CA only). Of a Set that was never rotated there is no more; else 3 revision;
// 4 authority that is to replace one, as 2; 5 rotation, repeated: 1 kind, 2 phase, 3 since, 4 until (Unix milliseconds),
// 5 grace (milliseconds), 6 compromised (1), 7 cross-certificate (DER); 6 retired, repeated, newest first: 1 kind, 2 at,
// 3 public key, 4 certificate, 5 cross-certificate, 6 compromised (1); 7 secret key, where it is no longer the one that
// follows from the grant key.
func (s *Set) Marshal() []byte {
	st := s.state()
	b := tlv.AppendString(nil, 1, st.cluster)
	for k := Kind(1); k <= kinds; k++ {
		b = tlv.AppendBytes(b, 2, st.byKind[k].current.encode())
	}
	if st.revision > 1 {
		b = tlv.AppendUint(b, 3, st.revision)
	}
	if st.secret != st.firstSecret() {
		b = tlv.AppendBytes(b, 7, st.secret[:])
	}
	for k := Kind(1); k <= kinds; k++ {
		e := &st.byKind[k]
		if e.Phase == PhaseStandby {
			continue
		}
		b = tlv.AppendBytes(b, 4, e.next.encode())
		r := tlv.AppendUint(nil, 1, uint64(k))
		r = tlv.AppendUint(r, 2, uint64(e.Phase))
		r = tlv.AppendUint(r, 3, uint64(e.Since.UnixMilli()))
		if !e.Until.IsZero() {
			r = tlv.AppendUint(r, 4, uint64(e.Until.UnixMilli()))
		}
		r = tlv.AppendUint(r, 5, uint64(e.Grace.Milliseconds()))
		if e.Compromised {
			r = tlv.AppendUint(r, 6, 1)
		}
		if e.cross != nil {
			r = tlv.AppendBytes(r, 7, e.cross)
		}
		b = tlv.AppendBytes(b, 5, r)
	}
	for _, x := range st.retired {
		r := tlv.AppendUint(nil, 1, uint64(x.Kind))
		r = tlv.AppendUint(r, 2, uint64(x.At.UnixMilli()))
		r = tlv.AppendBytes(r, 3, x.Public)
		if x.Certificate != nil {
			r = tlv.AppendBytes(r, 4, x.Certificate)
		}
		if x.Cross != nil {
			r = tlv.AppendBytes(r, 5, x.Cross)
		}
		if x.Compromised {
			r = tlv.AppendUint(r, 6, 1)
		}
		b = tlv.AppendBytes(b, 6, r)
	}
	return b
}

func (a *Authority) encode() []byte {
	e := tlv.AppendUint(nil, 1, uint64(a.Kind))
	e = tlv.AppendBytes(e, 2, a.key.Seed())
	e = tlv.AppendUint(e, 3, uint64(a.Created.UnixMilli()))
	if a.certificate != nil {
		e = tlv.AppendBytes(e, 4, a.certificate)
	}
	return e
}

// UnmarshalSet decodes what Marshal wrote and checks that the Set is whole: each kind once, a successor exactly where a
// rotation is under way, and the tunnel CAs' certificates are for their keys.
func UnmarshalSet(b []byte) (*Set, error) {
	if len(b) > maxSet {
		return nil, ErrBadSet
	}
	st := &setState{revision: 1}
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		switch tag {
		case 1:
			return tlv.String(&st.cluster, v, maxCluster)
		case 2, 4:
			a, err := decodeAuthority(v)
			if err != nil {
				return err
			}
			place := &st.byKind[a.Kind].current
			if tag == 4 {
				place = &st.byKind[a.Kind].next
			}
			if *place != nil {
				return fmt.Errorf("two of %v", a.Kind)
			}
			*place = a
		case 3:
			st.revision, err = tlv.Uint(v)
		case 7:
			err = tlv.Fixed(st.secret[:], v)
		case 5:
			err = st.decodeRotation(v)
		case 6:
			var r Retired
			if r, err = decodeRetired(v); err == nil {
				st.retired = append(st.retired, r)
			}
		}
		return err
	})
	if err == nil {
		err = st.valid()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSet, err)
	}
	if st.secret == [32]byte{} {
		st.secret = st.firstSecret()
	}
	return setOf(st), nil
}

// SecretKey is what auth seals users' secrets under in its records. It stays the same through every rotation, so that they
// open, and is backed up with the Set.
func (s *Set) SecretKey() *[32]byte {
	key := s.state().secret
	return &key
}

// firstSecret is the secret key of a Set that was never rotated; one of before there was such a key has it too.
func (s *setState) firstSecret() [32]byte {
	return sha256.Sum256(append([]byte("hawser secret key 1"), s.byKind[GrantKey].current.key.Seed()...))
}

func (s *setState) valid() error {
	if err := CheckCluster(s.cluster); err != nil {
		return err
	}
	if len(s.retired) > kinds*maxRetired {
		return errors.New("too many retired")
	}
	for k := Kind(1); k <= kinds; k++ {
		e := &s.byKind[k]
		switch {
		case e.current == nil:
			return fmt.Errorf("no %v", k)
		case (e.next != nil) != (e.Phase != PhaseStandby):
			return fmt.Errorf("%v in phase %v with or without its successor", k, e.Phase)
		case e.cross != nil && k != TunnelCA:
			return fmt.Errorf("cross-certificate of %v", k)
		}
		e.current.Cluster = s.cluster
		if e.next != nil {
			e.next.Cluster = s.cluster
		}
	}
	return nil
}

func (s *setState) decodeRotation(b []byte) error {
	var r Rotation
	var cross []byte
	var kind Kind
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		if tag == 7 {
			cross, err = certificateField(v)
			return err
		}
		if tag > 7 {
			return nil
		}
		n, err := tlv.Uint(v)
		if err != nil || n > maxUnixMilli {
			return tlv.ErrLength
		}
		switch tag {
		case 1:
			kind = Kind(min(n, kinds+1))
		case 2:
			r.Phase = Phase(min(n, phases+1))
		case 3:
			r.Since = time.UnixMilli(int64(n)).UTC()
		case 4:
			r.Until = time.UnixMilli(int64(n)).UTC()
		case 5:
			r.Grace = time.Duration(min(n, uint64(MaxGrace/time.Millisecond))) * time.Millisecond
		case 6:
			r.Compromised = n == 1
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case kind < 1 || kind > kinds || r.Phase < 1 || r.Phase > phases || s.byKind[kind].Phase != PhaseStandby:
		return errors.New("rotation of an unknown kind or phase, or two of one kind")
	}
	s.byKind[kind].Rotation, s.byKind[kind].cross = r, cross
	return nil
}

func decodeRetired(b []byte) (Retired, error) {
	var r Retired
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		switch tag {
		case 3:
			if len(v) != ed25519.PublicKeySize {
				return tlv.ErrLength
			}
			r.Public = append(r.Public, v...)
		case 4:
			r.Certificate, err = certificateField(v)
		case 5:
			r.Cross, err = certificateField(v)
		case 1, 2, 6:
			n, err := tlv.Uint(v)
			if err != nil || n > maxUnixMilli {
				return tlv.ErrLength
			}
			switch tag {
			case 1:
				r.Kind = Kind(min(n, kinds+1))
			case 2:
				r.At = time.UnixMilli(int64(n)).UTC()
			case 6:
				r.Compromised = n == 1
			}
		}
		return err
	})
	switch {
	case err != nil:
		return r, err
	case r.Kind < 1 || r.Kind > kinds || r.Public == nil || (r.Kind == TunnelCA) != (r.Certificate != nil) || r.Cross != nil && r.Kind != TunnelCA:
		return r, errors.New("retired authority that lacks or has what it must not")
	}
	return r, nil
}

// certificateField is a CA's certificate in DER.
func certificateField(v []byte) ([]byte, error) {
	if len(v) > maxDER {
		return nil, tlv.ErrLength
	}
	c, err := x509.ParseCertificate(v)
	if err != nil {
		return nil, err
	}
	if _, ok := c.PublicKey.(ed25519.PublicKey); !ok || !c.IsCA {
		return nil, errors.New("no Ed25519 CA")
	}
	return append([]byte(nil), v...), nil
}

func decodeAuthority(b []byte) (*Authority, error) {
	a := new(Authority)
	err := tlv.Read(b, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			n, err := tlv.Uint(v)
			if err == nil && (n < 1 || n > kinds) {
				err = errors.New("unknown kind")
			}
			a.Kind = Kind(n)
			return err
		case 2:
			if len(v) != ed25519.SeedSize {
				return tlv.ErrLength
			}
			a.key = ed25519.NewKeyFromSeed(v)
		case 3:
			n, err := tlv.Uint(v)
			if err == nil && n > maxUnixMilli {
				err = tlv.ErrLength
			}
			a.Created = time.UnixMilli(int64(n)).UTC()
			return err
		case 4:
			if len(v) > maxDER {
				return tlv.ErrLength
			}
			a.certificate = append([]byte(nil), v...)
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case a.Kind == 0 || a.key == nil:
		return nil, errors.New("authority without kind or key")
	case (a.Kind == TunnelCA) != (a.certificate != nil):
		return nil, errors.New("certificate missing or misplaced")
	case a.certificate == nil:
		return a, nil
	}
	cert, err := x509.ParseCertificate(a.certificate)
	if err != nil {
		return nil, err
	}
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(a.key.Public()) {
		return nil, errors.New("certificate is for another key")
	}
	return a, nil
}
