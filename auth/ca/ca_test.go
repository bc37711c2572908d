package ca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const testUUID = "6f1c0a9e-1a2b-4c3d-8e4f-0123456789ab"

func newSet(t testing.TB, cluster string) (*Set, *Trust) {
	t.Helper()
	s, err := NewSet(cluster, t0)
	if err != nil {
		t.Fatal(err)
	}
	trust := s.Trust(1)
	return s, &trust
}

func newKey(t testing.TB) (ed25519.PrivateKey, ssh.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return key, k
}

func userCert(t testing.TB, s *Set) *ssh.Certificate {
	t.Helper()
	_, pub := newKey(t)
	c, err := s.IssueUser(UserRequest{Name: "alice", Roles: []string{"field", "lead"}, Key: pub, TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// resign changes a certificate and signs it anew with an authority's key.
func resign(t testing.TB, s *Set, kind Kind, c *ssh.Certificate, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	change(c)
	signer, err := s.Authority(kind).sshSigner()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SignCert(rand.Reader, signer); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestUserCertificateHoldsWhatTheDesignSays(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	c := userCert(t, s)
	if c.KeyId != "alice" || len(c.ValidPrincipals) != 1 || c.ValidPrincipals[0] != "hawser:user:alice" {
		t.Errorf("key id %q, principals %q", c.KeyId, c.ValidPrincipals)
	}
	if got, want := c.ValidAfter, uint64(t0.Add(-2*time.Minute).Unix()); got != want {
		t.Errorf("ValidAfter %d, want %d", got, want)
	}
	parsed, err := ssh.ParsePublicKey(c.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	id, err := VerifyUserCert(parsed.(*ssh.Certificate), trust, t0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if id.Name != "alice" || strings.Join(id.Roles, ",") != "field,lead" || !id.IssuedAt.Equal(t0) || !id.NotAfter.Equal(t0.Add(time.Hour)) {
		t.Errorf("identity %+v", id)
	}
}

func TestEveryWrongUserCertificateIsRefusedByName(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	other, _ := newSet(t, "ber.example")
	foreign, _ := newSet(t, "ams.example")
	bigKey := func(bits int) ssh.PublicKey {
		n := new(big.Int).Lsh(big.NewInt(1), uint(bits-1))
		k, err := ssh.NewPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	limited := func(c *ssh.Certificate) {
		c.CriticalOptions = map[string]string{"source-address": "192.0.2.0/24,2001:db8::1"}
	}
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 4711} }
	nothing := func(*ssh.Certificate) {}
	tests := []struct {
		name   string
		set    *Set
		kind   Kind
		change func(*ssh.Certificate)
		now    time.Time
		remote net.Addr
		want   error
	}{
		{"good", s, UserCA, nothing, t0, nil, nil},
		{"host as user", s, UserCA, func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, t0, nil, ErrWrongType},
		{"host CA", s, DeviceHostCA, nothing, t0, nil, ErrWrongCA},
		{"other CA", other, UserCA, nothing, t0, nil, ErrUnknownCA},
		{"other cluster's CA", foreign, UserCA, nothing, t0, nil, ErrUnknownCA},
		{"other cluster", s, UserCA, func(c *ssh.Certificate) { c.Extensions[extCluster] = "ams.example" }, t0, nil, ErrWrongCluster},
		{"no cluster", s, UserCA, func(c *ssh.Certificate) { delete(c.Extensions, extCluster) }, t0, nil, ErrWrongCluster},
		{"empty principals", s, UserCA, func(c *ssh.Certificate) { c.ValidPrincipals = nil }, t0, nil, ErrNoPrincipals},
		{"wrong principal", s, UserCA, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} }, t0, nil, ErrWrongPrincipal},
		{"another user's principal", s, UserCA, func(c *ssh.Certificate) { c.ValidPrincipals = []string{"hawser:user:bob"} }, t0, nil, ErrWrongPrincipal},
		{"a principal too many", s, UserCA, func(c *ssh.Certificate) { c.ValidPrincipals = append(c.ValidPrincipals, "root") }, t0, nil, ErrWrongPrincipal},
		{"hostile name", s, UserCA, func(c *ssh.Certificate) { c.KeyId = "a\x1b[2J"; c.ValidPrincipals = []string{UserPrincipal(c.KeyId)} }, t0, nil, ErrMalformed},
		{"no issue time", s, UserCA, func(c *ssh.Certificate) { delete(c.Extensions, extIssuedAt) }, t0, nil, ErrMalformed},
		{"not yet valid", s, UserCA, nothing, t0.Add(-Backdate - time.Second), nil, ErrNotYetValid},
		{"in 1960", s, UserCA, nothing, time.Unix(-1e9, 0), nil, ErrNotYetValid},
		{"expired to the second", s, UserCA, nothing, t0.Add(time.Hour), nil, ErrExpired},
		{"last second", s, UserCA, nothing, t0.Add(time.Hour - time.Second), nil, nil},
		{"unknown critical option", s, UserCA, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }, t0, nil, ErrCriticalOption},
		{"force-command", s, UserCA, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "id"} }, t0, nil, ErrCriticalOption},
		{"RSA 8192", s, UserCA, func(c *ssh.Certificate) { c.Key = bigKey(8192) }, t0, nil, ErrKeySize},
		{"RSA 4096", s, UserCA, func(c *ssh.Certificate) { c.Key = bigKey(4096) }, t0, nil, nil},
		{"RSA 1024", s, UserCA, func(c *ssh.Certificate) { c.Key = bigKey(1024) }, t0, nil, ErrKeySize},
		{"source elsewhere", s, UserCA, limited, t0, at("127.0.0.1"), ErrSourceAddress},
		{"source inside", s, UserCA, limited, t0, at("192.0.2.9"), nil},
		{"source v6", s, UserCA, limited, t0, at("2001:db8::1"), nil},
		{"source unknown", s, UserCA, limited, t0, nil, ErrSourceAddress},
		{"source no TCP", s, UserCA, limited, t0, &net.UnixAddr{Name: "x"}, ErrSourceAddress},
		{"source garbled", s, UserCA, func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.9,x"} }, t0, at("192.0.2.9"), ErrSourceAddress},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := resign(t, tt.set, tt.kind, userCert(t, s), tt.change)
			if _, err := VerifyUserCert(c, trust, tt.now, tt.remote); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("nested", func(t *testing.T) {
		c := userCert(t, s)
		c.SignatureKey = userCert(t, s)
		if _, err := VerifyUserCert(c, trust, t0, nil); !errors.Is(err, ErrNested) {
			t.Errorf("got %v", err)
		}
		c = userCert(t, s)
		c.Key = userCert(t, s)
		if _, err := VerifyUserCert(c, trust, t0, nil); !errors.Is(err, ErrNested) {
			t.Errorf("certificate as key: %v", err)
		}
	})
	t.Run("changed after signing", func(t *testing.T) {
		c := userCert(t, s)
		c.Extensions[extRoles] = "admin"
		if _, err := VerifyUserCert(c, trust, t0, nil); !errors.Is(err, ErrBadSignature) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		for _, c := range []*ssh.Certificate{nil, {}} {
			if _, err := VerifyUserCert(c, trust, t0, nil); !errors.Is(err, ErrNoCertificate) {
				t.Errorf("got %v", err)
			}
		}
	})
	t.Run("user as host", func(t *testing.T) {
		if err := VerifyHostCert(userCert(t, s), trust, DeviceHostCA, "gw-1", t0); !errors.Is(err, ErrWrongType) {
			t.Errorf("got %v", err)
		}
	})
}

func device(t testing.TB, s *Set) ([]*x509.Certificate, *ssh.Certificate) {
	t.Helper()
	key, _ := newKey(t)
	chain, host, err := s.IssueDevice(DeviceRequest{UUID: testUUID, Name: "gw-1", Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.ParsePublicKey(host)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, chain), k.(*ssh.Certificate)
}

func parse(t testing.TB, chain [][]byte) []*x509.Certificate {
	t.Helper()
	var out []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, c)
	}
	return out
}

func TestDeviceHostCertificate(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	_, host := device(t, s)
	for _, tt := range []struct {
		kind      Kind
		principal string
		now       time.Time
		want      error
	}{
		{DeviceHostCA, "gw-1", t0, nil},
		{DeviceHostCA, testUUID, t0.Add(-23 * time.Hour), nil},
		{DeviceHostCA, "gw-2", t0, ErrWrongPrincipal},
		{HubHostCA, "gw-1", t0, ErrWrongCA},
		{DeviceHostCA, "gw-1", t0.Add(-25 * time.Hour), ErrNotYetValid},
		{DeviceHostCA, "gw-1", t0.Add(time.Hour), ErrExpired},
	} {
		if err := VerifyHostCert(host, trust, tt.kind, tt.principal, tt.now); !errors.Is(err, tt.want) {
			t.Errorf("%v %s %v: got %v, want %v", tt.kind, tt.principal, tt.now, err, tt.want)
		}
	}
	if _, err := VerifyUserCert(host, trust, t0, nil); !errors.Is(err, ErrWrongType) {
		t.Errorf("host as user: %v", err)
	}
}

func TestPeersOfEveryRole(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	key, _ := newKey(t)
	pub := key.Public().(ed25519.PublicKey)
	hub, hostCert, err := s.IssueHub(HubRequest{UUID: testUUID, Name: "hub-1", Principals: []string{"hub.example", "127.0.0.1"}, Key: pub, TTL: time.Hour, Now: t0})
	if err != nil || len(hostCert) == 0 {
		t.Fatal(err)
	}
	auth, err := s.IssueAuth(AuthRequest{UUID: testUUID, Name: "auth", Key: pub, TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	user, err := s.IssueUserX509(UserX509Request{Name: "alice@example.com", Key: pub, TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	dev, _ := device(t, s)
	for role, chain := range map[Role][]*x509.Certificate{RoleHub: parse(t, hub), RoleAuth: parse(t, auth), RoleUser: parse(t, user), RoleDevice: dev} {
		id, err := VerifyPeer(chain, trust, t0)
		if err != nil || id.Role != role || id.Cluster != "ber.example" || id.Require(role) != nil {
			t.Errorf("%s: %+v, %v", role, id, err)
		}
		if role != RoleHub && !errors.Is(id.Require(RoleHub), ErrWrongRole) {
			t.Errorf("%s passes for a hub", role)
		}
	}
}

func TestEveryWrongPeerIsRefusedByName(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	other, _ := newSet(t, "ber.example")
	chain, _ := device(t, s)
	stranger, _ := device(t, other)
	key, _ := newKey(t)
	pub := key.Public().(ed25519.PublicKey)

	forge := func(parent *x509.Certificate, signer ed25519.PrivateKey, change func(*x509.Certificate)) []*x509.Certificate {
		c := &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{Organization: []string{"ber.example"}, CommonName: testUUID},
			NotBefore: t0.Add(-time.Hour), NotAfter: t0.Add(time.Hour), BasicConstraintsValid: true,
			URIs:            []*url.URL{{Scheme: "hawser", Host: "ber.example", Path: "/device/" + testUUID}},
			ExtraExtensions: []pkix.Extension{{Id: oidRole, Value: utf8String("device")}, {Id: oidName, Value: utf8String("gw-1")}},
		}
		change(c)
		der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, signer)
		if err != nil {
			t.Fatal(err)
		}
		return append(parse(t, [][]byte{der}), parent)
	}
	root, rootKey := chain[1], s.Authority(TunnelCA).key
	leafKey, _ := newKey(t)
	leafChain, _, err := s.IssueDevice(DeviceRequest{UUID: testUUID, Name: "gw-1", Key: leafKey.Public().(ed25519.PublicKey), TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	leaf := parse(t, leafChain)[0]
	self, err := SelfSigned(key, t0)
	if err != nil {
		t.Fatal(err)
	}
	as := func(f func(*x509.Certificate)) []*x509.Certificate { return forge(root, rootKey, f) }
	tests := []struct {
		name   string
		chain  []*x509.Certificate
		now    time.Time
		want   error
		filled bool
	}{
		{"good", chain, t0, nil, true},
		{"without its CA", chain[:1], t0, nil, true},
		{"none", nil, t0, ErrNoCertificate, false},
		{"too long", []*x509.Certificate{leaf, root, root, root, root}, t0, ErrMalformed, false},
		{"CA as peer", chain[1:], t0, ErrNested, false},
		{"other CA of the same name", stranger, t0, ErrUnknownCA, false},
		{"self-signed", parse(t, [][]byte{self}), t0, ErrUnknownCA, false},
		{"signed by a device", forge(leaf, leafKey, func(*x509.Certificate) {}), t0, ErrNested, false},
		{"expired", chain, t0.Add(2 * time.Hour), ErrExpired, true},
		{"not yet valid", chain, t0.Add(-25 * time.Hour), ErrNotYetValid, true},
		{"after the CA", chain, t0.Add(CALife + time.Hour), ErrCAExpired, false},
		{"other cluster", as(func(c *x509.Certificate) { c.Subject.Organization[0] = "x"; c.URIs[0].Host = "x" }), t0, ErrWrongCluster, false},
		{"clusters disagree", as(func(c *x509.Certificate) { c.URIs[0].Host = "x" }), t0, ErrMalformed, false},
		{"unknown role", as(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = utf8String("king") }), t0, ErrWrongRole, false},
		{"no role", as(func(c *x509.Certificate) { c.ExtraExtensions = nil }), t0, ErrMalformed, false},
		{"roles disagree", as(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = utf8String("hub") }), t0, ErrMalformed, false},
		{"garbled role", as(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{12, 200} }), t0, ErrMalformed, false},
		{"no URI", as(func(c *x509.Certificate) { c.URIs = nil }), t0, ErrMalformed, false},
		{"hostile name", as(func(c *x509.Certificate) { c.ExtraExtensions[1].Value = utf8String("../x") }), t0, ErrMalformed, false},
		{"unknown critical extension", as(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: []int{1, 2, 3}, Critical: true, Value: []byte{5, 0}})
		}), t0, ErrCriticalOption, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, err := VerifyPeer(tt.chain, trust, tt.now)
			if !errors.Is(err, tt.want) || (id.UUID != "") != tt.filled {
				t.Errorf("got %+v, %v; want %v", id, err, tt.want)
			}
		})
	}
}

func TestCrossCertificateLeadsToTheOldCA(t *testing.T) {
	old, oldTrust := newSet(t, "ber.example")
	fresh, _ := newSet(t, "ber.example")
	chain, _ := device(t, fresh)
	parent := parse(t, [][]byte{old.Authority(TunnelCA).certificate})[0]
	der, err := x509.CreateCertificate(rand.Reader, chain[1], parent, fresh.Authority(TunnelCA).Public(), old.Authority(TunnelCA).key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyPeer(append(chain, parse(t, [][]byte{der})...), oldTrust, t0); err != nil {
		t.Errorf("with the cross-certificate: %v", err)
	}
	if _, err := VerifyPeer(chain, oldTrust, t0); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("without: %v", err)
	}
}

func TestTrustOpensOnlyUnderItsPin(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	other, otherTrust := newSet(t, "ber.example")
	blob, err := s.SignTrust(*trust)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenTrust(blob, "sha256:nonsense", trust.Pins()[0])
	if err != nil || !bytes.Equal(got.encode(), trust.encode()) {
		t.Fatalf("round trip: %v", err)
	}
	if _, err := OpenTrust(blob, otherTrust.Pins()...); !errors.Is(err, ErrUnpinned) {
		t.Errorf("other pin: %v", err)
	}
	if _, err := OpenTrust(blob); !errors.Is(err, ErrUnpinned) {
		t.Errorf("no pin: %v", err)
	}
	both := *trust
	both.TunnelCA = append(both.TunnelCA, otherTrust.TunnelCA...)
	forged, err := other.SignTrust(both)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenTrust(forged, trust.Pins()...); !errors.Is(err, ErrTrustSign) {
		t.Errorf("names the pinned CA but is signed by another: %v", err)
	}
	if _, err := other.SignTrust(*trust); !errors.Is(err, ErrUnpinned) {
		t.Errorf("signing a trust without one's own CA: %v", err)
	}
	for i := range len(blob) {
		if _, err := OpenTrust(blob[:i], trust.Pins()...); err == nil {
			t.Fatalf("opens when cut to %d bytes", i)
		}
	}
	for i := range blob {
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if _, err := OpenTrust(bad, trust.Pins()...); err == nil {
			t.Fatalf("opens with byte %d changed", i)
		}
	}
}

func TestJoinerVerifiesTheHubByItsPin(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	chain, _ := device(t, s)
	pinned, err := PinnedTrust(chain, "ber.example", trust.Pins()[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyPeer(chain, pinned, t0); err != nil {
		t.Error(err)
	}
	_, otherTrust := newSet(t, "ber.example")
	if _, err := PinnedTrust(chain, "ber.example", otherTrust.Pins()[0]); !errors.Is(err, ErrUnpinned) {
		t.Errorf("wrong pin: %v", err)
	}
}

func TestSignedTime(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	_, otherTrust := newSet(t, "ber.example")
	nonce := [32]byte{1, 2}
	for _, n := range []*[32]byte{nil, &nonce} {
		at, got, err := OpenTime(s.SignTime(t0, n), trust)
		if err != nil || !at.Equal(t0) || (got == nil) != (n == nil) || got != nil && *got != nonce {
			t.Errorf("%v %v %v", at, got, err)
		}
	}
	if _, _, err := OpenTime(s.SignTime(t0, nil), otherTrust); !errors.Is(err, ErrTimeSign) {
		t.Errorf("other key: %v", err)
	}
	renamed := *trust
	renamed.Cluster = "x"
	if _, _, err := OpenTime(s.SignTime(t0, nil), &renamed); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("other cluster: %v", err)
	}
}

func TestSetSurvivesSealing(t *testing.T) {
	s, _ := newSet(t, "ber.example")
	key := [32]byte{7}
	sealed := Seal(&key, s.Marshal())
	blob, err := Open(&key, sealed)
	if err != nil {
		t.Fatal(err)
	}
	back, err := UnmarshalSet(blob)
	if err != nil || !bytes.Equal(back.Marshal(), s.Marshal()) {
		t.Fatal(err)
	}
	if _, err := Open(&[32]byte{8}, sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("wrong key: %v", err)
	}
	sealed[len(sealed)-1] ^= 1
	if _, err := Open(&key, sealed); !errors.Is(err, ErrSealed) {
		t.Errorf("damaged: %v", err)
	}
	if _, err := UnmarshalSet(blob[:len(blob)/2]); !errors.Is(err, ErrBadSet) {
		t.Errorf("cut: %v", err)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, s, s.Authority(UserCA)); strings.Contains(text, "0x") || strings.Contains(text, "[]byte") {
		t.Errorf("prints %s", text)
	}
}

func TestTokenRoundTripAndDamage(t *testing.T) {
	_, trust := newSet(t, "ber.example")
	tok := Token{Kind: TokenEdge, Cluster: "ber.example", Addresses: []string{"hub.example:443", "[2001:db8::1]:443"}, Pin: trust.Pins()[0], Secret: []byte("0123456789abcdef")}
	s, err := tok.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseToken(" " + s + "\n")
	if err != nil || fmt.Sprint(got.Addresses) != fmt.Sprint(tok.Addresses) || !bytes.Equal(got.Secret, tok.Secret) || got.Pin != tok.Pin {
		t.Errorf("%v %v", got, err)
	}
	for i := len(tokenPrefix); i < len(s); i++ {
		if _, err := ParseToken(s[:i]); !errors.Is(err, ErrTokenDamaged) {
			t.Fatalf("cut to %d: %v", i, err)
		}
	}
	if _, err := ParseToken("hello"); !errors.Is(err, ErrNoToken) {
		t.Error(err)
	}
	if text := fmt.Sprintf("%v %+v %#v %x", tok, tok, tok, tok.Secret); strings.Contains(text, "0123") || strings.Contains(text, "3031") {
		t.Errorf("prints the secret: %s", text)
	}
	tok.Addresses = []string{"hub"}
	if _, err := tok.Reveal(); !errors.Is(err, ErrBadToken) {
		t.Errorf("address without port: %v", err)
	}
}

func TestIssuersRefuseWhatTheyMustNotCertify(t *testing.T) {
	s, _ := newSet(t, "ber.example")
	key, pub := newKey(t)
	edKey := key.Public().(ed25519.PublicKey)
	for _, name := range []string{"", "-a", "a,b", "A", "a b", "a\x00", "ä", strings.Repeat("a", 8192), "a:b"} {
		if _, err := s.IssueUser(UserRequest{Name: name, Key: pub, TTL: time.Hour, Now: t0}); !errors.Is(err, ErrBadName) {
			t.Errorf("user %.20q: %v", name, err)
		}
		if _, _, err := s.IssueDevice(DeviceRequest{UUID: testUUID, Name: name, Key: edKey, TTL: time.Hour, Now: t0}); !errors.Is(err, ErrBadName) {
			t.Errorf("device %.20q: %v", name, err)
		}
	}
	if _, err := s.IssueUser(UserRequest{Name: "a", Roles: []string{"x,admin"}, Key: pub, TTL: time.Hour, Now: t0}); !errors.Is(err, ErrBadName) {
		t.Errorf("comma in a role: %v", err)
	}
	if _, err := s.IssueUser(UserRequest{Name: "a", Key: pub, TTL: 0, Now: t0}); err == nil {
		t.Error("certified for no time")
	}
	if _, err := s.IssueUser(UserRequest{Name: "a", Key: pub, TTL: time.Hour, Now: t0, Cluster: "x"}); !errors.Is(err, ErrWrongCluster) {
		t.Error(err)
	}
	if _, _, err := s.IssueHub(HubRequest{UUID: testUUID, Name: "h", Principals: []string{"*"}, Key: edKey, TTL: time.Hour, Now: t0}); !errors.Is(err, ErrBadName) {
		t.Errorf("wildcard principal: %v", err)
	}
}
