package auth

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
)

// who is the person of a claim, and what proved it.
type who struct {
	user   *userRecord
	roles  []policy.Role
	method string    // "certificate SERIAL" or "key FINGERPRINT"
	key    *userKey  // the registered key; nil: it was a certificate
	mfa    bool      // a second factor was shown when the certificate was issued
	until  time.Time // when the certificate, or the key, expires; zero: never
}

// authenticate checks the hub's claim of who signed, as far as it can be checked again here: that the signature was made is the
// hub's word.
func (s *Server) authenticate(r *api.AdmitRequest, client netip.AddrPort) (who, error) {
	var w who
	var name string
	var certRoles []string
	switch {
	case len(r.Certificate) > 0 && len(r.PublicKey) == 0:
		key, err := ssh.ParsePublicKey(r.Certificate)
		cert, ok := key.(*ssh.Certificate)
		if err != nil || !ok {
			return w, &refusal{reason: "certificate", rule: "malformed", message: "the certificate cannot be read; log in again with `hawser login`"}
		}
		id, err := ca.VerifyUserCert(cert, s.trusted(), s.cfg.Now(), net.TCPAddrFromAddrPort(client))
		if err != nil {
			return w, &refusal{reason: "certificate", rule: err.Error(), message: err.Error() + "; log in again with `hawser login`"}
		}
		name, certRoles = id.Name, id.Roles
		w.until = ca.ExpiresAt(cert)
		w.method, w.mfa = fmt.Sprintf("certificate %d", id.Serial), ca.UserCertMFA(cert.Extensions)
	case len(r.PublicKey) > 0 && len(r.Certificate) == 0:
		key, err := ssh.ParsePublicKey(r.PublicKey)
		if err == nil {
			err = ca.CheckKey(key)
		}
		if err != nil {
			return w, &refusal{reason: "user", rule: "bad key", message: "this key is of a kind that is not accepted"}
		}
		name = s.view.owner(r.PublicKey)
		w.method = "key " + ssh.FingerprintSHA256(key)
	default:
		return w, invalid("give either the key or the certificate that signed")
	}
	w.user, w.roles = s.view.user(name)
	if w.user == nil || r.User != "" && r.User != w.user.Name {
		return w, &refusal{reason: "user", rule: "unknown", message: "no user has this key; an admin adds it with `hawser user key add`, or log in with `hawser login`"}
	}
	if len(r.Certificate) > 0 {
		// A role taken away is gone at once; one given comes with the next certificate.
		w.roles = slices.DeleteFunc(w.roles, func(r policy.Role) bool { return !slices.Contains(certRoles, r.Name) })
	} else if w.key = w.user.key(r.PublicKey); w.key == nil {
		return w, &refusal{reason: "user", rule: "unknown", message: "this key was removed"}
	}
	if !from(w.user.Sources, client.Addr()) || w.key != nil && !from(w.key.Sources, client.Addr()) {
		return w, &refusal{reason: "source", rule: "source-address", message: "you may not come from this address; an admin names the networks you may come from"}
	}
	if w.key != nil && !w.key.Expires.IsZero() && !s.cfg.Now().Before(w.key.Expires) {
		return w, &refusal{reason: "key-expired", rule: "expired", message: fmt.Sprintf(
			"your key expired at %s; register it again with `hawser user key add`, or log in with `hawser login`", w.key.Expires.UTC().Format("2006-01-02 15:04 MST"))}
	}
	if w.key != nil {
		w.until = w.key.Expires
	}
	if len(w.roles) == 0 {
		return w, &refusal{reason: "user", rule: "no role", message: "you have no role; ask an admin for one"}
	}
	return w, nil
}

// checkDemands holds a claim against what the roles ask of the proof: certificates, a second factor.
func (s *Server) checkDemands(r *api.AdmitRequest, hub string, w who) error {
	if w.key != nil && !s.accepts(policy.CredentialKey, r, w.roles) {
		return &refusal{reason: "credentials", rule: "certificate", message: "your roles take certificates only; log in with `hawser login`, and ssh offers the certificate by itself"}
	}
	if w.key == nil && !s.accepts(policy.CredentialCertificate, r, w.roles) {
		return &refusal{reason: "credentials", rule: "key", message: "your roles take no certificate; offer a registered key, with `ssh -o IdentitiesOnly=yes -i FILE`"}
	}
	return s.checkMFA(r, hub, w)
}

// accepts tells whether a kind of credential will do. Where the device is not known yet it will if it does for any role.
func (s *Server) accepts(credential string, r *api.AdmitRequest, roles []policy.Role) bool {
	if access, ok := s.wantedAccess(r, roles); ok {
		return slices.Contains(access.Credentials(), credential)
	}
	return slices.ContainsFunc(roles, func(role policy.Role) bool {
		return slices.Contains(policy.Credentials([]policy.Role{role}), credential)
	})
}

// wantedAccess is what the roles allow on the device a claim is about, or names as what it is going to be about.
func (s *Server) wantedAccess(r *api.AdmitRequest, roles []policy.Role) (policy.Access, bool) {
	name := r.Device
	if name == "" {
		name = r.WantedDevice
	}
	d := s.view.device(name)
	if d == nil {
		return policy.Access{}, false
	}
	access := policy.Merge(roles, d.policy())
	return access, len(access.Logins) > 0
}

// restrict puts what a registered key is limited to into a grant: a key with a command runs that and nothing else, in no way
// in where nobody here sees to it.
func (w who) restrict(r *api.AdmitRequest, g *grant.Grant) error {
	if w.key == nil || w.key.ForceCommand == "" {
		return nil
	}
	g.ForceCommand = w.key.ForceCommand
	g.Channels = slices.DeleteFunc(slices.Clone(g.Channels), func(ch string) bool { return ch != policy.Shell && ch != policy.Exec })
	if r.Way != policy.WayHub || g.Kind == grant.Forwards || len(g.Channels) == 0 || r.Channel != "" && !slices.Contains(g.Channels, r.Channel) {
		return &refusal{reason: "force-command", rule: "force-command", message: "this key runs one command and opens nothing else; use another key, or `hawser login`"}
	}
	return nil
}
