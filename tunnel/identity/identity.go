package identity

import (
	"crypto/ed25519"
	"crypto/tls"
	"errors"
)

type Dir struct{}

var ErrNotExist = errors.New("does not exist")
var ErrDamaged = errors.New("damaged")
var ErrLocked = errors.New("in use")

func Open(dir string) (*Dir, error)                 { panic("skeleton") }
func (d *Dir) Write(name string, data []byte) error { panic("skeleton") }
func (d *Dir) Read(name string) ([]byte, error)     { panic("skeleton") }
func (d *Dir) Remove(name string) error             { panic("skeleton") }
func (d *Dir) Lock() error                          { panic("skeleton") }
func (d *Dir) Close() error                         { panic("skeleton") }

type Credentials struct {
	Key                 ed25519.PrivateKey
	Chain               [][]byte
	SSHCert             []byte
	Trust               []byte
	UUID, Name, Cluster string
	Counter             uint64
	Hubs                []string
}

func Load(d *Dir) (*Credentials, error)                { panic("skeleton") }
func (c *Credentials) Save(d *Dir) error               { panic("skeleton") }
func (c *Credentials) TLSCertificate() tls.Certificate { panic("skeleton") }
