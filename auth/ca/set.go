package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
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

// Set holds one authority of each kind, all of one cluster.
type Set struct {
	cluster string
	byKind  [kinds + 1]*Authority
}

// NewSet generates all authorities of a new cluster.
func NewSet(cluster string, now time.Time) (*Set, error) {
	s := &Set{cluster: cluster}
	for k := Kind(1); k <= kinds; k++ {
		a, err := Generate(k, cluster, now)
		if err != nil {
			return nil, err
		}
		s.byKind[k] = a
	}
	return s, nil
}

// Cluster returns the cluster's name.
func (s *Set) Cluster() string { return s.cluster }

// Authority returns the authority of a kind, nil for an unknown kind.
func (s *Set) Authority(k Kind) *Authority {
	if k < 1 || k > kinds {
		return nil
	}
	return s.byKind[k]
}

// GrantKey returns the private key that signs grants and compiled policies.
func (s *Set) GrantKey() ed25519.PrivateKey { return s.byKind[GrantKey].key }

// Format prints the cluster's name whatever the verb.
func (s *Set) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "authorities of "+s.cluster) }

// Marshal encodes the Set with its private keys in the clear: Seal the result before it is stored.
//
// Layout, in TLV: 1 cluster; 2 authority, repeated, itself TLV: 1 kind, 2 Ed25519 seed (32 bytes), 3 created (Unix
// milliseconds), 4 certificate (DER, tunnel CA only).
func (s *Set) Marshal() []byte {
	b := tlv.AppendString(nil, 1, s.cluster)
	for _, a := range s.byKind[1:] {
		e := tlv.AppendUint(nil, 1, uint64(a.Kind))
		e = tlv.AppendBytes(e, 2, a.key.Seed())
		e = tlv.AppendUint(e, 3, uint64(a.Created.UnixMilli()))
		if a.certificate != nil {
			e = tlv.AppendBytes(e, 4, a.certificate)
		}
		b = tlv.AppendBytes(b, 2, e)
	}
	return b
}

// UnmarshalSet decodes what Marshal wrote and checks that the Set is whole: each kind once, and the tunnel CA's
// certificate is for its key.
func UnmarshalSet(b []byte) (*Set, error) {
	if len(b) > maxSet {
		return nil, ErrBadSet
	}
	s := new(Set)
	err := tlv.Read(b, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&s.cluster, v, maxCluster)
		case 2:
			a, err := decodeAuthority(v)
			if err != nil {
				return err
			}
			if s.byKind[a.Kind] != nil {
				return fmt.Errorf("two of %v", a.Kind)
			}
			s.byKind[a.Kind] = a
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSet, err)
	}
	if err := CheckCluster(s.cluster); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSet, err)
	}
	for k := Kind(1); k <= kinds; k++ {
		if s.byKind[k] == nil {
			return nil, fmt.Errorf("%w: no %v", ErrBadSet, k)
		}
		s.byKind[k].Cluster = s.cluster
	}
	return s, nil
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
