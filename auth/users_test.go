package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/pquerna/otp/hotp"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/store"
)

const goodPassword = "four words make it"

// person is a user with a password, and perhaps an authenticator.
type person struct {
	name, password, secret string
	key                    ed25519.PrivateKey
	cred                   *api.UserCredentials
	client                 *apiclient.Client // with his certificate
}

// invite makes a user by a link that he accepts, with an authenticator or without.
func (b *bench) invite(t *testing.T, name, role string, authenticator bool) *person {
	t.Helper()
	res, err := b.admin.User.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: name, Roles: []string{role}}))
	if err != nil {
		t.Fatal(err)
	}
	p := &person{name: name, password: goodPassword, key: newKey(t)}
	if err := b.accept(t, p, res.Msg.Link, authenticator); err != nil {
		t.Fatal(err)
	}
	return p
}

func (b *bench) accept(t *testing.T, p *person, link string, authenticator bool) error {
	t.Helper()
	inv, err := ca.ParseInvite(link)
	if err != nil {
		t.Fatal(err)
	}
	if inv.Pin != b.Pin() || inv.User != p.name || len(inv.Auth) == 0 {
		t.Fatalf("link says %+v", inv)
	}
	c := b.dial(t, selfSigned(t, p.key))
	open, err := c.Login.OpenInvitation(t.Context(), connect.NewRequest(&api.OpenInvitationRequest{Secret: inv.Secret}))
	if err != nil {
		return err
	}
	r := &api.AcceptInvitationRequest{Secret: inv.Secret, Password: p.password}
	if authenticator {
		p.secret = open.Msg.OtpSecret
		r.Code = b.code(t, p, 0)
	}
	cred, err := c.Login.AcceptInvitation(t.Context(), connect.NewRequest(r))
	if err != nil {
		return err
	}
	p.take(t, b, cred.Msg)
	return nil
}

func (p *person) take(t *testing.T, b *bench, cred *api.UserCredentials) {
	t.Helper()
	p.cred = cred
	p.client = b.dial(t, tlsOf(p.key, cred))
}

// beginStep puts the clock to the beginning of a step, so that what follows is in one.
func (b *bench) beginStep() {
	now := b.cfg.Now()
	b.now.Add(int64(now.Truncate(totpPeriod * time.Second).Add((totpPeriod + 1) * time.Second).Sub(now)))
}

// code is the person's code so many steps from now.
func (b *bench) code(t *testing.T, p *person, steps int64) string {
	t.Helper()
	code, err := hotp.GenerateCodeCustom(p.secret, uint64(b.cfg.Now().Unix()/totpPeriod+steps), totpOptions)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func (b *bench) login(t *testing.T, p *person, password, code string) (*api.UserCredentials, error) {
	t.Helper()
	res, err := b.dial(t, selfSigned(t, p.key)).Login.Login(t.Context(), connect.NewRequest(&api.LoginRequest{User: p.name, Password: password, Code: code}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Whether somebody has registered a key, and who, a stranger does not learn at the login.
func TestALoginTellsNoStrangerWhoseAKeyIs(t *testing.T) {
	b := start(t)
	key := b.user(t, "ann", "operator")
	for _, name := range []string{"ben", "ann"} {
		_, err := b.dial(t, selfSigned(t, newKey(t))).Login.Login(t.Context(), connect.NewRequest(&api.LoginRequest{
			User: name, Password: "four words of mine", SshPublicKey: key.Marshal(),
		}))
		wantCode(t, name, err, api.Code_CODE_LOGIN_FAILED)
	}
}

func tlsOf(key ed25519.PrivateKey, cred *api.UserCredentials) *tls.Certificate {
	return &tls.Certificate{Certificate: cred.Chain, PrivateKey: key}
}

func roleYAML(name, options string) string {
	return fmt.Sprintf("kind: role\nname: %s\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [shell, exec, sftp, local-forward]}\noptions: {%s}\n", name, options)
}

func sshCert(t *testing.T, cred *api.UserCredentials) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(cred.SshCertificate)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func certRequest(cred *api.UserCredentials, kind api.Kind, device string) *api.AdmitRequest {
	r := &api.AdmitRequest{Certificate: cred.SshCertificate, ConnectionId: id16(), SessionId: id16(), Kind: kind, Device: device,
		Incarnation: id16(), Way: "hub", ClientAddress: "192.0.2.1:4711"}
	if kind == api.Kind_KIND_SESSION {
		r.Login, r.Channel = "root", "exec"
	}
	return r
}

func wantRefusal(t *testing.T, what string, res *api.AdmitResponse, reason string) {
	t.Helper()
	if got := res.Refusal.GetReason(); got != reason {
		t.Errorf("%s: got refusal %q (%s), want %q", what, got, res.Refusal.GetMessage(), reason)
	}
}

func TestInvitationSetsPasswordAndAuthenticatorOnce(t *testing.T) {
	b := start(t)
	res, err := b.admin.User.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: "ann", Roles: []string{"operator"}}))
	if err != nil {
		t.Fatal(err)
	}
	p := &person{name: "ann", password: "short", key: newKey(t)}
	wantCode(t, "weak password", b.accept(t, p, res.Msg.Link, true), api.Code_CODE_BAD_PASSWORD)
	p.password = goodPassword
	if err := b.accept(t, p, res.Msg.Link, true); err != nil {
		t.Fatal(err)
	}
	wantCode(t, "second use", b.accept(t, p, res.Msg.Link, true), api.Code_CODE_LINK_UNKNOWN)
	cert := sshCert(t, p.cred)
	if cert.KeyId != "ann" || !ca.UserCertMFA(cert.Extensions) {
		t.Errorf("certificate of %q, mfa %v", cert.KeyId, ca.UserCertMFA(cert.Extensions))
	}
	me, err := p.client.User.GetUser(t.Context(), connect.NewRequest(&api.GetUserRequest{}))
	if err != nil || !me.Msg.Password || !me.Msg.Authenticator || me.Msg.LinkExpiresUnix != 0 || me.Msg.LastLoginUnix == 0 {
		t.Errorf("got %v, %v", me, err)
	}
}

func TestLinkOfARemovedUserIsOfNoUse(t *testing.T) {
	b := start(t)
	invite := func() string {
		res, err := b.admin.User.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: "ann", Roles: []string{"operator"}}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.Link
	}
	first := invite()
	if _, err := b.admin.Admin.RemoveUser(t.Context(), connect.NewRequest(&api.RemoveUserRequest{Name: "ann"})); err != nil {
		t.Fatal(err)
	}
	p := &person{name: "ann", password: goodPassword, key: newKey(t)}
	wantCode(t, "link of a removed user", b.accept(t, p, first, false), api.Code_CODE_LINK_UNKNOWN)
	second := invite()
	wantCode(t, "link of his predecessor", b.accept(t, p, first, false), api.Code_CODE_LINK_UNKNOWN)
	res, err := b.admin.User.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: "ann", TtlSeconds: 60}))
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, "link that a newer one replaced", b.accept(t, p, second, false), api.Code_CODE_LINK_UNKNOWN)
	b.now.Add(int64(2 * time.Minute))
	wantCode(t, "expired link", b.accept(t, p, res.Msg.Link, false), api.Code_CODE_LINK_UNKNOWN)
}

func TestLoginAsksForAllThatThereIs(t *testing.T) {
	b := start(t)
	b.beginStep()
	p := b.invite(t, "ann", "operator", true)
	for _, try := range []struct{ what, password, code string }{
		{"wrong password", "not " + goodPassword, b.code(t, p, 1)},
		{"no code", goodPassword, ""},
		{"wrong code", goodPassword, "000000"},
		{"the code of the enrolment", goodPassword, b.code(t, p, 0)},
		{"code of two steps ahead", goodPassword, b.code(t, p, 2)},
	} {
		_, err := b.login(t, p, try.password, try.code)
		wantCode(t, try.what, err, api.Code_CODE_LOGIN_FAILED)
	}
	code := b.code(t, p, 1)
	cred, err := b.login(t, p, goodPassword, code)
	if err != nil {
		t.Fatal(err)
	}
	if until := time.Unix(cred.NotAfterUnix, 0).Sub(b.cfg.Now()); until < 11*time.Hour || until > 12*time.Hour {
		t.Errorf("certificates live %v, want 12 h", until)
	}
	_, err = b.login(t, p, goodPassword, code)
	wantCode(t, "code used before", err, api.Code_CODE_LOGIN_FAILED)
}

// Whoever is refused learns nothing from how: neither text nor code nor (within what a shared machine lets us see) time tell a
// user who exists from one who does not.
func TestUnknownUserIsAnsweredAsAWrongPassword(t *testing.T) {
	b := start(t)
	b.invite(t, "ann", "operator", false)
	b.user(t, "keyonly", "operator")
	said := make(map[string]bool)
	shortest, longest := time.Hour, time.Duration(0)
	for _, name := range []string{"ann", "keyonly", "nobody", "not a name!"} {
		best := time.Hour
		for range 3 {
			began := time.Now()
			_, err := b.login(t, &person{name: name, key: newKey(t)}, "wrong password", "")
			best = min(best, time.Since(began))
			wantCode(t, name, err, api.Code_CODE_LOGIN_FAILED)
			said[err.Error()] = true
		}
		shortest, longest = min(shortest, best), max(longest, best)
	}
	if len(said) != 1 {
		t.Errorf("got different answers: %v", said)
	}
	if longest > 5*shortest {
		t.Errorf("answers took %v to %v", shortest, longest)
	}
}

func TestOneCodeForTwoLoginsAtOnceAdmitsOne(t *testing.T) {
	b := start(t)
	b.beginStep()
	p := b.invite(t, "ann", "operator", true)
	code := b.code(t, p, 1)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		c := b.dial(t, selfSigned(t, newKey(t)))
		wg.Go(func() {
			if _, err := c.Login.Login(t.Context(), connect.NewRequest(&api.LoginRequest{User: "ann", Password: goodPassword, Code: code})); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d logins with one code, want 1", won.Load())
	}
}

func TestSpentCodeStaysSpentThroughARestart(t *testing.T) {
	b := start(t)
	b.beginStep()
	p := b.invite(t, "ann", "operator", true)
	code := b.code(t, p, 1)
	if _, err := b.login(t, p, goodPassword, code); err != nil {
		t.Fatal(err)
	}
	b.stop()
	b.run(t)
	_, err := b.login(t, p, goodPassword, code)
	wantCode(t, "code used before the restart", err, api.Code_CODE_LOGIN_FAILED)
}

func TestGuesserIsHeldOffAndTheOwnerIsNot(t *testing.T) {
	b := start(t)
	p := b.invite(t, "ann", "operator", false)
	ctx := t.Context()
	guess := func(addr, name, password string) error {
		_, err := b.prove(ctx, caller{addr: addr}, name, password, "")
		return err
	}
	for range freeFailures + 1 {
		wantCode(t, "guess", guess("192.0.2.66:1", "ann", "x"), api.Code_CODE_LOGIN_FAILED)
	}
	wantCode(t, "guess too many", guess("192.0.2.66:2", "ann", goodPassword), api.Code_CODE_RATE_LIMITED)
	if err := guess("192.0.2.67:1", "ann", goodPassword); err != nil {
		t.Errorf("the owner elsewhere: %v", err)
	}
	b.now.Add(int64(2 * time.Second))
	if err := guess("192.0.2.66:3", "ann", goodPassword); err != nil {
		t.Errorf("after the delay: %v", err)
	}
	// From many machines: then only where the person has been before.
	for i := range userFailures + 5 {
		_ = b.lockout.failed(fmt.Sprintf("198.51.100.%d", i), "ann", b.cfg.Now())
	}
	wantCode(t, "a new source while many guess", guess("203.0.113.9:1", "ann", goodPassword), api.Code_CODE_RATE_LIMITED)
	if err := guess("192.0.2.67:2", "ann", goodPassword); err != nil {
		t.Errorf("the owner where he was before, while many guess: %v", err)
	}
	if u, _ := p.client.User.GetUser(ctx, connect.NewRequest(&api.GetUserRequest{})); u.Msg.GetLockedUntilUnix() == 0 {
		t.Error("nobody is told of it")
	}
	if _, err := b.admin.User.UnlockUser(ctx, connect.NewRequest(&api.UnlockUserRequest{Name: "ann"})); err != nil {
		t.Fatal(err)
	}
	if err := guess("203.0.113.9:2", "ann", goodPassword); err != nil {
		t.Errorf("after user unlock: %v", err)
	}
}

func TestRenewalDoesNotOutliveTheLogin(t *testing.T) {
	b := start(t)
	b.apply(t, roleYAML("field", "session_ttl: 1h"))
	p := b.invite(t, "ann", "field", false)
	b.now.Add(int64(40 * time.Minute))
	res, err := p.client.Admin.RenewMyself(t.Context(), connect.NewRequest(&api.RenewMyselfRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if res.Msg.NotAfterUnix > p.cred.NotAfterUnix+1 {
		t.Errorf("renewed for %d s beyond the login", res.Msg.NotAfterUnix-p.cred.NotAfterUnix)
	}
	renewed := b.dial(t, tlsOf(p.key, res.Msg))
	b.now.Add(int64(21 * time.Minute))
	_, err = renewed.Admin.RenewMyself(t.Context(), connect.NewRequest(&api.RenewMyselfRequest{}))
	wantCode(t, "renewal after the login's end", err, api.Code_CODE_BAD_CERTIFICATE)
}

func TestPasswordIsHashedAnewWhenParametersChange(t *testing.T) {
	b := start(t)
	p := b.invite(t, "ann", "operator", false)
	weak := newHash(goodPassword, argonParams{memory: 1 << 10, passes: 1, lanes: 1, salt: 16, key: 32})
	if _, err := b.changeUser(t.Context(), "ann", func(u *userRecord) ([]store.Cond, error) { u.Password = weak; return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := b.login(t, p, goodPassword, ""); err != nil {
		t.Fatal(err)
	}
	u, _ := b.view.user("ann")
	if params, _, _, err := parseHash(u.Password); err != nil || params != passwordParams {
		t.Errorf("got %+v, %v", params, err)
	}
	if _, err := b.login(t, p, goodPassword, ""); err != nil {
		t.Errorf("with the new hash: %v", err)
	}
}

func TestSecretsAreNotOnDiskInClear(t *testing.T) {
	b := start(t)
	b.beginStep()
	p := b.invite(t, "ann", "operator", true)
	inv, err := b.admin.User.ResetUser(t.Context(), connect.NewRequest(&api.ResetUserRequest{Name: "ann"}))
	if err != nil {
		t.Fatal(err)
	}
	link, err := ca.ParseInvite(inv.Msg.Link)
	if err != nil {
		t.Fatal(err)
	}
	b.stop()
	err = filepath.WalkDir(b.cfg.Data, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		for what, secret := range map[string]string{"password": goodPassword, "authenticator's secret": p.secret, "link": string(link.Secret)} {
			if strings.Contains(string(content), secret) {
				t.Errorf("%s holds the %s in clear", path, what)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyRestrictionsHoldAtAdmit(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, roleYAML("field", ""))
	add := func(r *api.AddUserKeyRequest) ssh.PublicKey {
		key, err := ssh.NewPublicKey(newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		r.Name, r.AuthorizedKey = "ann", string(ssh.MarshalAuthorizedKey(key))
		if _, err := b.admin.User.AddUserKey(t.Context(), connect.NewRequest(r)); err != nil {
			t.Fatal(err)
		}
		return key
	}
	plain := b.user(t, "ann", "field")
	wantRefusal(t, "plain key", h.admit(t, request(plain, "gw", "root")), "")
	expiring := add(&api.AddUserKeyRequest{TtlSeconds: 3600})
	wantRefusal(t, "key before it expires", h.admit(t, request(expiring, "gw", "root")), "")
	near := add(&api.AddUserKeyRequest{SourceAddresses: []string{"192.0.2.0/24"}})
	far := request(near, "gw", "root")
	wantRefusal(t, "key from its network", h.admit(t, far), "")
	far.ClientAddress, far.SessionId = "203.0.113.1:1", id16()
	wantRefusal(t, "key from elsewhere", h.admit(t, far), "source")
	forced := add(&api.AddUserKeyRequest{ForceCommand: "uptime"})
	res := h.admit(t, request(forced, "gw", "root"))
	if wantRefusal(t, "key with a command", res, ""); res.Access.GetForceCommand() != "uptime" || slices.Contains(res.Access.Channels, "sftp") {
		t.Errorf("got access %v", res.Access)
	}
	for _, channel := range []string{"sftp", "local-forward"} {
		r := request(forced, "gw", "root")
		if r.Channel = channel; channel == "local-forward" {
			r.Kind, r.SessionId = api.Kind_KIND_FORWARDS, nil
		}
		wantRefusal(t, channel+" by a key with a command", h.admit(t, r), "force-command")
	}
	b.now.Add(int64(2 * time.Hour))
	wantRefusal(t, "expired key", h.admit(t, request(expiring, "gw", "root")), "key-expired")
	list, err := b.admin.User.GetUser(t.Context(), connect.NewRequest(&api.GetUserRequest{Name: "ann"}))
	if err != nil {
		t.Fatal(err)
	}
	used := 0
	for _, k := range list.Msg.Keys {
		if k.LastUsedUnix != 0 && k.LastUsedSource != "" {
			used++
		}
	}
	if len(list.Msg.Keys) != 4 || used != 4 {
		t.Errorf("%d of %d keys show their last use, want 4 of 4", used, len(list.Msg.Keys))
	}
	b.stop()
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	u, _ := b.view.user("ann")
	if after, err := b.describeUser(t.Context(), u); err != nil || after.Keys[0].LastUsedUnix != list.Msg.Keys[0].LastUsedUnix {
		t.Errorf("last use after a restart: got %v, %v", after.GetKeys()[0], err)
	}
}

func TestKeyBelongsToOneUser(t *testing.T) {
	b := start(t)
	key := b.user(t, "ann", "operator")
	line := string(ssh.MarshalAuthorizedKey(key))
	p := b.invite(t, "bob", "operator", false)
	_, err := b.admin.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{Name: "bob", AuthorizedKey: line}))
	if connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("an admin gives ann's key to bob: %v", err)
	}
	_, err = p.client.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{AuthorizedKey: line, Password: goodPassword}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument || strings.Contains(err.Error(), "ann") {
		t.Errorf("bob takes ann's public key: %v", err)
	}
	// A key nobody has registered yet is nobody's to take either, without its private half.
	other, _ := ssh.NewPublicKey(newKey(t).Public())
	_, err = p.client.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{AuthorizedKey: string(ssh.MarshalAuthorizedKey(other)), Password: goodPassword}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("bob takes a public key he found: %v", err)
	}
	_, err = b.dial(t, selfSigned(t, p.key)).Login.Login(t.Context(), connect.NewRequest(&api.LoginRequest{User: "bob", Password: goodPassword, SshPublicKey: key.Marshal()}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("bob has ann's key certified as his: %v", err)
	}
	if b.view.owner(key.Marshal()) != "ann" {
		t.Error("the key is not ann's any more")
	}
}

// One's own key is registered with the password and a signature that ssh-keygen makes.
func TestOwnKeyNeedsPasswordAndProof(t *testing.T) {
	b := start(t)
	p := b.invite(t, "bob", "operator", false)
	file := filepath.Join(t.TempDir(), "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "bob's", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	line, err := os.ReadFile(file + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("ssh-keygen", "-Y", "sign", "-q", "-n", keyProofNamespace, "-f", file)
	cmd.Stdin = strings.NewReader(keyProofText("bob", "test.example"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(out)
	r := &api.AddUserKeyRequest{AuthorizedKey: string(line), Password: "wrong", Proof: block.Bytes, TtlSeconds: 3600}
	_, err = p.client.User.AddUserKey(t.Context(), connect.NewRequest(r))
	wantCode(t, "wrong password", err, api.Code_CODE_LOGIN_FAILED)
	r.Password, r.TtlSeconds = goodPassword, 365*24*3600
	if _, err = p.client.User.AddUserKey(t.Context(), connect.NewRequest(r)); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a key of a year: %v", err)
	}
	r.TtlSeconds = 0
	res, err := p.client.User.AddUserKey(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	if k := res.Msg.Keys[0]; k.ExpiresUnix != b.cfg.Now().Add(ownKeyTTL).Unix() && k.ExpiresUnix != b.cfg.Now().Add(ownKeyTTL).Unix()-1 || k.Comment != "bob's" {
		t.Errorf("got %v", k)
	}
	if _, err = p.client.User.RemoveUserKey(t.Context(), connect.NewRequest(&api.RemoveUserKeyRequest{Fingerprint: res.Msg.Keys[0].Fingerprint[:15]})); err != nil {
		t.Error(err)
	}
	_, err = p.client.User.RemoveUserKey(t.Context(), connect.NewRequest(&api.RemoveUserKeyRequest{Name: "admin", Fingerprint: "abcdefgh"}))
	wantCode(t, "another's key", err, api.Code_CODE_DENIED)
}

func TestRoleThatTakesCertificatesRefusesAKeyAndNamesLogin(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, roleYAML("strict", "credentials: [certificate]"))
	key := b.user(t, "ann", "strict")
	res := h.admit(t, request(key, "gw", "root"))
	if wantRefusal(t, "session by key", res, "credentials"); !strings.Contains(res.Refusal.GetMessage(), "hawser login") {
		t.Errorf("the refusal names no way: %q", res.Refusal.GetMessage())
	}
	r := request(key, "", "")
	r.Kind, r.Channel = api.Kind_KIND_CONNECTION, ""
	wantRefusal(t, "connection by key", h.admit(t, r), "credentials")
	p := b.invite(t, "bob", "strict", false)
	wantRefusal(t, "session by certificate", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "")
	_, err := p.client.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{AuthorizedKey: string(ssh.MarshalAuthorizedKey(key)), Password: goodPassword}))
	wantCode(t, "key of one's own that opens nothing", err, api.Code_CODE_DENIED)
}

// A hub asks for the code and passes it on; that one was shown it cannot say by itself, nor for another connection, user or key.
func TestSecondFactorIsRememberedByAuthNotClaimedByTheHub(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, roleYAML("two", "mfa: login"))
	p := b.invite(t, "ann", "two", true)
	key, _ := ssh.NewPublicKey(newKey(t).Public())
	if _, err := b.admin.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{Name: "ann", AuthorizedKey: string(ssh.MarshalAuthorizedKey(key)), ForceCommand: "id",
		SourceAddresses: []string{"192.0.2.0/24"}})); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "certificate of a login with a code", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "")
	connection := func() *api.AdmitRequest {
		r := request(key, "", "")
		r.Kind, r.Channel = api.Kind_KIND_CONNECTION, ""
		return r
	}
	r := connection()
	wantRefusal(t, "bare key", h.admit(t, r), "mfa")
	check := func(h *testHub, r *api.AdmitRequest, code string) bool {
		t.Helper()
		res, err := h.Hub.CheckSecondFactor(t.Context(), connect.NewRequest(&api.CheckSecondFactorRequest{
			PublicKey: r.PublicKey, Certificate: r.Certificate, ConnectionId: r.ConnectionId, ClientAddress: r.ClientAddress, Code: code}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg.Ok
	}
	if check(h, r, "000000") {
		t.Error("a wrong code was good")
	}
	wantRefusal(t, "after a wrong code", h.admit(t, r), "mfa")
	b.now.Add(int64(time.Minute))
	code := b.code(t, p, 0)
	if !check(h, r, code) {
		t.Error("the right code was not good")
	}
	if check(h, connection(), code) {
		t.Error("a code was good twice")
	}
	wantRefusal(t, "after the code", h.admit(t, r), "")
	wantRefusal(t, "another connection", h.admit(t, connection()), "mfa")
	same := connection()
	same.ConnectionId = r.ConnectionId
	wantRefusal(t, "the same connection at another hub", other.admit(t, same), "mfa")
	// Restrictions of the key are there after the second factor as before it.
	session := request(key, "gw", "root")
	session.ConnectionId = r.ConnectionId
	res := h.admit(t, session)
	if wantRefusal(t, "session after the code", res, ""); res.Access.GetForceCommand() != "id" {
		t.Error("the key's command was lost")
	}
	session.ClientAddress, session.SessionId = "203.0.113.1:1", id16()
	wantRefusal(t, "from elsewhere after the code", h.admit(t, session), "source")
	sftp := request(key, "gw", "root")
	sftp.ConnectionId, sftp.Channel = r.ConnectionId, "sftp"
	wantRefusal(t, "sftp after the code", h.admit(t, sftp), "force-command")
	b.now.Add(int64(25 * time.Hour))
	session.ClientAddress = "192.0.2.1:1"
	wantRefusal(t, "a day later", h.admit(t, session), "mfa")
}

func TestSessionFactorIsAskedOfCertificatesToo(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, roleYAML("each", "mfa: session")+"---\n"+"kind: role\nname: lab\nallow: {devices: {name: [lab]}, logins: [root], channels: [exec]}\n")
	b.device(t, h, "lab")
	p := b.invite(t, "ann", "each", true)
	wantRefusal(t, "mfa: session", h.admit(t, certRequest(p.cred, api.Kind_KIND_CONNECTION, "")), "mfa")
	// End to end has a connection of its own inside the one to the hub, which was asked.
	outer, inner := certRequest(p.cred, api.Kind_KIND_CONNECTION, ""), certRequest(p.cred, api.Kind_KIND_SESSION, "gw")
	inner.Way, outer.SessionId = "end-to-end", nil
	wantRefusal(t, "end to end, before the code", h.admit(t, inner), "mfa")
	b.now.Add(int64(time.Minute))
	if res, err := h.Hub.CheckSecondFactor(t.Context(), connect.NewRequest(&api.CheckSecondFactorRequest{
		Certificate: outer.Certificate, ConnectionId: outer.ConnectionId, ClientAddress: outer.ClientAddress, Code: b.code(t, p, 0)})); err != nil || !res.Msg.Ok {
		t.Fatalf("the code: %v, %v", res, err)
	}
	wantRefusal(t, "the connection to the hub, after the code", h.admit(t, outer), "")
	wantRefusal(t, "end to end, after the code", h.admit(t, inner), "")
	inner.SessionId, inner.ClientAddress = id16(), "192.0.2.1:4712"
	wantRefusal(t, "end to end in another connection", h.admit(t, inner), "mfa")
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: outer.ConnectionId})); err != nil {
		t.Fatal(err)
	}
	inner.SessionId, inner.ClientAddress = id16(), outer.ClientAddress
	wantRefusal(t, "end to end when that has ended", h.admit(t, inner), "mfa")
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"lab"}})); err != nil {
		t.Fatal(err)
	}
	b.now.Add(int64(time.Minute))
	cred, err := b.login(t, p, goodPassword, b.code(t, p, 0))
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a role that asks for none", h.admit(t, certRequest(cred, api.Kind_KIND_CONNECTION, "")), "")
	q := b.invite(t, "bob", "lab", false)
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "bob", Roles: []string{"each"}})); err != nil {
		t.Fatal(err)
	}
	_, err = b.login(t, q, goodPassword, "")
	wantCode(t, "login without an authenticator where roles ask for one", err, api.Code_CODE_ENROL_REQUIRED)
}

func TestUserManagementDoesNotRiseAboveItself(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: desk\nallow: {admin: [{resources: [user], verbs: [create, update, list, delete]}]}\n")
	desk := b.invite(t, "desk", "desk", false)
	b.invite(t, "ann", "operator", false)
	ctx := t.Context()
	_, err := desk.client.User.SetUserRoles(ctx, connect.NewRequest(&api.SetUserRolesRequest{Name: "desk", Roles: []string{"admin"}}))
	wantCode(t, "makes himself admin", err, api.Code_CODE_DENIED)
	_, err = desk.client.User.ResetUser(ctx, connect.NewRequest(&api.ResetUserRequest{Name: "admin"}))
	wantCode(t, "resets an admin", err, api.Code_CODE_DENIED)
	_, err = desk.client.Admin.RemoveUser(ctx, connect.NewRequest(&api.RemoveUserRequest{Name: "admin"}))
	wantCode(t, "removes an admin", err, api.Code_CODE_DENIED)
	_, err = desk.client.User.UnlockUser(ctx, connect.NewRequest(&api.UnlockUserRequest{Name: "admin"}))
	wantCode(t, "lets guesses at an admin's password go on", err, api.Code_CODE_DENIED)
	if _, err = desk.client.User.UnlockUser(ctx, connect.NewRequest(&api.UnlockUserRequest{Name: "ann"})); err != nil {
		t.Errorf("unlocks an operator: %v", err)
	}
	key, _ := ssh.NewPublicKey(newKey(t).Public())
	_, err = desk.client.User.AddUserKey(ctx, connect.NewRequest(&api.AddUserKeyRequest{Name: "admin", AuthorizedKey: string(ssh.MarshalAuthorizedKey(key))}))
	wantCode(t, "registers a key of an admin", err, api.Code_CODE_DENIED)
	if _, err = desk.client.User.ResetUser(ctx, connect.NewRequest(&api.ResetUserRequest{Name: "ann"})); err != nil {
		t.Errorf("resets an operator: %v", err)
	}
	_, err = b.admin.Admin.RemoveUser(ctx, connect.NewRequest(&api.RemoveUserRequest{Name: "admin"}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("the last admin goes: %v", err)
	}
}

// A "*" in a role was held against a "*" of the caller's alone, so that who is denied a part of it gave himself the role without the denial.
func TestWhatIsDeniedOfAllIsNotHadByGivingAll(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: most\nallow: {admin: [{resources: [\"*\"], verbs: [\"*\"]}]}\ndeny: {admin: [{resources: [ca, backup], verbs: [\"*\"]}]}\n")
	most := b.client(t, "max", "most").User
	for _, name := range []string{"max", "bob"} {
		_, err := most.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: name, Roles: []string{"admin"}}))
		wantCode(t, "gives "+name+" the administration he is denied", err, api.Code_CODE_DENIED)
	}
	if _, err := most.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: "eve", Roles: []string{"auditor"}})); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("gives a role that sees CAs: %v", err)
	}
	if _, err := most.InviteUser(t.Context(), connect.NewRequest(&api.InviteUserRequest{Name: "eve", Roles: []string{"operator"}})); err != nil {
		t.Errorf("gives a role that administers nothing: %v", err)
	}
}

// A certificate names the roles of its day, and hubs and devices go by those: one that lacks a role which denies must not stay good.
func TestARoleThatDeniesVoidsCertificatesThatDoNotNameIt(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, "kind: role\nname: nogw\ndeny: {devices: {name: [gw]}}\n---\n"+roleYAML("more", ""))
	p := b.invite(t, "ann", "operator", false)
	b.now.Add(int64(2 * time.Second))
	give := func(roles ...string) {
		t.Helper()
		if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: roles})); err != nil {
			t.Fatal(err)
		}
	}
	give("operator", "more")
	wantRefusal(t, "a role that denies nothing was given", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "")
	give("operator", "more", "nogw")
	wantRefusal(t, "a role that denies was given", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "void")
	cred, err := b.login(t, p, goodPassword, "")
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a login after it", h.admit(t, certRequest(cred, api.Kind_KIND_SESSION, "gw")), "device")
}

// A role that a certificate does not name gives nothing by it. What it denies holds from the moment it is written.
func TestWhatARoleComesToDenyHoldsForOlderCertificates(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	b.apply(t, roleYAML("later", ""))
	p := b.invite(t, "ann", "operator", false)
	b.now.Add(int64(2 * time.Second))
	if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{"operator", "later"}})); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a role that denies nothing was given", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "")
	b.apply(t, roleYAML("later", "")+"deny: {devices: {name: [gw]}}\n")
	wantRefusal(t, "it denies now", h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")), "device")
}

// THREATS P15: of edits at once one is last, and nothing of two is mixed.
func TestParallelEditsGiveNobodyWhatNobodyAskedFor(t *testing.T) {
	b := start(t)
	b.apply(t, roleYAML("one", "")+"---\n"+roleYAML("two", ""))
	b.user(t, "ann", "one")
	var wg sync.WaitGroup
	for i := range 40 {
		role := []string{"one", "two"}[i%2]
		key, err := ssh.NewPublicKey(newKey(t).Public())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := b.admin.User.SetUserRoles(t.Context(), connect.NewRequest(&api.SetUserRolesRequest{Name: "ann", Roles: []string{role}})); err != nil {
				t.Errorf("set roles: %v", err)
			}
		})
		if i < 20 {
			wg.Go(func() {
				if _, err := b.admin.User.AddUserKey(t.Context(), connect.NewRequest(&api.AddUserKeyRequest{Name: "ann", AuthorizedKey: string(ssh.MarshalAuthorizedKey(key))})); err != nil {
					t.Errorf("add a key: %v", err)
				}
			})
		}
	}
	wg.Wait()
	u, _ := b.view.user("ann")
	if len(u.Roles) != 1 || len(u.Keys) != 21 {
		t.Errorf("ann has roles %v and %d keys, want one role and 21 keys", u.Roles, len(u.Keys))
	}
}

func TestRemovedUserLeavesNothing(t *testing.T) {
	b := start(t)
	b.apply(t, "kind: role\nname: maker\nallow: {admin: [{resources: [token, hub], verbs: [create]}, {resources: [user], verbs: [create]}]}\n")
	p := b.invite(t, "ann", "maker", true)
	ctx := t.Context()
	if _, err := p.client.Admin.CreateToken(ctx, connect.NewRequest(&api.CreateTokenRequest{Kind: "hub"})); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.User.InviteUser(ctx, connect.NewRequest(&api.InviteUserRequest{Name: "friend", Roles: []string{"maker"}})); err != nil {
		t.Fatal(err)
	}
	if _, err := b.admin.Admin.RemoveUser(ctx, connect.NewRequest(&api.RemoveUserRequest{Name: "ann"})); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{tokenPrefix, invitePrefix, loginPrefix, userPrefix + "ann", keyPrefix} {
		kvs, _, err := b.state.Range(ctx, prefix, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range kvs {
			if prefix != keyPrefix || string(kv.Value) == "ann" {
				t.Errorf("left: %s", kv.Key)
			}
		}
	}
	_, err := p.client.Admin.Whoami(ctx, connect.NewRequest(&api.WhoamiRequest{}))
	wantCode(t, "his certificate", err, api.Code_CODE_BAD_CERTIFICATE)
}

func TestSourcesBindEveryCredential(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	p := b.invite(t, "ann", "operator", false)
	key, _ := ssh.NewPublicKey(newKey(t).Public())
	ctx := t.Context()
	if _, err := b.admin.User.AddUserKey(ctx, connect.NewRequest(&api.AddUserKeyRequest{Name: "ann", AuthorizedKey: string(ssh.MarshalAuthorizedKey(key))})); err != nil {
		t.Fatal(err)
	}
	set := func(nets ...string) {
		if _, err := b.admin.User.SetUserSources(ctx, connect.NewRequest(&api.SetUserSourcesRequest{Name: "ann", SourceAddresses: nets})); err != nil {
			t.Fatal(err)
		}
	}
	set("127.0.0.0/8", "192.0.2.1")
	b.now.Add(int64(2 * time.Second))
	cred, err := b.login(t, p, goodPassword, "")
	if err != nil {
		t.Fatal(err)
	}
	if got := sshCert(t, cred).CriticalOptions["source-address"]; got != "127.0.0.0/8,192.0.2.1/32" {
		t.Errorf("the certificate is good from %q", got)
	}
	elsewhere := func(r *api.AdmitRequest) *api.AdmitRequest { r.ClientAddress = "203.0.113.1:1"; return r }
	wantRefusal(t, "certificate", h.admit(t, certRequest(cred, api.Kind_KIND_SESSION, "gw")), "")
	wantRefusal(t, "certificate from elsewhere", h.admit(t, elsewhere(certRequest(cred, api.Kind_KIND_SESSION, "gw"))), "certificate")
	wantRefusal(t, "key from elsewhere", h.admit(t, elsewhere(request(key, "gw", "root"))), "source")
	set("192.0.2.0/24")
	b.now.Add(int64(2 * time.Second))
	_, err = b.login(t, p, goodPassword, "")
	wantCode(t, "password from elsewhere", err, api.Code_CODE_LOGIN_FAILED)
	if _, err = b.dial(t, tlsOf(p.key, cred)).Admin.Whoami(ctx, connect.NewRequest(&api.WhoamiRequest{})); connect.CodeOf(err) != connect.CodePermissionDenied && connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("API from elsewhere: %v", err)
	}
}

func TestAuthenticatorIsReplacedOnlyByACodeOfTheNewOne(t *testing.T) {
	b := start(t)
	b.beginStep()
	p := b.invite(t, "ann", "operator", true)
	ctx := t.Context()
	b.now.Add(int64(time.Minute))
	res, err := p.client.User.EnrolAuthenticator(ctx, connect.NewRequest(&api.EnrolAuthenticatorRequest{Password: goodPassword, Code: b.code(t, p, 0)}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.client.User.ConfirmAuthenticator(ctx, connect.NewRequest(&api.ConfirmAuthenticatorRequest{Code: b.code(t, p, 0)}))
	wantCode(t, "a code of the old one", err, api.Code_CODE_BAD_CODE)
	fresh := &person{secret: res.Msg.OtpSecret}
	if _, err = p.client.User.ConfirmAuthenticator(ctx, connect.NewRequest(&api.ConfirmAuthenticatorRequest{Code: b.code(t, fresh, 0)})); err != nil {
		t.Fatal(err)
	}
	b.now.Add(int64(time.Minute))
	_, err = b.login(t, p, goodPassword, b.code(t, p, 0))
	wantCode(t, "login with the old one", err, api.Code_CODE_LOGIN_FAILED)
	if _, err = b.login(t, p, goodPassword, b.code(t, fresh, 0)); err != nil {
		t.Errorf("login with the new one: %v", err)
	}
	if _, err = p.client.User.ChangePassword(ctx, connect.NewRequest(&api.ChangePasswordRequest{Password: goodPassword, Code: b.code(t, fresh, 1), NewPassword: "another phrase altogether"})); err != nil {
		t.Fatal(err)
	}
	b.now.Add(int64(2 * time.Minute))
	_, err = b.login(t, p, goodPassword, b.code(t, fresh, 0))
	wantCode(t, "the old password", err, api.Code_CODE_LOGIN_FAILED)
}

func TestLogoutEverywhereVoidsCertificates(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	p := b.invite(t, "ann", "operator", false)
	b.now.Add(int64(2 * time.Second))
	if _, err := p.client.User.Logout(t.Context(), connect.NewRequest(&api.LogoutRequest{Everywhere: true})); err != nil {
		t.Fatal(err)
	}
	if res := h.admit(t, certRequest(p.cred, api.Kind_KIND_SESSION, "gw")); res.Refusal == nil {
		t.Error("a session by a certificate of before")
	}
	if _, err := p.client.Admin.Whoami(t.Context(), connect.NewRequest(&api.WhoamiRequest{})); err == nil {
		t.Error("a call by a certificate of before")
	}
	cred, err := b.login(t, p, goodPassword, "")
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "a login right after", h.admit(t, certRequest(cred, api.Kind_KIND_SESSION, "gw")), "")
}

// The first version stored a user's keys as blobs alone.
func TestUserOfTheFirstVersionLoads(t *testing.T) {
	var u userRecord
	if err := json.Unmarshal([]byte(`{"name":"ann","roles":["operator"],"keys":["AAEC","AwQ="],"created":"2026-01-02T03:04:05Z"}`), &u); err != nil {
		t.Fatal(err)
	}
	if len(u.Keys) != 2 || string(u.Keys[0].Blob) != "\x00\x01\x02" || u.key([]byte{3, 4}) == nil {
		t.Errorf("got %+v", u)
	}
	again, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	var v userRecord
	if err := json.Unmarshal(again, &v); err != nil || string(v.Keys[1].Blob) != "\x03\x04" {
		t.Errorf("came back as %+v, %v", v, err)
	}
}

func TestSourcesAreNetworks(t *testing.T) {
	got, err := parseSources([]string{"192.0.2.7/24", "2001:db8::1", "192.0.2.0/24"})
	if err != nil || !slices.Equal(got, []string{"192.0.2.0/24", "2001:db8::1/128"}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "here", "192.0.2.0/33", "::ffff:192.0.2.0/120", "fe80::1%eth0"} {
		if _, err := parseSources([]string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if !from(got, netip.MustParseAddr("::ffff:192.0.2.9")) || from(got, netip.MustParseAddr("192.0.3.1")) || !from(nil, netip.Addr{}) {
		t.Error("networks are not matched as they should be")
	}
	if fromAddr(got, "garbage") {
		t.Error("an address that cannot be read is in a network")
	}
}

func BenchmarkLogin(b *testing.B) {
	h := newHasher()
	hash, err := h.make(context.Background(), "192.0.2.1", goodPassword)
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if ok, _, err := h.check(context.Background(), "192.0.2.1", goodPassword, hash); !ok && err == nil {
				b.Error("refused")
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
}
