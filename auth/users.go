package auth

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

type userService struct {
	*Server
}

// IssueAdmin makes name a user with the role admin if there is none, registers the
// key, and issues certificates for it. The caller has the data directory: nobody is asked.
func (s *Server) IssueAdmin(ctx context.Context, name string, key ed25519.PublicKey) (*api.UserCredentials, error) {
	sshKey, err := ssh.NewPublicKey(key)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	registered := userKey{Blob: sshKey.Marshal(), Comment: "local administration", Added: now}
	err = retryConflict(ctx, func() error {
		var u userRecord
		rev, err := s.get(ctx, userPrefix+name, &u)
		if errors.Is(err, store.ErrNotFound) {
			if err := ca.CheckUserName(name); err != nil {
				return err
			}
			return s.putUser(ctx, userRecord{Name: name, Roles: []string{"admin"}, Keys: []userKey{registered}, Created: now}, nil, store.IfAbsent(userPrefix+name))
		}
		if err != nil {
			return err
		}
		if u.key(registered.Blob) != nil {
			return nil
		}
		had := u.Keys
		u.Keys = append(slices.Clone(had), registered)
		return s.putUser(ctx, u, had, store.IfModRev(userPrefix+name, rev))
	})
	if err != nil {
		return nil, fmt.Errorf("make user %s: %w", name, err)
	}
	// Who has the data directory needs no second factor to be who he says.
	return s.issueUser(issue{user: name, tlsKey: key, sshKey: sshKey, login: ca.Login{At: now, MFA: true}, actor: "local"})
}

// putUser writes a user; see writeUser.
func (s *Server) putUser(ctx context.Context, u userRecord, had []userKey, conds ...store.Cond) error {
	more, ops := writeUser(u, had)
	return s.commit(ctx, append(conds, more...), ops...)
}

// writeUser are the writes of a user with the claims on his keys, new ones made and old ones given up; had are those he has now.
func writeUser(u userRecord, had []userKey) (conds []store.Cond, ops []store.Op) {
	ops = []store.Op{put(userPrefix+u.Name, u)}
	for _, k := range u.Keys {
		if !slices.ContainsFunc(had, func(h userKey) bool { return string(h.Blob) == string(k.Blob) }) {
			conds = append(conds, store.IfAbsent(keyClaim(k.Blob)))
			ops = append(ops, store.Put(keyClaim(k.Blob), []byte(u.Name)))
		}
	}
	for _, h := range had {
		if u.key(h.Blob) == nil {
			ops = append(ops, store.Delete(keyClaim(h.Blob)))
		}
	}
	return conds, ops
}

// changeUser reads a user, lets change alter the copy, and writes it; a conflict does it all again.
func (s *Server) changeUser(ctx context.Context, name string, change func(u *userRecord) ([]store.Cond, error)) (*userRecord, error) {
	return s.changeUserWith(ctx, name, func(u *userRecord) ([]store.Cond, []store.Op, error) {
		conds, err := change(u)
		return conds, nil, err
	})
}

// changeUserWith is changeUser with further writes of one transaction.
func (s *Server) changeUserWith(ctx context.Context, name string, change func(u *userRecord) ([]store.Cond, []store.Op, error)) (*userRecord, error) {
	var u userRecord
	err := retryConflict(ctx, func() error {
		u = userRecord{}
		rev, err := s.get(ctx, userPrefix+name, &u)
		if errors.Is(err, store.ErrNotFound) {
			return noUser(name)
		} else if err != nil {
			return err
		}
		had := slices.Clone(u.Keys)
		conds, ops, err := change(&u)
		if err != nil {
			return err
		}
		more, writes := writeUser(u, had)
		return s.commit(ctx, append(append(conds, more...), store.IfModRev(userPrefix+name, rev)), append(writes, ops...)...)
	})
	return &u, err
}

// changeUserVoiding is changeUser for what makes the user's certificates void, where change says so.
func (s *Server) changeUserVoiding(ctx context.Context, name string, change func(u *userRecord) (void bool, conds []store.Cond, err error)) (*userRecord, error) {
	var voids *voiding
	u, err := s.changeUserWith(ctx, name, func(u *userRecord) ([]store.Cond, []store.Op, error) {
		voids = nil
		void, conds, err := change(u)
		if err != nil || !void {
			return conds, nil, err
		}
		v := &voiding{s: s, users: []string{name}}
		_, cond, op, err := s.lockChange(ctx, v.change)
		voids = v
		return append(conds, cond), []store.Op{op}, err
	})
	if err == nil && voids != nil {
		err = voids.done(ctx)
	}
	return u, err
}

func noUser(name string) error {
	return notFound("no user %q; `hawser user ls` lists them", wire.Quote(name, 64))
}

func keyClaim(key []byte) string {
	sum := sha256.Sum256(key)
	return keyPrefix + hex.EncodeToString(sum[:])
}

// issue is what a user's certificates are made for.
type issue struct {
	user   string
	tlsKey crypto.PublicKey
	sshKey ssh.PublicKey
	ttl    time.Duration // wished; zero: what the roles say
	login  ca.Login
	based  time.Time // the issue of the certificate that it is asked for with; zero: with none
	actor  string
	source string // host:port
	via    string // the hub that passed it
}

// issueUser makes certificates. They end when the login they rest on does, however often they are renewed.
func (s *Server) issueUser(i issue) (*api.UserCredentials, error) {
	// The time before the rest: what changes from here on makes void what is issued by what was so.
	now := s.cfg.Now()
	u, roles, locks := s.view.standing(i.user)
	if u == nil {
		return nil, noUser(i.user)
	}
	if i.actor != "local" { // who has the data directory makes himself locks and removes them
		sub := lock.Subject{User: u.Name, Roles: u.Roles, Key: ssh.FingerprintSHA256(i.sshKey), IssuedAt: i.based}
		if ap, err := netip.ParseAddrPort(i.source); err == nil {
			sub.Source = ap.Addr()
		}
		if d := locks.Match(now, sub); d != nil {
			s.record(Event{Type: "user.certificate.refuse", Actor: i.actor, User: i.user, Source: i.source, Via: i.via, Reason: d.Reason(), Rule: d.Rule()})
			return nil, lockError(d)
		}
	}
	now = afterVoids(locks, i.user, now)
	ends := i.login.At.Add(policy.SessionTTL(roles, s.cfg.UserTTL))
	ttl := ends.Sub(now)
	if i.ttl > 0 {
		ttl = min(ttl, i.ttl)
	}
	if ttl < time.Second {
		return nil, api.NewError(connect.CodeUnauthenticated, api.Code_CODE_BAD_CERTIFICATE, "your login of %s has ended; log in again with `hawser login`",
			i.login.At.UTC().Format(time.RFC3339))
	}
	cert, err := s.set.IssueUser(ca.UserRequest{
		Name: i.user, Roles: roleNames(roles), Key: i.sshKey, TTL: ttl, Now: now, Cluster: s.info.Cluster, Sources: u.Sources, MFA: i.login.MFA,
	})
	if err != nil {
		return nil, fmt.Errorf("issue a user certificate: %w", err)
	}
	chain, err := s.set.IssueUserX509(ca.UserX509Request{Name: i.user, Cluster: s.info.Cluster, Key: i.tlsKey, TTL: ttl, Now: now, Login: i.login})
	if err != nil {
		return nil, fmt.Errorf("issue a user's API certificate: %w", err)
	}
	s.record(Event{Type: "user.certificate", Actor: i.actor, User: i.user, Source: i.source, Via: i.via, Roles: roleNames(roles), Method: fmt.Sprintf("certificate %d", cert.Serial)})
	return &api.UserCredentials{
		User: i.user, Cluster: s.info.Cluster, Chain: chain, SshCertificate: cert.Marshal(), Trust: s.Trust(),
		NotAfterUnix: now.Add(ttl).Unix(), LoginEndsUnix: ends.Unix(), Hubs: s.hubList(),
	}, nil
}

// Whoami tells a user who he is here.
func (s adminService) Whoami(ctx context.Context, _ *connect.Request[api.WhoamiRequest]) (*connect.Response[api.WhoamiResponse], error) {
	c := callerOf(ctx)
	return connect.NewResponse(&api.WhoamiResponse{
		User: c.id.Name, Roles: roleNames(c.roles), Cluster: s.info.Cluster, NotAfterUnix: c.id.NotAfter.Unix(), Trust: s.Trust(), Hubs: s.hubList(),
		AdministersUsers: policy.MayAdmin(c.roles, "user", "update").Allowed, LoginUnix: unixOf(c.login.At),
	}), nil
}

// RenewMyself certifies the TLS peer's key again, for the rest of the login.
func (s adminService) RenewMyself(ctx context.Context, req *connect.Request[api.RenewMyselfRequest]) (*connect.Response[api.UserCredentials], error) {
	c := callerOf(ctx)
	key, err := s.sshKeyOf(c, req.Msg.SshPublicKey, c.id.Name)
	if err != nil {
		return nil, err
	}
	cred, err := s.issueUser(issue{
		user: c.id.Name, tlsKey: c.key, sshKey: key, ttl: seconds(req.Msg.TtlSeconds), login: c.login, based: c.issued, actor: c.String(), source: c.addr, via: c.via,
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(cred), nil
}

// mayManage tells whether the caller may give these roles, or act on who has them: nobody gives, or takes over, an
// administration he has not himself.
func mayManage(c caller, roles []policy.Role) error {
	for _, r := range roles {
		for _, a := range r.Allow.Admin {
			if !policy.MayAdminAll(c.roles, a) {
				return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED,
					"your roles do not let you give role %s, or act on who has it: it administers what yours do not", r.Name)
			}
		}
	}
	return nil
}

// rolesTurn waits for the right to give or take roles, or to act on a user by those he has: that somebody is left who gives roles, that nobody has a role
// that is removed, and that the caller may act on who has these, is so only as long as nobody else changes them.
func (s *Server) rolesTurn(ctx context.Context) (done func(), err error) { return turn(ctx, s.giving) }

func turn(ctx context.Context, held chan struct{}) (done func(), err error) {
	select {
	case held <- struct{}{}:
		return func() { <-held }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// checkRoles finds the roles of these names, and the conditions under which they are still there when they are given.
func (s *Server) checkRoles(c caller, names []string) ([]string, []store.Cond, error) {
	if len(names) == 0 || len(names) > maxRoles {
		return nil, nil, invalid("give 1 to %d roles", maxRoles)
	}
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	all, _ := s.view.policies()
	var conds []store.Cond
	for _, name := range names {
		if len(pick(all, []string{name})) == 0 {
			return nil, nil, notFound("no role %q; `hawser get role` lists them", wire.Quote(name, 64))
		}
		if _, builtin := policy.Builtin(name); !builtin {
			conds = append(conds, store.IfExists(rolePrefix+name))
		}
	}
	return names, conds, mayManage(c, pick(all, names))
}

// givesRoles tells whether who has these roles can make roles and give them.
func givesRoles(roles []policy.Role) bool {
	return policy.MayAdmin(roles, "role", "update").Allowed && policy.MayAdmin(roles, "user", "update").Allowed
}

// leavesNobody tells whether nobody could give roles any more if name had only these.
func (s *Server) leavesNobody(name string, roles []policy.Role) bool {
	if givesRoles(roles) {
		return false
	}
	_, had := s.view.user(name)
	if !givesRoles(had) {
		return false
	}
	for _, u := range s.view.allUsers() {
		if u.Name == name {
			continue
		}
		if _, roles := s.view.user(u.Name); givesRoles(roles) {
			return false
		}
	}
	return true
}

var errLastAdmin = api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
	"nobody would be left who administers users and roles; give another user the role admin first")

// AddUser makes a user with roles and registered keys.
func (s adminService) AddUser(ctx context.Context, req *connect.Request[api.AddUserRequest]) (*connect.Response[api.User], error) {
	c, r := callerOf(ctx), req.Msg
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	u, conds, err := s.newUser(c, r.Name, r.Roles, r.SourceAddresses)
	if err != nil {
		return nil, err
	}
	if len(r.AuthorizedKeys) > maxKeys {
		return nil, invalid("more than %d keys", maxKeys)
	}
	for _, line := range r.AuthorizedKeys {
		k, err := parseKey(line)
		if err != nil {
			return nil, err
		}
		if k.Added = u.Created; r.KeyTtlSeconds != 0 {
			if k.Expires, err = s.expiry(r.KeyTtlSeconds, maxTTL); err != nil {
				return nil, err
			}
		}
		if owner := s.view.owner(k.Blob); owner != "" {
			return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "a key belongs to one user, and this one to %s", owner)
		}
		if u.key(k.Blob) == nil {
			u.Keys = append(u.Keys, k)
		}
	}
	if err := s.putUser(ctx, *u, nil, append(conds, store.IfAbsent(userPrefix+u.Name))...); errors.Is(err, store.ErrConflict) {
		return nil, userThere(u.Name)
	} else if err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.user.add", Actor: c.String(), Source: c.addr, Via: c.via, Object: u.Name, User: u.Name, Roles: u.Roles})
	return connect.NewResponse(s.userOf(u, loginRecord{}, nil)), nil
}

func userThere(name string) error {
	return api.NewError(connect.CodeAlreadyExists, api.Code_CODE_UNSPECIFIED, "there is a user %s, or a user with this key; `hawser user rm` removes one", name)
}

// newUser checks what a user is made of.
func (s *Server) newUser(c caller, name string, roles, sources []string) (*userRecord, []store.Cond, error) {
	if err := ca.CheckUserName(name); err != nil {
		return nil, nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "user: %w", err)
	}
	names, conds, err := s.checkRoles(c, roles)
	if err != nil {
		return nil, nil, err
	}
	nets, err := parseSources(sources)
	if err != nil {
		return nil, nil, err
	}
	return &userRecord{Name: name, Roles: names, Sources: nets, Created: s.cfg.Now()}, conds, nil
}

// expiry is now and a life that was asked for.
func (s *Server) expiry(seconds uint64, longest time.Duration) (time.Time, error) {
	if seconds > uint64(longest/time.Second) {
		return time.Time{}, invalid("a life of more than %v is not given; ask for less with --ttl", longest)
	}
	return s.cfg.Now().Add(time.Duration(seconds) * time.Second), nil
}

// parseSources reads networks or addresses, and writes them as networks.
func parseSources(list []string) ([]string, error) {
	if len(list) > maxUserSources {
		return nil, invalid("more than %d networks", maxUserSources)
	}
	var out []string
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err == nil && a.Zone() == "" {
				p = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
			}
		}
		if err != nil || !p.IsValid() || p.Addr().Is4In6() {
			return nil, invalid("%q is no address or network, such as 192.0.2.0/24", wire.Quote(text, 64))
		}
		out = append(out, p.Masked().String())
	}
	return slices.Compact(slices.Sorted(slices.Values(out))), nil
}

// from tells whether ip is in one of the networks; none are all.
func from(sources []string, ip netip.Addr) bool {
	if len(sources) == 0 {
		return true
	}
	ip = ip.Unmap().WithZone("")
	return slices.ContainsFunc(sources, func(text string) bool {
		p, err := netip.ParsePrefix(text)
		return err == nil && p.Contains(ip)
	})
}

// fromAddr is from, of host:port.
func fromAddr(sources []string, addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	ip, err := netip.ParseAddr(host)
	return len(sources) == 0 || err == nil && from(sources, ip)
}

// parseKey reads one authorized_keys line; options in front would be lost, so they are refused.
func parseKey(line string) (userKey, error) {
	if len(line) > maxKeyLine {
		return userKey{}, invalid("a key has more than %d bytes", maxKeyLine)
	}
	key, comment, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return userKey{}, invalid("%q is not a public key as ssh-keygen writes it", wire.Quote(line, 64))
	}
	if len(options) > 0 {
		return userKey{}, invalid("options in front of a key are not read; `hawser user key add` has --ttl, --source and --force-command for them")
	}
	if err := ca.CheckKey(key); err != nil {
		return userKey{}, invalid("key: %w", err)
	}
	return userKey{Blob: key.Marshal(), Comment: wire.Quote(comment[:min(len(comment), maxComment)], maxComment)}, nil
}

func blobPrint(blob []byte) string {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// userOf is a user as people are shown him.
func (s *Server) userOf(u *userRecord, l loginRecord, inv *inviteRecord) *api.User {
	now := s.cfg.Now()
	out := &api.User{
		Name: u.Name, Roles: u.Roles, CreatedUnix: u.Created.Unix(), Password: u.Password != "", Authenticator: len(u.TOTP) > 0,
		LastLoginUnix: unixOf(l.Last), LastLoginSource: l.Source, SourceAddresses: u.Sources, LockedUntilUnix: unixOf(s.lockout.lockedUntil(u.Name, now)),
	}
	if inv != nil && now.Before(inv.Expires) {
		out.LinkExpiresUnix, out.LinkReset = inv.Expires.Unix(), inv.Reset
	}
	for _, k := range u.Keys {
		key, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			continue
		}
		fp := ssh.FingerprintSHA256(key)
		use := l.Keys[fp]
		if newer, ok := s.uses.last(u.Name, fp); ok {
			use = newer
		}
		out.Keys = append(out.Keys, &api.UserKey{
			AuthorizedKey: strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))), Fingerprint: fp, Comment: k.Comment,
			AddedUnix: unixOf(k.Added), ExpiresUnix: unixOf(k.Expires), LastUsedUnix: unixOf(use.At), LastUsedSource: use.Source,
			SourceAddresses: k.Sources, ForceCommand: k.ForceCommand,
		})
	}
	return out
}

// unixOf is 0 for no time.
func unixOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// describeUser is userOf with all that is stored.
func (s *Server) describeUser(ctx context.Context, u *userRecord) (*api.User, error) {
	var l loginRecord
	if _, err := s.get(ctx, loginPrefix+u.Name, &l); err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	links, err := s.linksOf(ctx, u.Name)
	if err != nil {
		return nil, err
	}
	var inv *inviteRecord
	if len(links) > 0 {
		inv = &links[0]
	}
	return s.userOf(u, l, inv), nil
}

// ListUsers lists users.
func (s adminService) ListUsers(ctx context.Context, _ *connect.Request[api.ListUsersRequest]) (*connect.Response[api.ListUsersResponse], error) {
	links, err := list[inviteRecord](ctx, s.Server, invitePrefix)
	if err != nil {
		return nil, err
	}
	open := make(map[string]*inviteRecord)
	for i := range links {
		open[links[i].User] = &links[i]
	}
	res := &api.ListUsersResponse{}
	for _, u := range s.view.allUsers() {
		var l loginRecord
		if _, err := s.get(ctx, loginPrefix+u.Name, &l); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		res.Users = append(res.Users, s.userOf(u, l, open[u.Name]))
	}
	return connect.NewResponse(res), nil
}

// RemoveUser removes a user, his keys, links and tokens, and his live sessions; his certificates are refused from then on.
func (s adminService) RemoveUser(ctx context.Context, req *connect.Request[api.RemoveUserRequest]) (*connect.Response[api.RemoveUserResponse], error) {
	c, name := callerOf(ctx), req.Msg.Name
	done, err := s.rolesTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	_, roles := s.view.user(name)
	if err := mayManage(c, roles); err != nil {
		return nil, err
	}
	if s.leavesNobody(name, nil) {
		return nil, errLastAdmin
	}
	// His links and tokens go first, so that a crash in between leaves a user to remove; and again when he can make none
	// any more.
	if err := s.forgetMadeBy(ctx, name); err != nil {
		return nil, err
	}
	voids := &voiding{s: s.Server, users: []string{name}}
	var unlisted error // a list that is full must not keep him
	err = retryConflict(ctx, func() error {
		var u userRecord
		rev, err := s.get(ctx, userPrefix+name, &u)
		if errors.Is(err, store.ErrNotFound) {
			return noUser(name)
		} else if err != nil {
			return err
		}
		conds, ops := []store.Cond{store.IfModRev(userPrefix+name, rev)}, []store.Op{store.Delete(userPrefix + name), store.Delete(loginPrefix + name)}
		for _, k := range u.Keys {
			ops = append(ops, store.Delete(keyClaim(k.Blob)))
		}
		_, cond, op, err := s.lockChange(ctx, voids.change)
		if unlisted = err; err == nil {
			conds, ops = append(conds, cond), append(ops, op)
		} else if connect.CodeOf(err) != connect.CodeResourceExhausted {
			return err
		}
		return s.commit(ctx, conds, ops...)
	})
	if err != nil {
		return nil, err
	}
	if unlisted == nil {
		unlisted = voids.done(ctx)
	}
	if unlisted != nil {
		s.log.Error("certificates of a removed user are not void by list, and refused as those of nobody", "user", name, "error", unlisted)
	}
	if err := s.forgetMadeBy(ctx, name); err != nil {
		s.log.Error("links and tokens of a removed user are left", "user", name, "error", err)
	}
	s.second.forgetUser(name)
	s.uses.forget(name)
	s.steps.forget(name)
	s.killWhere("the user was removed", func(sess *session) bool { return sess.user == name })
	s.record(Event{Type: "admin.user.remove", Actor: c.String(), Source: c.addr, Via: c.via, Object: name, User: name})
	return connect.NewResponse(&api.RemoveUserResponse{}), nil
}

// forgetMadeBy removes the links for and by a user, and the join tokens he made.
func (s *Server) forgetMadeBy(ctx context.Context, name string) error {
	by := string(ca.RoleUser) + ":" + name
	var keys []string
	links, err := list[inviteRecord](ctx, s, invitePrefix)
	if err != nil {
		return err
	}
	for _, i := range links {
		if i.User == name || i.By == by {
			keys = append(keys, invitePrefix+i.ID)
		}
	}
	tokens, err := list[tokenRecord](ctx, s, tokenPrefix)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.By == by {
			keys = append(keys, tokenPrefix+t.ID)
		}
	}
	for part := range slices.Chunk(keys, saveBatch) {
		var ops []store.Op
		for _, k := range part {
			ops = append(ops, store.Delete(k))
		}
		if err := s.commit(ctx, nil, ops...); err != nil {
			return err
		}
	}
	return nil
}

// watchUser is a user as hubs need him. A key that has expired is there too: the hub takes its signature, and the person is told why
// auth refuses it.
func watchUser(u *userRecord) *api.WatchUser {
	out := &api.WatchUser{Name: u.Name, Roles: u.Roles}
	for _, k := range u.Keys {
		out.Keys = append(out.Keys, k.Blob)
	}
	return out
}
