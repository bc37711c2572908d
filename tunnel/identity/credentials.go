package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
)

// credentialsName is the one file all credentials are in, so that key and certificates change together.
const credentialsName = "identity"

// credentialsMagic begins the file: the format's name and version.
const credentialsMagic = "hawser-identity/1\n"

const maxParts = 64 // certificates in the chain; hub addresses

// Credentials are what a device is: its key, never out of it, and what the cluster said about it.
type Credentials struct {
	Key                 ed25519.PrivateKey
	Chain               [][]byte // X.509, DER, leaf first
	SSHCert             []byte   // SSH host certificate, wire form
	Trust               []byte   // signed trust bundle
	UUID, Name, Cluster string
	Counter             uint64 // generation of the certificates
	Hubs                []string
}

// Load reads the credentials of a directory: an error wrapping ErrNotExist before the device has joined.
func Load(d *Dir) (*Credentials, error) {
	b, err := d.Read(credentialsName)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	c, err := decodeCredentials(b)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	return c, nil
}

// Save writes the credentials; they are all on disk when it returns nil.
func (c *Credentials) Save(d *Dir) error {
	if len(c.Key) != ed25519.PrivateKeySize {
		return errors.New("save identity: no key")
	}
	if err := d.Write(credentialsName, c.encode()); err != nil {
		return fmt.Errorf("save identity: %w", err)
	}
	return nil
}

// TLSCertificate returns the certificate the tunnel's TLS uses.
func (c *Credentials) TLSCertificate() tls.Certificate {
	return tls.Certificate{Certificate: c.Chain, PrivateKey: c.Key}
}

// String keeps the key out of logs.
func (c *Credentials) String() string {
	return fmt.Sprintf("identity %s (%s) of %s, key [redacted]", c.UUID, c.Name, c.Cluster)
}

// encode: magic, then u32-length-prefixed parts in a fixed order, lists with a u32 count before.
func (c *Credentials) encode() []byte {
	b := []byte(credentialsMagic)
	part := func(p []byte) { b = append(binary.BigEndian.AppendUint32(b, uint32(len(p))), p...) }
	part(c.Key.Seed())
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Chain)))
	for _, der := range c.Chain {
		part(der)
	}
	part(c.SSHCert)
	part(c.Trust)
	part([]byte(c.UUID))
	part([]byte(c.Name))
	part([]byte(c.Cluster))
	b = binary.BigEndian.AppendUint64(b, c.Counter)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.Hubs)))
	for _, h := range c.Hubs {
		part([]byte(h))
	}
	return b
}

var errFormat = errors.New("not an identity this version knows; remove it and join again")

func decodeCredentials(b []byte) (*Credentials, error) {
	if len(b) < len(credentialsMagic) || string(b[:len(credentialsMagic)]) != credentialsMagic {
		return nil, errFormat
	}
	b = b[len(credentialsMagic):]
	bad := false
	number := func() uint32 {
		if len(b) < 4 {
			bad, b = true, nil
			return 0
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		return n
	}
	part := func() []byte {
		n := number()
		if uint64(n) > uint64(len(b)) {
			bad, b = true, nil
			return nil
		}
		p := append([]byte(nil), b[:n]...)
		b = b[n:]
		return p
	}
	count := func() int {
		n := number()
		if n > maxParts {
			bad = true
			return 0
		}
		return int(n)
	}
	c := &Credentials{}
	seed := part()
	for range count() {
		c.Chain = append(c.Chain, part())
	}
	c.SSHCert, c.Trust = part(), part()
	c.UUID, c.Name, c.Cluster = string(part()), string(part()), string(part())
	c.Counter = uint64(number())<<32 | uint64(number())
	for range count() {
		c.Hubs = append(c.Hubs, string(part()))
	}
	if bad || len(b) != 0 || len(seed) != ed25519.SeedSize {
		return nil, errFormat
	}
	c.Key = ed25519.NewKeyFromSeed(seed)
	return c, nil
}
