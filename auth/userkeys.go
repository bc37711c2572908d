package auth

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// concerning finds the user a call is about, the caller himself where it names nobody. Another needs the verb over users, and a
// caller who could have made him.
func (s *Server) concerning(c caller, name, verb string) (u *userRecord, admin bool, err error) {
	admin = policy.MayAdmin(c.roles, "user", verb).Allowed
	if name == "" {
		name = c.id.Name
	}
	if name != c.id.Name && !admin {
		return nil, false, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "your roles do not allow to %s other users", verb)
	}
	u, roles := s.view.user(name)
	if u == nil {
		return nil, false, noUser(name)
	}
	if verb != "list" && name != c.id.Name {
		if err := mayManage(c, roles); err != nil {
			return nil, false, err
		}
	}
	return u, admin, nil
}

// GetUser answers one user.
func (s userService) GetUser(ctx context.Context, req *connect.Request[api.GetUserRequest]) (*connect.Response[api.User], error) {
	u, _, err := s.concerning(callerOf(ctx), req.Msg.Name, "list")
	if err != nil {
		return nil, err
	}
	return s.answerUser(ctx, u.Name)
}

func (s *Server) answerUser(ctx context.Context, name string) (*connect.Response[api.User], error) {
	u, _ := s.view.user(name)
	if u == nil {
		return nil, noUser(name)
	}
	out, err := s.describeUser(ctx, u)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// AddUserKey registers a key.
func (s userService) AddUserKey(ctx context.Context, req *connect.Request[api.AddUserKeyRequest]) (*connect.Response[api.User], error) {
	c, r := callerOf(ctx), req.Msg
	u, admin, err := s.concerning(c, r.Name, "update")
	if err != nil {
		return nil, err
	}
	k, err := parseKey(r.AuthorizedKey)
	if err != nil {
		return nil, err
	}
	k.Added = s.cfg.Now()
	if k.Sources, err = parseSources(r.SourceAddresses); err != nil {
		return nil, err
	}
	if len(r.ForceCommand) > maxForce || strings.ContainsAny(r.ForceCommand, "\x00\n\r") {
		return nil, invalid("a command is one line of at most %d bytes", maxForce)
	}
	k.ForceCommand = r.ForceCommand
	longest := time.Duration(maxTTL)
	if !admin {
		if !slices.Contains(policy.Credentials(c.roles), policy.CredentialKey) {
			return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "your roles take certificates only, so a key would open nothing; `hawser login` gets one")
		}
		longest = ownKeyTTL
		// A stolen certificate must not become a key that outlives it; and nobody takes another's public key for his own, so
		// that what the other opens with it is opened in his name.
		if _, err := s.prove(ctx, c, u.Name, r.Password, r.Code); err != nil {
			return nil, err
		}
		if err := verifyKeyProof(r.Proof, k.Blob, u.Name, s.info.Cluster); err != nil {
			return nil, invalid("proof that you have the key: %w; `hawser user key add FILE` makes it with ssh-keygen where the private key is in FILE's place or in the agent", err)
		}
	}
	switch {
	case r.TtlSeconds != 0:
		if k.Expires, err = s.expiry(r.TtlSeconds, longest); err != nil {
			return nil, err
		}
	case !admin:
		k.Expires = s.cfg.Now().Add(ownKeyTTL)
	}
	_, err = s.changeUser(ctx, u.Name, func(u *userRecord) ([]store.Cond, error) {
		if owner := s.view.owner(k.Blob); owner != "" && owner != u.Name {
			if admin {
				return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "a key belongs to one user, and this one to %s", owner)
			}
			return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "this key is somebody else's here; make another with ssh-keygen")
		}
		if had := u.key(k.Blob); had != nil {
			*had = k // again, with other limits
			return nil, nil
		}
		if len(u.Keys) >= maxKeys {
			return nil, invalid("user %s has %d keys; remove one first", u.Name, maxKeys)
		}
		u.Keys = append(u.Keys, k)
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "user.key.add", Actor: c.String(), Source: c.addr, Via: c.via, User: u.Name, Object: blobPrint(k.Blob)})
	return s.answerUser(ctx, u.Name)
}

// RemoveUserKey makes a key unknown; the sessions it opened end as live ones are judged again.
func (s userService) RemoveUserKey(ctx context.Context, req *connect.Request[api.RemoveUserKeyRequest]) (*connect.Response[api.User], error) {
	c := callerOf(ctx)
	u, _, err := s.concerning(c, req.Msg.Name, "update")
	if err != nil {
		return nil, err
	}
	wanted := strings.TrimPrefix(req.Msg.Fingerprint, "SHA256:")
	if len(wanted) < 6 {
		return nil, invalid("give the key's fingerprint, or the first 6 characters of it")
	}
	var gone string
	_, err = s.changeUser(ctx, u.Name, func(u *userRecord) ([]store.Cond, error) {
		gone = ""
		var left []userKey
		for _, k := range u.Keys {
			fp := blobPrint(k.Blob)
			if !strings.HasPrefix(strings.TrimPrefix(fp, "SHA256:"), wanted) {
				left = append(left, k)
				continue
			}
			if gone != "" {
				return nil, invalid("several keys begin with %s; give more of the fingerprint", wire.Quote(wanted, 64))
			}
			gone = fp
		}
		if gone == "" {
			return nil, notFound("user %s has no key %s; `hawser user key ls` lists them", u.Name, wire.Quote(req.Msg.Fingerprint, 64))
		}
		u.Keys = left
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "user.key.remove", Actor: c.String(), Source: c.addr, Via: c.via, User: u.Name, Object: gone})
	return s.answerUser(ctx, u.Name)
}

// SetUserRoles replaces a user's roles.
func (s userService) SetUserRoles(ctx context.Context, req *connect.Request[api.SetUserRolesRequest]) (*connect.Response[api.User], error) {
	c, r := callerOf(ctx), req.Msg
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	names, conds, err := s.checkRoles(c, r.Roles)
	if err != nil {
		return nil, err
	}
	_, had := s.view.user(r.Name)
	if err := mayManage(c, had); err != nil {
		return nil, err
	}
	all, _ := s.view.policies()
	if s.leavesNobody(r.Name, pick(all, names)) {
		return nil, errLastAdmin
	}
	if _, err = s.changeUserVoiding(ctx, r.Name, func(u *userRecord) (bool, []store.Cond, error) {
		// A certificate names the roles of its day: one with a role that is gone opens too much, and so does one without a role that denies.
		narrower := slices.ContainsFunc(u.Roles, func(name string) bool { return !slices.Contains(names, name) }) ||
			slices.ContainsFunc(pick(all, names), func(role policy.Role) bool { return role.DeniesAccess() && !slices.Contains(u.Roles, role.Name) })
		u.Roles = names
		return narrower, slices.Clone(conds), nil
	}); err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.user.roles", Actor: c.String(), Source: c.addr, Via: c.via, Object: r.Name, User: r.Name, Roles: names})
	return s.answerUser(ctx, r.Name)
}

// SetUserSources replaces the networks a user may come from.
func (s userService) SetUserSources(ctx context.Context, req *connect.Request[api.SetUserSourcesRequest]) (*connect.Response[api.User], error) {
	c, r := callerOf(ctx), req.Msg
	if _, _, err := s.concerning(c, r.Name, "update"); err != nil {
		return nil, err
	}
	nets, err := parseSources(r.SourceAddresses)
	if err != nil {
		return nil, err
	}
	// Certificates carry the networks of their day.
	u, err := s.changeUserVoiding(ctx, r.Name, func(u *userRecord) (bool, []store.Cond, error) {
		u.Sources = nets
		return true, nil, nil
	})
	if err != nil {
		return nil, err
	}
	s.killWhere("the user's networks changed", func(sess *session) bool { return sess.user == u.Name && !fromAddr(nets, sess.client) })
	s.record(Event{Type: "admin.user.sources", Actor: c.String(), Source: c.addr, Via: c.via, Object: u.Name, User: u.Name, Reason: strings.Join(nets, ",")})
	return s.answerUser(ctx, u.Name)
}

// UnlockUser forgets the failed logins of a user.
func (s userService) UnlockUser(ctx context.Context, req *connect.Request[api.UnlockUserRequest]) (*connect.Response[api.UnlockUserResponse], error) {
	c, name := callerOf(ctx), req.Msg.Name
	if name == "" {
		return nil, noUser(name)
	}
	// Who forgets failed logins may guess on: so only of those whose password he could set.
	if _, _, err := s.concerning(c, name, "update"); err != nil {
		return nil, err
	}
	s.lockout.unlock(name)
	s.record(Event{Type: "user.unlock", Actor: c.String(), Source: c.addr, Via: c.via, User: name})
	return connect.NewResponse(&api.UnlockUserResponse{}), nil
}

var errProof = errors.New("the signature is missing or not one by this key")

// verifyKeyProof holds an OpenSSH signature (PROTOCOL.sshsig, what ssh-keygen -Y sign writes, without its armour) by the key of
// blob against the words that say whose key it is to be.
func verifyKeyProof(proof, blob []byte, user, cluster string) error {
	sig, err := parseSSHSig(proof)
	if err != nil {
		return errProof
	}
	if sig.namespace != keyProofNamespace || !bytes.Equal(sig.key, blob) {
		return errProof
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return errProof
	}
	return sig.verify(key, []byte(keyProofText(user, cluster)))
}

const keyProofNamespace = "hawser-key"

func keyProofText(user, cluster string) string {
	return "This SSH key is " + user + "'s in the Hawser cluster " + cluster + ".\n"
}
