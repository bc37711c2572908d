package ca

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"strings"
	"time"
)

// Identity is whom a TLS certificate names.
type Identity struct {
	Role     Role
	UUID     string // empty for users
	Name     string // of the device, hub, auth or user
	Cluster  string
	NotAfter time.Time
}

// Require fails with ErrWrongRole unless the identity is of that role.
func (i Identity) Require(role Role) error {
	if i.Role != role {
		return ErrWrongRole
	}
	return nil
}

// VerifyPeer holds a TLS peer's chain, leaf first, against the tunnel CAs of trust, and returns whom the leaf names. The
// issuer is a tunnel CA or a cross-certificate in the chain that leads to one.
//
// It fails with, in this order: ErrNoCertificate, ErrMalformed, ErrNested (the leaf is a CA, or was signed by a leaf),
// ErrUnknownCA, ErrCAExpired, ErrKeyType, ErrKeySize, ErrCriticalOption, ErrMalformed, ErrWrongRole (a role nobody
// knows), ErrWrongCluster, ErrNotYetValid, ErrExpired. With the last two, and no other, the Identity is filled in all the
// same: everything but the time was right, which is enough for a renew-only tunnel, and for a joiner without a clock.
func VerifyPeer(chain []*x509.Certificate, trust *Trust, now time.Time) (Identity, error) {
	if len(chain) == 0 {
		return Identity{}, ErrNoCertificate
	}
	if len(chain) > maxChain {
		return Identity{}, ErrMalformed
	}
	leaf := chain[0]
	if leaf.IsCA {
		return Identity{}, ErrNested
	}
	if err := verifyPath(chain, trust, now); err != nil {
		return Identity{}, err
	}
	if err := checkTLSKey(leaf.PublicKey); err != nil {
		return Identity{}, err
	}
	if len(leaf.UnhandledCriticalExtensions) > 0 {
		return Identity{}, ErrCriticalOption
	}
	id, err := identify(leaf)
	if err != nil {
		return Identity{}, err
	}
	if id.Role != RoleUser {
		if _, weak := leaf.PublicKey.(*rsa.PublicKey); weak || leaf.PublicKeyAlgorithm != x509.Ed25519 {
			return Identity{}, ErrKeyType // parts hold Ed25519 keys only
		}
	}
	if id.Cluster != trust.Cluster {
		return Identity{}, ErrWrongCluster
	}
	if now.Before(leaf.NotBefore) {
		return id, ErrNotYetValid
	}
	if now.After(leaf.NotAfter) {
		return id, ErrExpired
	}
	return id, nil
}

// verifyPath walks from the leaf to a tunnel CA of trust, one signature check a step. Names are compared before
// signatures are, and only Ed25519 signatures count, so a stranger's chain costs little.
func verifyPath(chain []*x509.Certificate, trust *Trust, now time.Time) error {
	roots, err := trust.tunnelCAs()
	if err != nil {
		return err
	}
	cert := chain[0]
	for range chain {
		for _, root := range roots {
			if issued(root, cert) {
				if now.After(root.NotAfter) {
					return ErrCAExpired
				}
				return nil
			}
		}
		next := issuerIn(chain[1:], cert)
		if next == nil {
			return ErrUnknownCA
		}
		if !next.IsCA || !next.BasicConstraintsValid || next.KeyUsage&x509.KeyUsageCertSign == 0 {
			return ErrNested
		}
		if now.After(next.NotAfter) {
			return ErrCAExpired
		}
		cert = next
	}
	return ErrUnknownCA
}

func issuerIn(candidates []*x509.Certificate, cert *x509.Certificate) *x509.Certificate {
	for _, c := range candidates {
		if c != cert && !bytes.Equal(c.Raw, cert.Raw) && issued(c, cert) {
			return c
		}
	}
	return nil
}

func issued(issuer, cert *x509.Certificate) bool {
	return cert.SignatureAlgorithm == x509.PureEd25519 && issuer.PublicKeyAlgorithm == x509.Ed25519 &&
		bytes.Equal(issuer.RawSubject, cert.RawIssuer) &&
		issuer.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) == nil
}

// identify reads the role, the names and the URI, which must agree.
func identify(leaf *x509.Certificate) (Identity, error) {
	id := Identity{NotAfter: leaf.NotAfter}
	for _, e := range leaf.Extensions {
		var s string
		var ok bool
		switch {
		case e.Id.Equal(oidRole):
			s, ok = readUTF8String(e.Value)
			id.Role = Role(s)
		case e.Id.Equal(oidName):
			id.Name, ok = readUTF8String(e.Value)
		default:
			continue
		}
		if !ok {
			return Identity{}, ErrMalformed
		}
	}
	cn := leaf.Subject.CommonName
	switch id.Role {
	case "":
		return Identity{}, ErrMalformed
	case RoleDevice, RoleHub, RoleAuth:
		id.UUID = cn
		if checkUUID(cn) != nil || checkLabel("name", id.Name) != nil {
			return Identity{}, ErrMalformed
		}
	case RoleUser:
		id.Name = cn
		if CheckUserName(cn) != nil {
			return Identity{}, ErrMalformed
		}
	default:
		return Identity{}, ErrWrongRole
	}
	if len(leaf.URIs) != 1 || len(leaf.Subject.Organization) != 1 {
		return Identity{}, ErrMalformed
	}
	u := leaf.URIs[0]
	role, rest, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if u.Scheme != uriScheme || role != string(id.Role) || rest != cn || u.Host != leaf.Subject.Organization[0] {
		return Identity{}, ErrMalformed
	}
	id.Cluster = u.Host
	return id, nil
}
