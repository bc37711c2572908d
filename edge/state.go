package edge

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// floorFile holds the stored floor of the clock: Unix seconds, 8 bytes.
const floorFile = "floor"

// tokenFile holds the join token of an order to split, until it has done its work.
const tokenFile = "token"

// ErrNoIdentity says that the state directory holds no identity and no token was given.
var ErrNoIdentity = errors.New("this device has not joined a cluster")

// state is the identity in the state directory. Safe for concurrent use; what get returns is never changed.
type state struct {
	dir *identity.Dir // nil: there is none, everything is in memory

	mu sync.Mutex
	// memory is why nothing is stored any more: the file system is read-only or full. The agent works; what it learns is lost with it.
	memory error
	creds  *identity.Credentials
	trust  *ca.Trust // nil before the join
	saved  time.Time // when the hub list was last written

	storing sync.Mutex // held while a list is written, so that of two the newer is the last
	stored  [2]uint64  // revisions of the lists written in this run: locks, hubs
}

// openState opens and locks the directory, reads the identity, and makes the key when there is none. On a file system that
// is read-only or full it goes on in memory.
func openState(path string) (*state, error) {
	s := &state{}
	dir, err := identity.Open(path)
	if err != nil && !unwritable(err) {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	s.dir, s.memory = dir, err
	if err := s.load(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// unwritable reports what a device has to live with. A directory of another user's is a mistake, and mended.
func unwritable(err error) bool {
	return errors.Is(err, syscall.EROFS) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (s *state) load() error {
	creds, err := (*identity.Credentials)(nil), error(identity.ErrNotExist)
	if s.dir != nil {
		if err := s.dir.Lock(); unwritable(err) {
			s.memory = err // nothing is written, so nothing need be locked
		} else if err != nil {
			return fmt.Errorf("state directory: %w", err)
		}
		creds, err = identity.Load(s.dir)
	}
	if errors.Is(err, identity.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return fmt.Errorf("make the device key: %w", err)
		}
		creds = &identity.Credentials{Key: key}
		if err := s.saveLocked(creds, true); err != nil {
			return fmt.Errorf("store the device key: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	s.creds = creds
	if creds.UUID == "" {
		return nil
	}
	if s.trust, err = storedTrust(creds); err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	return nil
}

// saveLocked stores an identity. Where that cannot be, memory has to do if it has to already, or if there is nothing to lose: a device
// that has joined and renews keeps what is stored, for an identity older than auth's record of it looks like a clone's.
func (s *state) saveLocked(c *identity.Credentials, first bool) error {
	if s.dir == nil {
		return nil
	}
	err := c.Save(s.dir)
	if err != nil && unwritable(err) && (first || s.memory != nil) {
		s.memory, err = err, nil
	}
	return err
}

// inMemory is why nothing is stored; nil: it is.
func (s *state) inMemory() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.memory
}

// read and write are for the small files beside the identity.
func (s *state) read(name string) ([]byte, error) {
	if s.dir == nil {
		return nil, identity.ErrNotExist
	}
	return s.dir.Read(name)
}

func (s *state) write(name string, b []byte) error {
	if s.dir == nil {
		return nil
	}
	return s.dir.Write(name, b)
}

// Lists that have revisions, of state.stored.
const (
	storedLocks = iota
	storedHubs
)

// writeList is write for a list that each of two tunnels brings: where an older one comes second it is not what a restart finds.
func (s *state) writeList(which int, revision uint64, name string, b []byte) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	if revision <= s.stored[which] {
		return nil
	}
	err := s.write(name, b)
	if err == nil {
		s.stored[which] = revision
	}
	return err
}

// storedTrust opens the bundle we stored, which was verified before it was stored: it is checked against itself, which finds damage.
func storedTrust(c *identity.Credentials) (*ca.Trust, error) {
	trust, err := ca.OpenStoredTrust(c.Trust)
	if err != nil {
		return nil, err
	}
	if trust.Cluster != c.Cluster {
		return nil, fmt.Errorf("trust is of cluster \"%s\", identity of \"%s\"", wire.Quote(trust.Cluster, 80), wire.Quote(c.Cluster, 80))
	}
	return trust, nil
}

func (s *state) close() {
	if s.dir != nil {
		s.dir.Close()
	}
}

func (s *state) get() *identity.Credentials {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.creds
}

func (s *state) anchors() *ca.Trust {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.trust
}

func (s *state) joined() bool { return s.get().UUID != "" }

// replace stores what change makes of a copy of the identity, and only then acts on it. With its blob, trust takes the place of an older
// one alone: the other tunnel may have brought a newer in this moment.
func (s *state) replace(trust *ca.Trust, blob []byte, change func(*identity.Credentials)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := *s.creds
	if blob != nil {
		if trust.Revision > s.trust.Revision {
			next.Trust = blob
		} else {
			trust = nil
		}
	}
	change(&next)
	if err := s.saveLocked(&next, s.creds.UUID == ""); err != nil {
		return fmt.Errorf("store identity: %w", err)
	}
	s.creds = &next
	if trust != nil {
		s.trust = trust
	}
	return nil
}

// split gives up the identity, which is another machine's, for a new key that is to join by the token.
func (s *state) split(token string) error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == nil || s.memory != nil {
		return errors.New("nothing can be stored")
	}
	// The token first: without it nobody would know what the new key is for.
	if err := s.write(tokenFile, []byte(token)); err != nil {
		return err
	}
	return s.saveLocked(&identity.Credentials{Key: key}, false)
}

// floor is the stored floor of the clock; the zero time when there is none.
func (s *state) floor() time.Time {
	b, err := s.read(floorFile)
	if err != nil || len(b) != 8 {
		return time.Time{}
	}
	return time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
}

// raiseFloor stores a signed time when the step is worth a write.
func (s *state) raiseFloor(signed time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored := s.floor()
	next := nextFloor(stored, signed)
	if next.Equal(stored) {
		return nil
	}
	return s.write(floorFile, binary.BigEndian.AppendUint64(nil, uint64(next.Unix())))
}

// hostSigner is the device's SSH host key with its certificate.
func hostSigner(c *identity.Credentials) (ssh.Signer, error) {
	signer, err := ssh.NewSignerFromKey(c.Key)
	if err != nil {
		return nil, err
	}
	pub, err := ssh.ParsePublicKey(c.SSHCert)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("host certificate: not a certificate")
	}
	return ssh.NewCertSigner(cert, signer)
}

// checkIssued holds what auth issued against what it must be: for our key, for this device, under the trust that came with it. The clock
// may still be wrong, so times are not checked. It returns the device's name.
func checkIssued(key ed25519.PrivateKey, uuid, cluster string, chain [][]byte, sshCert []byte, trust *ca.Trust) (string, error) {
	certs, err := parseChain(chain)
	if err != nil {
		return "", err
	}
	leaf := certs[0]
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok || !pub.Equal(key.Public()) {
		return "", errors.New("the certificate is for another key")
	}
	id, err := ca.VerifyPeer(certs, trust, within(leaf, leaf.NotBefore.Add(time.Second)))
	if err != nil {
		return "", err
	}
	if err := id.Require(ca.RoleDevice); err != nil {
		return "", err
	}
	if id.UUID != uuid || id.Cluster != cluster {
		return "", fmt.Errorf("the certificate names device \"%s\" of \"%s\"", wire.Quote(id.UUID, 80), wire.Quote(id.Cluster, 80))
	}
	host, err := hostSigner(&identity.Credentials{Key: key, SSHCert: sshCert})
	if err != nil {
		return "", err
	}
	cert := host.PublicKey().(*ssh.Certificate)
	plain, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", err
	}
	if !bytes.Equal(cert.Key.Marshal(), plain.Marshal()) {
		return "", errors.New("the host certificate is for another key")
	}
	return id.Name, wire.CheckDeviceName(id.Name)
}

func parseChain(chain [][]byte) ([]*x509.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	var out []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		out = append(out, c)
	}
	return out, nil
}

// within moves t into the validity of the certificate.
func within(c *x509.Certificate, t time.Time) time.Time {
	if t.Before(c.NotBefore) {
		return c.NotBefore
	}
	if t.After(c.NotAfter) {
		return c.NotAfter
	}
	return t
}

// validity is the leaf's NotBefore and NotAfter.
func validity(c *identity.Credentials) (notBefore, notAfter time.Time, err error) {
	certs, err := parseChain(c.Chain)
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	return certs[0].NotBefore, certs[0].NotAfter, nil
}

// clientTLS is the TLS configuration of one dial; verify decides on the hub's chain.
func clientTLS(cert tls.Certificate, verify func(tls.ConnectionState) error, alpn string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		// Names do not matter, the cluster's tunnel CA and the role do: verify checks those, resumed handshakes included.
		InsecureSkipVerify: true,
		VerifyConnection:   verify,
		// Not Certificates: a client that chooses by the server's CA list would send none to a hub that knows only a newer CA.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
}
