package auth

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
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

const (
	// keptVoids is how many users' dates the list keeps apart; see lock.List.Compact.
	keptVoids = 256
	// lockWait is how long AddLock waits for the confirmations where the caller names no time, and maxLockWait at most.
	lockWait    = 10 * time.Second
	maxLockWait = time.Minute
	// progressEvery is how often AddLock looks how far it is, and tells, at most.
	progressEvery = 25 * time.Millisecond
	// maxUnconfirmed who have not confirmed are named.
	maxUnconfirmed = 1000
	maxLockTTL     = 10 * 365 * 24 * time.Hour
	// resumeRevision is how far ahead of the time a revision may be that a hub says it holds: one of a state that was lost, not nonsense.
	resumeRevision = 24 * time.Hour
)

// locksRecord is all that is locked and void, in one record, so that two who change it at once cannot lose a change.
type locksRecord struct {
	// Revision of the list that is signed of it. It is at least the time in seconds at the last change, so that it grows over what devices hold
	// even after a backup was restored.
	Revision uint64       `json:"revision"`
	Locks    []lockRecord `json:"locks,omitempty"`
	Voids    []voidRecord `json:"voids,omitempty"`
	// LongestTTL is the longest life a user's certificate could have been given in this cluster so far: a void must outlast it.
	LongestTTL time.Duration `json:"longest_ttl,omitempty"`
}

type lockRecord struct {
	ID      string       `json:"id"`
	User    string       `json:"user,omitempty"`
	Role    string       `json:"role,omitempty"`
	Login   string       `json:"login,omitempty"`
	Device  string       `json:"device,omitempty"`
	Key     string       `json:"key,omitempty"`
	Source  netip.Prefix `json:"source,omitzero"`
	Message string       `json:"message,omitempty"`
	Expires time.Time    `json:"expires,omitzero"`

	By      string    `json:"by,omitempty"`
	Created time.Time `json:"created,omitzero"`
}

type voidRecord struct {
	User   string    `json:"user"`
	Before time.Time `json:"before"`
	Until  time.Time `json:"until"`
}

// list is the record as it is signed.
func (r *locksRecord) list(cluster string) *lock.List {
	l := &lock.List{Cluster: cluster, Revision: max(r.Revision, 1)}
	for _, k := range r.Locks {
		l.Locks = append(l.Locks, lock.Lock(k))
	}
	for _, v := range r.Voids {
		l.Voids = append(l.Voids, lock.Void(v))
	}
	return l
}

func (r *locksRecord) set(l *lock.List) {
	r.Locks, r.Voids = nil, nil
	for _, k := range l.Locks {
		r.Locks = append(r.Locks, lockRecord(k))
	}
	for _, v := range l.Voids {
		r.Voids = append(r.Voids, voidRecord(v))
	}
}

// signedLocks is the list as it was last signed.
type signedLocks struct {
	mu   sync.Mutex
	of   *locksRecord
	by   ed25519.PublicKey
	blob []byte
}

// locks returns the list in force. It is not to be changed.
func (v *view) lockList() (*locksRecord, *lock.List) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.locks, v.lockedBy
}

// signedLocks returns the list for hubs and devices.
func (s *Server) signedLocks() (*api.Locks, error) {
	record, list := s.view.lockList()
	key := s.set.GrantKey()
	public := key.Public().(ed25519.PublicKey)
	x := &s.locks
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.of != record || !public.Equal(x.by) {
		l := *list
		l.Cluster = s.info.Cluster
		blob, err := lock.Sign(l, key)
		if err != nil {
			return nil, fmt.Errorf("sign the locks: %w", err)
		}
		x.of, x.by, x.blob = record, public, blob
	}
	return &api.Locks{Revision: list.Revision, Blob: x.blob}, nil
}

// lockedOut returns what refuses sub now, nil if nothing does.
func (s *Server) lockedOut(sub lock.Subject) *lock.Denied {
	_, l := s.view.lockList()
	return l.Match(s.cfg.Now(), sub)
}

// maxVoidAhead is how far ahead of the clock a certificate may be issued to come after the void of its user. Each void of one second takes one.
const maxVoidAhead = 5 * time.Second

// afterVoids is the issue time for a new certificate of user: now, or where his certificates of this very second are void, the next that counts.
// Certificates say their issue in whole seconds.
func afterVoids(l *lock.List, user string, now time.Time) time.Time {
	for _, v := range l.Voids {
		if (v.User == user || v.User == lock.Everybody) && v.Before.After(now.Truncate(time.Second)) && v.Before.Sub(now) <= maxVoidAhead {
			now = v.Before
		}
	}
	return now
}

// lockChange is the list with change applied, for a transaction. An error of change is returned as it is.
func (s *Server) lockChange(ctx context.Context, change func(*locksRecord, *lock.List) error) (revision uint64, cond store.Cond, op store.Op, err error) {
	var r locksRecord
	rev, err := s.get(ctx, locksKey, &r)
	cond = store.IfModRev(locksKey, rev)
	if errors.Is(err, store.ErrNotFound) {
		cond, err = store.IfAbsent(locksKey), nil
	}
	if err != nil {
		return 0, cond, op, err
	}
	now, l := s.cfg.Now(), r.list(s.info.Cluster)
	if err := change(&r, l); err != nil {
		return 0, cond, op, err
	}
	l.Compact(now, keptVoids)
	r.Revision = max(r.Revision+1, uint64(max(0, now.Unix())))
	l.Revision = r.Revision
	r.set(l)
	if _, err := lock.Sign(*l, s.set.GrantKey()); errors.Is(err, lock.ErrTooLarge) {
		return 0, cond, op, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_UNSPECIFIED,
			"there are too many locks to give to every device; remove some with `hawser lock rm`, or lock a role or a network instead of many users")
	} else if err != nil {
		return 0, cond, op, err
	}
	return r.Revision, cond, store.Urgent(put(locksKey, r)), nil
}

// changeLocks applies change to the list and waits until it is in force here. An error of change is returned as it is.
func (s *Server) changeLocks(ctx context.Context, change func(*locksRecord, *lock.List) error) (revision uint64, err error) {
	err = retryConflict(ctx, func() error {
		at, cond, op, err := s.lockChange(ctx, change)
		if err != nil {
			return err
		}
		revision = at
		return s.commit(ctx, []store.Cond{cond}, op)
	})
	return revision, err
}

// voiding makes the certificates void that users were given before it is in force, everywhere, until the last of them has expired anyway. It goes
// into one transaction with what it belongs to: who is being given a certificate sees both, or neither and has one that is void.
type voiding struct {
	s      *Server
	users  []string
	before []time.Time // of each, as it was written last
}

// change is for lockChange.
func (v *voiding) change(r *locksRecord, l *lock.List) error {
	now, life := v.s.cfg.Now(), max(v.s.longestTTL(), r.LongestTTL)+time.Minute
	v.before = nil
	for _, user := range v.users {
		before := now.Truncate(time.Second).Add(time.Second)
		for _, old := range l.Voids {
			if (old.User == user || old.User == lock.Everybody) && !old.Before.Before(before) {
				before = old.Before.Add(time.Second) // there may be certificates of that second, given after the other void
			}
		}
		v.before = append(v.before, before)
		l.Voids = append(l.Voids, lock.Void{User: user, Before: before, Until: before.Add(life)})
	}
	return nil
}

// done follows the transaction. Where that took longer than to the time it names, certificates of later were given by what was so before, and it is
// said once more.
func (v *voiding) done(ctx context.Context) error {
	late := func(before time.Time) bool { return !v.s.cfg.Now().Before(before) }
	for tries := 0; tries < 3 && slices.ContainsFunc(v.before, late); tries++ {
		if _, err := v.s.changeLocks(ctx, v.change); err != nil {
			return err
		}
	}
	for i, user := range v.users {
		v.s.record(Event{Type: "user.certificates.void", User: user, Reason: "issued before " + v.before[i].UTC().Format(time.RFC3339)})
	}
	return nil
}

// voidCertificates makes the certificates that users have void.
func (s *Server) voidCertificates(ctx context.Context, users ...string) error {
	v := &voiding{s: s, users: users}
	if _, err := s.changeLocks(ctx, v.change); err != nil {
		return err
	}
	return v.done(ctx)
}

// longestTTL is the longest life a user's certificate may be given as the roles are.
func (s *Server) longestTTL() time.Duration {
	longest := s.cfg.UserTTL
	roles, _ := s.view.policies()
	for _, r := range roles {
		longest = max(longest, r.Options.SessionTTL)
	}
	return longest
}

// keepLongestTTL stores the longest life of certificates when it has grown.
func (s *Server) keepLongestTTL(ctx context.Context) {
	longest := s.longestTTL()
	if r, _ := s.view.lockList(); longest <= r.LongestTTL {
		return
	}
	// Not changeLocks: the list stays what it is, and no device is told.
	err := retryConflict(ctx, func() error {
		var r locksRecord
		rev, err := s.get(ctx, locksKey, &r)
		cond := store.IfModRev(locksKey, rev)
		if errors.Is(err, store.ErrNotFound) {
			cond, err = store.IfAbsent(locksKey), nil
		}
		if err != nil || longest <= r.LongestTTL {
			return err
		}
		r.LongestTTL, r.Revision = longest, max(r.Revision, 1)
		return s.commit(ctx, []store.Cond{cond}, put(locksKey, r))
	})
	if err != nil && ctx.Err() == nil {
		s.log.Error("the longest life of certificates is not stored", "error", err)
	}
}

// subjectOf is whom an Admit is for, as far as the proof in it says: the key that signed and when its certificate was issued. Who it belongs to,
// authenticate finds.
func subjectOf(publicKey, certificate []byte, client netip.Addr) lock.Subject {
	sub := lock.Subject{Source: client}
	blob := publicKey
	if len(certificate) > 0 {
		blob = certificate
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return sub
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key, sub.IssuedAt = cert.Key, ca.IssuedAt(cert)
	}
	sub.Key = ssh.FingerprintSHA256(key)
	return sub
}

// refusedBy is a lock's refusal in the form of a policy's.
func refusedBy(d *lock.Denied) error {
	if d == nil {
		return nil
	}
	return &refusal{reason: d.Reason(), rule: d.Rule(), message: d.Error()}
}

// lockError is the answer of a call that a lock refuses.
func lockError(d *lock.Denied) error {
	if d.Lock == nil {
		return api.NewError(connect.CodeUnauthenticated, api.Code_CODE_BAD_CERTIFICATE, "%w", d)
	}
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_LOCKED, "%w", d)
}

// lockedPart refuses a join or a renewal: of a device or hub by its key, of a device by its UUID, and whoever joins from a locked network.
func (s *Server) lockedPart(uuid string, key ed25519.PublicKey, source string) error {
	sub := lock.Subject{Device: uuid, Key: keyFingerprint(key)}
	if ap, err := netip.ParseAddrPort(source); err == nil {
		sub.Source = ap.Addr()
	}
	d := s.lockedOut(sub)
	if d == nil {
		return nil
	}
	s.recordStranger(source, Event{Type: "join.refuse", DeviceUUID: uuid, Source: source, Reason: d.Reason(), Rule: d.Rule()})
	return lockError(d)
}

// keyFingerprint is of the key of a TLS certificate as SSH writes it; empty for a kind SSH does not know.
func keyFingerprint(key any) string {
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(k)
}

// lockService is the API over locks.
type lockService struct{ *Server }

// AddLock puts a lock in force and waits for who enforces it.
func (s lockService) AddLock(ctx context.Context, req *connect.Request[api.AddLockRequest], stream *connect.ServerStream[api.LockProgress]) error {
	c, r := callerOf(ctx), req.Msg
	k, err := s.parseLock(r)
	if err != nil {
		return err
	}
	k.By = c.id.Name
	if !r.Force {
		if err := s.sensible(c, k); err != nil {
			return err
		}
	}
	revision, err := s.changeLocks(ctx, func(_ *locksRecord, l *lock.List) error {
		if len(l.Locks) >= lock.MaxLocks {
			return api.NewError(connect.CodeResourceExhausted, api.Code_CODE_UNSPECIFIED, "there are %d locks, which is the most; remove some with `hawser lock rm`", lock.MaxLocks)
		}
		l.Locks = append(l.Locks, k)
		return nil
	})
	if err != nil {
		return err
	}
	e := Event{
		Type: "lock.add", Actor: c.String(), Source: c.addr, Via: c.via, Object: k.ID, Rule: describeLock(k), Reason: k.Message,
		User: k.User, Login: k.Login, DeviceUUID: k.Device,
	}
	if d := s.view.device(k.Device); d != nil {
		e.Device = d.Name
	}
	s.record(e)
	ended := s.endDenied()
	wait := time.Duration(r.WaitMs) * time.Millisecond
	if r.WaitMs == 0 {
		wait = lockWait
	}
	return s.awaitLock(ctx, stream, s.standing(k), revision, ended, min(wait, maxLockWait))
}

// awaitLock tells how far the lock has come until all have it, or the wait is over. That is no error: the lock stands.
func (s *Server) awaitLock(ctx context.Context, stream *connect.ServerStream[api.LockProgress], k *api.StandingLock, revision uint64, ended int, wait time.Duration) error {
	over := time.NewTimer(wait)
	defer over.Stop()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	var told *api.LockProgress
	for last := wait <= 0; ; {
		moved := s.hubs.heldMoved()
		p := s.lockProgress(revision)
		p.Lock, p.Revision, p.SessionsEnded = k, revision, uint32(ended)
		p.Done = last || p.HubsConfirmed == p.Hubs && p.DevicesConfirmed == p.Devices
		if !p.Done {
			p.Unconfirmed = nil
		}
		if p.Done || told == nil || told.HubsConfirmed != p.HubsConfirmed || told.DevicesConfirmed != p.DevicesConfirmed || told.Hubs != p.Hubs || told.Devices != p.Devices {
			if err := stream.Send(p); err != nil {
				return err
			}
			told = p
		}
		if p.Done {
			return nil
		}
		select {
		case <-tick.C: // changes that come together are told together
		case <-over.C:
			last = true
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select {
		case <-moved:
		case <-over.C:
			last = true
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

const whyCutOff = "not connected to auth: where it runs, it keeps the locks it has; strict roles end after 5 minutes"

// lockProgress says who holds the locks of a revision.
func (s *Server) lockProgress(revision uint64) *api.LockProgress {
	p := &api.LockProgress{}
	var missing []*api.Unconfirmed
	for _, h := range s.view.allHubs() {
		up, held := s.hubs.locksOf(h.UUID)
		switch {
		case !up:
			missing = append(missing, &api.Unconfirmed{Kind: "hub", Name: h.Name, Why: whyCutOff})
			continue
		case held >= revision:
			p.HubsConfirmed++
		default:
			missing = append(missing, &api.Unconfirmed{Kind: "hub", Name: h.Name, Why: "has not answered yet"})
		}
		p.Hubs++
	}
	locked := s.lockedDevices()
	for _, d := range s.view.allDevices() {
		online, held := s.hubs.locksHeld(d.UUID)
		switch {
		case !online, locked[d.UUID]: // a locked device is being sent away, and holds nothing of use
			p.DevicesAway++
			continue
		case held >= revision:
			p.DevicesConfirmed++
		default:
			missing = append(missing, &api.Unconfirmed{Kind: "device", Name: d.Name, Why: "has not answered yet"})
		}
		p.Devices++
	}
	p.Unconfirmed = missing[:min(len(missing), maxUnconfirmed)]
	return p
}

// lockedDevices are those whose own tunnels a lock refuses.
func (s *Server) lockedDevices() map[string]bool {
	_, l := s.view.lockList()
	now, out := s.cfg.Now(), make(map[string]bool)
	if !slices.ContainsFunc(l.Locks, func(k lock.Lock) bool { return k.User == "" && k.Role == "" && k.Login == "" }) {
		return out
	}
	for _, d := range s.view.allDevices() {
		if l.Match(now, lock.Subject{Device: d.UUID, Key: keyFingerprint(ed25519.PublicKey(d.Key))}) != nil {
			out[d.UUID] = true
		}
	}
	return out
}

// parseLock reads what a caller wants locked.
func (s *Server) parseLock(r *api.AddLockRequest) (lock.Lock, error) {
	in := r.GetLock()
	if in == nil {
		in = &api.StandingLock{}
	}
	id := make([]byte, 4)
	rand.Read(id)
	k := lock.Lock{
		ID: hex.EncodeToString(id), User: in.User, Role: in.Role, Login: in.Login, Device: in.Device, Key: in.Key, Message: in.Message,
		Created: s.cfg.Now(),
	}
	switch {
	case in.User != "" && ca.CheckUserName(in.User) != nil:
		return k, invalid("user %q is no name of a user", wire.Quote(in.User, 64))
	case len(in.Role) > 63 || strings.ContainsFunc(in.Role, unprintable):
		return k, invalid("role %q is no name of a role", wire.Quote(in.Role, 64))
	case len(in.Login) > 64 || strings.ContainsFunc(in.Login, unprintable):
		return k, invalid("login %q is not a name of an account", wire.Quote(in.Login, 64))
	case in.Key != "" && !isFingerprint(in.Key):
		return k, invalid("key %q is no fingerprint; give SHA256:..., as `ssh-keygen -lf FILE` prints it", wire.Quote(in.Key, 80))
	case len(in.Message) > lock.MaxMessage:
		return k, invalid("the message has more than %d bytes", lock.MaxMessage)
	case strings.ContainsFunc(in.Message, func(r rune) bool { return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }) || strings.ToValidUTF8(in.Message, "") != in.Message:
		return k, invalid("the message is one line of text")
	case r.TtlSeconds > uint64(maxLockTTL/time.Second):
		return k, invalid("a lock ends after ten years at most; leave --ttl away for one that does not end")
	}
	if in.Source != "" {
		var err error
		if k.Source, err = parseSource(in.Source); err != nil {
			return k, err
		}
	}
	if in.Device != "" {
		if d := s.view.device(in.Device); d != nil {
			k.Device = d.UUID
		} else if id, err := wire.ParseUUID(in.Device); err == nil {
			k.Device = id.String()
		} else {
			return k, notFound("no device %q; `hawser ls` lists them, and a UUID is taken as it is", wire.Quote(in.Device, 64))
		}
	}
	if k.Bare() {
		return k, invalid("say what to lock: --user, --role, --login, --device, --key or --source")
	}
	if r.TtlSeconds > 0 {
		k.Expires = k.Created.Add(time.Duration(r.TtlSeconds) * time.Second).Truncate(time.Millisecond)
	}
	return k, nil
}

func unprintable(r rune) bool { return r <= ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 }

func isFingerprint(text string) bool {
	hash, ok := strings.CutPrefix(text, "SHA256:")
	return ok && len(hash) == 43 && !strings.ContainsFunc(hash, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '+' && r != '/'
	})
}

func parseSource(text string) (netip.Prefix, error) {
	bad := invalid("source %q is no address and no network as 192.0.2.0/24", wire.Quote(text, 64))
	if a, err := netip.ParseAddr(text); err == nil {
		if a.Zone() != "" {
			return netip.Prefix{}, bad
		}
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, bad
	}
	if p != p.Masked() {
		return netip.Prefix{}, invalid("source %s is no network: its first address is %s; give that, or the address alone", p, p.Masked().Addr())
	}
	return p, nil
}

// sensible refuses what is probably a mistake, and what nobody could take back.
func (s *Server) sensible(c caller, k lock.Lock) error {
	if u, _ := s.view.user(k.User); k.User != "" && u == nil {
		return notFound("no user %q; `hawser user ls` lists them, --force locks the name all the same", wire.Quote(k.User, 64))
	}
	roles, _ := s.view.policies()
	if k.Role != "" && len(pick(roles, []string{k.Role})) == 0 {
		return notFound("no role %q; `hawser get role` lists them, --force locks the name all the same", wire.Quote(k.Role, 64))
	}
	only := lock.List{Locks: []lock.Lock{k}}
	me := callerSubject(c)
	// A login or a device leaves the caller's way to this API open.
	if only.Match(s.cfg.Now(), me) != nil {
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
			"this lock would lock you out, and you could not remove it; --force sets it all the same")
	}
	_, standing := s.view.lockList()
	all := lock.List{Locks: append(slices.Clone(standing.Locks), k)}
	for _, u := range s.view.allUsers() {
		if mine := pick(roles, u.Roles); policy.MayAdmin(mine, "lock", "delete").Allowed &&
			all.Match(s.cfg.Now(), lock.Subject{User: u.Name, Roles: u.Roles}) == nil {
			return nil
		}
	}
	return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
		"this lock would lock out everybody who may remove locks; --force sets it all the same, and then only its --ttl ends it")
}

// callerSubject is who calls the API, as locks see him.
func callerSubject(c caller) lock.Subject {
	sub := lock.Subject{User: c.id.Name, Roles: roleNames(c.roles), Key: keyFingerprint(c.key), IssuedAt: c.issued}
	if ap, err := netip.ParseAddrPort(c.addr); err == nil {
		sub.Source = ap.Addr()
	}
	return sub
}

// describeLock says for the log what a lock names.
func describeLock(k lock.Lock) string {
	var b strings.Builder
	source := ""
	if k.Source.IsValid() {
		source = k.Source.String()
	}
	for _, f := range [][2]string{{"user", k.User}, {"role", k.Role}, {"login", k.Login}, {"device", k.Device}, {"key", k.Key}, {"source", source}} {
		if f[1] != "" {
			fmt.Fprintf(&b, "%s=%s ", f[0], f[1])
		}
	}
	if !k.Expires.IsZero() {
		b.WriteString("until " + k.Expires.UTC().Format(time.RFC3339))
	}
	return strings.TrimSpace(b.String())
}

// standing is a lock for people.
func (s *Server) standing(k lock.Lock) *api.StandingLock {
	out := &api.StandingLock{Id: k.ID, User: k.User, Role: k.Role, Login: k.Login, Device: k.Device, Key: k.Key, Message: k.Message, By: k.By}
	if k.Source.IsValid() {
		out.Source = k.Source.String()
	}
	if !k.Created.IsZero() {
		out.CreatedUnix = k.Created.Unix()
	}
	if !k.Expires.IsZero() {
		out.ExpiresUnix = k.Expires.Unix()
	}
	if d := s.view.device(k.Device); d != nil {
		out.DeviceName = d.Name
	}
	return out
}

// ListLocks lists what stands.
func (s lockService) ListLocks(context.Context, *connect.Request[api.ListLocksRequest]) (*connect.Response[api.ListLocksResponse], error) {
	_, l := s.view.lockList()
	now, res := s.cfg.Now(), &api.ListLocksResponse{Revision: l.Revision}
	for _, k := range l.Locks {
		if k.Expires.IsZero() || now.Before(k.Expires) {
			res.Locks = append(res.Locks, s.standing(k))
		}
	}
	slices.SortStableFunc(res.Locks, func(a, b *api.StandingLock) int { return cmp.Compare(a.CreatedUnix, b.CreatedUnix) })
	for _, v := range l.Voids {
		if now.Before(v.Until) {
			res.Voids = append(res.Voids, &api.VoidedCertificates{User: v.User, BeforeUnix: v.Before.Unix(), UntilUnix: v.Until.Unix()})
		}
	}
	return connect.NewResponse(res), nil
}

// RemoveLock lifts a lock.
func (s lockService) RemoveLock(ctx context.Context, req *connect.Request[api.RemoveLockRequest]) (*connect.Response[api.RemoveLockResponse], error) {
	c, id := callerOf(ctx), req.Msg.Id
	var gone lock.Lock
	_, err := s.changeLocks(ctx, func(_ *locksRecord, l *lock.List) error {
		var found []int
		for i, k := range l.Locks {
			if id != "" && strings.HasPrefix(k.ID, id) {
				found = append(found, i)
			}
		}
		switch {
		case len(found) == 0:
			return notFound("no lock %q; `hawser lock ls` lists them", wire.Quote(id, 40))
		case len(found) > 1:
			return invalid("%d locks begin with %s; give more of the id", len(found), wire.Quote(id, 40))
		}
		gone = l.Locks[found[0]]
		l.Locks = slices.Delete(l.Locks, found[0], found[0]+1)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{
		Type: "lock.remove", Actor: c.String(), Source: c.addr, Via: c.via, Object: gone.ID, Rule: describeLock(gone),
		User: gone.User, Login: gone.Login, DeviceUUID: gone.Device,
	})
	return connect.NewResponse(&api.RemoveLockResponse{Lock: s.standing(gone)}), nil
}

// ReportRevisions takes over what a hub enforces.
func (s hubService) ReportRevisions(ctx context.Context, req *connect.Request[api.ReportRevisionsRequest]) (*connect.Response[api.ReportRevisionsResponse], error) {
	c, r := callerOf(ctx), req.Msg
	_, l := s.view.lockList()
	if r.Locks > l.Revision && r.Locks < uint64(s.cfg.Now().Add(resumeRevision).Unix()) {
		// The hub kept a list newer than the newest of this state, which was restored from a backup: devices would take none of ours.
		s.log.Warn("a hub holds newer locks than this service; numbering them anew", "hub", c.id.Name, "held", r.Locks, "known", l.Revision)
		if _, err := s.changeLocks(ctx, func(rec *locksRecord, _ *lock.List) error { rec.Revision = max(rec.Revision, r.Locks); return nil }); err != nil {
			return nil, err
		}
	}
	if !s.hubs.hold(c.id.UUID, r) {
		return nil, errNoWatch()
	}
	return connect.NewResponse(&api.ReportRevisionsResponse{}), nil
}

// hold notes what a hub enforces; ok is false if it has no Watch open.
func (t *hubTable) hold(hub string, r *api.ReportRevisionsRequest) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watches[hub]
	if w == nil {
		return false
	}
	w.held = r
	t.heldLocked()
	return true
}

// heldLocked wakes who waits for confirmations.
func (t *hubTable) heldLocked() {
	close(t.held)
	t.held = make(chan struct{})
}

// heldMoved returns a channel that closes when a hub or a device next says what it holds, comes or goes.
func (t *hubTable) heldMoved() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held
}

// locksOf is the revision of the locks a hub enforces, and whether it is there.
func (t *hubTable) locksOf(hub string) (up bool, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := t.watches[hub]
	if w == nil {
		return false, 0
	}
	return true, w.held.GetLocks()
}

// locksHeld is the newest revision a device said it enforces, and whether it has a tunnel that answers.
func (t *hubTable) locksHeld(device string) (online bool, revision uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.devices[device]
	if p == nil || !p.online() {
		return false, 0
	}
	for _, d := range p.tunnels {
		revision = max(revision, d.LocksRevision)
	}
	return true, revision
}
