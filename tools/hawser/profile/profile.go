// Package profile is a person's Hawser directory (HAWSER_HOME, ~/.hawser by
// default): who they are, which cluster they use, and the key and certificates
// that prove it. Start from [Open].
package profile

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"

	"hawser/tunnel/identity"
)

// Files of a profile directory. The key and its certificate have the names that
// ssh(1) looks for beside each other.
const (
	settingsFile = "profile.yaml"
	keyFile      = "id_ed25519"
	publicFile   = "id_ed25519.pub"
	certFile     = "id_ed25519-cert.pub"
	apiFile      = "api.pem"
	trustFile    = "trust"
	reachedFile  = "reached"
)

var (
	// ErrNone means that the directory holds no profile.
	ErrNone = errors.New("no profile")
	// ErrLoggedOut means that there is a profile, and nothing in it or in an agent that proves whose it is.
	ErrLoggedOut = errors.New("not logged in")
)

// Settings is profile.yaml.
type Settings struct {
	Cluster string `yaml:"cluster"`  // the cluster's name
	User    string `yaml:"user"`     // the person's Hawser name
	APIAddr string `yaml:"api_addr"` // host:port of the auth service; may be empty where there are hubs
	CAPin   string `yaml:"ca_pin"`   // "sha256:..." of the tunnel CA's key
	SSHAddr string `yaml:"ssh_addr"` // host:port of a hub's SSH side
	// Hubs are host:port of hubs' tunnel side, which pass TLS on to the auth service.
	Hubs []string `yaml:"hubs,omitempty"`
	// SSHKey is the private key that the SSH certificate is for, where that is not the profile's own: a security key's.
	SSHKey string `yaml:"ssh_key,omitempty"`
	// TTL is the life of each certificate that was wished for; 0: what the roles give. Certificates are renewed until LoginEnds.
	TTL       time.Duration `yaml:"ttl,omitempty"`
	LoginEnds time.Time     `yaml:"login_ends,omitempty"`
}

// maxHubs are kept in a profile.
const maxHubs = 16

// Profile is an open profile directory. Not safe for concurrent use.
type Profile struct {
	Dir      string // absolute
	Settings Settings
	root     *os.Root
}

// DefaultDir is HAWSER_HOME, or .hawser in the home directory.
func DefaultDir() (string, error) {
	if d := os.Getenv("HAWSER_HOME"); d != "" {
		return filepath.Abs(d)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the home directory (set HAWSER_HOME to name a profile): %w", err)
	}
	return filepath.Join(home, ".hawser"), nil
}

// Open reads the profile below dir. ErrNone says that there is none.
func Open(dir string) (*Profile, error) {
	p, err := open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err != nil {
		return nil, err
	}
	b, err := p.root.ReadFile(settingsFile)
	if errors.Is(err, fs.ErrNotExist) {
		p.Close()
		return nil, fmt.Errorf("%w in %s", ErrNone, dir)
	}
	if err == nil {
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		err = d.Decode(&p.Settings)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("read %s: %w", p.Path(settingsFile), err)
	}
	return p, nil
}

// Create opens dir for a profile to be saved in, making it if need be.
func Create(dir string) (*Profile, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return open(dir)
}

func open(dir string) (*Profile, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	return &Profile{Dir: abs, root: root}, nil
}

// Close gives the directory back.
func (p *Profile) Close() error { return p.root.Close() }

// Path is the absolute path of a file of the profile.
func (p *Profile) Path(name string) string { return filepath.Join(p.Dir, name) }

// KeyPath is where ssh(1) finds the private key, or beside it the public half of one in an agent.
func (p *Profile) KeyPath() string {
	if p.Settings.SSHKey != "" {
		return p.Settings.SSHKey
	}
	return p.Path(keyFile)
}

// CertPath is where ssh(1) finds the certificate of that key.
func (p *Profile) CertPath() string { return p.Path(certFile) }

// Key returns the profile's private key, making it the first time: it is born
// here and never leaves.
func (p *Profile) Key() (ed25519.PrivateKey, error) {
	key, err := p.readKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	_, key, err = ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return key, errors.Join(p.writePublic(key), p.writeKey(key))
}

func (p *Profile) readKey() (ed25519.PrivateKey, error) {
	b, err := p.root.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the profile's key: %w", err)
	}
	k, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.Path(keyFile), err)
	}
	key, ok := k.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key: move it away, and a new one is made", p.Path(keyFile))
	}
	return *key, nil
}

func (p *Profile) writeKey(key ed25519.PrivateKey) error {
	block, err := ssh.MarshalPrivateKey(key, "hawser")
	if err != nil {
		return err
	}
	return p.write(keyFile, pem.EncodeToMemory(block))
}

func (p *Profile) writePublic(key ed25519.PrivateKey) error {
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	return p.write(publicFile, ssh.MarshalAuthorizedKey(pub))
}

// Signer is the profile's key: the file's, or the one that an agent holds.
func (p *Profile) Signer() (crypto.Signer, error) {
	key, err := p.readKey()
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	b, err := p.root.ReadFile(publicFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrLoggedOut
	}
	if err != nil {
		return nil, fmt.Errorf("read the profile's public key: %w", err)
	}
	pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.Path(publicFile), err)
	}
	return inAgent(pub)
}

// InAgent tells whether the profile's key is in an agent and not in a file.
func (p *Profile) InAgent() bool {
	_, err := p.root.Stat(keyFile)
	return errors.Is(err, fs.ErrNotExist)
}

// SaveLogin replaces key, settings and credentials by those of a login. The private key is written where toFile is set; else an agent must
// hold it already, and only public things are on disk.
func (p *Profile) SaveLogin(s Settings, c Credentials, key ed25519.PrivateKey, toFile bool) error {
	if err := p.remove(keyFile); err != nil {
		return err
	}
	if err := p.writePublic(key); err != nil {
		return err
	}
	if toFile {
		if err := p.writeKey(key); err != nil {
			return err
		}
	}
	s.Hubs = s.Hubs[:min(len(s.Hubs), maxHubs)]
	return p.Save(s, c)
}

// Forget removes the key and the certificates; what tells where the cluster is and how to know it stays for the next login.
func (p *Profile) Forget() error {
	return errors.Join(p.remove(keyFile), p.remove(certFile), p.remove(apiFile), p.remove(publicFile))
}

func (p *Profile) remove(name string) error {
	if err := p.root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Addresses are where the auth service may be reached, the one that answered last time first, then the hubs.
func (p *Profile) Addresses() []string {
	last, _ := p.root.ReadFile(reachedFile)
	var all []string
	for _, a := range append(append([]string{strings.TrimSpace(string(last))}, p.Settings.Hubs...), p.Settings.APIAddr) {
		// What was reached once and is named no more is not asked again.
		known := a == p.Settings.APIAddr || slices.Contains(p.Settings.Hubs, a)
		if a != "" && known && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	return all
}

// Reached notes which address answered.
func (p *Profile) Reached(addr string) {
	if all := p.Addresses(); len(all) > 1 && all[0] != addr {
		_ = p.write(reachedFile, []byte(addr+"\n")) // the next command is slower without, no more
	}
}

// Credentials is what auth issues to a person.
type Credentials struct {
	SSHCert []byte   // RFC 4253 wire form
	Chain   [][]byte // X.509, DER, leaf first
	Trust   []byte   // the signed trust bundle
}

// Save replaces the profile's settings and credentials.
func (p *Profile) Save(s Settings, c Credentials) error {
	cert, err := ssh.ParsePublicKey(c.SSHCert)
	if err != nil {
		return fmt.Errorf("read the SSH certificate that auth issued: %w", err)
	}
	var chain bytes.Buffer
	for _, der := range c.Chain {
		if err := pem.Encode(&chain, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
			return err
		}
	}
	settings, err := yaml.Marshal(s)
	if err != nil {
		return err
	}
	p.Settings = s
	return errors.Join(
		p.write(certFile, ssh.MarshalAuthorizedKey(cert)),
		p.write(apiFile, chain.Bytes()),
		p.write(trustFile, c.Trust),
		p.write(settingsFile, settings), // last: a profile is there once its settings are
	)
}

// Trust returns the signed trust bundle.
func (p *Profile) Trust() ([]byte, error) { return p.root.ReadFile(trustFile) }

// SaveTrust replaces the trust bundle by one that was verified to follow on it.
func (p *Profile) SaveTrust(blob []byte) error { return p.write(trustFile, blob) }

// TLSCertificate is what the person presents to auth.
func (p *Profile) TLSCertificate() (tls.Certificate, error) {
	b, err := p.root.ReadFile(apiFile)
	if errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, ErrLoggedOut
	}
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the profile's certificate: %w", err)
	}
	key, err := p.Signer()
	if err != nil {
		return tls.Certificate{}, err
	}
	cert := tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert.Certificate = append(cert.Certificate, block.Bytes)
	}
	if len(cert.Certificate) == 0 {
		return tls.Certificate{}, fmt.Errorf("%s holds no certificate", p.Path(apiFile))
	}
	cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0])
	return cert, err
}

// SSHCertificate is what the person presents to hubs and devices.
func (p *Profile) SSHCertificate() (*ssh.Certificate, error) {
	b, err := p.root.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read the profile's certificate: %w", err)
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.CertPath(), err)
	}
	cert, ok := k.(*ssh.Certificate)
	if !ok {
		return nil, fmt.Errorf("%s holds no certificate", p.CertPath())
	}
	return cert, nil
}

// write replaces one file atomically, readable by its owner alone.
func (p *Profile) write(name string, data []byte) error {
	return identity.WriteFileAtomic(p.root, name, data, 0o600)
}
