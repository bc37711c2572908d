// Package profile is a person's Hawser directory (HAWSER_HOME, ~/.hawser by
// default): who they are, which cluster they use, and the key and certificates
// that prove it. Start from [Open].
package profile

import (
	"bytes"
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
)

// ErrNone means that the directory holds no profile.
var ErrNone = errors.New("no profile")

// Settings is profile.yaml.
type Settings struct {
	Cluster string `yaml:"cluster"`  // the cluster's name
	User    string `yaml:"user"`     // the person's Hawser name
	APIAddr string `yaml:"api_addr"` // host:port of the auth service
	CAPin   string `yaml:"ca_pin"`   // "sha256:..." of the tunnel CA's key
	SSHAddr string `yaml:"ssh_addr"` // host:port of a hub's SSH side
}

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

// KeyPath is where ssh(1) finds the private key.
func (p *Profile) KeyPath() string { return p.Path(keyFile) }

// CertPath is where ssh(1) finds the certificate of that key.
func (p *Profile) CertPath() string { return p.Path(certFile) }

// Key returns the profile's private key, making it the first time: it is born
// here and never leaves.
func (p *Profile) Key() (ed25519.PrivateKey, error) {
	b, err := p.root.ReadFile(keyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p.newKey()
	}
	if err != nil {
		return nil, fmt.Errorf("read the profile's key: %w", err)
	}
	k, err := ssh.ParseRawPrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p.KeyPath(), err)
	}
	key, ok := k.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key: move it away, and a new one is made", p.KeyPath())
	}
	return *key, nil
}

func (p *Profile) newKey() (ed25519.PrivateKey, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(key, "hawser")
	if err != nil {
		return nil, err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if err := p.write(publicFile, ssh.MarshalAuthorizedKey(sshPub)); err != nil {
		return nil, err
	}
	return key, p.write(keyFile, pem.EncodeToMemory(block))
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

// TLSCertificate is what the person presents to auth.
func (p *Profile) TLSCertificate() (tls.Certificate, error) {
	key, err := p.Key()
	if err != nil {
		return tls.Certificate{}, err
	}
	b, err := p.root.ReadFile(apiFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the profile's certificate: %w", err)
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

// write replaces one file atomically, readable by its owner alone.
func (p *Profile) write(name string, data []byte) error {
	return identity.WriteFileAtomic(p.root, name, data, 0o600)
}
