package auth

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
)

// settle is how long changes that come together are let come before live sessions are judged again.
const settle = 5 * time.Millisecond

// reevaluate judges every live session again whenever something changes that it was admitted by, and ends those that are not allowed any
// more, until ctx ends.
func (s *Server) reevaluate(ctx context.Context) {
	var judged uint64
	for {
		changed, came, rotated := s.view.moved(), s.hubs.moved(), s.rotated()
		s.resignLocks(ctx)
		hubs := s.hubs.generation()
		if at := s.view.decisive() + hubs; at != judged {
			judged = at
			s.keepLongestTTL(ctx)
			s.endDenied()
		}
		select {
		case <-changed:
		case <-came: // a hub that was away was not told
		case <-rotated:
		case <-ctx.Done():
			return
		}
		t := time.NewTimer(settle)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// resignLocks gives the list another revision when another key signs than the one it went out with.
func (s *Server) resignLocks(ctx context.Context) {
	s.locks.mu.Lock()
	by := s.locks.by
	s.locks.mu.Unlock()
	if by == nil || s.set.GrantKey().Public().(ed25519.PublicKey).Equal(by) {
		return
	}
	if _, err := s.changeLocks(ctx, func(*locksRecord, *lock.List) error { return nil }); err != nil && ctx.Err() == nil {
		s.log.Error("locks not signed by the new key", "error", err)
	}
	_, _ = s.signedLocks() // that it went out with this key, whether a hub asks or not
}

// endDenied ends the live sessions that would not be admitted now, and says how many it newly told to end.
func (s *Server) endDenied() (ended int) {
	for _, sess := range s.hubs.list() {
		why := s.judgeAgain(sess)
		if why == nil || !s.hubs.killOnce(sess, why.message) {
			continue
		}
		ended++
		e := Event{
			Type: "session.cut", Hub: sess.hubName, User: sess.user, Login: sess.login, Way: sess.way, Kind: sess.kind, Client: sess.client,
			Session: hex.EncodeToString(sess.id[:]), Connection: hex.EncodeToString(sess.connection[:]), Reason: why.message, Rule: why.rule,
		}
		if sess.device != nil {
			e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
		}
		s.record(e)
	}
	return ended
}

// judgeAgain is why a live session would not be admitted now; nil: it would.
func (s *Server) judgeAgain(sess *session) *refusal {
	user, _ := s.view.user(sess.user)
	if user == nil {
		return &refusal{reason: "user", rule: "unknown", message: "the user was removed"}
	}
	sub := sess.subject(user)
	if d := s.lockedOut(sub); d != nil {
		return &refusal{reason: d.Reason(), rule: d.Rule(), message: d.Error()}
	}
	if len(sess.proof.PublicKey) > 0 && s.view.owner(sess.proof.PublicKey) != sess.user {
		return &refusal{reason: "user", rule: "key", message: "the key you logged in with was removed"}
	}
	all, _ := s.view.policies()
	proved := user.Roles
	if sess.proof.Roles != nil {
		proved = slices.DeleteFunc(slices.Clone(proved), func(name string) bool { return !slices.Contains(sess.proof.Roles, name) })
	}
	if len(pick(all, proved)) == 0 {
		return &refusal{reason: "user", rule: "no role", message: "you have no role any more"}
	}
	roles := inForce(all, user.Roles, proved)
	if sess.device == nil {
		return nil
	}
	d := s.view.device(sess.device.UUID)
	if d == nil {
		return &refusal{reason: "device", rule: "no such device", message: "the device was removed"}
	}
	dev := d.policy()
	access := policy.Merge(roles, dev)
	no := func(reason, what, rule string) *refusal {
		return &refusal{reason: reason, rule: rule, message: fmt.Sprintf("your roles do not allow %s any more", what)}
	}
	switch {
	case len(access.Logins) == 0:
		return no("device", d.Name, "no role allows the device")
	case sess.way != "" && !slices.Contains(access.Ways, sess.way):
		return no("way", "the way "+sess.way+" to "+d.Name, "")
	case sess.login != "" && len(access.For(sess.login, sess.way).Channels) == 0:
		return no("login", "login "+sess.login+" on "+d.Name, "")
	}
	if ways := access.Credentials(); sess.proof.method() != "" && !slices.Contains(ways, sess.proof.method()) {
		return &refusal{reason: "credentials", message: "your roles do not accept a registered key here any more; log in with `hawser login`"}
	}
	if sess.joins != [16]byte{} {
		if why := s.judgeJoin(roles, sess); why != nil {
			return why
		}
		for _, name := range sess.joinRoles { // the device goes on to count him as one who has it
			if len(pick(all, []string{name})) == 0 || !slices.Contains(proved, name) {
				return &refusal{reason: "join", rule: "role " + name, message: "you came into that session with the role " + name + ", which you have no more; join it again"}
			}
		}
	} else if why := judgeModerators(access.For(sess.login, sess.way), sess); why != nil {
		return why
	}
	switch sess.channel {
	case policy.Shell, policy.Exec, policy.SFTP, policy.JoinSession:
		if dec := policy.Evaluate(roles, dev, sess.login, sess.channel, sess.way); !dec.Allowed {
			return no("channel", sess.channel+" on "+d.Name, dec.Rule)
		}
	}
	return nil
}

// proof is how the person of a session proved himself; zero where a hub told of the session and not of that.
type proof struct {
	PublicKey []byte // SSH wire form of the registered key
	Key       string // fingerprint of the key that signed
	IssuedAt  time.Time
	// Roles are those of the certificate; nil: it was a key, or is not known.
	Roles []string
}

// proofOf is how a hub says that the person of a session proved himself. It checked that when the session began, and the certificate may have
// expired since.
func (s *Server) proofOf(st *api.SessionState) proof {
	sub := subjectOf(st.PublicKey, st.Certificate, netip.Addr{})
	p := proof{Key: sub.Key, IssuedAt: sub.IssuedAt}
	if len(st.Certificate) == 0 {
		p.PublicKey = st.PublicKey
		return p
	}
	// What is no certificate gives no roles, and so no right to go on.
	p.Roles = []string{}
	if key, err := ssh.ParsePublicKey(st.Certificate); err == nil {
		if cert, ok := key.(*ssh.Certificate); ok {
			p.Roles = append(p.Roles, ca.RolesOf(cert)...)
		}
	}
	return p
}

// method is the credential of policy.Access.Credentials; empty: not known.
func (p *proof) method() string {
	switch {
	case len(p.PublicKey) > 0:
		return policy.CredentialKey
	case !p.IssuedAt.IsZero():
		return policy.CredentialCertificate
	}
	return ""
}

// subject is the session as locks see it.
func (sess *session) subject(user *userRecord) lock.Subject {
	sub := lock.Subject{User: sess.user, Roles: user.Roles, Login: sess.login, Key: sess.proof.Key, IssuedAt: sess.proof.IssuedAt}
	if sess.device != nil {
		sub.Device = sess.device.UUID
	}
	if ap, err := netip.ParseAddrPort(sess.client); err == nil {
		sub.Source = ap.Addr()
	}
	return sub
}

// decisive is the revision of the last change that a session may have been admitted by.
func (v *view) decisive() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.decisiveRev
}
