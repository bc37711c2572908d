package auth

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/lock"
	"hawser/auth/store"
)

// heldCall is a call whose headers the service has judged and whose message is not there yet.
type heldCall struct {
	stream bool // its messages are in envelopes
	body   *io.PipeWriter
	done   chan *http.Response
}

// hold begins a call and returns when the service has judged its headers: it asks for the rest.
func (b *bench) hold(t *testing.T, cert *tls.Certificate, procedure, kind string) *heldCall {
	t.Helper()
	asked := make(chan struct{})
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*cert}}, ExpectContinueTimeout: time.Minute}
	t.Cleanup(tr.CloseIdleConnections)
	r, w := io.Pipe()
	body := &askedBody{Reader: r, asked: asked}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+b.Addr()+procedure, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", kind)
	req.Header.Set("Connect-Protocol-Version", "1")
	req.Header.Set("Expect", "100-continue")
	h := &heldCall{strings.HasPrefix(kind, "application/connect"), w, make(chan *http.Response, 1)}
	go func() {
		res, err := tr.RoundTrip(req)
		if err != nil {
			t.Error(err)
		}
		h.done <- res
	}()
	select {
	case <-asked:
	case <-time.After(10 * time.Second):
		t.Fatal("the service does not ask for the message")
	}
	return h
}

type askedBody struct {
	io.Reader
	asked chan struct{}
	once  bool
}

func (b *askedBody) Read(p []byte) (int, error) {
	if !b.once {
		b.once = true
		close(b.asked)
	}
	return b.Reader.Read(p)
}

func (h *heldCall) send(t *testing.T, m proto.Message) (status int, text string) {
	t.Helper()
	msg, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if h.stream {
		msg = append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
	}
	if _, err := io.Copy(h.body, bytes.NewReader(msg)); err != nil {
		t.Fatal(err)
	}
	_ = h.body.Close()
	res := <-h.done
	if res == nil {
		t.Fatal("no answer")
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(answer)
}

// A caller decides when his message follows his headers: what was true of him at these gave a user who was locked meanwhile a role of his own making, and
// a thief whose certificate was void a new one.
func TestACallIsJudgedAgainWhenItsMessageComes(t *testing.T) {
	b := start(t)
	p := b.invite(t, "mallory", "admin", false)
	cert := tlsOf(p.key, p.cred)
	unary, stream := "application/proto", "application/connect+proto"
	applies := b.hold(t, cert, apiconnect.AdminServiceApplyProcedure, unary)
	renews := b.hold(t, cert, apiconnect.AdminServiceRenewMyselfProcedure, unary)
	locks := b.hold(t, cert, apiconnect.LockServiceAddLockProcedure, stream)
	b.now.Add(int64(2 * time.Second))
	if err := b.voidCertificates(t.Context(), "mallory"); err != nil {
		t.Fatal(err)
	}
	if status, text := renews.send(t, &api.RenewMyselfRequest{}); status == http.StatusOK {
		t.Errorf("certificates were void, and renewed by a call begun before: %d bytes", len(text))
	}
	b.mustLock(t, &api.StandingLock{User: "mallory"})
	if status, text := applies.send(t, &api.ApplyRequest{Yaml: roleYAML("back-door", "")}); status == http.StatusOK {
		t.Errorf("a locked user applied a role by a call begun before: %q", text)
	}
	if _, text := locks.send(t, &api.AddLockRequest{Lock: &api.StandingLock{User: "admin"}, Force: true}); !strings.Contains(text, "error") {
		t.Errorf("a locked user locked others by a call begun before: %q", text)
	}
	if roles := b.yaml(t, "role", ""); strings.Contains(roles, "back-door") {
		t.Error("the role is there")
	}
}

func TestWhoHangsUpLeavesNothingOutOfTheAuditLog(t *testing.T) {
	b := start(t)
	var names []string
	for i := range 40 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*150*time.Microsecond) // somewhere in the call, which takes some milliseconds
		names = append(names, fmt.Sprintf("user-%d", i))
		_, _ = b.admin.Admin.AddUser(ctx, connect.NewRequest(&api.AddUserRequest{Name: names[i], Roles: []string{"operator"}}))
		cancel()
	}
	b.stop() // waits for what is being done
	log := b.auditText(t)
	for _, name := range names {
		u, _ := b.view.user(name)
		if told := strings.Contains(log, `"object":"`+name+`"`); told != (u != nil) {
			t.Errorf("%s: is a user: %v, in the audit log: %v", name, u != nil, told)
		}
	}
}

// A role and the certificates with it went in two steps. Who renewed all the time got a certificate with the role between them, of the second after, which
// nothing made void: in most tries.
func TestNoCertificateKeepsARoleThatWasTakenWhileItWasIssued(t *testing.T) {
	b := start(t)
	p := b.invite(t, "ann", "operator", false)
	b.applyRole(t, roleYAML("lead", ""))
	for range 6 {
		if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"operator", "lead"}})); err != nil {
			t.Fatal(err)
		}
		b.now.Add(int64(3 * time.Second))
		var mu sync.Mutex
		var got []*api.UserCredentials
		stop := make(chan struct{})
		var wg sync.WaitGroup
		login := ca.Login{At: b.cfg.Now()}
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					cred, err := b.issueUser(issue{user: "ann", tlsKey: p.key.Public(), sshKey: sshKey(t, p.key), login: login, actor: "user:ann"})
					if err == nil {
						mu.Lock()
						got = append(got, cred)
						mu.Unlock()
					}
				}
			})
		}
		if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"operator"}})); err != nil {
			t.Fatal(err)
		}
		close(stop)
		wg.Wait()
		_, l := b.view.lockList()
		for _, c := range got {
			cert := sshCert(t, c)
			roles := ca.RolesOf(cert)
			if len(roles) == 2 && l.Match(b.cfg.Now(), lock.Subject{User: "ann", IssuedAt: ca.IssuedAt(cert)}) == nil {
				t.Fatalf("a certificate with the role that was taken is good: issued %v, %+v", ca.IssuedAt(cert), l.Voids)
			}
		}
	}
}

// Two who took the right to give roles from each other at once left nobody who had it.
func TestTwoWhoTakeRolesFromOneAnotherLeaveOne(t *testing.T) {
	b := start(t)
	if _, err := b.admin.Admin.AddUser(t.Context(), connect.NewRequest(&api.AddUserRequest{Name: "other", Roles: []string{"admin"}})); err != nil {
		t.Fatal(err)
	}
	_, admin := b.view.user("admin")
	ctx := context.WithValue(t.Context(), judgedKey{}, &judged{caller: caller{id: ca.Identity{Role: ca.RoleUser, Name: "other"}, roles: admin}})
	for range 8 {
		var wg sync.WaitGroup
		for _, name := range []string{"admin", "other"} {
			wg.Go(func() { // by the handler itself: certificates are void after the first round
				_, _ = userService{Server: b.Server}.SetUserRoles(ctx, connect.NewRequest(&api.SetUserRolesRequest{Name: name, Roles: []string{"operator"}}))
			})
		}
		wg.Wait()
		left := 0
		for _, name := range []string{"admin", "other"} {
			if _, roles := b.view.user(name); givesRoles(roles) {
				left++
			}
			if _, err := b.changeUser(t.Context(), name, func(u *userRecord) ([]store.Cond, error) { u.Roles = []string{"admin"}; return nil, nil }); err != nil {
				t.Fatal(err)
			}
		}
		if left != 1 {
			t.Fatalf("%d are left who give roles, want 1", left)
		}
	}
}

// A role that was given while it was removed stayed with the user as a name, to be his again when a role of that name is made.
func TestNobodyKeepsARoleThatIsRemovedWhileItIsGiven(t *testing.T) {
	b := start(t)
	b.user(t, "ann", "operator")
	for i := range 12 {
		role := fmt.Sprintf("role-%d", i)
		b.applyRole(t, roleYAML(role, ""))
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"operator", role}}))
		})
		wg.Go(func() {
			_, _ = b.admin.Policy.RemoveRole(t.Context(), connect.NewRequest(&api.RemoveRoleRequest{Name: role}))
		})
		wg.Wait()
		roles, _ := b.view.policies()
		if u, _ := b.view.user("ann"); len(pick(roles, u.Roles)) != len(u.Roles) {
			t.Fatalf("ann has %v, and there is no %s", u.Roles, role)
		}
	}
}

// An admin who took a stolen password from a user found it replaced by the thief, whose change had been proved by it a moment before.
func TestAResetIsNotUndoneByAChangeOfThePasswordThatWasTaken(t *testing.T) {
	b := start(t)
	p := b.invite(t, "ann", "operator", false)
	b.hasher.slots <- struct{}{}
	b.hasher.slots <- struct{}{}
	changed := make(chan error, 1)
	go func() {
		_, err := p.client.User.ChangePassword(t.Context(), connect.NewRequest(&api.ChangePasswordRequest{Password: goodPassword, NewPassword: "of the thief's own making"}))
		changed <- err
	}()
	for len(b.hasher.queue) == 0 { // until it waits to hold the old one against its hash
		runtime.Gosched()
	}
	if _, err := b.admin.User.ResetUser(t.Context(), connect.NewRequest(&api.ResetUserRequest{Name: "ann"})); err != nil {
		t.Fatal(err)
	}
	<-b.hasher.slots
	<-b.hasher.slots
	wantCode(t, "a change of what was taken", <-changed, api.Code_CODE_LOGIN_FAILED)
	if u, _ := b.view.user("ann"); u.Password != "" {
		t.Error("the user has a password again")
	}
}
