package auth

import (
	"crypto/ed25519"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// userauthRequest is what a client signs to log in: RFC 4252, section 7.
func userauthRequest(session []byte, user, service, method, algorithm string, key []byte) []byte {
	return ssh.Marshal(struct {
		Session               []byte
		Type                  byte
		User, Service, Method string
		Signed                bool
		Algorithm             string
		Key                   []byte
	}{session, msgUserauthRequest, user, service, method, true, algorithm, key})
}

func TestOnlyALoginIsSigned(t *testing.T) {
	session, key := make([]byte, 32), []byte("a key")
	good := userauthRequest(session, "root", "ssh-connection", "publickey", "ssh-ed25519", key)
	u, err := parseUserauth(good)
	if err != nil || u.user != "root" || u.algorithm != "ssh-ed25519" || string(u.key) != "a key" || len(u.session) != 32 {
		t.Fatalf("%+v, %v", u, err)
	}
	unsigned := append([]byte(nil), good...)
	unsigned[4+32+1+4+len("root")+4+len("ssh-connection")+4+len("publickey")] = 0
	for name, b := range map[string][]byte{
		"nothing":          nil,
		"a byte more":      append(append([]byte(nil), good...), 0),
		"a byte less":      good[:len(good)-1],
		"another service":  userauthRequest(session, "root", "ssh-userauth", "publickey", "ssh-ed25519", key),
		"another method":   userauthRequest(session, "root", "ssh-connection", "hostbased", "ssh-ed25519", key),
		"a bound method":   userauthRequest(session, "root", "ssh-connection", "publickey-hostbound-v00@openssh.com", "ssh-ed25519", key),
		"a query":          unsigned,
		"a short session":  userauthRequest(session[:8], "root", "ssh-connection", "publickey", "ssh-ed25519", key),
		"an SSHSIG":        append([]byte("SSHSIG"), good...),
		"a certificate":    []byte("\x00\x00\x00\x20ssh-ed25519-cert-v01@openssh.com"),
		"a long session":   userauthRequest(make([]byte, 65), "root", "ssh-connection", "publickey", "ssh-ed25519", key),
		"lengths that lie": []byte("\xff\xff\xff\xff"),
	} {
		if _, err := parseUserauth(b); err == nil {
			t.Errorf("%s was taken for a login", name)
		}
	}
}

func FuzzUserauth(f *testing.F) {
	f.Add(userauthRequest(make([]byte, 32), "root", "ssh-connection", "publickey", "ssh-ed25519", []byte("a key")))
	f.Add([]byte{0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := parseUserauth(b)
		if err == nil && string(userauthRequest(u.session, u.user, "ssh-connection", "publickey", u.algorithm, u.key)) != string(b) {
			t.Error("what was read is not what was signed")
		}
	})
}

func TestALoginIsBoundToTheHostThatSignedItsKeyExchange(t *testing.T) {
	signer := func() ssh.Signer {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		s, err := ssh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	host, other, session := signer(), signer(), []byte("exchange hash of 32 bytes, as is")
	sign := func(s ssh.Signer, b []byte) []byte {
		sig, err := s.Sign(rand.Reader, b)
		if err != nil {
			t.Fatal(err)
		}
		return ssh.Marshal(sig)
	}
	key := host.PublicKey().Marshal()
	if err := verifyBinding(key, session, sign(host, session)); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another host":    verifyBinding(key, session, sign(other, session)),
		"another session": verifyBinding(key, session, sign(host, append([]byte("x"), session...))),
		"no signature":    verifyBinding(key, session, nil),
		"no key":          verifyBinding(nil, session, sign(host, session)),
	} {
		if err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestAGrantLogsInAFewTimesOnly(t *testing.T) {
	var l targetLogins
	now := time.Now()
	g := &grant.Grant{ID: [16]byte{1}, Kind: grant.Session, NotAfter: now.Add(time.Minute)}
	for i := range sessionLogins {
		if !l.take(g, now) {
			t.Fatalf("use %d was refused", i+1)
		}
	}
	if l.take(g, now) {
		t.Error("one more was allowed")
	}
	if !l.take(&grant.Grant{ID: [16]byte{2}, Kind: grant.Forwards, NotAfter: now.Add(time.Minute)}, now) {
		t.Error("another grant was refused for it")
	}
	// A page that polls through a forward, with a stored key: two uses every 6 s. After three minutes one of its connections failed.
	polls := &grant.Grant{ID: [16]byte{4}, Kind: grant.Forwards, NotAfter: now.Add(5 * time.Minute)}
	for at := time.Duration(0); at < 5*time.Minute; at += 6 * time.Second {
		for range 2 {
			if !l.take(polls, now) {
				t.Fatalf("a login after %v was refused", at)
			}
		}
	}
	delete(l.used, polls.ID)
	l.take(&grant.Grant{ID: [16]byte{3}, NotAfter: now.Add(time.Hour)}, now.Add(2*time.Minute))
	if len(l.used) != 1 {
		t.Errorf("%d grants are remembered after all but one expired", len(l.used))
	}
}

func TestAnAddressOfALoopbackHasToBeMeant(t *testing.T) {
	for address, local := range map[string]bool{
		"127.0.0.1:22": true, "[::1]:22": true, "localhost:22": true, "LOCALHOST.:22": true, "x.localhost:22": true, "169.254.169.254:80": true, "[fe80::1]:22": true,
		"192.168.1.20:22": false, "cam3.lan:22": false, "[2001:db8::1]:22": false,
	} {
		if err := checkTargetAddress(address, false); (err != nil) != local {
			t.Errorf("%s: %v", address, err)
		}
		if err := checkTargetAddress(address, true); err != nil {
			t.Errorf("%s, meant: %v", address, err)
		}
	}
	for _, address := range []string{"", "cam3", "cam3:", "cam3:0", "cam3:70000", "10.0.0.0/8:22", "*:22", "cam*:22", "cam3:22-23", "0.0.0.0:22", "224.0.0.1:22", "a b:22", strings.Repeat("a", 400) + ":22"} {
		if checkTargetAddress(address, true) == nil {
			t.Errorf("%q was taken", address)
		}
	}
}

func TestAStoredKeyOpensUnderItsOwnNameAlone(t *testing.T) {
	b := start(t)
	k, err := targetService{b.Server}.newTargetKey("cameras", nil)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(k.Sealed), "PRIVATE KEY") {
		t.Error("the private half is stored in the clear")
	}
	if _, err := b.targetSigner(k); err != nil {
		t.Error(err)
	}
	k.Name = "others"
	if _, err := b.targetSigner(k); err == nil {
		t.Error("a record under another name opened")
	}
	if _, err := (targetService{b.Server}).newTargetKey("cameras", []byte("not a key")); err == nil {
		t.Error("what is no key was stored")
	}
}

// behindBench is a cluster with a gateway and a server behind it, and a person with a session on that.
type behindBench struct {
	*bench
	hub     *testHub
	key     ssh.PublicKey // the person's
	stored  *api.TargetKey
	host    ssh.Signer
	place   *api.AdmitResponse
	request *api.AdmitRequest
}

func newSSHSigner(t *testing.T) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func behind(t *testing.T, stored bool) *behindBench {
	t.Helper()
	b := &behindBench{bench: start(t)}
	b.hub, b.host = b.bench.hub(t), newSSHSigner(t)
	b.hub.watch(t)
	b.device(t, b.hub, "gw")
	target := &api.Target{Name: "cam", Via: "gw", Address: "192.168.1.20:22", Logins: []string{"root"}, HostKey: b.host.PublicKey().Marshal()}
	if stored {
		k, err := b.admin.Target.AddTargetKey(t.Context(), connect.NewRequest(&api.AddTargetKeyRequest{Name: "cameras"}))
		if err != nil {
			t.Fatal(err)
		}
		b.stored, target.Key = k.Msg, "cameras"
	}
	if _, err := b.admin.Target.AddTargets(t.Context(), connect.NewRequest(&api.AddTargetsRequest{Targets: []*api.Target{target}})); err != nil {
		t.Fatal(err)
	}
	b.key = b.user(t, "bob", "operator")
	b.request = request(b.key, "cam", "root")
	b.request.Incarnation = nil
	if b.place = b.hub.admit(t, b.request); b.place.Refusal != nil {
		t.Fatal(b.place.Refusal)
	}
	return b
}

func (b *behindBench) open(t *testing.T, h *testHub, blob []byte) (*api.OpenTargetResponse, error) {
	t.Helper()
	res, err := h.Target.OpenTarget(t.Context(), connect.NewRequest(&api.OpenTargetRequest{
		Grant: blob, Incarnation: id16(), PublicKey: newSSHSigner(t).PublicKey().Marshal()}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func TestACertificateForAServerIsForThatLoginOfThatSession(t *testing.T) {
	b := behind(t, false)
	res, err := b.open(t, b.hub, b.place.Grant)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(res.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	cert := key.(*ssh.Certificate)
	if life := time.Unix(int64(cert.ValidBefore), 0).Sub(b.cfg.Now()); life > ca.MaxTargetTTL || life <= 0 {
		t.Errorf("it lives %v", life)
	}
	if strings.Join(cert.ValidPrincipals, " ") != "root root@cam" || !strings.Contains(cert.KeyId, "bob") {
		t.Errorf("principals %q, key id %q", cert.ValidPrincipals, cert.KeyId)
	}
	if _, forwards := cert.Extensions["permit-port-forwarding"]; forwards {
		t.Error("a session's certificate forwards")
	}
	if _, err := ca.VerifyUserCert(cert, b.trusted(), b.cfg.Now(), nil); err == nil {
		t.Error("hubs and devices of the cluster would take it for a person's")
	}
	g, err := grant.Open(res.Forwards, b.trusted().GrantKeys)
	if err != nil {
		t.Fatal(err)
	}
	if gw := b.show(t, "gw"); wire.UUID(g.Device).String() != gw.Uuid || len(g.ForwardTo) != 1 || g.ForwardTo[0] != "192.168.1.20:22" || g.Behind == [16]byte{} {
		t.Errorf("the way there: %+v", g)
	}
	if _, err := b.open(t, b.hub, res.Forwards); err == nil {
		t.Error("the way there opened another")
	}
}

func TestAHubLogsInToServersForItsOwnLiveSessionsAlone(t *testing.T) {
	b := behind(t, false)
	refused := func(what string, h *testHub, blob []byte) {
		t.Helper()
		if _, err := b.open(t, h, blob); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s: %v", what, err)
		}
	}
	onGateway := request(b.key, "gw", "root")
	if res := b.hub.admit(t, onGateway); res.Refusal == nil {
		refused("a grant for a device with an agent", b.hub, res.Grant)
	}
	forged := append([]byte(nil), b.place.Grant...)
	forged[len(forged)-1] ^= 1
	refused("a grant nobody signed", b.hub, forged)
	b.mustLock(t, &api.StandingLock{Login: "root", Message: "no"})
	refused("a locked login", b.hub, b.place.Grant)
	other := b.hub.admit(t, b.request)
	if other.Refusal == nil {
		t.Error("a locked login was admitted")
	}
	if _, err := b.hub.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: b.place.SessionId})); err != nil {
		t.Fatal(err)
	}
	refused("a session that has ended", b.hub, b.place.Grant)
}

func TestTheStoredKeySignsLoginsToThePinnedHostAndNothingElse(t *testing.T) {
	b := behind(t, true)
	session := make([]byte, 32)
	rand.Read(session)
	bind := func(s ssh.Signer, b []byte) []byte {
		sig, err := s.Sign(rand.Reader, b)
		if err != nil {
			t.Fatal(err)
		}
		return ssh.Marshal(sig)
	}
	if res, err := b.open(t, b.hub, b.place.Grant); err != nil || len(res.Certificate) > 0 || string(res.StoredKey) != string(b.stored.PublicKey) {
		t.Fatalf("%v, %v", res, err)
	}
	good := func() *api.SignForTargetRequest {
		return &api.SignForTargetRequest{Grant: b.place.Grant, Algorithm: ssh.KeyAlgoED25519, HostKey: b.host.PublicKey().Marshal(), HostSignature: bind(b.host, session),
			Data: userauthRequest(session, "root", "ssh-connection", "publickey", ssh.KeyAlgoED25519, b.stored.PublicKey)}
	}
	sign := func(r *api.SignForTargetRequest) ([]byte, error) {
		b.logins.mu.Lock()
		clear(b.logins.used) // what is looked at here is not the number
		b.logins.mu.Unlock()
		res, err := b.hub.Target.SignForTarget(t.Context(), connect.NewRequest(r))
		if err != nil {
			return nil, err
		}
		return res.Msg.Signature, nil
	}
	blob, err := sign(good())
	if err != nil {
		t.Fatal(err)
	}
	var sig ssh.Signature
	key, _ := ssh.ParsePublicKey(b.stored.PublicKey)
	if err := ssh.Unmarshal(blob, &sig); err != nil || key.Verify(good().Data, &sig) != nil {
		t.Errorf("the signature does not hold: %v", err)
	}
	other := newSSHSigner(t)
	for name, change := range map[string]func(*api.SignForTargetRequest){
		"another login": func(r *api.SignForTargetRequest) {
			r.Data = userauthRequest(session, "admin", "ssh-connection", "publickey", ssh.KeyAlgoED25519, b.stored.PublicKey)
		},
		"another key": func(r *api.SignForTargetRequest) {
			r.Data = userauthRequest(session, "root", "ssh-connection", "publickey", ssh.KeyAlgoED25519, other.PublicKey().Marshal())
		},
		"another host, with its own signature": func(r *api.SignForTargetRequest) {
			r.HostKey, r.HostSignature = other.PublicKey().Marshal(), bind(other, session)
		},
		"the host's key, another's signature": func(r *api.SignForTargetRequest) { r.HostSignature = bind(other, session) },
		"a session the host did not sign":     func(r *api.SignForTargetRequest) { r.HostSignature = bind(b.host, []byte("another")) },
		"no binding":                          func(r *api.SignForTargetRequest) { r.HostKey, r.HostSignature = nil, nil },
		"a file":                              func(r *api.SignForTargetRequest) { r.Data = []byte("SSHSIG and more") },
		"SHA-1":                               func(r *api.SignForTargetRequest) { r.Algorithm = ssh.KeyAlgoRSA },
	} {
		r := good()
		change(r)
		if _, err := sign(r); connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnotherHostKeyIsRefusedUntilAPersonTakesIt(t *testing.T) {
	b := behind(t, false)
	pin := func(key ssh.PublicKey) *api.PinHostKeyResponse {
		t.Helper()
		res, err := b.hub.Target.PinHostKey(t.Context(), connect.NewRequest(&api.PinHostKeyRequest{Grant: b.place.Grant, HostKey: key.Marshal()}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg
	}
	if !pin(b.host.PublicKey()).Ok {
		t.Error("the pinned key was refused")
	}
	other := newSSHSigner(t).PublicKey()
	print := ssh.FingerprintSHA256(other)
	if res := pin(other); res.Ok || !strings.Contains(res.Message, "hawser device accept-key cam "+print) {
		t.Errorf("another key: %v", res)
	}
	if d := b.show(t, "cam"); d.Behind.Offered != print || d.Behind.HostKey != ssh.FingerprintSHA256(b.host.PublicKey()) {
		t.Errorf("shown: %v", d.Behind)
	}
	accept := func(print string) error {
		_, err := b.admin.Target.AcceptHostKey(t.Context(), connect.NewRequest(&api.AcceptHostKeyRequest{Device: "cam", Fingerprint: print}))
		return err
	}
	if accept("SHA256:another") == nil {
		t.Error("a key was accepted that was not offered")
	}
	if err := accept(print); err != nil {
		t.Fatal(err)
	}
	if !pin(other).Ok {
		t.Error("the accepted key was refused")
	}
}

func TestAServerThatGetsTheAgentKeepsItsName(t *testing.T) {
	b := behind(t, false)
	was := b.show(t, "cam")
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge", Approve: true})
	if _, err := b.hub.joinDevice(t.Context(), token.Secret, newKey(t), "fresh", "192.0.2.7:1"); err == nil {
		t.Fatal("it did not wait for approval")
	}
	b.approve(t, &api.ApproveDevicesRequest{Devices: []string{"fresh"}, As: "cam"})
	if d := b.show(t, "cam"); d.Uuid != was.Uuid || d.Behind != nil || d.Fingerprint == "" {
		t.Errorf("%v", d)
	}
	if _, err := b.open(t, b.hub, b.place.Grant); err == nil {
		t.Error("it is still logged in to")
	}
}

func TestServersWithoutAnAgentAreAddedAllOrNone(t *testing.T) {
	b := behind(t, false)
	add := func(list ...*api.Target) (*api.AddTargetsResponse, error) {
		res, err := b.admin.Target.AddTargets(t.Context(), connect.NewRequest(&api.AddTargetsRequest{Targets: list}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	one := &api.Target{Name: "cam-1", Via: "gw", Address: "192.168.1.21:22"}
	for name, bad := range map[string]*api.Target{
		"a name that is taken":   {Name: "gw", Via: "gw", Address: "192.168.1.22:22"},
		"no name":                {Via: "gw", Address: "192.168.1.22:22"},
		"no such device":         {Name: "cam-2", Via: "gw-9", Address: "192.168.1.22:22"},
		"behind one behind":      {Name: "cam-2", Via: "cam", Address: "192.168.1.22:22"},
		"the loopback":           {Name: "cam-2", Via: "hub", Address: "127.0.0.1:22"},
		"no such key":            {Name: "cam-2", Via: "gw", Address: "192.168.1.22:22", Key: "none"},
		"a login of another":     {Name: "cam-2", Via: "gw", Address: "192.168.1.22:22", Logins: []string{"root@cam"}},
		"a key that is none":     {Name: "cam-2", Via: "gw", Address: "192.168.1.22:22", HostKey: []byte("x")},
		"a network":              {Name: "cam-2", Via: "gw", Address: "192.168.1.0/24:22"},
		"the same name as above": {Name: "cam-1", Via: "gw", Address: "192.168.1.22:22"},
	} {
		if _, err := add(one, bad); err == nil || b.view.device("cam-1") != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if res, err := add(one); err != nil || res.Added != 1 {
		t.Fatalf("%v, %v", res, err)
	}
	if res, err := add(one); err != nil || res.Added != 0 || res.Unchanged != 1 {
		t.Errorf("again: %v, %v", res, err)
	}
}

// That an address is the loopback's, and meant, was said of one way by somebody with the right to it. `device set --via hub` carried it over, and let
// whoever may update devices open the loopback of every hub.
func TestALocalAddressDoesNotMoveWithoutTheRight(t *testing.T) {
	b := behind(t, false)
	b.applyRole(t, "kind: role\nname: inventory\nallow: {devices: {\"*\": [\"*\"]}, logins: [\"*\"], channels: [shell], ways: [hub], admin: [{resources: [device], verbs: [\"*\"]}]}\n")
	inventory := b.client(t, "ivy", "inventory")
	b.device(t, b.hub, "gw-2")
	add := func(name string) {
		t.Helper()
		if _, err := b.admin.Target.AddTargets(t.Context(), connect.NewRequest(&api.AddTargetsRequest{Targets: []*api.Target{
			{Name: name, Via: "gw", Address: "127.0.0.1:22", Local: true}}})); err != nil {
			t.Fatal(err)
		}
	}
	add("svc")
	for name, r := range map[string]*api.SetTargetRequest{
		"to the hub":                {Via: "hub"},
		"to another device":         {Via: "gw-2"},
		"to another of its ports":   {Address: "127.0.0.1:6379"},
		"meant again":               {Local: true},
		"to the hub, and meant":     {Via: "hub", Local: true},
		"to another, and not local": {Address: "127.0.0.1:6379", Via: "gw-2"},
	} {
		r.Device = "svc"
		if _, err := inventory.Target.SetTarget(t.Context(), connect.NewRequest(r)); err == nil {
			t.Errorf("%s: it was done: %+v", name, b.view.device("svc").Target)
		}
	}
	if _, err := inventory.Target.SetTarget(t.Context(), connect.NewRequest(&api.SetTargetRequest{Device: "svc", Logins: []string{"svc"}})); err != nil {
		t.Errorf("its logins: %v", err)
	}
	if d := b.view.device("svc").Target; !d.Local || d.Via == "hub" || d.Logins[0] != "svc" {
		t.Errorf("it is %+v", d)
	}
	// To an address that is none of the loopback it may go, and what was meant ends.
	if _, err := inventory.Target.SetTarget(t.Context(), connect.NewRequest(&api.SetTargetRequest{Device: "svc", Address: "192.168.1.9:22"})); err != nil {
		t.Error(err)
	}
	if d := b.view.device("svc").Target; d.Local {
		t.Errorf("it is %+v", d)
	}
}

// Auth knows sessions and no forwards: a forward to the old address went on, and new ones went there too, over the login that was open.
func TestHubsEndForwardsToAServerThatMoved(t *testing.T) {
	b := behind(t, false)
	h := b.bench.hub(t)
	stream, _ := h.watch(t)
	if _, err := b.admin.Target.SetTarget(t.Context(), connect.NewRequest(&api.SetTargetRequest{Device: "cam", Address: "192.168.1.9:22"})); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		for _, k := range stream.Msg().Kills {
			if k.DeviceUuid == b.show(t, "cam").Uuid && k.Reason != "" {
				return
			}
		}
	}
	t.Fatal(stream.Err())
}

func TestARefusedLoginNamesThoseThatThereAre(t *testing.T) {
	for want, logins := range map[string][]string{"cam has no login root@x": nil, "cam has no login root@x; it has root, admin": {"root", "admin"}} {
		d := &deviceRecord{Name: "cam", Target: &targetRecord{Logins: logins}}
		if ref := d.refuseBehind(policy.WayHub, "root@x"); ref == nil || ref.message != want {
			t.Errorf("%v, want %q", ref, want)
		}
	}
}
