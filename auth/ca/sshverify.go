package ca

import (
	"bytes"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// UserIdentity is whom a user's SSH certificate names.
type UserIdentity struct {
	Name     string
	Roles    []string
	Serial   uint64
	IssuedAt time.Time
	NotAfter time.Time
}

const sourceAddress = "source-address"

// VerifyUserCert holds a user certificate against the user CAs of trust. remote is the person's address, a *net.TCPAddr;
// on an edge that is the address the hub reports, never the tunnel's. It is looked at only when the certificate has the
// source-address option. That the client holds the private key is the SSH handshake's to prove.
//
// It fails with, in this order: ErrNoCertificate, ErrWrongType (a host certificate), ErrNested, ErrKeyType, ErrKeySize,
// ErrWrongCA (signed by another CA of this cluster), ErrUnknownCA, ErrBadSignature, ErrWrongCluster, ErrNoPrincipals,
// ErrWrongPrincipal, ErrMalformed, ErrCriticalOption, ErrNotYetValid, ErrExpired, ErrSourceAddress. An empty principal
// list means nobody, as in OpenSSH, and not anybody, as in ssh.CertChecker.
func VerifyUserCert(cert *ssh.Certificate, trust *Trust, now time.Time, remote net.Addr) (UserIdentity, error) {
	if err := verifySSH(cert, trust, ssh.UserCert, UserCA); err != nil {
		return UserIdentity{}, err
	}
	if len(cert.ValidPrincipals) == 0 {
		return UserIdentity{}, ErrNoPrincipals
	}
	if len(cert.ValidPrincipals) != 1 || cert.ValidPrincipals[0] != UserPrincipal(cert.KeyId) {
		return UserIdentity{}, ErrWrongPrincipal
	}
	id := UserIdentity{Name: cert.KeyId, Roles: splitRoles(cert.Extensions[extRoles]), Serial: cert.Serial}
	if CheckUserName(id.Name) != nil || checkRoles(id.Roles) != nil {
		return UserIdentity{}, ErrMalformed
	}
	issued, err := time.Parse(time.RFC3339, cert.Extensions[extIssuedAt])
	if err != nil {
		return UserIdentity{}, ErrMalformed
	}
	id.IssuedAt = issued.UTC()
	for option := range cert.CriticalOptions {
		if option != sourceAddress {
			return UserIdentity{}, ErrCriticalOption
		}
	}
	if err := checkSSHTime(cert, now); err != nil {
		return UserIdentity{}, err
	}
	if list, limited := cert.CriticalOptions[sourceAddress]; limited && !sourceAllowed(list, remote) {
		return UserIdentity{}, ErrSourceAddress
	}
	id.NotAfter = time.Unix(int64(min(cert.ValidBefore, maxUnixMilli/1000)), 0).UTC()
	return id, nil
}

// VerifyHostCert holds a host certificate against the CAs of kind, which is HubHostCA or DeviceHostCA, and requires that
// it names principal. Errors are those of VerifyUserCert, in its order.
func VerifyHostCert(cert *ssh.Certificate, trust *Trust, kind Kind, principal string, now time.Time) error {
	if err := verifySSH(cert, trust, ssh.HostCert, kind); err != nil {
		return err
	}
	if len(cert.ValidPrincipals) == 0 {
		return ErrNoPrincipals
	}
	if !slices.Contains(cert.ValidPrincipals, principal) {
		return ErrWrongPrincipal
	}
	if len(cert.CriticalOptions) > 0 {
		return ErrCriticalOption
	}
	return checkSSHTime(cert, now)
}

// verifySSH checks what user and host certificates share: type, keys, authority, signature and cluster. The authority is
// compared as bytes before its signature is verified, so a stranger's key is never used.
func verifySSH(cert *ssh.Certificate, trust *Trust, certType uint32, kind Kind) error {
	if cert == nil || cert.Key == nil || cert.SignatureKey == nil || cert.Signature == nil {
		return ErrNoCertificate
	}
	if cert.CertType != certType {
		return ErrWrongType
	}
	if _, nested := cert.SignatureKey.(*ssh.Certificate); nested {
		return ErrNested
	}
	if err := CheckKey(cert.Key); err != nil {
		return err
	}
	signer := cert.SignatureKey.Marshal()
	if !listed(trust.sshCAs(kind), signer) {
		for _, other := range []Kind{UserCA, HubHostCA, DeviceHostCA, TargetCA} {
			if listed(trust.sshCAs(other), signer) {
				return ErrWrongCA
			}
		}
		return ErrUnknownCA
	}
	// CheckCert verifies the signature last; time, principals and options, which it also looks at and which it reports
	// by text alone, are ours to judge, so it is given a certificate's worth of agreement on them.
	checker := ssh.CertChecker{Clock: func() time.Time { return time.Unix(int64(min(cert.ValidAfter, math.MaxInt64)), 0) }}
	for option := range cert.CriticalOptions {
		checker.SupportedCriticalOptions = append(checker.SupportedCriticalOptions, option)
	}
	if cert.ValidAfter >= cert.ValidBefore || cert.ValidAfter > math.MaxInt64 {
		return ErrExpired // valid at no time at all
	}
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	if checker.CheckCert(principal, cert) != nil {
		return ErrBadSignature
	}
	if cert.Extensions[extCluster] != trust.Cluster {
		return ErrWrongCluster
	}
	return nil
}

func listed(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

func checkSSHTime(cert *ssh.Certificate, now time.Time) error {
	t := now.Unix()
	if t < 0 || uint64(t) < cert.ValidAfter {
		return ErrNotYetValid
	}
	if uint64(t) >= cert.ValidBefore {
		return ErrExpired
	}
	return nil
}

// sourceAllowed reports whether remote is in list, the addresses and networks of PROTOCOL.certkeys' source-address. What
// cannot be parsed allows nothing.
func sourceAllowed(list string, remote net.Addr) bool {
	tcp, ok := remote.(*net.TCPAddr)
	if !ok || tcp == nil {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	if !ip.IsValid() {
		return false
	}
	allowed := false
	for entry := range strings.SplitSeq(list, ",") {
		if p, err := netip.ParsePrefix(entry); err == nil {
			allowed = allowed || p.Contains(ip)
		} else if a, err := netip.ParseAddr(entry); err == nil {
			allowed = allowed || a.Unmap() == ip
		} else {
			return false
		}
	}
	return allowed
}

// IssuedAt is when a user certificate says it was issued; zero: it does not. For one that VerifyUserCert accepted, then or earlier.
func IssuedAt(cert *ssh.Certificate) time.Time {
	issued, _ := time.Parse(time.RFC3339, cert.Extensions[extIssuedAt])
	return issued.UTC()
}

// ExpiresAt is when a certificate does; zero: never.
func ExpiresAt(cert *ssh.Certificate) time.Time {
	if cert.ValidBefore > 1<<62 { // ssh.CertTimeInfinity, and what no time is
		return time.Time{}
	}
	return time.Unix(int64(cert.ValidBefore), 0)
}

// RolesOf are the roles a user certificate names, likewise.
func RolesOf(cert *ssh.Certificate) []string { return splitRoles(cert.Extensions[extRoles]) }
