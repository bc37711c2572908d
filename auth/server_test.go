package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
)

// bench is a running service with an admin.
type bench struct {
	*Server
	cfg       Config
	admin     *apiclient.Client
	adminCert *tls.Certificate
	stop      func()
	now       atomic.Int64  // offset from the clock, in nanoseconds
	change    func(*Server) // before it runs; nil: nothing
}

func start(t testing.TB) *bench {
	t.Helper()
	return startWith(t, nil)
}

// startWith is start of a service that change has changed before it runs.
func startWith(t testing.TB, change func(*Server)) *bench {
	t.Helper()
	b := &bench{change: change}
	b.cfg = Config{Data: filepath.Join(t.TempDir(), "auth"), Listen: "127.0.0.1:0", Cluster: "test.example",
		Now: func() time.Time { return time.Now().Add(time.Duration(b.now.Load())) }}
	if err := Init(b.cfg); err != nil {
		t.Fatal(err)
	}
	b.run(t)
	key := newKey(t)
	cred, err := b.IssueAdmin(t.Context(), "admin", key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	b.adminCert = &tls.Certificate{Certificate: cred.Chain, PrivateKey: key}
	b.admin = b.dial(t, b.adminCert)
	return b
}

func (b *bench) run(t testing.TB) {
	t.Helper()
	s, err := New(b.cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.Server = s
	if b.change != nil {
		b.change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(b.stop)
}

func (b *bench) dial(t testing.TB, cert *tls.Certificate) *apiclient.Client {
	t.Helper()
	c, err := apiclient.Dial(apiclient.Options{Addr: b.Addr(), Verify: apiclient.ByPin(b.Cluster(), b.Pin(), nil), Certificate: func() *tls.Certificate { return cert }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (b *bench) token(t testing.TB, r *api.CreateTokenRequest) ca.Token {
	t.Helper()
	text, err := b.CreateToken(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ca.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func selfSigned(t testing.TB, key ed25519.PrivateKey) *tls.Certificate {
	t.Helper()
	der, err := ca.SelfSigned(key, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

type testHub struct {
	*apiclient.Client
	key ed25519.PrivateKey
	res *api.JoinHubResponse
}

func (b *bench) hub(t testing.TB) *testHub {
	t.Helper()
	key := newKey(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "hub"})
	res, err := b.dial(t, selfSigned(t, key)).Join.JoinHub(t.Context(), connect.NewRequest(&api.JoinHubRequest{
		Secret: token.Secret, Name: "hub", SshAddresses: []string{"127.0.0.1:22"}, TunnelAddresses: []string{"127.0.0.1:443"}}))
	if err != nil {
		t.Fatal(err)
	}
	return &testHub{b.dial(t, &tls.Certificate{Certificate: res.Msg.Chain, PrivateKey: key}), key, res.Msg}
}

func (h *testHub) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: h.res.Chain, PrivateKey: h.key}
}

// watch opens the hub's Watch and returns it with the full state read.
func (h *testHub) watch(t *testing.T) (*connect.ServerStreamForClient[api.WatchResponse], *api.WatchResponse) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return h.watchBy(ctx, t, &api.WatchRequest{})
}

// watchBy is watch by a request, to which the hub's addresses are added.
func (h *testHub) watchBy(ctx context.Context, t *testing.T, r *api.WatchRequest) (*connect.ServerStreamForClient[api.WatchResponse], *api.WatchResponse) {
	t.Helper()
	r.SshAddresses, r.TunnelAddresses = []string{"127.0.0.1:22"}, []string{"127.0.0.1:443"}
	stream, err := h.Hub.Watch(ctx, connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	all := &api.WatchResponse{}
	for stream.Receive() {
		proto.Merge(all, stream.Msg())
		if len(stream.Msg().Time) > 0 { // the beacon that follows the state
			return stream, all
		}
	}
	t.Fatal(stream.Err())
	return nil, nil
}

func (h *testHub) joinDevice(ctx context.Context, secret []byte, key ed25519.PrivateKey, name, source string) (*api.DeviceCredentials, error) {
	res, err := h.Hub.JoinDevice(ctx, connect.NewRequest(&api.JoinDeviceRequest{
		Secret: secret, PublicKey: key.Public().(ed25519.PublicKey), Name: name, Hostname: name, Source: source}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (b *bench) device(t testing.TB, h *testHub, name string) (*api.DeviceCredentials, ed25519.PrivateKey) {
	t.Helper()
	key := newKey(t)
	cred, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge", Labels: []*api.Label{{Key: "site", Value: "ber"}}}).Secret, key, name, "192.0.2.7:1")
	if err != nil {
		t.Fatal(err)
	}
	return cred, key
}

func (b *bench) user(t testing.TB, name, role string) ssh.PublicKey {
	t.Helper()
	key, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.admin.Admin.AddUser(t.Context(), connect.NewRequest(&api.AddUserRequest{Name: name, Roles: []string{role}, AuthorizedKeys: []string{string(ssh.MarshalAuthorizedKey(key))}}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func id16() []byte { return []byte(rand.Text())[:16] }

func request(key ssh.PublicKey, device, login string) *api.AdmitRequest {
	return &api.AdmitRequest{PublicKey: key.Marshal(), ConnectionId: id16(), SessionId: id16(), Kind: api.Kind_KIND_SESSION, Device: device,
		Incarnation: id16(), Login: login, Channel: "exec", Way: "hub", ClientAddress: "192.0.2.1:4711", Command: "id"}
}

func (h *testHub) admit(t *testing.T, r *api.AdmitRequest) *api.AdmitResponse {
	t.Helper()
	res, err := h.Hub.Admit(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}

func wantCode(t *testing.T, what string, err error, want api.Code) {
	t.Helper()
	if got := api.CodeOf(err); got != want {
		t.Errorf("%s: got %v (%v), want %v", what, got, err, want)
	}
}

func TestFiftyAgentsOneToken(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge"})
	var wg sync.WaitGroup
	var won, spent atomic.Int32
	for range 50 {
		key := newKey(t)
		wg.Go(func() {
			_, err := h.joinDevice(t.Context(), token.Secret, key, "gw", "192.0.2.7:1")
			switch {
			case err == nil:
				won.Add(1)
			case api.CodeOf(err) == api.Code_CODE_TOKEN_SPENT:
				spent.Add(1)
			default:
				t.Errorf("join: %v", err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || spent.Load() != 49 {
		t.Errorf("got %d joined and %d told that the token is spent, want 1 and 49", won.Load(), spent.Load())
	}
	if d, _ := b.Devices(t.Context()); len(d) != 1 {
		t.Errorf("got %d devices, want 1", len(d))
	}
}

// A hub says who people are and reads their sessions: the right to let devices join makes none.
func TestWhoMayMakeTokensMakesNoHub(t *testing.T) {
	b := start(t)
	b.hub(t)
	b.apply(t, "kind: role\nname: field\nallow: {admin: [{resources: [token], verbs: [create, list, delete]}]}\n---\n"+
		"kind: role\nname: hubs\nallow: {admin: [{resources: [token, hub], verbs: [create]}]}\n")
	field, hubs := b.client(t, "fay", "field").Admin, b.client(t, "hal", "hubs").Admin
	_, err := field.CreateToken(t.Context(), connect.NewRequest(&api.CreateTokenRequest{Kind: "hub"}))
	wantCode(t, "a hub's token", err, api.Code_CODE_DENIED)
	made, err := field.CreateToken(t.Context(), connect.NewRequest(&api.CreateTokenRequest{Kind: "edge"}))
	if err != nil {
		t.Fatalf("a device's token: %v", err)
	}
	if _, err := field.RemoveToken(t.Context(), connect.NewRequest(&api.RemoveTokenRequest{Id: made.Msg.Id})); err != nil {
		t.Fatal(err)
	}
	if _, err := hubs.CreateToken(t.Context(), connect.NewRequest(&api.CreateTokenRequest{Kind: "hub"})); err != nil {
		t.Errorf("a hub's token of who may make hubs: %v", err)
	}
	for line := range strings.Lines(b.auditText(t)) {
		if strings.Contains(line, `"type":"admin.token.`) && strings.Contains(line, `"actor":"user:fay"`) && !strings.Contains(line, `"source":`) {
			t.Errorf("does not say where it came from: %s", line)
		}
	}
}

func TestTokenRefusalsAreToldApart(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	_, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "hub"}).Secret, newKey(t), "a", "192.0.2.1:1")
	wantCode(t, "hub's token for an edge", err, api.Code_CODE_TOKEN_WRONG_KIND)
	old := b.token(t, &api.CreateTokenRequest{Kind: "edge", TtlSeconds: 60})
	b.now.Store(int64(2 * time.Minute))
	_, err = h.joinDevice(t.Context(), old.Secret, newKey(t), "a", "192.0.2.1:1")
	wantCode(t, "expired token", err, api.Code_CODE_TOKEN_EXPIRED)
	for range guessBurst {
		_, err = h.joinDevice(t.Context(), id16(), newKey(t), "a", "192.0.2.1:1")
		wantCode(t, "guess", err, api.Code_CODE_TOKEN_UNKNOWN)
	}
	good := b.token(t, &api.CreateTokenRequest{Kind: "edge"})
	_, err = h.joinDevice(t.Context(), good.Secret, newKey(t), "a", "192.0.2.1:2")
	wantCode(t, "good token of a guesser", err, api.Code_CODE_RATE_LIMITED)
	_, err = h.joinDevice(t.Context(), good.Secret, newKey(t), "a", "192.0.2.2:1")
	wantCode(t, "good token from elsewhere", err, api.Code_CODE_UNSPECIFIED)
	if err != nil {
		t.Error(err)
	}
}

func TestDeviceNameCollisionGetsSuffix(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	for _, want := range []string{"gw", "gw-2", "gw-3"} {
		if d, _ := b.device(t, h, "gw"); d.Name != want {
			t.Errorf("got name %q, want %q", d.Name, want)
		}
	}
	_, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge"}).Secret, newKey(t), "gw\x1b[2J", "192.0.2.1:1")
	wantCode(t, "name with an escape code", err, api.Code_CODE_BAD_NAME)
}

func TestLostRenewalReplyIsNoClone(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	renew := func(key ed25519.PrivateKey, counter uint64) (*api.DeviceCredentials, error) {
		res, err := h.Hub.RenewDevice(t.Context(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: d.Uuid, PublicKey: key.Public().(ed25519.PublicKey), Counter: counter}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	first, err := renew(key, d.Counter)
	if err != nil {
		t.Fatal(err)
	}
	again, err := renew(key, d.Counter)
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(first, again) {
		t.Error("the same renewal asked again got another answer")
	}
	second, err := renew(key, first.Counter)
	if err != nil || second.Counter != d.Counter+2 {
		t.Fatalf("got counter %d, %v, want %d", second.GetCounter(), err, d.Counter+2)
	}
	_, err = renew(key, d.Counter)
	wantCode(t, "copied flash", err, api.Code_CODE_QUARANTINED)
	_, err = renew(newKey(t), second.Counter)
	wantCode(t, "another key", err, api.Code_CODE_KEY_MISMATCH)
	b.now.Store(int64(100 * 24 * time.Hour)) // the device is expired now, and so is the hub
	expired, err := h.Join.RenewHub(t.Context(), connect.NewRequest(&api.RenewHubRequest{Counter: h.res.Counter}))
	if err != nil {
		t.Fatalf("expired hub of a known key: %v", err)
	}
	if expired.Msg.Counter != 2 {
		t.Errorf("got hub counter %d, want 2", expired.Msg.Counter)
	}
}

func TestAdmitGrantsWithinPolicy(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	r := request(key, "gw", "root")
	res := h.admit(t, r)
	if res.Refusal != nil {
		t.Fatalf("refused: %v", res.Refusal)
	}
	g, err := grant.Open(res.Grant, []ed25519.PublicKey{b.set.Authority(ca.GrantKey).Public()})
	if err != nil {
		t.Fatal(err)
	}
	if g.User != "ann" || g.Login != "root" || !g.Permits("exec") || g.Permits("local-forward") || g.NotAfter.Sub(g.NotBefore) > 5*time.Minute || string(g.SessionID[:]) != string(r.SessionId) {
		t.Errorf("grant says %+v", g)
	}
	if res.DeviceUuid != d.Uuid || res.Access.Record == "" || string(res.RecordingId) != string(r.SessionId) {
		t.Errorf("answer says %v", res)
	}
	if again := h.admit(t, r).Refusal; again != nil {
		t.Errorf("asked again, for its answer may have been lost: %v", again)
	}
	other := proto.CloneOf(r)
	other.Login = "diag"
	if h.admit(t, other).Refusal == nil {
		t.Error("another session of the same id was granted")
	}
	if s := b.hubs.list(); len(s) != 1 {
		t.Errorf("got %d sessions, want 1", len(s))
	}
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: r.SessionId})); err != nil {
		t.Fatal(err)
	}
	if s := b.hubs.list(); len(s) != 0 {
		t.Errorf("got %d sessions after the release, want 0", len(s))
	}
	// Another's name with one's own key.
	r = request(key, "gw", "root")
	r.User = "admin"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "user" {
		t.Errorf("claim of another user: got %v, want a refusal", ref)
	}
}

const fieldRole = `kind: role
name: field
allow:
  devices: {site: [ber]}
  logins: [diag]
  channels: [exec]
  recordings: own
  ways: [hub]
deny:
  devices: {env: [prod]}
`

func TestUnknownAndForbiddenDeviceLookTheSame(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	other, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge", Labels: []*api.Label{{Key: "site", Value: "ams"}}}).Secret, newKey(t), "secret", "192.0.2.8:1")
	if err != nil {
		t.Fatal(err)
	}
	b.apply(t, fieldRole)
	key := b.user(t, "fritz", "field")
	forbidden, unknown := h.admit(t, request(key, "secret", "diag")).Refusal, h.admit(t, request(key, "nosuch", "diag")).Refusal
	if forbidden == nil || strings.ReplaceAll(forbidden.Message, "secret", "nosuch") != unknown.GetMessage() || forbidden.Reason != unknown.Reason {
		t.Errorf("got %v for a forbidden device and %v for an unknown one", forbidden, unknown)
	}
	if ref := h.admit(t, request(key, other.Uuid, "diag")).Refusal; ref.GetReason() != "device" {
		t.Errorf("forbidden device by UUID: got %v", ref)
	}
	if res := h.admit(t, request(key, "gw", "")); res.Refusal != nil || res.Access.Login != "diag" {
		t.Errorf("the only login: got %v", res)
	}
	if ref := h.admit(t, request(key, "gw", "root")).Refusal; ref.GetReason() != "login" {
		t.Errorf("other login: got %v", ref)
	}
	r := request(key, "gw", "diag")
	r.Channel = "shell"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "channel" {
		t.Errorf("other channel: got %v", ref)
	}
	r = request(key, "gw", "diag")
	r.Way = "end-to-end"
	if ref := h.admit(t, r).Refusal; ref.GetReason() != "way" {
		t.Errorf("other way: got %v", ref)
	}
}

func (b *bench) apply(t *testing.T, text string) {
	t.Helper()
	if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: text})); err != nil {
		t.Fatal(err)
	}
}

func TestRolesRoundTrip(t *testing.T) {
	b := start(t)
	b.apply(t, fieldRole)
	res, err := b.admin.Admin.Get(t.Context(), connect.NewRequest(&api.GetRequest{Kind: "role", Name: "field"}))
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: res.Msg.Yaml}))
	if err != nil {
		t.Fatal(err)
	}
	if c := again.Msg.Resources[0].Change; c != "unchanged" {
		t.Errorf("what get printed is %s when applied, want unchanged:\n%s", c, res.Msg.Yaml)
	}
	for name, bad := range map[string]string{
		"unknown key": fieldRole + "colour: red\n", "built-in": strings.Replace(fieldRole, "field", "admin", 1),
		"unknown kind": "kind: cat\n", "nothing": "", "second bad": fieldRole + "---\nkind: role\nname: UPPER\n",
	} {
		if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: bad})); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: got %v, want invalid argument", name, err)
		}
	}
}

func TestWatchFullThenDelta(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	stream, full := h.watch(t)
	if !full.Full || !full.Synced || len(full.Trust) == 0 || len(full.Users) != 1 || len(full.Devices) != 1 || len(full.Hubs) != 1 {
		t.Fatalf("full state: %v", full)
	}
	c, err := policy.OpenCompiled(full.Devices[0].Policy, []ed25519.PublicKey{b.set.Authority(ca.GrantKey).Public()}, b.Cluster(), d.Uuid)
	if err != nil || !c.Evaluate([]string{"operator"}, "root", "exec", "hub").Allowed {
		t.Errorf("policy: %v, %v", c, err)
	}
	b.user(t, "ann", "operator")
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	if m := stream.Msg(); m.Full || len(m.Users) != 1 || m.Users[0].Name != "ann" || len(m.Users[0].Keys) != 1 || len(m.Devices) != 0 {
		t.Errorf("after a user was added: %v", m)
	}
	b.apply(t, fieldRole)
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	if m := stream.Msg(); m.Full || m.PolicyRevision <= full.PolicyRevision || len(m.Devices) != 1 {
		t.Errorf("after a role changed: %v", m)
	}
}

func TestDevicesGoOfflineWithTheirHub(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	report := connect.NewRequest(&api.ReportDevicesRequest{Full: true, Devices: []*api.DeviceState{{Uuid: d.Uuid, Online: true, Carrier: "quic"}}})
	if _, err := h.Hub.ReportDevices(t.Context(), report); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a report without a Watch: %v", err)
	}
	stream, _ := h.watch(t)
	if _, err := h.Hub.ReportDevices(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	online := func() bool {
		ds, _ := b.Devices(t.Context())
		return ds[0].Online
	}
	if !online() {
		t.Error("reported device is offline")
	}
	stream.Close()
	h.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for online() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("device stays online without its hub")
		}
	}
}

func TestKillReachesTheHub(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	stream, _ := h.watch(t)
	r := request(key, "gw", "root")
	h.admit(t, r)
	if _, err := b.admin.Admin.RemoveUser(t.Context(), connect.NewRequest(&api.RemoveUserRequest{Name: "ann"})); err != nil {
		t.Fatal(err)
	}
	var kills []*api.Kill
	for len(kills) == 0 && stream.Receive() {
		kills = stream.Msg().Kills
	}
	if len(kills) != 1 || string(kills[0].SessionId) != string(r.SessionId) || kills[0].Reason == "" {
		t.Fatalf("got %v, %v", kills, stream.Err())
	}
	if ref := h.admit(t, request(key, "gw", "root")).Refusal; ref.GetReason() != "user" {
		t.Errorf("removed user: got %v", ref)
	}
}

// A recording whose session died with its hub or device was called live for ever.
func TestARecordingIsLiveAsLongAsItsSession(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	res := h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	live := func() bool {
		t.Helper()
		all, err := b.admin.Admin.ListRecordings(t.Context(), connect.NewRequest(&api.ListRecordingsRequest{}))
		if err != nil || len(all.Msg.Recordings) != 1 || all.Msg.Recordings[0].Complete {
			t.Fatalf("list: %v %v", all, err)
		}
		return all.Msg.Recordings[0].Live
	}
	if _, err := h.Hub.AppendRecording(t.Context(), connect.NewRequest(&api.AppendRecordingRequest{
		RecordingId: res.RecordingId, Grant: res.Grant, Chunks: chunksOf(t, res.RecordingId, 2, "x")[:1],
	})); err != nil {
		t.Fatal(err)
	}
	if !live() {
		t.Error("not live while its session is")
	}
	hub := ""
	for _, s := range b.Server.hubs.list() {
		hub = s.hub
	}
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: res.SessionId})); err != nil {
		t.Fatal(err)
	}
	if live() {
		t.Error("live without a session")
	}
	// After a restart of the service only the hub knows of the session.
	b.Server.hubs.begin(hubRef{uuid: hub}, [][]byte{res.SessionId}, time.Now())
	if !live() {
		t.Error("not live although its hub says that it has the session")
	}
	b.Server.hubs.begin(hubRef{uuid: hub}, nil, time.Now())
	if live() {
		t.Error("live although its hub came back without the session")
	}
}

func TestOnlyTheGrantedHubAppends(t *testing.T) {
	b := start(t)
	h, evil := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	res := h.admit(t, r)
	chunks := chunksOf(t, res.RecordingId, 2, "x")
	appendTo := func(h *testHub, id, blob []byte, seq uint64) error {
		_, err := h.Hub.AppendRecording(t.Context(), connect.NewRequest(&api.AppendRecordingRequest{RecordingId: id, Grant: blob, Chunks: []*api.Chunk{{Seq: seq, Data: chunks[seq%2].Data}}}))
		return err
	}
	wantCode(t, "without a grant", appendTo(h, res.RecordingId, nil, 0), api.Code_CODE_DENIED)
	wantCode(t, "another hub with the grant", appendTo(evil, res.RecordingId, res.Grant, 0), api.Code_CODE_DENIED)
	wantCode(t, "another recording", appendTo(h, id16(), res.Grant, 0), api.Code_CODE_DENIED)
	for _, seq := range []uint64{0, 0, 1} {
		if err := appendTo(h, res.RecordingId, res.Grant, seq); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "a gap", appendTo(h, res.RecordingId, nil, 9), api.Code_CODE_RECORDING_GAP)
	wantCode(t, "another hub later", appendTo(evil, res.RecordingId, res.Grant, 2), api.Code_CODE_DENIED)
	if _, err := h.Hub.CloseRecording(t.Context(), connect.NewRequest(&api.CloseRecordingRequest{RecordingId: res.RecordingId, Chunks: 2})); err != nil {
		t.Fatal(err)
	}
	all, err := b.admin.Admin.ListRecordings(t.Context(), connect.NewRequest(&api.ListRecordingsRequest{}))
	if err != nil || len(all.Msg.Recordings) != 1 || !all.Msg.Recordings[0].Complete || all.Msg.Recordings[0].Chunks != 2 {
		t.Fatalf("list: %v %v", all, err)
	}
	stream, err := b.admin.Admin.GetRecording(t.Context(), connect.NewRequest(&api.GetRecordingRequest{Id: strings.ToLower(hexOf(res.RecordingId))[:8]}))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for stream.Receive() {
		n += len(stream.Msg().Chunks)
	}
	if stream.Err() != nil || n != 2 {
		t.Errorf("got %d chunks, %v, want 2", n, stream.Err())
	}
}

func TestRestartKeepsState(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	b.apply(t, fieldRole)
	pin := b.Pin()
	b.stop()
	b.run(t)
	if ds, _ := b.Devices(t.Context()); len(ds) != 1 || ds[0].Uuid != d.Uuid {
		t.Errorf("got devices %v, want %s", ds, d.Uuid)
	}
	if _, rev := b.view.policies(); b.Pin() != pin || rev < 2 || len(b.view.custom) != 1 {
		t.Errorf("pin or roles are others after a restart: policy revision %d", rev)
	}
}

func TestInitRefusals(t *testing.T) {
	c := Config{Data: t.TempDir(), Listen: "127.0.0.1:0", Cluster: "a.example", Passphrase: "correct horse"}
	if _, err := New(c); !errors.Is(err, ErrNotInitialized) {
		t.Errorf("New before Init: %v", err)
	}
	if err := Init(c); err != nil {
		t.Fatal(err)
	}
	if err := Init(c); !errors.Is(err, ErrInitialized) {
		t.Errorf("second Init: %v", err)
	}
	wrong := c
	wrong.Passphrase = "wrong"
	if _, err := New(wrong); !errors.Is(err, ErrWrongKey) {
		t.Errorf("wrong passphrase: %v", err)
	}
	renamed := c
	renamed.Cluster = "b.example"
	if _, err := New(renamed); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("another cluster's name: %v", err)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	busy := c
	busy.Listen = s.Addr()
	if _, err := New(busy); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("port in use: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.Data = filepath.Join(file, "below")
	if err := Init(c); err == nil || !strings.Contains(err.Error(), "--data") {
		t.Errorf("directory that cannot be made: %v", err)
	}
}

// P14: what lies in the data directory gives neither key nor token away.
func TestNothingSecretInTheClear(t *testing.T) {
	b := start(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "hub"})
	text, err := token.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	seed := b.set.GrantKey().Seed()
	err = filepath.WalkDir(b.cfg.Data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for what, secret := range map[string]string{"token": text, "token's secret": string(token.Secret), "grant key": string(seed), "PEM": "PRIVATE KEY"} {
			if strings.Contains(string(raw), secret) {
				t.Errorf("%s holds the %s", path, what)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for _, name := range []string{keyFile, authoritiesFile} {
		if st, err := os.Stat(filepath.Join(b.cfg.Data, name)); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v, want 0600", name, st.Mode(), err)
		}
	}
}

func TestAuditIsOneLineAnEvent(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	r.Command = "id\n{\"type\":\"forged\"}\x1b[2J\u0085"
	h.admit(t, r)
	raw := b.auditText(t)
	for line := range strings.Lines(raw) {
		if !strings.HasPrefix(line, `{"seq":`) || strings.ContainsAny(strings.TrimSuffix(line, "\n"), "\x1b\n\r") {
			t.Errorf("audit line %q", line)
		}
	}
	if !strings.Contains(raw, `"type":"session.admit"`) {
		t.Error("the admit is not in the audit log")
	}
}

// The joiner's secret must not leave for a service that the pin does not name.
func TestWrongPinSendsNothing(t *testing.T) {
	b := start(t)
	set, err := ca.NewSet("test.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pin, err := ca.Pin(set.Authority(ca.TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	c, err := apiclient.Dial(apiclient.Options{Addr: b.Addr(), Verify: apiclient.ByPin("test.example", pin, nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Join.JoinHub(t.Context(), connect.NewRequest(&api.JoinHubRequest{Secret: id16()})); !errors.Is(err, ca.ErrUnpinned) {
		t.Errorf("got %v, want %v", err, ca.ErrUnpinned)
	}
}
