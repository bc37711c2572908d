// Package ca issues and verifies Hawser's certificates.
package ca

import (
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
)

type Kind uint8

const (
	UserCA Kind = iota + 1
	HubHostCA
	DeviceHostCA
	TargetCA
	TunnelCA
	GrantKey
	TimeKey
)

type Authority struct{}

func Generate(kind Kind, cluster string, now time.Time) (*Authority, error) { panic("x") }

type Set struct{}

func NewSet(cluster string, now time.Time) (*Set, error)               { panic("x") }
func (s *Set) Cluster() string                                         { panic("x") }
func (s *Set) Marshal() []byte                                         { panic("x") }
func UnmarshalSet(b []byte) (*Set, error)                              { panic("x") }
func (s *Set) Trust(revision uint64) Trust                             { panic("x") }
func (s *Set) GrantKey() ed25519.PrivateKey                            { panic("x") }
func Seal(key *[32]byte, blob []byte) []byte                           { panic("x") }
func Open(key *[32]byte, sealed []byte) ([]byte, error)                { panic("x") }
func CheckUserName(name string) error                                  { panic("x") }
func CheckKey(key ssh.PublicKey) error                                 { panic("x") }
func SelfSigned(key ed25519.PrivateKey, now time.Time) ([]byte, error) { panic("x") }

type UserRequest struct {
	Name    string
	Roles   []string
	Key     ssh.PublicKey
	TTL     time.Duration
	Now     time.Time
	Cluster string
}
type DeviceRequest struct {
	UUID, Name, Cluster string
	Key                 ed25519.PublicKey
	TTL                 time.Duration
	Now                 time.Time
}
type HubRequest struct {
	UUID, Name, Cluster string
	Principals          []string // of the SSH host certificate
	Key                 ed25519.PublicKey
	TTL                 time.Duration
	Now                 time.Time
}
type AuthRequest struct {
	UUID, Name, Cluster string
	Key                 ed25519.PublicKey
	TTL                 time.Duration
	Now                 time.Time
}
type UserX509Request struct {
	Name, Cluster string
	Key           crypto.PublicKey
	TTL           time.Duration
	Now           time.Time
}

func (s *Set) IssueUser(r UserRequest) (*ssh.Certificate, error)                       { panic("x") }
func (s *Set) IssueDevice(r DeviceRequest) (chain [][]byte, sshCert []byte, err error) { panic("x") }
func (s *Set) IssueHub(r HubRequest) (chain [][]byte, sshCert []byte, err error)       { panic("x") }
func (s *Set) IssueAuth(r AuthRequest) (chain [][]byte, err error)                     { panic("x") }
func (s *Set) IssueUserX509(r UserX509Request) (chain [][]byte, err error)             { panic("x") }

type Role string

const (
	RoleDevice Role = "device"
	RoleHub    Role = "hub"
	RoleAuth   Role = "auth"
	RoleUser   Role = "user"
)

type Identity struct {
	Role     Role
	UUID     string // empty for users
	Name     string
	Cluster  string
	NotAfter time.Time
}

func (i Identity) Require(role Role) error { panic("x") }

func VerifyPeer(chain []*x509.Certificate, trust *Trust, now time.Time) (Identity, error) { panic("x") }

type UserIdentity struct {
	Name     string
	Roles    []string
	Serial   uint64
	IssuedAt time.Time
	NotAfter time.Time
}

func VerifyUserCert(cert *ssh.Certificate, trust *Trust, now time.Time, remote net.Addr) (UserIdentity, error) {
	panic("x")
}
func VerifyHostCert(cert *ssh.Certificate, trust *Trust, kind Kind, principal string, now time.Time) error {
	panic("x")
}

type Trust struct {
	Cluster                                   string
	Revision                                  uint64
	UserCA, HubHostCA, DeviceHostCA, TargetCA [][]byte // SSH wire format public keys
	TunnelCA                                  [][]byte // DER certificates
	GrantKeys, TimeKeys                       []ed25519.PublicKey
}

func (s *Set) SignTrust(t Trust) ([]byte, error)                                 { panic("x") }
func OpenTrust(blob []byte, pins ...string) (*Trust, error)                      { panic("x") }
func (t *Trust) Pins() []string                                                  { panic("x") }
func PinnedTrust(chain []*x509.Certificate, cluster, pin string) (*Trust, error) { panic("x") }
func Pin(tunnelCA []byte) (string, error)                                        { panic("x") }
func MatchPin(cert *x509.Certificate, pin string) bool                           { panic("x") }
func (s *Set) SignTime(now time.Time, nonce *[32]byte) []byte                    { panic("x") }
func OpenTime(blob []byte, trust *Trust) (time.Time, *[32]byte, error)           { panic("x") }

type Secret []byte
type Token struct {
	Kind      string // "edge" or "hub"
	Cluster   string
	Addresses []string
	Pin       string
	Secret    Secret
}

func (t Token) Reveal() (string, error)  { panic("x") }
func ParseToken(s string) (Token, error) { panic("x") }
