package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// UserRequest asks for a user's SSH certificate.
type UserRequest struct {
	Name    string   // see CheckUserName
	Roles   []string // at most 64
	Key     ssh.PublicKey
	TTL     time.Duration // from Now; positive
	Now     time.Time
	Cluster string // must be the Set's, or empty
	// Sources are the networks the certificate is good from; empty: anywhere.
	Sources []string
	// MFA says that a second factor was shown when the certificate was asked for.
	MFA bool
}

// IssueUser signs a user certificate: KeyId is the name, the only principal is UserPrincipal(name), and the extensions
// say roles, issue time and cluster, beside the permit-* ones that a plain sshd would want to see.
func (s *Set) IssueUser(r UserRequest) (*ssh.Certificate, error) {
	if err := s.checkRequest(r.Cluster, r.Now, r.TTL); err != nil {
		return nil, err
	}
	if err := CheckUserName(r.Name); err != nil {
		return nil, err
	}
	if err := checkRoles(r.Roles); err != nil {
		return nil, err
	}
	if err := CheckKey(r.Key); err != nil {
		return nil, err
	}
	cert := &ssh.Certificate{
		Key:             r.Key,
		CertType:        ssh.UserCert,
		KeyId:           r.Name,
		ValidPrincipals: []string{UserPrincipal(r.Name)},
		ValidAfter:      uint64(r.Now.Add(-Backdate).Unix()),
		ValidBefore:     uint64(r.Now.Add(r.TTL).Unix()),
	}
	cert.Extensions = map[string]string{
		extRoles:                  joinRoles(r.Roles),
		extIssuedAt:               r.Now.UTC().Format(time.RFC3339),
		extCluster:                s.Cluster(),
		"permit-pty":              "",
		"permit-port-forwarding":  "",
		"permit-agent-forwarding": "",
		"permit-X11-forwarding":   "",
		"permit-user-rc":          "",
	}
	if r.MFA {
		cert.Extensions[extMFA] = ""
	}
	if len(r.Sources) > 0 {
		cert.CriticalOptions = map[string]string{sourceAddress: strings.Join(r.Sources, ",")}
	}
	return cert, s.signSSH(UserCA, cert)
}

// TargetRequest asks for a certificate to log in to a server without an agent with.
type TargetRequest struct {
	KeyID string // for the server's log
	// Login is the account. Device is the server's name: a server that is to take no certificate of another's names LOGIN@DEVICE among its
	// principals, which is the second one here.
	Login, Device string
	Key           ssh.PublicKey
	TTL           time.Duration // at most MaxTargetTTL
	Now           time.Time
	Forwards      bool   // for forwards and no session; else the reverse
	ForceCommand  string // that runs whatever is asked for
}

// MaxTargetTTL is the longest life of a certificate for a server without an agent: it is for one login, now.
const MaxTargetTTL = 5 * time.Minute

// IssueTarget signs by the target CA. No hub and no device of the cluster takes such a certificate for anybody's.
func (s *Set) IssueTarget(r TargetRequest) (*ssh.Certificate, error) {
	if err := s.checkRequest("", r.Now, r.TTL); err != nil {
		return nil, err
	}
	if r.TTL > MaxTargetTTL {
		return nil, fmt.Errorf("issue: a certificate for a server lives %v at most", MaxTargetTTL)
	}
	principals := []string{r.Login, r.Login + "@" + r.Device}
	if strings.Contains(r.Login, "@") {
		return nil, fmt.Errorf("principal: %w", ErrBadName) // it would be another device's
	}
	if err := checkPrincipals(principals); err != nil {
		return nil, err
	}
	if err := CheckKey(r.Key); err != nil {
		return nil, err
	}
	cert := &ssh.Certificate{
		Key: r.Key, CertType: ssh.UserCert, KeyId: r.KeyID, ValidPrincipals: principals,
		ValidAfter: uint64(r.Now.Add(-Backdate).Unix()), ValidBefore: uint64(r.Now.Add(r.TTL).Unix()),
	}
	if r.Forwards {
		cert.Extensions = map[string]string{"permit-port-forwarding": ""}
	} else {
		cert.Extensions = map[string]string{"permit-pty": "", "permit-user-rc": ""}
	}
	if r.ForceCommand != "" {
		cert.CriticalOptions = map[string]string{"force-command": r.ForceCommand}
	}
	return cert, s.signSSH(TargetCA, cert)
}

// hostCertificate signs a host certificate for a device or hub.
func (s *Set) hostCertificate(kind Kind, role Role, id string, principals []string, key ed25519.PublicKey, from, to time.Time) ([]byte, error) {
	pub, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, err
	}
	cert := &ssh.Certificate{
		Key:             pub,
		CertType:        ssh.HostCert,
		KeyId:           id,
		ValidPrincipals: principals,
		ValidAfter:      uint64(from.Unix()),
		ValidBefore:     uint64(to.Unix()),
	}
	cert.Extensions = map[string]string{extRole: string(role), extCluster: s.Cluster()}
	if err := s.signSSH(kind, cert); err != nil {
		return nil, err
	}
	return cert.Marshal(), nil
}

func (s *Set) signSSH(kind Kind, cert *ssh.Certificate) error {
	var serial [8]byte
	if _, err := rand.Read(serial[:]); err != nil {
		return err
	}
	cert.Serial = binary.BigEndian.Uint64(serial[:])
	signer, err := s.state().signer(kind, false).sshSigner()
	if err != nil {
		return err
	}
	return cert.SignCert(rand.Reader, signer)
}

func (s *Set) checkRequest(cluster string, now time.Time, ttl time.Duration) error {
	if cluster != "" && cluster != s.Cluster() {
		return fmt.Errorf("issue: %w", ErrWrongCluster)
	}
	if err := checkLife(now, ttl); err != nil {
		return fmt.Errorf("issue: %w", err)
	}
	return nil
}

func checkRoles(roles []string) error {
	if len(roles) > maxRoles {
		return fmt.Errorf("more than %d roles", maxRoles)
	}
	for _, r := range roles {
		if err := checkLabel("role", r); err != nil {
			return err
		}
	}
	return nil
}

// checkPrincipals bounds a hub's names and addresses; what they may be is the operator's matter, but nothing in them may
// be a pattern, a list or a control character.
func checkPrincipals(principals []string) error {
	if len(principals) == 0 {
		return ErrNoPrincipals
	}
	if len(principals) > maxPrincipals {
		return fmt.Errorf("more than %d principals", maxPrincipals)
	}
	for _, p := range principals {
		bad := strings.ContainsFunc(p, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune(`*?!,"'\`, r)
		})
		if p == "" || len(p) > maxPrincipal || bad {
			return fmt.Errorf("principal: %w", ErrBadName)
		}
	}
	return nil
}
