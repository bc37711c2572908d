package auth

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/auth/store"
)

type loginService struct {
	*Server
}

// errLogin is the one answer to whoever did not prove who he is.
func errLogin() error {
	return api.NewError(connect.CodeUnauthenticated, api.Code_CODE_LOGIN_FAILED,
		"user, password or code is wrong; `hawser login --user NAME` tries again, and an admin helps with `hawser user reset NAME`")
}

// Login gives certificates for a password and a code.
func (s loginService) Login(ctx context.Context, req *connect.Request[api.LoginRequest]) (*connect.Response[api.UserCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	if _, err := readSSHKey(c, r.SshPublicKey); err != nil {
		return nil, err
	}
	mfa, err := s.prove(ctx, c, r.User, r.Password, r.Code)
	if err != nil {
		return nil, err
	}
	// Whose a key is, is told to nobody who has not proved who he is.
	sshKey, err := s.sshKeyOf(c, r.SshPublicKey, r.User)
	if err != nil {
		return nil, err
	}
	_, roles := s.view.user(r.User)
	if policy.MFA(roles) != policy.MFANone && !mfa {
		s.record(Event{Type: "user.login.refuse", User: r.User, Source: c.addr, Via: c.via, Reason: "no authenticator"})
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_ENROL_REQUIRED,
			"your roles ask for a second factor and you have no authenticator; an admin gives you a link with `hawser user reset %s`", r.User)
	}
	cred, err := s.issueUser(issue{
		user: r.User, tlsKey: c.key, sshKey: sshKey, ttl: seconds(r.TtlSeconds), login: ca.Login{At: s.cfg.Now(), MFA: mfa}, actor: "user:" + r.User, source: c.addr, via: c.via,
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "user.login", User: r.User, Source: c.addr, Via: c.via, Roles: roleNames(roles), Method: proofOf(mfa)})
	return connect.NewResponse(cred), nil
}

func proofOf(mfa bool) string {
	if mfa {
		return "password and code"
	}
	return "password"
}

// seconds is a life that was wished for; what is too long to be one counts as none wished.
func seconds(n uint64) time.Duration {
	if n > uint64(maxTTL/time.Second) {
		return 0
	}
	return time.Duration(n) * time.Second
}

// sshKeyOf is the key to put into the SSH certificate. One that another user has registered is not certified: a signature by
// it would be two people's.
func (s *Server) sshKeyOf(c caller, blob []byte, user string) (ssh.PublicKey, error) {
	key, err := readSSHKey(c, blob)
	if err != nil {
		return nil, err
	}
	if owner := s.view.owner(key.Marshal()); owner != "" && owner != user {
		return nil, invalid("the SSH key belongs to somebody else; make another")
	}
	return key, nil
}

func readSSHKey(c caller, blob []byte) (ssh.PublicKey, error) {
	if len(blob) == 0 {
		return ssh.NewPublicKey(c.key)
	}
	if len(blob) > maxKeyLine {
		return nil, invalid("the SSH key has more than %d bytes", maxKeyLine)
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, invalid("the SSH key cannot be read")
	}
	if err := ca.CheckKey(key); err != nil {
		return nil, invalid("SSH key: %w", err)
	}
	return key, nil
}

// prove holds password and code against what is known of a user: his, from a source that may try. mfa is set where a code was
// part of it. Every failure costs the same work and gets the same answer.
func (s *Server) prove(ctx context.Context, c caller, name, password, code string) (mfa bool, err error) {
	now, source := s.cfg.Now(), sourceOf(c.addr)
	if ap, err := netip.ParseAddrPort(c.addr); err == nil {
		if d := s.lockedOut(lock.Subject{Source: ap.Addr()}); d != nil {
			return false, lockError(d)
		}
	}
	name = clip(name)
	if ca.CheckUserName(name) != nil {
		name = "-" // nobody's name: it is counted and answered as one
	}
	var l loginRecord
	if _, err := s.get(ctx, loginPrefix+name, &l); err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	if wait, what := s.lockout.wait(source, name, l.knows(source, now), now); wait > 0 {
		if s.refusals.take(source, now) {
			s.record(Event{Type: "user.login.refuse", User: name, Source: c.addr, Via: c.via, Reason: "too many failures of the " + what})
		}
		return false, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, wait,
			"too many failed logins; wait %v, or ask an admin for `hawser user unlock`", wait.Round(time.Second))
	}
	u, _ := s.view.user(name)
	hash := ""
	if u != nil && len(password) <= maxPassword {
		hash = u.Password
	}
	ok, old, err := s.hasher.check(ctx, source, password[:min(len(password), maxPassword)], hash)
	if errors.Is(err, errBusy) {
		return false, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, 2*time.Second, "too many people log in at once; try again")
	} else if err != nil {
		return false, err
	}
	reason := ""
	switch {
	case u == nil:
		reason = "no such user"
	case u.Password == "":
		reason = "the user has no password"
	case !ok:
		reason = "wrong password"
	case !fromAddr(u.Sources, c.addr):
		reason = "source address"
	default:
		if reason, err = s.spendCode(ctx, u, code, func(l *loginRecord) { l.arrived(c.addr, now) }); err != nil {
			return false, err
		}
	}
	if reason != "" {
		s.loginFailed(source, name, Event{Type: "user.login.refuse", User: name, Source: c.addr, Via: c.via, Reason: reason})
		return false, errLogin()
	}
	s.lockout.good(source, name)
	if old {
		s.rehash(ctx, u, source, password)
	}
	return len(u.TOTP) > 0, nil
}

// loginFailed counts a failure and puts it into the audit log, where a source does not write too much of it.
func (s *Server) loginFailed(source, name string, e Event) {
	now := s.cfg.Now()
	locked := s.lockout.failed(source, name, now)
	if s.refusals.take(source, now) {
		s.record(e)
	}
	if locked != "" {
		s.record(Event{Type: "user.lockout", User: name, Source: e.Source, Via: e.Via, Client: e.Client, Hub: e.Hub, Object: locked, Reason: "too many failures"})
	}
}

// spendCode holds a code against the user's authenticator, if he has one, and makes it good for nothing more, together with
// what change does to his record. reason is why not.
func (s *Server) spendCode(ctx context.Context, u *userRecord, code string, change func(*loginRecord)) (reason string, err error) {
	secret := ""
	if len(u.TOTP) > 0 {
		if code == "" {
			return "no code", nil
		}
		if secret, err = s.openTOTP(u.Name, u.TOTP); err != nil {
			s.log.Error("authenticator not usable", "user", u.Name, "error", err)
			return "the authenticator's secret cannot be opened", nil
		}
	}
	err = s.changeLogin(ctx, u, func(l *loginRecord) error {
		reason = ""
		if secret != "" {
			last := max(l.Step, s.steps.last(u.Name))
			step, ok := matchTOTP(secret, code, last, s.cfg.Now())
			if !ok {
				reason = "wrong code"
				if _, replayed := matchTOTP(secret, code, 0, s.cfg.Now()); replayed {
					reason = "the code was used before"
				}
				return errNoChange
			}
			l.Step = step
		}
		change(l)
		return nil
	})
	switch {
	case errors.Is(err, errNoChange):
		return reason, nil
	case err != nil:
		return "", err
	}
	return "", nil
}

var errNoChange = errors.New("nothing to change")

// changeLogin changes a user's loginRecord. With a disk that is full the change is lost, but for the code that was spent:
// people must get in to make room.
func (s *Server) changeLogin(ctx context.Context, u *userRecord, change func(*loginRecord) error) error {
	return retryConflict(ctx, func() error {
		var l loginRecord
		key := loginPrefix + u.Name
		rev, err := s.get(ctx, key, &l)
		cond := store.IfModRev(key, rev)
		if errors.Is(err, store.ErrNotFound) {
			cond = store.IfAbsent(key)
		} else if err != nil {
			return err
		}
		before := l.Step
		if err := change(&l); err != nil {
			return err
		}
		// In memory first: of two who bring one code at once, one finds it spent, whatever the store says.
		if l.Step != before && !s.steps.spend(u.Name, l.Step) {
			return store.ErrConflict
		}
		err = s.commit(ctx, []store.Cond{cond, store.IfExists(userPrefix + u.Name)}, put(key, l))
		if errors.Is(err, store.ErrConflict) && l.Step != before {
			s.steps.unspend(u.Name, l.Step)
		}
		if errors.Is(err, store.ErrNoSpace) {
			s.log.Warn("a login is not stored: the disk is full", "user", u.Name)
			return nil
		}
		return err
	})
}

// knows tells whether the user has logged in from a source lately.
func (l *loginRecord) knows(source string, now time.Time) bool {
	at, ok := l.Good[source]
	return ok && now.Sub(at) < goodSourceLife
}

// arrived notes a login from addr.
func (l *loginRecord) arrived(addr string, now time.Time) {
	l.Last, l.Source = now, addr
	if l.Good == nil {
		l.Good = make(map[string]time.Time)
	}
	l.Good[sourceOf(addr)] = now
	for len(l.Good) > maxGoodSources {
		delete(l.Good, slices.MinFunc(slices.Collect(maps.Keys(l.Good)), func(a, b string) int { return l.Good[a].Compare(l.Good[b]) }))
	}
}

// rehash makes the hash of a password that was right anew with the present parameters. Where it fails the next login tries again.
func (s *Server) rehash(ctx context.Context, u *userRecord, source, password string) {
	hash, err := s.hasher.make(ctx, source, password)
	if err == nil {
		_, err = s.changeUser(ctx, u.Name, func(now *userRecord) ([]store.Cond, error) {
			if now.Password == u.Password {
				now.Password = hash
			}
			return nil, nil
		})
	}
	if err != nil {
		s.log.Warn("a password is not hashed anew", "user", u.Name, "error", err)
	}
}

// ChangePassword replaces the caller's password.
func (s userService) ChangePassword(ctx context.Context, req *connect.Request[api.ChangePasswordRequest]) (*connect.Response[api.ChangePasswordResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if err := s.checkNew(r.NewPassword, c.id.Name); err != nil {
		return nil, err
	}
	if _, err := s.prove(ctx, c, c.id.Name, r.Password, r.Code); err != nil {
		return nil, err
	}
	hash, err := s.newPassword(ctx, sourceOf(c.addr), r.NewPassword)
	if err != nil {
		return nil, err
	}
	if _, err := s.changeUser(ctx, c.id.Name, func(u *userRecord) ([]store.Cond, error) {
		if u.Password == "" {
			return nil, errLogin() // it was taken from him while this was hashed, and whoever knew it does not set the next
		}
		u.Password = hash
		return nil, nil
	}); err != nil {
		return nil, err
	}
	s.record(Event{Type: "user.password", Actor: c.String(), User: c.id.Name, Source: c.addr, Via: c.via})
	return connect.NewResponse(&api.ChangePasswordResponse{}), nil
}

func (s *Server) checkNew(password, user string) error {
	if err := checkPassword(password, user, s.info.Cluster); err != nil {
		return api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_PASSWORD, "%w", err)
	}
	return nil
}

func (s *Server) newPassword(ctx context.Context, source, password string) (string, error) {
	hash, err := s.hasher.make(ctx, source, password)
	if errors.Is(err, errBusy) {
		return "", api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, 2*time.Second, "too many people log in at once; try again")
	}
	return hash, err
}

// EnrolAuthenticator makes a secret that counts once a code of it was seen.
func (s userService) EnrolAuthenticator(ctx context.Context, req *connect.Request[api.EnrolAuthenticatorRequest]) (*connect.Response[api.EnrolAuthenticatorResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if _, err := s.prove(ctx, c, c.id.Name, r.Password, r.Code); err != nil {
		return nil, err
	}
	u, _ := s.view.user(c.id.Name)
	if u == nil {
		return nil, noUser(c.id.Name)
	}
	secret := newTOTP()
	sealed := s.sealTOTP(u.Name, secret)
	end := s.cfg.Now().Add(enrolTTL)
	if err := s.changeLogin(ctx, u, func(l *loginRecord) error {
		l.Enrol, l.EnrolEnd = sealed, end
		return nil
	}); err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.EnrolAuthenticatorResponse{
		OtpauthUrl: otpauthURL(s.info.Cluster, u.Name, secret), OtpSecret: secret, ExpiresUnix: end.Unix(),
	}), nil
}

// ConfirmAuthenticator puts the new authenticator in place of the old one.
func (s userService) ConfirmAuthenticator(ctx context.Context, req *connect.Request[api.ConfirmAuthenticatorRequest]) (*connect.Response[api.ConfirmAuthenticatorResponse], error) {
	c, name := callerOf(ctx), callerOf(ctx).id.Name
	now, source := s.cfg.Now(), sourceOf(c.addr)
	if wait, _ := s.lockout.wait(source, name, true, now); wait > 0 {
		return nil, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, wait, "too many wrong codes; wait %v", wait.Round(time.Second))
	}
	var l loginRecord
	if _, err := s.get(ctx, loginPrefix+name, &l); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if len(l.Enrol) == 0 || !now.Before(l.EnrolEnd) {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_BAD_CODE, "no new authenticator waits for a code; begin again with `hawser user authenticator`")
	}
	secret, err := s.openTOTP(name, l.Enrol)
	if err != nil {
		return nil, err
	}
	step, ok := matchTOTP(secret, req.Msg.Code, 0, now)
	if !ok {
		s.loginFailed(source, name, Event{Type: "user.totp.refuse", User: name, Source: c.addr, Via: c.via, Reason: "wrong code"})
		return nil, badCode()
	}
	u, err := s.changeUser(ctx, name, func(u *userRecord) ([]store.Cond, error) {
		u.TOTP = l.Enrol
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	if err := s.changeLogin(ctx, u, func(l *loginRecord) error {
		l.Step, l.Enrol, l.EnrolEnd = max(step, l.Step), nil, time.Time{}
		return nil
	}); err != nil {
		return nil, err
	}
	s.record(Event{Type: "user.totp", Actor: c.String(), User: name, Source: c.addr, Via: c.via})
	return connect.NewResponse(&api.ConfirmAuthenticatorResponse{}), nil
}

func badCode() error {
	return api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_CODE,
		"the code is not one of the authenticator just added; is the clock of the phone right?")
}

// Logout says that the caller has put his certificates away, or voids all of them.
func (s userService) Logout(ctx context.Context, req *connect.Request[api.LogoutRequest]) (*connect.Response[api.LogoutResponse], error) {
	c := callerOf(ctx)
	e := Event{Type: "user.logout", Actor: c.String(), User: c.id.Name, Source: c.addr, Via: c.via}
	if req.Msg.Everywhere {
		e.Reason = "everywhere"
		if err := s.voidCertificates(ctx, c.id.Name); err != nil {
			return nil, err
		}
		s.second.forgetUser(c.id.Name)
		s.killWhere("the user logged out everywhere", func(sess *session) bool { return sess.user == c.id.Name })
	}
	s.record(e)
	return connect.NewResponse(&api.LogoutResponse{}), nil
}

// stepsUsed remembers the newest time step of a code that each user spent, so that it is good once even while nothing can be
// stored. It holds one number for each user with an authenticator who logged in since the start. Safe for concurrent use.
type stepsUsed struct {
	mu sync.Mutex
	of map[string]uint64
}

func newStepsUsed() *stepsUsed { return &stepsUsed{of: make(map[string]uint64)} }

func (s *stepsUsed) last(user string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of[user]
}

// spend reports whether step is newer than what the user spent.
func (s *stepsUsed) spend(user string, step uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if step <= s.of[user] {
		return false
	}
	s.of[user] = step
	return true
}

// unspend takes back a step that was not stored after all.
func (s *stepsUsed) unspend(user string, step uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[user] == step {
		s.of[user] = step - 1
	}
}

func (s *stepsUsed) forget(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, user)
}
