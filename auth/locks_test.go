package auth

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/lock"
)

// add adds a lock and returns the last that was told of it.
func (b *bench) lock(t *testing.T, r *api.AddLockRequest) (*api.LockProgress, error) {
	t.Helper()
	stream, err := b.admin.Lock.AddLock(t.Context(), connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	var last *api.LockProgress
	for stream.Receive() {
		last = stream.Msg()
	}
	return last, stream.Err()
}

func (b *bench) mustLock(t *testing.T, k *api.StandingLock) *api.StandingLock {
	t.Helper()
	p, err := b.lock(t, &api.AddLockRequest{Lock: k, WaitMs: 1})
	if err != nil {
		t.Fatal(err)
	}
	return p.Lock
}

// refusedFor is the refusal of an Admit; empty: it was granted.
func (h *testHub) refusedFor(t *testing.T, r *api.AdmitRequest) string {
	t.Helper()
	return h.admit(t, r).Refusal.GetReason()
}

func TestALockRefusesWhatItNamesAndNothingElse(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	gw, _ := b.device(t, h, "gw")
	b.device(t, h, "other")
	ann, bob := b.user(t, "ann", "operator"), b.user(t, "bob", "operator")
	for name, tt := range map[string]struct {
		k            *api.StandingLock
		ann, bob     string
		other, login string // ann on another device, and with another login
	}{
		"user":     {&api.StandingLock{User: "ann"}, "lock", "", "lock", "lock"},
		"role":     {&api.StandingLock{Role: "operator"}, "lock", "lock", "lock", "lock"},
		"key":      {&api.StandingLock{Key: ssh.FingerprintSHA256(bob)}, "", "lock", "", ""},
		"device":   {&api.StandingLock{Device: "gw"}, "lock", "lock", "", "lock"},
		"uuid":     {&api.StandingLock{Device: gw.Uuid}, "lock", "lock", "", "lock"},
		"login":    {&api.StandingLock{Login: "root"}, "lock", "lock", "lock", ""},
		"address":  {&api.StandingLock{Source: "192.0.2.1"}, "lock", "lock", "lock", "lock"},
		"network":  {&api.StandingLock{Source: "192.0.2.0/24"}, "lock", "lock", "lock", "lock"},
		"beside":   {&api.StandingLock{Source: "192.0.3.0/24"}, "", "", "", ""},
		"together": {&api.StandingLock{User: "ann", Device: "gw", Login: "root"}, "lock", "", "", ""},
	} {
		k := b.mustLock(t, tt.k)
		for what, c := range map[string]struct{ got, want string }{
			"ann":           {h.refusedFor(t, request(ann, "gw", "root")), tt.ann},
			"bob":           {h.refusedFor(t, request(bob, "gw", "root")), tt.bob},
			"another":       {h.refusedFor(t, request(ann, "other", "root")), tt.other},
			"another login": {h.refusedFor(t, request(ann, "gw", "diag")), tt.login},
		} {
			if c.got != c.want {
				t.Errorf("lock of the %s, %s: refused by %q, want %q", name, what, c.got, c.want)
			}
		}
		if _, err := b.admin.Lock.RemoveLock(t.Context(), connect.NewRequest(&api.RemoveLockRequest{Id: k.Id[:4]})); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := h.refusedFor(t, request(ann, "gw", "root")); got != "" {
			t.Errorf("%s: refused by %s after the lock was lifted", name, got)
		}
	}
}

func TestARefusalByALockHasItsMessage(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	p, err := b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "ann", Message: "call 4711"}, TtlSeconds: 60, WaitMs: 1})
	if err != nil || p.Lock.By != "admin" || p.Lock.ExpiresUnix == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if ref := h.admit(t, request(key, "gw", "root")).Refusal; !strings.HasSuffix(ref.GetMessage(), ": call 4711") || !strings.HasPrefix(ref.GetMessage(), "locked until ") {
		t.Errorf("told %q", ref.GetMessage())
	}
	b.now.Store(int64(61 * time.Second))
	if got := h.refusedFor(t, request(key, "gw", "root")); got != "" {
		t.Errorf("refused by %s after the lock had ended", got)
	}
}

func TestALockEndsWhatIsLiveAndReachesTheHubFirst(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	stream, full := h.watch(t)
	if list := openLocks(t, b, full.Locks); len(list.Locks) != 0 || list.Revision == 0 {
		t.Fatalf("a new cluster has locks: %+v", list)
	}
	r := request(key, "gw", "root")
	h.admit(t, r)
	b.mustLock(t, &api.StandingLock{User: "ann", Message: "stolen laptop"})
	var kill *api.Kill
	var locks *api.Locks
	for (kill == nil || locks == nil) && stream.Receive() {
		m := stream.Msg()
		if m.Locks != nil {
			locks = m.Locks
		}
		if len(m.Kills) > 0 {
			kill = m.Kills[0]
		}
	}
	if kill == nil || string(kill.SessionId) != string(r.SessionId) || kill.Reason != "locked: stolen laptop" {
		t.Errorf("killed %+v, %v", kill, stream.Err())
	}
	if list := openLocks(t, b, locks); len(list.Locks) != 1 || list.Locks[0].User != "ann" || list.Locks[0].By != "" {
		t.Errorf("the hub was told of %+v", list)
	}
}

func openLocks(t *testing.T, b *bench, m *api.Locks) lock.List {
	t.Helper()
	l, err := lock.Open(m.GetBlob(), b.trusted().GrantKeys, b.Cluster())
	if err != nil || l.Revision != m.GetRevision() {
		t.Fatalf("locks of revision %d: %+v, %v", m.GetRevision(), l, err)
	}
	return l
}

func TestALockIsConfirmedByHubsAndConnectedDevices(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	on, _ := b.device(t, h, "on")
	b.device(t, h, "away")
	h.watch(t)
	report := func(revision uint64) {
		t.Helper()
		if _, err := h.Hub.ReportDevices(t.Context(), connect.NewRequest(&api.ReportDevicesRequest{Full: true, Devices: []*api.DeviceState{
			{Uuid: on.Uuid, Online: true, LocksRevision: revision}}})); err != nil {
			t.Fatal(err)
		}
	}
	report(1)
	b.user(t, "ann", "operator")
	p, err := b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "ann"}, WaitMs: 50})
	if err != nil || p.Hubs != 1 || p.HubsConfirmed != 0 || p.Devices != 1 || p.DevicesConfirmed != 0 || p.DevicesAway != 1 || len(p.Unconfirmed) != 2 {
		t.Fatalf("nobody answered: %+v, %v", p, err)
	}
	stream, err := b.admin.Lock.AddLock(t.Context(), connect.NewRequest(&api.AddLockRequest{Lock: &api.StandingLock{User: "ann"}, WaitMs: 30000}))
	if err != nil || !stream.Receive() {
		t.Fatal(err, stream.Err())
	}
	revision := stream.Msg().Revision
	if _, err := h.Hub.ReportRevisions(t.Context(), connect.NewRequest(&api.ReportRevisionsRequest{Locks: revision})); err != nil {
		t.Fatal(err)
	}
	report(revision)
	for stream.Receive() {
		p = stream.Msg()
	}
	if !p.Done || p.HubsConfirmed != 1 || p.DevicesConfirmed != 1 || len(p.Unconfirmed) != 0 {
		t.Errorf("all answered: %+v, %v", p, stream.Err())
	}
}

func TestNobodyLocksHimselfOutUnawares(t *testing.T) {
	b := start(t)
	for name, k := range map[string]*api.StandingLock{
		"himself":      {User: "admin"},
		"his role":     {Role: "admin"},
		"his network":  {Source: "127.0.0.0/8"},
		"his key":      {Key: ssh.FingerprintSHA256(sshKey(t, b.adminCert.PrivateKey.(ed25519.PrivateKey)))},
		"a typo":       {User: "nobody"},
		"no such role": {Role: "nothing"},
	} {
		if _, err := b.lock(t, &api.AddLockRequest{Lock: k, WaitMs: 1}); err == nil {
			t.Errorf("%s: locked", name)
		}
	}
	// Another administrator may lock him, but not the last one out.
	b.user(t, "root", "admin")
	other := newKey(t)
	cred, err := b.IssueAdmin(t.Context(), "root", other.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	_ = cred
	if _, err := b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "root"}, WaitMs: 1}); err != nil {
		t.Errorf("another administrator: %v", err)
	}
	p, err := b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "admin"}, WaitMs: 1, Force: true, TtlSeconds: 60})
	if err != nil {
		t.Fatalf("forced: %v", err)
	}
	_, err = b.admin.Lock.ListLocks(t.Context(), connect.NewRequest(&api.ListLocksRequest{}))
	wantCode(t, "a locked caller", err, api.Code_CODE_LOCKED)
	b.now.Store(int64(61 * time.Second))
	if res, err := b.admin.Lock.ListLocks(t.Context(), connect.NewRequest(&api.ListLocksRequest{})); err != nil || len(res.Msg.Locks) != 1 || res.Msg.Locks[0].Id == p.Lock.Id {
		t.Errorf("after its end: %v, %v", res, err)
	}
}

func sshKey(t *testing.T, key ed25519.PrivateKey) ssh.PublicKey {
	t.Helper()
	k, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestALockMustMakeSense(t *testing.T) {
	b := start(t)
	for name, k := range map[string]*api.StandingLock{
		"nothing":   {},
		"message":   {User: "ann", Message: "two\nlines"},
		"escape":    {User: "ann", Message: "\x1b[2J"},
		"long":      {User: "ann", Message: strings.Repeat("x", lock.MaxMessage+1)},
		"network":   {Source: "192.0.2.1/24"},
		"no prefix": {Source: "here"},
		"zone":      {Source: "fe80::1%eth0"},
		"key":       {Key: "SHA256:short"},
		"login":     {Login: "a b"},
		"device":    {Device: "none"},
	} {
		if p, err := b.lock(t, &api.AddLockRequest{Lock: k, WaitMs: 1, Force: true}); err == nil {
			t.Errorf("%s: locked %+v", name, p)
		}
	}
}

func TestLocksOutliveARestartOfAuth(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	k := b.mustLock(t, &api.StandingLock{User: "ann"})
	_, before := b.view.lockList()
	b.stop()
	b.cfg.Listen = b.Addr()
	b.run(t)
	_, after := b.view.lockList()
	if after.Revision != before.Revision || len(after.Locks) != 1 || after.Locks[0].ID != k.Id {
		t.Errorf("%+v became %+v", before, after)
	}
	if got := h.refusedFor(t, request(key, "gw", "root")); got != "lock" {
		t.Errorf("after a restart refused by %q", got)
	}
}

// A backup holds an older list than hubs and devices, who would take none that is not newer.
func TestLocksOfARestoredBackupAreNumberedAboveWhatHubsHold(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.watch(t)
	ahead := uint64(time.Now().Add(time.Hour).Unix())
	if _, err := h.Hub.ReportRevisions(t.Context(), connect.NewRequest(&api.ReportRevisionsRequest{Locks: ahead})); err != nil {
		t.Fatal(err)
	}
	if _, l := b.view.lockList(); l.Revision <= ahead {
		t.Errorf("revision %d is not above %d", l.Revision, ahead)
	}
	was := ahead + 1
	if _, err := h.Hub.ReportRevisions(t.Context(), connect.NewRequest(&api.ReportRevisionsRequest{Locks: 1 << 60})); err != nil {
		t.Fatal(err)
	}
	if _, l := b.view.lockList(); l.Revision != was {
		t.Errorf("a hub that lies set the revision to %d", l.Revision)
	}
}

func TestVoidedCertificatesAreRefusedAndThoseAfterAreNot(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.user(t, "ann", "operator")
	key := newKey(t)
	issue := func(now time.Time) *api.AdmitRequest {
		cert, err := b.set.IssueUser(ca.UserRequest{Name: "ann", Roles: []string{"operator"}, Key: sshKey(t, key), TTL: time.Hour, Now: now, Cluster: b.Cluster()})
		if err != nil {
			t.Fatal(err)
		}
		r := request(cert, "gw", "root")
		r.PublicKey, r.Certificate = nil, cert.Marshal()
		return r
	}
	old := issue(time.Now())
	if got := h.refusedFor(t, old); got != "" {
		t.Fatalf("refused by %s", got)
	}
	at := time.Now()
	if err := b.voidCertificates(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	old.SessionId = id16()
	if got := h.refusedFor(t, old); got != "void" {
		t.Errorf("an old certificate: refused by %q", got)
	}
	_, l := b.view.lockList()
	between := issue(afterVoids(l, "ann", at))
	if got := h.refusedFor(t, between); got != "" {
		t.Errorf("a certificate issued in the same second, after: refused by %q", got)
	}
	if l.Voids[0].Until.Before(at.Add(b.longestTTL())) {
		t.Errorf("void until %v, though certificates live %v", l.Voids[0].Until, b.longestTTL())
	}
	if err := b.voidCertificates(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	between.SessionId = id16()
	if got := h.refusedFor(t, between); got != "void" {
		t.Errorf("a certificate issued between two voids of one second: refused by %q", got)
	}
	_, l = b.view.lockList()
	if got := h.refusedFor(t, issue(afterVoids(l, "ann", at))); got != "" || len(l.Voids) != 1 {
		t.Errorf("a certificate issued after both: refused by %q, of %+v", got, l.Voids)
	}
}

// The API certificate of a user is void with his SSH certificate.
func TestVoidedCertificatesCallNothing(t *testing.T) {
	b := start(t)
	if err := b.voidCertificates(t.Context(), lock.Everybody); err != nil {
		t.Fatal(err)
	}
	_, err := b.admin.Admin.Whoami(t.Context(), connect.NewRequest(&api.WhoamiRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(api.MessageOf(err), "void") {
		t.Errorf("a void certificate: %v", err)
	}
}

func TestManyVoidsStayWithinWhatADeviceTakes(t *testing.T) {
	b := start(t)
	for i := range keptVoids + 20 {
		if err := b.voidCertificates(t.Context(), fmt.Sprintf("user-%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	m, err := b.signedLocks()
	if err != nil {
		t.Fatal(err)
	}
	l := openLocks(t, b, m)
	if len(l.Voids) > keptVoids {
		t.Errorf("%d voids", len(l.Voids))
	}
	for i := range keptVoids + 20 {
		if l.Match(time.Now(), lock.Subject{User: fmt.Sprintf("user-%d", i), IssuedAt: time.Now().Add(-2 * time.Hour)}) == nil {
			t.Fatalf("user %d's old certificate is good again", i)
		}
	}
}

func TestTooManyLocksAreRefusedInWords(t *testing.T) {
	b := start(t)
	var err error
	for i := range 400 {
		if _, err = b.lock(t, &api.AddLockRequest{Lock: &api.StandingLock{User: fmt.Sprintf("u%d", i), Message: strings.Repeat("x", lock.MaxMessage)}, WaitMs: 1, Force: true}); err != nil {
			break
		}
	}
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("%v", err)
	}
}

// Live sessions are judged again by what changed.
func TestLiveSessionsEndWhenTheyAreNotAllowedAnyMore(t *testing.T) {
	apply := func(b *bench, yaml string) error {
		_, err := b.admin.Admin.Apply(context.Background(), connect.NewRequest(&api.ApplyRequest{Yaml: yaml}))
		return err
	}
	role := func(body string) string { return "kind: role\nname: field\nallow:\n  channels: [shell, exec]\n" + body }
	for name, change := range map[string]func(b *bench) error{
		"the role's login":   func(b *bench) error { return apply(b, role("  devices: {site: [ber]}\n  logins: [diag]\n")) },
		"the role's devices": func(b *bench) error { return apply(b, role("  devices: {site: [ams]}\n  logins: [root]\n")) },
		"the role's way": func(b *bench) error {
			return apply(b, role("  devices: {site: [ber]}\n  logins: [root]\n  ways: [end-to-end]\n"))
		},
		"the role's channels": func(b *bench) error {
			return apply(b, "kind: role\nname: field\nallow:\n  channels: [sftp]\n  devices: {site: [ber]}\n  logins: [root]\n")
		},
		"the user": func(b *bench) error {
			_, err := b.admin.Admin.RemoveUser(context.Background(), connect.NewRequest(&api.RemoveUserRequest{Name: "ann"}))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			h := b.hub(t)
			b.device(t, h, "gw")
			if err := apply(b, role("  devices: {site: [ber]}\n  logins: [root]\n")); err != nil {
				t.Fatal(err)
			}
			key := b.user(t, "ann", "field")
			other := b.user(t, "oli", "operator")
			stream, _ := h.watch(t)
			r, stays := request(key, "gw", "root"), request(other, "gw", "root")
			if ref := h.admit(t, r).Refusal; ref != nil {
				t.Fatal(ref)
			}
			h.admit(t, stays)
			begun := time.Now()
			if err := change(b); err != nil {
				t.Fatal(err)
			}
			var kills []*api.Kill
			for len(kills) == 0 && stream.Receive() {
				kills = stream.Msg().Kills
			}
			if len(kills) != 1 || string(kills[0].SessionId) != string(r.SessionId) {
				t.Fatalf("killed %v, %v", kills, stream.Err())
			}
			if took := time.Since(begun); took > 10*time.Second { // a second, and nine for a shared machine: nothing is polled on the way
				t.Errorf("took %v", took)
			}
			if kills[0].Reason == "" {
				t.Error("without a reason")
			}
		})
	}
}

// Auth restarts, and something changes before the hub tells which sessions it serves.
func TestASessionThatAHubReportsIsJudgedByHowItWasProved(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	gw, _ := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	b.mustLock(t, &api.StandingLock{Key: ssh.FingerprintSHA256(key)})
	stream, _ := h.watch(t)
	id := id16()
	if _, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Full: true, Sessions: []*api.SessionState{{
		Id: id, ConnectionId: id16(), Kind: api.Kind_KIND_SESSION, User: "ann", DeviceUuid: gw.Uuid, Login: "root", Way: "hub",
		ClientAddress: "192.0.2.1:4711", PublicKey: key.Marshal(),
	}}})); err != nil {
		t.Fatal(err)
	}
	var kills []*api.Kill
	for len(kills) == 0 && stream.Receive() {
		kills = stream.Msg().Kills
	}
	if len(kills) != 1 || !slices.Equal(kills[0].SessionId, id) {
		t.Errorf("killed %v, %v", kills, stream.Err())
	}
}

func TestALockedDeviceNeitherJoinsNorRenews(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, key := b.device(t, h, "gw")
	b.mustLock(t, &api.StandingLock{Device: "gw"})
	_, err := h.Hub.RenewDevice(t.Context(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: cred.Uuid, PublicKey: key.Public().(ed25519.PublicKey), Counter: cred.Counter}))
	wantCode(t, "renewal of a locked device", err, api.Code_CODE_LOCKED)
	fresh := newKey(t)
	b.mustLock(t, &api.StandingLock{Key: ssh.FingerprintSHA256(sshKey(t, fresh))})
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge"})
	_, err = h.joinDevice(t.Context(), token.Secret, fresh, "gw2", "198.51.100.1:1")
	wantCode(t, "join with a locked key", err, api.Code_CODE_LOCKED)
	b.mustLock(t, &api.StandingLock{Source: "198.51.100.0/24"})
	_, err = h.joinDevice(t.Context(), token.Secret, newKey(t), "gw3", "198.51.100.1:1")
	wantCode(t, "join from a locked network", err, api.Code_CODE_LOCKED)
	if _, err := h.joinDevice(t.Context(), token.Secret, newKey(t), "gw4", "203.0.113.1:1"); err != nil {
		t.Errorf("the token was spent by a refused join: %v", err)
	}
	b.mustLock(t, &api.StandingLock{Key: ssh.FingerprintSHA256(sshKey(t, h.key))})
	_, err = h.Join.RenewHub(t.Context(), connect.NewRequest(&api.RenewHubRequest{Counter: h.res.Counter}))
	wantCode(t, "renewal of a hub with a locked key", err, api.Code_CODE_LOCKED)
}

func FuzzParseSource(f *testing.F) {
	for _, s := range []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::/32", "::ffff:192.0.2.1", "fe80::1%x", "0.0.0.0/0", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseSource(s)
		if err != nil {
			return
		}
		if p != p.Masked() || p.Addr().Is4In6() || p.Addr().Zone() != "" {
			t.Errorf("%q was read as %v", s, p)
		}
		if back, err := netip.ParsePrefix(p.String()); err != nil || back != p {
			t.Errorf("%v: %v, %v", p, back, err)
		}
	})
}
