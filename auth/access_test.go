package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/store"
)

var update = flag.Bool("update", false, "write the table of docs/api.md anew")

// Every kind of credential that a caller may show.
const (
	withNone        = "no certificate"
	withSelfSigned  = "self-signed key"
	withForeignHub  = "other cluster's hub"
	withForeignUser = "other cluster's admin"
	withDevice      = "device"
	withOldDevice   = "expired device"
	withHub         = "hub"
	withOldHub      = "expired hub"
	withGoneHub     = "removed hub"
	withHubOtherKey = "hub's name, another key"
	withAuth        = "auth"
	withNobody      = "user without rights"
	withOperator    = "operator"
	withAuditor     = "auditor"
	withAdmin       = "admin"
	withOldAdmin    = "expired admin"
	withGoneUser    = "removed user"
)

// Whom methods let through. To join or log in says nothing of who one is: what no CA of ours vouches for now is a self-signed key like any
// other, but for a device's.
var (
	joiners   = []string{withSelfSigned, withForeignHub, withForeignUser, withOldHub, withOldAdmin}
	hubs      = []string{withHub}
	oldHubs   = []string{withHub, withOldHub}
	everyUser = []string{withNobody, withOperator, withAuditor, withAdmin}
	viewers   = []string{withAuditor, withAdmin}
	admins    = []string{withAdmin}
)

// mayCall is who gets through to each method; what a method then shows or does by the caller's roles is tested beside it. Whoever adds a
// method adds its line here.
var mayCall = map[string][]string{
	"JoinService/JoinHub":  joiners,
	"JoinService/RenewHub": oldHubs,

	"LoginService/Login":            joiners,
	"LoginService/OpenInvitation":   joiners,
	"LoginService/AcceptInvitation": joiners,

	"HubService/JoinDevice":        hubs,
	"HubService/RenewDevice":       hubs,
	"HubService/Admit":             hubs,
	"HubService/CheckSecondFactor": hubs,
	"HubService/Release":           hubs,
	"HubService/Watch":             hubs,
	"HubService/ReportDevices":     hubs,
	"HubService/ReportSessions":    hubs,
	"HubService/ReportHistory":     hubs,
	"HubService/ReportIncident":    hubs,
	"HubService/ReportRefusals":    hubs,
	"HubService/ReportRevisions":   hubs,
	"HubService/ReportClone":       hubs,
	"HubService/ProveLog":          hubs,
	"HubService/SignTime":          hubs,
	"HubService/AppendRecording":   hubs,
	"HubService/CloseRecording":    hubs,

	"PlaceService/RenewPlaces":      hubs,
	"PresenceService/LastSeen":      hubs,
	"ReplayService/ReplayRecording": hubs,

	"ForwardService/ReportForwards": hubs,

	"AdminService/Whoami":         everyUser,
	"AdminService/RenewMyself":    everyUser,
	"AdminService/ListDevices":    everyUser,
	"AdminService/GetDevice":      everyUser,
	"AdminService/ListRecordings": everyUser,
	"AdminService/GetRecording":   everyUser,
	"AdminService/ListSessions":   everyUser,
	"AdminService/CreateToken":    admins,
	"AdminService/ListTokens":     viewers,
	"AdminService/RemoveToken":    admins,
	"AdminService/RemoveDevice":   admins,
	"AdminService/ListHubs":       viewers,
	"AdminService/RemoveHub":      admins,
	"AdminService/AddUser":        admins,
	"AdminService/ListUsers":      viewers,
	"AdminService/RemoveUser":     admins,
	"AdminService/Apply":          admins,
	"AdminService/Get":            viewers,
	"AdminService/KillSession":    everyUser,

	"TargetService/OpenTarget":      hubs,
	"TargetService/PinHostKey":      hubs,
	"TargetService/SignForTarget":   hubs,
	"TargetService/AddTargets":      admins,
	"TargetService/SetTarget":       admins,
	"TargetService/AcceptHostKey":   admins,
	"TargetService/AddTargetKey":    admins,
	"TargetService/ListTargetKeys":  viewers,
	"TargetService/RemoveTargetKey": admins,

	"DeviceService/ListPending":    viewers,
	"DeviceService/ApproveDevices": admins,
	"DeviceService/RejectDevices":  admins,
	"DeviceService/ImportDevices":  admins,
	"DeviceService/RenameDevice":   admins,
	"DeviceService/LabelDevices":   admins,
	"DeviceService/RecoverDevice":  admins,

	"LockService/AddLock":    admins,
	"LockService/ListLocks":  viewers,
	"LockService/RemoveLock": admins,

	"PolicyService/ExplainAccess": everyUser, // about others by a verb of his own
	"PolicyService/ReviewAccess":  everyUser,
	"PolicyService/ListRoles":     viewers,
	"PolicyService/RemoveRole":    admins,

	"AuditService/SearchAudit": everyUser, // own or all, by his roles
	"AuditService/ExportAudit": everyUser,
	"AuditService/GetLogHead":  everyUser,
	"AuditService/ProveLog":    everyUser,

	"BackupService/CreateBackup": admins,

	"RecordingService/HoldRecording":     admins,
	"RecordingService/ReleaseRecording":  admins,
	"RecordingService/RemoveRecording":   admins,
	"RecordingService/GetRecordingStore": viewers,

	"SharingService/ListJoinable":    everyUser, // by his roles
	"SharingService/ListJoinableOf":  hubs,
	"SharingService/InviteToSession": everyUser, // to a session of his own, or that he is in
	"SharingService/MessageSession":  everyUser,
	"SharingService/PutOutOfSession": everyUser,

	"SearchService/SearchRecordings":  everyUser, // own or all, by his roles
	"SearchService/GetRecordingIndex": everyUser,

	"CAService/CAStatus":   viewers,
	"CAService/RotateCA":   admins,
	"CAService/AdvanceCA":  admins,
	"CAService/RollBackCA": admins,

	"UserService/GetUser":              everyUser,
	"UserService/AddUserKey":           everyUser,
	"UserService/RemoveUserKey":        everyUser,
	"UserService/ChangePassword":       everyUser,
	"UserService/EnrolAuthenticator":   everyUser,
	"UserService/ConfirmAuthenticator": everyUser,
	"UserService/Logout":               everyUser,
	"UserService/InviteUser":           admins,
	"UserService/ResetUser":            admins,
	"UserService/SetUserRoles":         admins,
	"UserService/SetUserSources":       admins,
	"UserService/UnlockUser":           admins,
}

// methods are all that the program registers, by SERVICE/METHOD: a .proto that is added is found.
func methods() map[string]protoreflect.MethodDescriptor {
	out := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("hawser.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			svc := f.Services().Get(i)
			for j := range svc.Methods().Len() {
				m := svc.Methods().Get(j)
				out[string(svc.Name())+"/"+string(m.Name())] = m
			}
		}
		return true
	})
	return out
}

func procedure(method string) string { return "/hawser.v1." + method }

func TestEveryMethodHasARowAndAnExpectation(t *testing.T) {
	all := methods()
	for name := range all {
		if access[procedure(name)].who == "" {
			t.Errorf("%s has no row in the table of access.go", name)
		}
		if len(mayCall[name]) == 0 {
			t.Errorf("%s has no line in mayCall: say there who may call it", name)
		}
	}
	for row := range access {
		if all[strings.TrimPrefix(row, "/hawser.v1.")] == nil {
			t.Errorf("the table of access.go has %s, which is no method", row)
		}
	}
	for name, who := range mayCall {
		if all[name] == nil {
			t.Errorf("mayCall has %s, which is no method", name)
		}
		for _, w := range []string{withNone, withDevice, withOldDevice, withGoneHub, withHubOtherKey, withGoneUser} {
			if slices.Contains(who, w) {
				t.Errorf("%s is to let a %s through, which may call nothing at all", name, w)
			}
		}
	}
}

// credentials makes one of each kind.
func credentials(t *testing.T, b *bench) map[string]*tls.Certificate {
	t.Helper()
	now := b.cfg.Now()
	must := func(chain [][]byte, key ed25519.PrivateKey, err error) *tls.Certificate {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: chain, PrivateKey: key}
	}
	hubOf := func(set *ca.Set, uuid string, key ed25519.PrivateKey, issued time.Time) *tls.Certificate {
		chain, _, err := set.IssueHub(ca.HubRequest{UUID: uuid, Name: "hub", Cluster: b.info.Cluster, Key: key.Public().(ed25519.PublicKey),
			Principals: []string{"hub"}, TTL: time.Hour, Now: issued})
		return must(chain, key, err)
	}
	userOf := func(set *ca.Set, name string, issued time.Time) *tls.Certificate {
		key := newKey(t)
		chain, err := set.IssueUserX509(ca.UserX509Request{Name: name, Cluster: b.info.Cluster, Key: key.Public(), TTL: time.Hour, Now: issued})
		return must(chain, key, err)
	}
	other, err := ca.NewSet(b.info.Cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	h := b.hub(t)
	d, dkey := b.device(t, h, "gw")
	old, _, err := b.set.IssueDevice(ca.DeviceRequest{UUID: d.Uuid, Name: d.Name, Cluster: b.info.Cluster, Key: dkey.Public().(ed25519.PublicKey), TTL: time.Hour, Now: now.Add(-2 * time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	b.applyRole(t, "kind: role\nname: nobody\n")
	for name, role := range map[string]string{"nora": "nobody", "olga": "operator", "anna": "auditor", "greta": "admin"} {
		b.user(t, name, role)
	}
	gone := b.hub(t)
	if err := b.commit(t.Context(), nil, store.Delete(hubPrefix+gone.res.Uuid), store.Delete(userPrefix+"greta")); err != nil {
		t.Fatal(err)
	}
	return map[string]*tls.Certificate{
		withNone:        nil,
		withSelfSigned:  selfSigned(t, newKey(t)),
		withForeignHub:  hubOf(other, h.res.Uuid, h.key, now),
		withForeignUser: userOf(other, "admin", now),
		withDevice:      {Certificate: d.Chain, PrivateKey: dkey},
		withOldDevice:   {Certificate: old, PrivateKey: dkey},
		withHub:         h.certificate(),
		withOldHub:      hubOf(b.set, h.res.Uuid, h.key, now.Add(-2*time.Hour)),
		withGoneHub:     gone.certificate(),
		withHubOtherKey: hubOf(b.set, h.res.Uuid, newKey(t), now),
		withAuth:        b.cert,
		withNobody:      userOf(b.set, "nora", now),
		withOperator:    userOf(b.set, "olga", now),
		withAuditor:     userOf(b.set, "anna", now),
		withAdmin:       userOf(b.set, "admin", now),
		withOldAdmin:    userOf(b.set, "admin", now.Add(-2*time.Hour)),
		withGoneUser:    userOf(b.set, "greta", now),
	}
}

func (b *bench) applyRole(t *testing.T, text string) {
	t.Helper()
	if _, err := b.admin.Admin.Apply(t.Context(), connectRequest(&api.ApplyRequest{Yaml: text})); err != nil {
		t.Fatal(err)
	}
}

// knock calls a method with a message that cannot be read, so that it does nothing when it is let through, and returns the code that came.
func knock(ctx context.Context, c *http.Client, addr string, m protoreflect.MethodDescriptor, method string) (code, text string, err error) {
	kind, body := "application/proto", []byte{0xff}
	if m.IsStreamingServer() || m.IsStreamingClient() {
		kind, body = "application/connect+proto", []byte{0, 0, 0, 0, 1, 0xff}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+procedure(method), bytes.NewReader(body))
	if err != nil {
		return "", "", err
	}
	req.Header.Set("Content-Type", kind)
	res, err := c.Do(req)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "", "", err
	}
	var answer struct {
		Code, Message string
		Error         struct{ Code, Message string }
	}
	if i := bytes.IndexByte(b, '{'); i >= 0 {
		err = json.Unmarshal(b[i:], &answer)
	}
	return answer.Code + answer.Error.Code, answer.Message + answer.Error.Message, err
}

// Every method of every service, called with every kind of credential: who is not named is refused before his message is read.
func TestEveryMethodRefusesEveryCredentialThatIsNotNamed(t *testing.T) {
	b := start(t)
	creds := credentials(t, b)
	all := methods()
	for who, cert := range creds {
		tc := &tls.Config{InsecureSkipVerify: true}
		if cert != nil {
			tc.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
		}
		tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true}
		c := &http.Client{Transport: tr, Timeout: 20 * time.Second}
		for _, name := range slices.Sorted(maps.Keys(all)) {
			code, text, err := knock(t.Context(), c, b.Addr(), all[name], name)
			if err != nil {
				t.Fatalf("%s calls %s: %v", who, name, err)
			}
			want := slices.Contains(mayCall[name], who)
			through := code == "invalid_argument" && strings.Contains(text, "unmarshal")
			refused := code == "unauthenticated" || code == "permission_denied"
			if through == refused || through != want {
				t.Errorf("%s calls %s: got %s (%s), want let through: %v", who, name, code, text, want)
			}
		}
		// What is not in the table is refused to all, whether or not it exists.
		for _, name := range []string{"AdminService/NoSuchMethod", "NoSuchService/Get"} {
			if code, _, err := knock(t.Context(), c, b.Addr(), all["AdminService/Get"], name); err != nil || code != "permission_denied" {
				t.Errorf("%s calls %s: got %s, %v", who, name, code, err)
			}
		}
		tr.CloseIdleConnections()
	}
}

// A refusal waits for no body: a stranger's megabytes are never read.
func TestStrangersMessageIsNotRead(t *testing.T) {
	b := start(t)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	body, never := io.Pipe()
	defer never.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+b.Addr()+procedure("AdminService/Apply"), body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/proto")
	req.ContentLength = 1 << 20
	res, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %s", res.Status)
	}
}

// Strangers' calls are in the audit log, but not so many of one source that they fill the disk.
func TestAStrangerDoesNotFillTheAuditLog(t *testing.T) {
	b := start(t)
	before := strings.Count(b.auditText(t), `"api.refuse"`)
	c := b.dial(t, selfSigned(t, newKey(t)))
	for range callBurst + 50 {
		if _, err := c.Admin.Whoami(t.Context(), connect.NewRequest(&api.WhoamiRequest{})); err == nil {
			t.Fatal("a stranger was told who he is")
		}
	}
	if n := strings.Count(b.auditText(t), `"api.refuse"`) - before; n < callBurst || n > callBurst+10 {
		t.Errorf("%d refusals of %d are in the audit log", n, callBurst+50)
	}
	h := b.hub(t)
	before = strings.Count(b.auditText(t), `"device.join.refuse"`)
	for range callBurst + 50 {
		if _, err := h.joinDevice(t.Context(), id16(), newKey(t), "gw", "192.0.2.66:1"); err == nil {
			t.Fatal("a stranger joined")
		}
	}
	if n := strings.Count(b.auditText(t), `"device.join.refuse"`) - before; n < callBurst || n > callBurst+10 {
		t.Errorf("%d joins refused of %d are in the audit log", n, callBurst+50)
	}
}

// Who follows the audit log is told nothing more once a lock stands against him, or his certificate is over.
func TestWhoFollowsTheAuditLogIsJudgedAgain(t *testing.T) {
	b := start(t)
	follow := func(name string) *connect.ServerStreamForClient[api.AuditLines] {
		stream, err := b.client(t, name, "auditor").Audit.SearchAudit(t.Context(), connect.NewRequest(&api.SearchAuditRequest{Follow: true, Limit: 1}))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = stream.Close() })
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream
	}
	ann, ben := follow("ann"), follow("ben")
	end := func(stream *connect.ServerStreamForClient[api.AuditLines], word string) error {
		for stream.Receive() {
			if text := strings.Join(stream.Msg().Lines, "\n"); strings.Contains(text, word) {
				t.Errorf("told of %s", text)
			}
		}
		return stream.Err()
	}
	b.mustLock(t, &api.StandingLock{User: "ann"})
	wantCode(t, "locked", end(ann, "lock.add"), api.Code_CODE_LOCKED)
	b.now.Add(int64(2 * time.Hour))
	b.record(Event{Type: "audit.gap"})
	if err := end(ben, "audit.gap"); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("with a certificate that is over: %v", err)
	}
}

// What a hub says of its addresses gets into the ssh_config of people: no hub is to name hosts that are not its own by a pattern.
func TestAHubsAddressIsAHostAndAPort(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	for _, addr := range []string{"*:22", "hub-?:22", "!x:22", "a,b:22", "-oProxyCommand=x:22", `"x":22`, "hub:", ":22", "hub:0", "hub:ssh", "#:22"} {
		for _, r := range []*api.WatchRequest{{SshAddresses: []string{addr}}, {TunnelAddresses: []string{addr}}} {
			stream, err := h.Hub.Watch(t.Context(), connect.NewRequest(r))
			if err == nil {
				if stream.Receive() {
					t.Errorf("%q was taken", addr)
				}
				err = stream.Err()
				_ = stream.Close()
			}
			if connect.CodeOf(err) != connect.CodeInvalidArgument {
				t.Errorf("%q: %v", addr, err)
			}
		}
	}
	for _, addr := range []string{"hub-1.example:22", "192.0.2.1:443", "[2001:db8::1]:443", "[fe80::1%eth0]:22", "Hub_2:65535"} {
		if err := checkPublic(addr); err != nil {
			t.Error(err)
		}
	}
}

// Devices, sessions and recordings are listed as the caller's roles allow, and what is hidden looks like what is not there.
func TestListsShowWhatRolesAllow(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.watch(t)
	ber, _ := b.device(t, h, "gw-ber")
	key := newKey(t)
	ams, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge", Labels: []*api.Label{{Key: "site", Value: "ams"}}}).Secret, key, "gw-ams", "192.0.2.7:1")
	if err != nil {
		t.Fatal(err)
	}
	b.applyRole(t, "kind: role\nname: ber\nallow:\n  devices: {site: [ber]}\n  logins: [root]\n  channels: [exec]\n  ways: [hub]\n  recordings: own\n  sessions: own\n")
	b.applyRole(t, "kind: role\nname: blind\nallow:\n  devices: {site: [ber]}\n  logins: [root]\n  channels: [exec]\n  ways: [hub]\n")
	keys := map[string]ssh.PublicKey{}
	for name, role := range map[string]string{"bert": "ber", "blind": "blind", "olga": "operator"} {
		keys[name] = b.user(t, name, role)
	}
	var ids []string // of olga's recordings
	for _, s := range []struct{ user, device string }{{"bert", ber.Name}, {"olga", ber.Name}, {"olga", ams.Name}, {"blind", ber.Name}} {
		g := h.admit(t, request(keys[s.user], s.device, "root"))
		if len(g.Grant) == 0 {
			t.Fatalf("%s on %s: not admitted", s.user, s.device)
		}
		r := &api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunksOf(t, g.RecordingId, 2, "x")[:1]}
		if _, err := h.Hub.AppendRecording(t.Context(), connectRequest(r)); err != nil {
			t.Fatal(err)
		}
		if s.user == "olga" {
			ids = append(ids, hexOf(g.RecordingId))
		}
	}
	for _, row := range []struct {
		user                          string
		devices, sessions, recordings string
	}{
		{"bert", "gw-ber", "bert@gw-ber", "bert@gw-ber"},
		{"blind", "gw-ber", "", ""},
		{"olga", "gw-ams gw-ber", "bert@gw-ber blind@gw-ber olga@gw-ams olga@gw-ber", "bert@gw-ber blind@gw-ber olga@gw-ams olga@gw-ber"},
	} {
		ukey := newKey(t)
		chain, err := b.set.IssueUserX509(ca.UserX509Request{Name: row.user, Cluster: b.info.Cluster, Key: ukey.Public(), TTL: time.Hour, Now: b.cfg.Now()})
		if err != nil {
			t.Fatal(err)
		}
		c := b.dial(t, &tls.Certificate{Certificate: chain, PrivateKey: ukey}).Admin
		var devices, sessions, recordings []string
		ds, err := c.ListDevices(t.Context(), connectRequest(&api.ListDevicesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range ds.Msg.Devices {
			devices = append(devices, d.Name)
		}
		ss, err := c.ListSessions(t.Context(), connectRequest(&api.ListSessionsRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range ss.Msg.Sessions {
			sessions = append(sessions, s.User+"@"+s.Device)
		}
		rs, err := c.ListRecordings(t.Context(), connectRequest(&api.ListRecordingsRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs.Msg.Recordings {
			recordings = append(recordings, r.User+"@"+r.Device)
		}
		for what, pair := range map[string][2]string{"devices": {words(devices), row.devices}, "sessions": {words(sessions), row.sessions}, "recordings": {words(recordings), row.recordings}} {
			if pair[0] != pair[1] {
				t.Errorf("%s sees %s %q, want %q", row.user, what, pair[0], pair[1])
			}
		}
		if row.user != "bert" {
			continue
		}
		_, hidden := c.GetDevice(t.Context(), connectRequest(&api.GetDeviceRequest{Device: ams.Name}))
		_, absent := c.GetDevice(t.Context(), connectRequest(&api.GetDeviceRequest{Device: "gw-xyz"}))
		for _, get := range []string{ids[0], ids[1][:12], hexOf(id16())} {
			stream, err := c.GetRecording(t.Context(), connectRequest(&api.GetRecordingRequest{Id: get}))
			if err == nil {
				for stream.Receive() {
					t.Errorf("bert reads recording %s", get)
				}
				err = stream.Err()
			}
			if connect.CodeOf(err) != connect.CodeNotFound {
				t.Errorf("recording %s that he may not see: %v, want not found as for one that is not there", get, err)
			}
		}
		if hidden == nil || absent == nil || strings.ReplaceAll(hidden.Error(), ams.Name, "X") != strings.ReplaceAll(absent.Error(), "gw-xyz", "X") {
			t.Errorf("a hidden device: %v; none: %v", hidden, absent)
		}
	}
}

func words(list []string) string {
	slices.Sort(list)
	return strings.Join(list, " ")
}

// The table of docs/api.md is that of access.go. `go test ./auth -run TestAPIDocument -update` writes it anew.
func TestAPIDocumentSaysWhoMayCallWhat(t *testing.T) {
	comments := protoComments(t)
	var table strings.Builder
	service := ""
	for _, name := range slices.Sorted(maps.Keys(methods())) {
		svc, method, _ := strings.Cut(name, "/")
		if svc != service {
			service = svc
			fmt.Fprintf(&table, "\n### %s\n\n| method | who | what |\n|---|---|---|\n", svc)
		}
		n := access[procedure(name)]
		who := map[ca.Role]string{roleJoiner: "anybody with a key of his own", roleOldHub: "a hub, its certificate perhaps expired", ca.RoleHub: "a hub", ca.RoleUser: "every user"}[n.who]
		if n.resource != "" {
			who = fmt.Sprintf("a user who may %s %s", n.verb, n.resource)
		}
		fmt.Fprintf(&table, "| %s | %s | %s |\n", method, who, comments[name])
	}
	const file, begin, end = "../docs/api.md", "<!-- methods -->\n", "<!-- end of methods -->\n"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	was, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has lost the marks of its table", file)
	}
	if was == table.String() {
		return
	}
	if !*update {
		t.Fatalf("%s does not say what access.go does; write it anew with `go test ./auth -run TestAPIDocument -update`", file)
	}
	if err := os.WriteFile(file, []byte(head+begin+table.String()+end+tail), 0o644); err != nil {
		t.Fatal(err)
	}
}

// protoComments takes the first sentence of each method's comment.
func protoComments(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("api/*.proto")
	if err != nil || len(files) == 0 {
		t.Fatalf("no .proto files: %v", err)
	}
	service, rpc := regexp.MustCompile(`^service (\w+)`), regexp.MustCompile(`^\s+rpc (\w+)`)
	out := map[string]string{}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var in, comment string
		for line := range strings.Lines(string(b)) {
			text, isComment := strings.CutPrefix(strings.TrimSpace(line), "//")
			switch m := rpc.FindStringSubmatch(line); {
			case isComment:
				comment += text
				continue
			case m != nil:
				first, _, _ := strings.Cut(strings.TrimSpace(comment)+" ", ". ")
				out[in+"/"+m[1]] = strings.ReplaceAll(strings.TrimSuffix(strings.TrimSpace(first), "."), "|", `\|`)
			default:
				if m := service.FindStringSubmatch(line); m != nil {
					in = m[1]
				}
			}
			comment = ""
		}
	}
	return out
}

// A hundred edits of one role at once: it is at every moment what one of them asked for, and never has a right of each.
func TestRacingEditsOfARoleNeverMix(t *testing.T) {
	b := start(t)
	want := map[string]bool{"": true}
	var wg sync.WaitGroup
	for i := range 100 {
		site, login := fmt.Sprint("s", i), fmt.Sprint("l", i)
		want[site+" "+login] = true
		wg.Go(func() {
			text := fmt.Sprintf("kind: role\nname: raced\nallow:\n  devices: {site: [%s]}\n  logins: [%s]\n  channels: [exec]\n", site, login)
			_, err := b.admin.Admin.Apply(t.Context(), connectRequest(&api.ApplyRequest{Yaml: text}))
			if err != nil && connect.CodeOf(err) != connect.CodeAborted {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for over := false; !over; {
		moved := b.view.moved()
		roles, _ := b.view.policies()
		got := ""
		for _, r := range roles {
			if r.Name == "raced" {
				got = strings.Join(append(slices.Clone(r.Allow.Devices["site"]), r.Allow.Logins...), " ")
			}
		}
		if !want[got] {
			t.Errorf("the role is %q, which nobody asked for", got)
		}
		select {
		case <-done:
			over = true
		case <-moved:
		}
	}
}
