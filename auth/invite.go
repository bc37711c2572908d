package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
)

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// linksOf returns the links of a user, which is one, or none.
func (s *Server) linksOf(ctx context.Context, name string) ([]inviteRecord, error) {
	all, err := list[inviteRecord](ctx, s, invitePrefix)
	if err != nil {
		return nil, err
	}
	var out []inviteRecord
	for _, i := range all {
		if i.User == name {
			out = append(out, i)
		}
	}
	return out, nil
}

// newLink makes a link, and the writes that store it in place of an older one.
func (s *Server) newLink(ctx context.Context, u *userRecord, reset bool, ttl time.Duration, by string) (link string, i inviteRecord, conds []store.Cond, ops []store.Op, err error) {
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	id, hash := tokenID(secret)
	now := s.cfg.Now()
	i = inviteRecord{ID: id, Hash: hash, User: u.Name, Of: u.Created, Reset: reset, Created: now, Expires: now.Add(ttl), By: by}
	hubs, own := s.tunnelAddrs(), s.publicAddrs()
	link, err = ca.Invite{User: u.Name, Cluster: s.info.Cluster, Hubs: hubs[:min(len(hubs), 16)], Auth: own[:min(len(own), 16)], Pin: s.Pin(), Secret: secret}.Reveal()
	if err != nil {
		return "", i, nil, nil, fmt.Errorf("make the link: %w", err)
	}
	old, err := s.linksOf(ctx, u.Name)
	if err != nil {
		return "", i, nil, nil, err
	}
	for _, o := range old {
		ops = append(ops, store.Delete(invitePrefix+o.ID))
	}
	return link, i, []store.Cond{store.IfAbsent(invitePrefix + id)}, append(ops, put(invitePrefix+id, i)), nil
}

func linkLife(n uint64, standard time.Duration) (time.Duration, error) {
	if n == 0 {
		return standard, nil
	}
	if n > uint64(maxInviteTTL/time.Second) {
		return 0, invalid("a link lives %v at most", maxInviteTTL)
	}
	return time.Duration(n) * time.Second, nil
}

// InviteUser makes a link for a user, and the user where roles are given.
func (s userService) InviteUser(ctx context.Context, req *connect.Request[api.InviteUserRequest]) (*connect.Response[api.InviteUserResponse], error) {
	c, r := callerOf(ctx), req.Msg
	ttl, err := linkLife(r.TtlSeconds, inviteTTL)
	if err != nil {
		return nil, err
	}
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var u *userRecord
	var conds []store.Cond
	var ops []store.Op
	if len(r.Roles) > 0 {
		if u, conds, err = s.newUser(c, r.Name, r.Roles, r.SourceAddresses); err != nil {
			return nil, err
		}
		conds = append(conds, store.IfAbsent(userPrefix+u.Name))
		ops = append(ops, put(userPrefix+u.Name, u))
	} else {
		u = new(userRecord)
		rev, err := s.get(ctx, userPrefix+r.Name, u)
		if isNotFound(err) {
			return nil, notFound("no user %q; give --role to make one", clip(r.Name))
		} else if err != nil {
			return nil, err
		}
		if u.Password != "" {
			return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "user %s has a password already; `hawser user reset %s` takes it from him and makes a link", u.Name, u.Name)
		}
		_, roles := s.view.user(u.Name)
		if err := mayManage(c, roles); err != nil {
			return nil, err
		}
		conds = append(conds, store.IfModRev(userPrefix+u.Name, rev))
	}
	link, i, more, writes, err := s.newLink(ctx, u, false, ttl, c.String())
	if err != nil {
		return nil, err
	}
	err = s.commit(ctx, append(conds, more...), append(ops, writes...)...)
	if errors.Is(err, store.ErrConflict) && len(r.Roles) > 0 {
		return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "there is a user %s; leave --role away to invite him", u.Name)
	} else if err != nil {
		return nil, err
	}
	if len(r.Roles) > 0 {
		s.record(Event{Type: "admin.user.add", Actor: c.String(), Source: c.addr, Via: c.via, Object: u.Name, User: u.Name, Roles: u.Roles})
	}
	s.record(Event{Type: "user.invite", Actor: c.String(), Source: c.addr, Via: c.via, User: u.Name, Object: i.ID})
	return connect.NewResponse(&api.InviteUserResponse{Link: link, ExpiresUnix: i.Expires.Unix(), User: s.userOf(u, loginRecord{}, &i)}), nil
}

// ResetUser takes password and authenticator from a user and makes a link for new ones.
func (s userService) ResetUser(ctx context.Context, req *connect.Request[api.ResetUserRequest]) (*connect.Response[api.InviteUserResponse], error) {
	c, r := callerOf(ctx), req.Msg
	ttl, err := linkLife(r.TtlSeconds, resetTTL)
	if err != nil {
		return nil, err
	}
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	// Who may reset a password has the account: so only of those he could make himself.
	_, roles := s.view.user(r.Name)
	if err := mayManage(c, roles); err != nil {
		return nil, err
	}
	var u userRecord
	var link string
	var i inviteRecord
	err = retryConflict(ctx, func() error {
		u = userRecord{}
		rev, err := s.get(ctx, userPrefix+r.Name, &u)
		if isNotFound(err) {
			return noUser(r.Name)
		} else if err != nil {
			return err
		}
		u.Password, u.TOTP = "", nil
		var conds []store.Cond
		var ops []store.Op
		if link, i, conds, ops, err = s.newLink(ctx, &u, true, ttl, c.String()); err != nil {
			return err
		}
		return s.commit(ctx, append(conds, store.IfModRev(userPrefix+u.Name, rev)), append(ops, put(userPrefix+u.Name, u))...)
	})
	if err != nil {
		return nil, err
	}
	s.lockout.unlock(u.Name)
	s.record(Event{Type: "user.reset", Actor: c.String(), Source: c.addr, Via: c.via, User: u.Name, Object: i.ID})
	return connect.NewResponse(&api.InviteUserResponse{Link: link, ExpiresUnix: i.Expires.Unix(), User: s.userOf(&u, loginRecord{}, &i)}), nil
}

// useLink finds the link of a secret, and its user. The source is charged for a secret that is none of ours.
func (s *Server) useLink(ctx context.Context, secret []byte, c caller) (i inviteRecord, rev uint64, u userRecord, userRev uint64, err error) {
	source, now := sourceOf(c.addr), s.cfg.Now()
	if wait := s.guesses.wait(source, now); wait > 0 {
		return i, 0, u, 0, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, wait, "too many wrong links from %s; wait", source)
	}
	unknown := func(reason string) error {
		s.record(Event{Type: "user.link.refuse", User: i.User, Source: c.addr, Via: c.via, Object: i.ID, Reason: reason})
		return api.NewError(connect.CodeUnauthenticated, api.Code_CODE_LINK_UNKNOWN, "this link is spent, has expired or was withdrawn; ask for another")
	}
	id, hash := tokenID(secret)
	rev, err = s.get(ctx, invitePrefix+id, &i)
	if isNotFound(err) || err == nil && subtle.ConstantTimeCompare(hash, i.Hash) != 1 {
		s.guesses.take(source, now)
		i = inviteRecord{}
		return i, 0, u, 0, unknown("unknown")
	} else if err != nil {
		return i, 0, u, 0, err
	}
	userRev, err = s.get(ctx, userPrefix+i.User, &u)
	switch {
	case isNotFound(err) || err == nil && !u.Created.Equal(i.Of):
		return i, 0, u, 0, unknown("the user is gone")
	case err != nil:
		return i, 0, u, 0, err
	case !now.Before(i.Expires):
		return i, 0, u, 0, unknown("expired")
	case !fromAddr(u.Sources, c.addr):
		return i, 0, u, 0, unknown("source address")
	}
	return i, rev, u, userRev, nil
}

// OpenInvitation says what a link is for, and makes a secret for an authenticator.
func (s loginService) OpenInvitation(ctx context.Context, req *connect.Request[api.OpenInvitationRequest]) (*connect.Response[api.OpenInvitationResponse], error) {
	c := callerOf(ctx)
	var res *api.OpenInvitationResponse
	err := retryConflict(ctx, func() error {
		i, rev, u, _, err := s.useLink(ctx, req.Msg.Secret, c)
		if err != nil {
			return err
		}
		// A secret of this call alone: of whoever saw the link earlier, nothing is of use to the authenticator enrolled now.
		secret := newTOTP()
		i.TOTP = s.sealTOTP(u.Name, secret)
		if err := s.commit(ctx, []store.Cond{store.IfModRev(invitePrefix+i.ID, rev)}, put(invitePrefix+i.ID, i)); err != nil {
			return err
		}
		_, roles := s.view.user(u.Name)
		res = &api.OpenInvitationResponse{
			User: u.Name, Reset_: i.Reset, ExpiresUnix: i.Expires.Unix(), CodeRequired: policy.MFA(roles) != policy.MFANone,
			OtpauthUrl: otpauthURL(s.info.Cluster, u.Name, secret), OtpSecret: secret, MinPassword: minPassword,
		}
		s.record(Event{Type: "user.link.open", User: u.Name, Source: c.addr, Via: c.via, Object: i.ID})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// AcceptInvitation spends a link.
func (s loginService) AcceptInvitation(ctx context.Context, req *connect.Request[api.AcceptInvitationRequest]) (*connect.Response[api.UserCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	i, _, u, _, err := s.useLink(ctx, r.Secret, c)
	if err != nil {
		return nil, err
	}
	sshKey, err := s.sshKeyOf(c, r.SshPublicKey, u.Name)
	if err != nil {
		return nil, err
	}
	if err := s.checkNew(r.Password, u.Name); err != nil {
		return nil, err
	}
	if _, roles := s.view.user(u.Name); r.Code == "" && policy.MFA(roles) != policy.MFANone {
		return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_CODE, "your roles ask for a second factor: add the secret to an authenticator and give a code of it")
	}
	hash, err := s.newPassword(ctx, sourceOf(c.addr), r.Password)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	err = retryConflict(ctx, func() error {
		var rev, userRev uint64
		if i, rev, u, userRev, err = s.useLink(ctx, r.Secret, c); err != nil {
			return err
		}
		u.Password, u.TOTP = hash, nil
		l := loginRecord{}
		l.arrived(c.addr, now)
		if r.Code != "" {
			if len(i.TOTP) == 0 {
				return badCode()
			}
			secret, err := s.openTOTP(u.Name, i.TOTP)
			if err != nil {
				return err
			}
			step, ok := matchTOTP(secret, r.Code, 0, now)
			if !ok {
				return badCode()
			}
			u.TOTP, l.Step = i.TOTP, step
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(invitePrefix+i.ID, rev), store.IfModRev(userPrefix+u.Name, userRev)},
			store.Delete(invitePrefix+i.ID), put(userPrefix+u.Name, u), put(loginPrefix+u.Name, l))
	})
	if err != nil {
		return nil, err
	}
	s.steps.forget(u.Name) // those were of another secret
	mfa := len(u.TOTP) > 0
	s.record(Event{Type: "user.accept", User: u.Name, Source: c.addr, Via: c.via, Object: i.ID, Method: proofOf(mfa)})
	cred, err := s.issueUser(issue{
		user: u.Name, tlsKey: c.key, sshKey: sshKey, ttl: seconds(r.TtlSeconds), login: ca.Login{At: now, MFA: mfa}, actor: "user:" + u.Name, source: c.addr, via: c.via,
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(cred), nil
}
