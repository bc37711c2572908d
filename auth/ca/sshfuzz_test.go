package ca

import (
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// The certificate is always signed by the right authority: what is in it is all that can be wrong.
func FuzzVerifyUserCert(f *testing.F) {
	s, trust := newSet(f, "ber.example")
	base := userCert(f, s)
	now := t0.Format("2006-01-02T15:04:05Z07:00")
	f.Add("alice", "field,lead", now, "ber.example", "192.0.2.0/24,2001:db8::1", "192.0.2.7")
	f.Add("alice", "", now, "ber.example", "", "::ffff:192.0.2.7")
	f.Add("alice", "field,,lead", "2026-03-01T12:00:00.5+23:59", "ber.example", "192.0.2.7,x", "")
	f.Add("a\x00", strings.Repeat("r,", 80)+"r", "now", "ams.example", "fe80::1%eth0", "fe80::1")
	f.Fuzz(func(t *testing.T, name, roles, issued, cluster, source, from string) {
		c := *base
		c.KeyId, c.ValidPrincipals = name, []string{UserPrincipal(name)}
		c.Extensions = map[string]string{extRoles: roles, extIssuedAt: issued, extCluster: cluster}
		c.CriticalOptions = nil
		if source != "" {
			c.CriticalOptions = map[string]string{sourceAddress: source}
		}
		resign(t, s, UserCA, &c, func(*ssh.Certificate) {})
		remote := &net.TCPAddr{IP: net.ParseIP(from), Port: 4711}
		id, err := VerifyUserCert(&c, trust, t0, remote)
		parsed, perr := ssh.ParsePublicKey(c.Marshal())
		if perr == nil {
			if _, err2 := VerifyUserCert(parsed.(*ssh.Certificate), trust, t0, remote); !errors.Is(err2, err) {
				t.Errorf("as issued %v, as received %v", err, err2)
			}
		}
		if err != nil {
			if id.Name != "" || id.Roles != nil {
				t.Errorf("refused with %v, and yet %+v", err, id)
			}
			return
		}
		bad := func(r string) bool { return checkLabel("role", r) != nil }
		if perr != nil || cluster != trust.Cluster || id.Name != name || CheckUserName(name) != nil || len(id.Roles) > maxRoles ||
			slices.ContainsFunc(id.Roles, bad) || strings.Join(id.Roles, ",") != roles || id.IssuedAt.IsZero() && issued[:4] != "0001" {
			t.Errorf("took %+v of %q %q %q, %v", id, roles, issued, cluster, perr)
		}
		if source != "" && (sourceAllowed(source, nil) || sourceAllowed(source+",x", remote) || remote.IP == nil) {
			t.Errorf("%q allows what cannot be told", source)
		}
	})
}
