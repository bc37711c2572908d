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
		extCluster:                s.cluster,
		"permit-pty":              "",
		"permit-port-forwarding":  "",
		"permit-agent-forwarding": "",
		"permit-X11-forwarding":   "",
		"permit-user-rc":          "",
	}
	return cert, s.signSSH(UserCA, cert)
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
	cert.Extensions = map[string]string{extRole: string(role), extCluster: s.cluster}
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
	signer, err := s.byKind[kind].sshSigner()
	if err != nil {
		return err
	}
	return cert.SignCert(rand.Reader, signer)
}

func (s *Set) checkRequest(cluster string, now time.Time, ttl time.Duration) error {
	if cluster != "" && cluster != s.cluster {
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
