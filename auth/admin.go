package auth

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

type adminService struct{ *Server }

// IssueAdmin makes name a user with the role admin if there is none, registers the
// key, and issues certificates for it. The caller has the data directory: nobody is asked.
func (s *Server) IssueAdmin(ctx context.Context, name string, key ed25519.PublicKey) (*api.UserCredentials, error) {
	sshKey, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, err
	}
	err = retryConflict(ctx, func() error {
		var u userRecord
		rev, err := s.get(ctx, userPrefix+name, &u)
		if errors.Is(err, store.ErrNotFound) {
			if err := ca.CheckUserName(name); err != nil {
				return err
			}
			return s.putUser(ctx, userRecord{Name: name, Roles: []string{"admin"}, Keys: [][]byte{sshKey.Marshal()}, Created: s.cfg.Now()}, store.IfAbsent(userPrefix+name), nil)
		}
		if err != nil {
			return err
		}
		had := u.Keys
		if slices.ContainsFunc(had, func(k []byte) bool { return string(k) == string(sshKey.Marshal()) }) {
			return nil
		}
		u.Keys = append(slices.Clone(had), sshKey.Marshal())
		return s.putUser(ctx, u, store.IfModRev(userPrefix+name, rev), had)
	})
	if err != nil {
		return nil, fmt.Errorf("make user %s: %w", name, err)
	}
	return s.issueUser(name, key, "local")
}

// putUser writes a user with the claims on his keys; had are those he has already.
func (s *Server) putUser(ctx context.Context, u userRecord, cond store.Cond, had [][]byte) error {
	conds, ops := []store.Cond{cond}, []store.Op{put(userPrefix+u.Name, u)}
	for _, k := range u.Keys {
		if !slices.ContainsFunc(had, func(h []byte) bool { return string(h) == string(k) }) {
			conds = append(conds, store.IfAbsent(keyClaim(k)))
			ops = append(ops, store.Put(keyClaim(k), []byte(u.Name)))
		}
	}
	return s.commit(ctx, conds, ops...)
}

func keyClaim(key []byte) string {
	sum := sha256.Sum256(key)
	return keyPrefix + hex.EncodeToString(sum[:])
}

func (s *Server) issueUser(name string, key crypto.PublicKey, actor string) (*api.UserCredentials, error) {
	u, roles := s.view.user(name)
	if u == nil {
		return nil, notFound("no user %q", wire.Quote(name, 64))
	}
	sshKey, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, invalid("key: %w", err)
	}
	ttl, now := policy.SessionTTL(roles, s.cfg.UserTTL), s.cfg.Now()
	cert, err := s.set.IssueUser(ca.UserRequest{Name: name, Roles: roleNames(roles), Key: sshKey, TTL: ttl, Now: now, Cluster: s.info.Cluster})
	if err != nil {
		return nil, fmt.Errorf("issue a user certificate: %w", err)
	}
	chain, err := s.set.IssueUserX509(ca.UserX509Request{Name: name, Cluster: s.info.Cluster, Key: key, TTL: ttl, Now: now})
	if err != nil {
		return nil, fmt.Errorf("issue a user's API certificate: %w", err)
	}
	s.record(Event{Type: "user.certificate", Actor: actor, User: name, Roles: roleNames(roles), Method: fmt.Sprintf("certificate %d", cert.Serial)})
	return &api.UserCredentials{
		User: name, Cluster: s.info.Cluster, Chain: chain, SshCertificate: cert.Marshal(), Trust: s.trustBlob,
		NotAfterUnix: now.Add(ttl).Unix(), Hubs: s.hubList(),
	}, nil
}

// Devices lists every device.
func (s *Server) Devices(context.Context) ([]*api.Device, error) {
	var out []*api.Device
	sessions := s.hubs.counts()
	for _, d := range s.view.allDevices() {
		out = append(out, s.deviceOf(d, nil, sessions))
	}
	return out, nil
}

func (s *Server) deviceOf(d *deviceRecord, logins []string, sessions map[string]uint32) *api.Device {
	out := &api.Device{
		Uuid: d.UUID, Name: d.Name, Labels: labelList(d.Labels), Evidence: labelList(d.Evidence), Hostname: d.Hostname, AgentVersion: d.Version,
		Arch: d.Arch, Os: d.OS, JoinedUnix: d.Joined.Unix(), CertificateNotAfterUnix: d.NotAfter.Unix(), Sessions: sessions[d.UUID], Logins: logins,
	}
	tunnels, last, online := s.hubs.device(d.UUID)
	for _, t := range tunnels {
		out.Tunnels = append(out.Tunnels, &api.Tunnel{
			Hub: t.hub.name, Zone: t.hub.zone, Slot: t.Slot, Carrier: t.Carrier, Observed: t.Observed, SinceUnix: t.SinceUnix, Silent: t.Silent,
		})
	}
	if len(tunnels) > 0 {
		st := tunnels[0]
		out.Observed, out.Addresses = st.Observed, st.Addresses
		if st.Hostname != "" {
			out.Hostname, out.AgentVersion, out.Arch, out.Os = st.Hostname, st.AgentVersion, st.Arch, st.Os
		}
	}
	switch {
	case online:
		st := tunnels[0]
		out.Online, out.Hub, out.Zone, out.Carrier, out.SinceUnix = true, st.hub.name, st.hub.zone, st.Carrier, st.SinceUnix
		out.LastSeenUnix = s.cfg.Now().Unix()
	case !last.At.IsZero():
		out.LastSeenUnix, out.SinceUnix = last.At.Unix(), last.At.Unix()
		out.LastHub, out.LastCarrier, out.LastReason = last.Hub, last.Carrier, last.Reason
	}
	return out
}

// Whoami tells a user who he is here.
func (s adminService) Whoami(ctx context.Context, _ *connect.Request[api.WhoamiRequest]) (*connect.Response[api.WhoamiResponse], error) {
	c := callerOf(ctx)
	return connect.NewResponse(&api.WhoamiResponse{
		User: c.id.Name, Roles: roleNames(c.roles), Cluster: s.info.Cluster, NotAfterUnix: c.id.NotAfter.Unix(), Trust: s.trustBlob, Hubs: s.hubList(),
	}), nil
}

// RenewMyself certifies the TLS peer's key again.
func (s adminService) RenewMyself(ctx context.Context, _ *connect.Request[api.RenewMyselfRequest]) (*connect.Response[api.UserCredentials], error) {
	c := callerOf(ctx)
	cred, err := s.issueUser(c.id.Name, c.key, c.String())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(cred), nil
}

// CreateToken makes a join token.
func (s adminService) CreateToken(ctx context.Context, req *connect.Request[api.CreateTokenRequest]) (*connect.Response[api.CreateTokenResponse], error) {
	res, err := s.createToken(ctx, req.Msg, callerOf(ctx).String())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// ListTokens lists tokens, without what they hash.
func (s adminService) ListTokens(ctx context.Context, _ *connect.Request[api.ListTokensRequest]) (*connect.Response[api.ListTokensResponse], error) {
	tokens, err := list[tokenRecord](ctx, s.Server, tokenPrefix)
	if err != nil {
		return nil, err
	}
	res := &api.ListTokensResponse{}
	for _, t := range tokens {
		res.Tokens = append(res.Tokens, &api.Token{Id: t.ID, Kind: t.Kind, Uses: t.Uses, Left: t.Left, ExpiresUnix: t.Expires.Unix(), Labels: labelList(t.Labels), CreatedBy: t.By})
	}
	return connect.NewResponse(res), nil
}

// RemoveToken makes a token unknown.
func (s adminService) RemoveToken(ctx context.Context, req *connect.Request[api.RemoveTokenRequest]) (*connect.Response[api.RemoveTokenResponse], error) {
	key := tokenPrefix + req.Msg.Id
	err := s.commit(ctx, []store.Cond{store.IfExists(key)}, store.Delete(key))
	if errors.Is(err, store.ErrConflict) {
		return nil, notFound("no token %q", wire.Quote(req.Msg.Id, 40))
	}
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.token.remove", Actor: callerOf(ctx).String(), Object: req.Msg.Id})
	return connect.NewResponse(&api.RemoveTokenResponse{}), nil
}

// visible returns the logins the caller's roles allow on d; none means that for him it does not exist. Who
// administers devices sees them all.
func visible(c caller, d *deviceRecord) ([]string, bool) {
	logins := policy.Merge(c.roles, d.policy()).Logins
	return logins, len(logins) > 0 || policy.MayAdmin(c.roles, "device", "list").Allowed
}

// ListDevices lists what the caller's roles reach.
func (s adminService) ListDevices(ctx context.Context, req *connect.Request[api.ListDevicesRequest]) (*connect.Response[api.ListDevicesResponse], error) {
	c, res, sessions := callerOf(ctx), &api.ListDevicesResponse{}, s.hubs.counts()
	for _, d := range s.view.allDevices() {
		logins, ok := visible(c, d)
		if !ok {
			continue
		}
		match, err := selects(req.Msg.Selectors, d)
		if err != nil {
			return nil, err
		}
		if match {
			res.Devices = append(res.Devices, s.deviceOf(d, logins, sessions))
		}
	}
	return connect.NewResponse(res), nil
}

// selects holds a device against "key=glob" and "key!=glob".
func selects(selectors []string, d *deviceRecord) (bool, error) {
	for _, sel := range selectors {
		key, glob, ok := strings.Cut(sel, "=")
		if !ok || key == "" || key == "!" {
			return false, invalid("selector %q is not key=glob or key!=glob", wire.Quote(sel, 64))
		}
		key, not := strings.CutSuffix(key, "!")
		value := d.Labels[key]
		switch key {
		case "name":
			value = d.Name
		case "uuid":
			value = d.UUID
		}
		match, err := path.Match(glob, value)
		if err != nil {
			return false, invalid("selector %q: %w", wire.Quote(sel, 64), err)
		}
		if match == not {
			return false, nil
		}
	}
	return true, nil
}

func (s *Server) visibleDevice(c caller, name string) (*deviceRecord, []string, error) {
	d := s.view.device(name)
	if d != nil {
		if logins, ok := visible(c, d); ok {
			return d, logins, nil
		}
	}
	return nil, nil, notFound("no device %q that your roles let you see; `hawser ls` lists those they do", wire.Quote(name, 64))
}

// GetDevice answers one device.
func (s adminService) GetDevice(ctx context.Context, req *connect.Request[api.GetDeviceRequest]) (*connect.Response[api.Device], error) {
	d, logins, err := s.visibleDevice(callerOf(ctx), req.Msg.Device)
	if err != nil {
		return nil, err
	}
	out := s.deviceOf(d, logins, s.hubs.counts())
	out.History = s.hubs.historyOf(d.UUID)
	return connect.NewResponse(out), nil
}

// RemoveDevice makes the cluster forget a device; its certificates are refused from then on.
func (s adminService) RemoveDevice(ctx context.Context, req *connect.Request[api.RemoveDeviceRequest]) (*connect.Response[api.RemoveDeviceResponse], error) {
	c := callerOf(ctx)
	d, _, err := s.visibleDevice(c, req.Msg.Device)
	if err != nil {
		return nil, err
	}
	if err := s.commit(ctx, []store.Cond{store.IfExists(devicePrefix + d.UUID)}, store.Delete(devicePrefix+d.UUID), store.Delete(namePrefix+d.Name), store.Delete(seenPrefix+d.UUID)); err != nil {
		return nil, err
	}
	s.hubs.forget(d.UUID)
	s.policies.forget(d.UUID)
	s.killWhere("the device was removed", func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID })
	s.record(Event{Type: "admin.device.remove", Actor: c.String(), Source: c.addr, Device: d.Name, DeviceUUID: d.UUID})
	return connect.NewResponse(&api.RemoveDeviceResponse{}), nil
}

func (s *Server) killWhere(reason string, match func(*session) bool) {
	for _, sess := range s.hubs.list() {
		if match(sess) {
			s.hubs.kill(sess, reason)
		}
	}
}

// AddUser makes a user with roles and registered keys.
func (s adminService) AddUser(ctx context.Context, req *connect.Request[api.AddUserRequest]) (*connect.Response[api.User], error) {
	c, r := callerOf(ctx), req.Msg
	if err := ca.CheckUserName(r.Name); err != nil {
		return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "user: %w", err)
	}
	if len(r.Roles) == 0 || len(r.Roles) > maxRoles {
		return nil, invalid("give 1 to %d roles", maxRoles)
	}
	if len(r.AuthorizedKeys) > maxKeys {
		return nil, invalid("more than %d keys", maxKeys)
	}
	roles, _ := s.view.policies()
	for _, name := range r.Roles {
		if len(pick(roles, []string{name})) == 0 {
			return nil, notFound("no role %q; `hawser get role` lists them", wire.Quote(name, 64))
		}
	}
	// Who may add users must not thereby rise above himself: only an admin of roles makes admins.
	if granted := pick(roles, r.Roles); policy.MayAdmin(granted, "user", "create").Allowed && !policy.MayAdmin(c.roles, "role", "update").Allowed {
		return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "your roles do not let you give a role that administers users")
	}
	u := userRecord{Name: r.Name, Roles: slices.Compact(slices.Sorted(slices.Values(r.Roles))), Created: s.cfg.Now()}
	for _, line := range r.AuthorizedKeys {
		key, err := parseKey(line)
		if err != nil {
			return nil, err
		}
		if owner := s.view.owner(key); owner != "" {
			return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "a key belongs to one user, and this one to %s", owner)
		}
		if !slices.ContainsFunc(u.Keys, func(k []byte) bool { return string(k) == string(key) }) {
			u.Keys = append(u.Keys, key)
		}
	}
	if err := s.putUser(ctx, u, store.IfAbsent(userPrefix+u.Name), nil); errors.Is(err, store.ErrConflict) {
		return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "there is a user %s, or a user with this key; `hawser user rm` removes one", u.Name)
	} else if err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.user.add", Actor: c.String(), Source: c.addr, Object: u.Name, Roles: u.Roles})
	return connect.NewResponse(userOf(&u)), nil
}

// parseKey reads one authorized_keys line; options in front would be lost, so they are refused.
func parseKey(line string) ([]byte, error) {
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return nil, invalid("%q is not a public key as ssh-keygen writes it", wire.Quote(line, 64))
	}
	if len(options) > 0 {
		return nil, invalid("options in front of a key are not supported; roles say what a user may do")
	}
	if err := ca.CheckKey(key); err != nil {
		return nil, invalid("key: %w", err)
	}
	return key.Marshal(), nil
}

func userOf(u *userRecord) *api.User {
	out := &api.User{Name: u.Name, Roles: u.Roles, CreatedUnix: u.Created.Unix()}
	for _, k := range u.Keys {
		if key, err := ssh.ParsePublicKey(k); err == nil {
			out.Keys = append(out.Keys, &api.UserKey{AuthorizedKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), Fingerprint: ssh.FingerprintSHA256(key)})
		}
	}
	return out
}

// ListUsers lists users.
func (s adminService) ListUsers(ctx context.Context, _ *connect.Request[api.ListUsersRequest]) (*connect.Response[api.ListUsersResponse], error) {
	users, err := list[userRecord](ctx, s.Server, userPrefix)
	if err != nil {
		return nil, err
	}
	res := &api.ListUsersResponse{}
	for i := range users {
		res.Users = append(res.Users, userOf(&users[i]))
	}
	return connect.NewResponse(res), nil
}

// RemoveUser removes a user, his keys, and his live sessions; his certificates are refused from then on.
func (s adminService) RemoveUser(ctx context.Context, req *connect.Request[api.RemoveUserRequest]) (*connect.Response[api.RemoveUserResponse], error) {
	c, name := callerOf(ctx), req.Msg.Name
	err := retryConflict(ctx, func() error {
		var u userRecord
		rev, err := s.get(ctx, userPrefix+name, &u)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("no user %q", wire.Quote(name, 64))
		} else if err != nil {
			return err
		}
		ops := []store.Op{store.Delete(userPrefix + name)}
		for _, k := range u.Keys {
			ops = append(ops, store.Delete(keyClaim(k)))
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(userPrefix+name, rev)}, ops...)
	})
	if err != nil {
		return nil, err
	}
	s.killWhere("the user was removed", func(sess *session) bool { return sess.user == name })
	s.record(Event{Type: "admin.user.remove", Actor: c.String(), Source: c.addr, Object: name})
	return connect.NewResponse(&api.RemoveUserResponse{}), nil
}

// ListSessions lists open sessions and connections, as the caller's roles allow.
func (s adminService) ListSessions(ctx context.Context, _ *connect.Request[api.ListSessionsRequest]) (*connect.Response[api.ListSessionsResponse], error) {
	c, res := callerOf(ctx), &api.ListSessionsResponse{}
	for _, sess := range s.seen(c) {
		out := &api.Session{
			Id: sess.id[:], ConnectionId: sess.connection[:], Kind: sess.kind, User: sess.user, Login: sess.login, Way: sess.way, Channel: sess.channel,
			Command: sess.command, ClientAddress: sess.client, Hub: sess.hubName, StartUnixNano: sess.start.UnixNano(), Recorded: sess.recorded,
		}
		if !sess.detached.IsZero() {
			out.DetachedSinceUnixNano = sess.detached.UnixNano()
		} else if sess.device != nil {
			// Its stream may stand on a tunnel whose other end has fallen silent: nothing is heard of the device.
			if _, last, online := s.hubs.device(sess.device.UUID); !online && !last.At.IsZero() {
				out.DetachedSinceUnixNano = last.At.UnixNano()
			}
		}
		if up, seen := s.hubs.up(sess.hub); !up && !seen.IsZero() {
			out.HubGoneSinceUnixNano = seen.UnixNano()
		}
		if sess.device != nil {
			out.Device, out.DeviceUuid = sess.device.Name, sess.device.UUID
		}
		res.Sessions = append(res.Sessions, out)
	}
	return connect.NewResponse(res), nil
}

func (s *Server) seen(c caller) []*session {
	scope := policy.SessionScope(c.roles)
	return slices.DeleteFunc(s.hubs.list(), func(sess *session) bool {
		return scope != "all" && (scope != "own" || sess.user != c.id.Name)
	})
}

// KillSession tells the session's hub to end it.
func (s adminService) KillSession(ctx context.Context, req *connect.Request[api.KillSessionRequest]) (*connect.Response[api.KillSessionResponse], error) {
	c, r := callerOf(ctx), req.Msg
	var found []*session
	for _, sess := range s.hubs.list() {
		if begins(sess.id, r.Id) {
			found = append(found, sess)
		}
	}
	switch {
	case len(found) == 0:
		return nil, notFound("no open session %q; `hawser sessions ls` lists them", wire.Quote(r.Id, 40))
	case len(found) > 1:
		return nil, invalid("%d sessions begin with %s; give more of the id", len(found), wire.Quote(r.Id, 40))
	}
	sess, reason := found[0], clip(r.Reason)
	if reason == "" {
		reason = "ended by " + c.id.Name
	}
	if !s.hubs.kill(sess, reason) {
		return nil, connect.NewError(connect.CodeUnavailable, fmt.Errorf("hub %s is not connected; the session ends when it is", sess.hubName))
	}
	s.record(Event{Type: "admin.session.kill", Actor: c.String(), Source: c.addr, Session: hex.EncodeToString(sess.id[:]), User: sess.user, Reason: reason})
	return connect.NewResponse(&api.KillSessionResponse{Id: sess.id[:]}), nil
}
