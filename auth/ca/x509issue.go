package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// Our X.509 extensions, non-critical, each a UTF8String. The arc is one of X.667's UUID-based ones, which need no
// registration; its value is small because crypto/x509 reads arcs of up to 31 bits.
var (
	oidRole = asn1.ObjectIdentifier{2, 25, 1749306119, 1} // a Role
	oidName = asn1.ObjectIdentifier{2, 25, 1749306119, 2} // name of a device, hub or auth
)

// DeviceRequest asks for a device's two certificates.
type DeviceRequest struct {
	UUID    string // lower case
	Name    string
	Cluster string // must be the Set's, or empty
	Key     ed25519.PublicKey
	TTL     time.Duration // from Now; positive
	Now     time.Time
}

// IssueDevice signs a device's TLS certificate (the chain is leaf, then tunnel CA, in DER) and its SSH host certificate
// (wire format) for UUID and name. NotBefore is DeviceBackdate before Now.
//
// TLS certificates of every role say: CN, the UUID or user name; O, the cluster; URI SAN hawser://CLUSTER/ROLE/CN; the
// role and name extensions; client and server authentication.
func (s *Set) IssueDevice(r DeviceRequest) (chain [][]byte, sshCert []byte, err error) {
	if err := s.checkHost(r.UUID, r.Name, r.Cluster, r.Key, r.Now, r.TTL); err != nil {
		return nil, nil, err
	}
	from, to := r.Now.Add(-DeviceBackdate), r.Now.Add(r.TTL)
	chain, err = s.leaf(RoleDevice, r.UUID, r.Name, r.Key, from, to)
	if err != nil {
		return nil, nil, err
	}
	sshCert, err = s.hostCertificate(DeviceHostCA, RoleDevice, r.UUID, []string{r.UUID, r.Name}, r.Key, from, to)
	return chain, sshCert, err
}

// HubRequest asks for a hub's two certificates.
type HubRequest struct {
	UUID       string
	Name       string
	Cluster    string
	Principals []string // of the SSH host certificate: the names and addresses people type
	Key        ed25519.PublicKey
	TTL        time.Duration
	Now        time.Time
}

// IssueHub is IssueDevice for a hub: its host certificate is by the hub host CA and for r.Principals.
func (s *Set) IssueHub(r HubRequest) (chain [][]byte, sshCert []byte, err error) {
	if err := s.checkHost(r.UUID, r.Name, r.Cluster, r.Key, r.Now, r.TTL); err != nil {
		return nil, nil, err
	}
	if err := checkPrincipals(r.Principals); err != nil {
		return nil, nil, err
	}
	from, to := r.Now.Add(-Backdate), r.Now.Add(r.TTL)
	chain, err = s.leaf(RoleHub, r.UUID, r.Name, r.Key, from, to)
	if err != nil {
		return nil, nil, err
	}
	sshCert, err = s.hostCertificate(HubHostCA, RoleHub, r.UUID, r.Principals, r.Key, from, to)
	return chain, sshCert, err
}

// AuthRequest asks for the auth service's TLS certificate.
type AuthRequest struct {
	UUID    string
	Name    string
	Cluster string
	Key     ed25519.PublicKey
	TTL     time.Duration
	Now     time.Time
}

// IssueAuth signs a TLS certificate of role auth.
func (s *Set) IssueAuth(r AuthRequest) (chain [][]byte, err error) {
	if err := s.checkHost(r.UUID, r.Name, r.Cluster, r.Key, r.Now, r.TTL); err != nil {
		return nil, err
	}
	return s.leaf(RoleAuth, r.UUID, r.Name, r.Key, r.Now.Add(-Backdate), r.Now.Add(r.TTL))
}

// UserX509Request asks for a user's TLS certificate for the API.
type UserX509Request struct {
	Name    string
	Cluster string
	Key     crypto.PublicKey // Ed25519, ECDSA, or RSA of 2048 to 4096 bits
	TTL     time.Duration
	Now     time.Time
	Login   Login // what the certificate rests on
}

// IssueUserX509 signs a TLS certificate of role user. It names no policy roles: auth looks those up by name.
func (s *Set) IssueUserX509(r UserX509Request) (chain [][]byte, err error) {
	if err := s.checkRequest(r.Cluster, r.Now, r.TTL); err != nil {
		return nil, err
	}
	if err := CheckUserName(r.Name); err != nil {
		return nil, err
	}
	if err := checkTLSKey(r.Key); err != nil {
		return nil, err
	}
	return s.leaf(RoleUser, r.Name, "", r.Key, r.Now.Add(-Backdate), r.Now.Add(r.TTL), r.Login.extension())
}

// SelfSigned makes the certificate a joiner shows before it has one: it proves nothing but the key, names nobody and
// verifies under no CA.
func SelfSigned(key ed25519.PrivateKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		NotBefore:    now.Add(-DeviceBackdate),
		NotAfter:     now.Add(CALife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

func (s *Set) checkHost(uuid, name, cluster string, key ed25519.PublicKey, now time.Time, ttl time.Duration) error {
	if err := s.checkRequest(cluster, now, ttl); err != nil {
		return err
	}
	if err := checkUUID(uuid); err != nil {
		return err
	}
	if err := checkLabel("name", name); err != nil {
		return err
	}
	if len(key) != ed25519.PublicKeySize {
		return ErrKeyType
	}
	return nil
}

func (s *Set) leaf(role Role, id, name string, key crypto.PublicKey, from, to time.Time, more ...pkix.Extension) ([][]byte, error) {
	st := s.state()
	ca := st.signer(TunnelCA, role == RoleHub || role == RoleAuth)
	parent, err := x509.ParseCertificate(ca.certificate)
	if err != nil {
		return nil, fmt.Errorf("tunnel CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{st.cluster}, CommonName: id},
		NotBefore:             from,
		NotAfter:              to,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{{Scheme: uriScheme, Host: st.cluster, Path: "/" + string(role) + "/" + id}},
		ExtraExtensions:       append(more, pkix.Extension{Id: oidRole, Value: utf8String(string(role))}),
	}
	if name != "" {
		t.ExtraExtensions = append(t.ExtraExtensions, pkix.Extension{Id: oidName, Value: utf8String(name)})
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key, ca.key)
	if err != nil {
		return nil, err
	}
	return append([][]byte{der}, st.above(ca, role)...), nil
}

// above is what follows a leaf by ca in a chain. A server shows what leads those who slept through rotations from the CA they know to
// this one, and the old root while its pins still count; a client shows one step, for hubs that were cut off from auth.
func (s *setState) above(ca *Authority, role Role) [][]byte {
	e := &s.byKind[TunnelCA]
	crosses := s.crosses(maxCross)
	if ca == e.current && e.cross != nil {
		crosses = crosses[1:] // it certifies the next one
	}
	switch {
	case len(crosses) == 0 || ca == e.next && e.cross == nil:
		return [][]byte{ca.certificate}
	case role != RoleHub && role != RoleAuth:
		return crosses[:1]
	case ca == e.next:
		chain := [][]byte{crosses[0], e.current.certificate}
		return append(chain, crosses[1:min(len(crosses), maxChain-2)]...)
	}
	return crosses
}

const uriScheme = "hawser"

func selfSignedCA(cluster string, key ed25519.PrivateKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{cluster}, CommonName: "Hawser tunnel CA"},
		NotBefore:             now.Add(-DeviceBackdate), // no certificate below it begins earlier
		NotAfter:              now.Add(CALife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            2, // room for cross-certificates
	}
	return x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
}

// crossCertificate certifies next's key by old, for those who know old alone. It lives as long as old does: what ends it is that it is no
// longer sent.
func crossCertificate(next, old *Authority, now time.Time) ([]byte, error) {
	parent, err := x509.ParseCertificate(old.certificate)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: parent.Subject, NotBefore: now.Add(-DeviceBackdate), NotAfter: parent.NotAfter,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true, MaxPathLen: 2,
	}
	return x509.CreateCertificate(rand.Reader, t, parent, next.Public(), old.key)
}

func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive and of full length
	return new(big.Int).SetBytes(b[:]), nil
}

func checkTLSKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return ErrKeyType
		}
		return nil
	case *ecdsa.PublicKey:
		return nil
	}
	return checkRSA(key)
}

// utf8String encodes s, which is shorter than 128 bytes, as an ASN.1 UTF8String.
func utf8String(s string) []byte {
	return append([]byte{asn1.TagUTF8String, byte(len(s))}, s...)
}

func readUTF8String(v []byte) (string, bool) {
	if len(v) < 2 || v[0] != asn1.TagUTF8String || v[1] >= 0x80 || int(v[1]) != len(v)-2 {
		return "", false
	}
	return string(v[2:]), true
}
