package front

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// onlyPublic is a signer whose private half its holder does not have: it offers the key, and its signature is nonsense.
type onlyPublic struct{ key ssh.PublicKey }

func (k onlyPublic) PublicKey() ssh.PublicKey { return k.key }
func (k onlyPublic) Sign(io.Reader, []byte) (*ssh.Signature, error) {
	return nil, errors.New("no private key")
}

// login connects as gw-1 with these methods; shown is what the banners said.
func (f *fixture) login(user string, auth ...ssh.AuthMethod) (c *ssh.Client, shown string, err error) {
	var b strings.Builder
	c, err = ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
		User: user, Auth: auth, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
		BannerCallback: func(m string) error { b.WriteString(m); return nil },
	})
	return c, b.String(), err
}

// codes answers challenges in turn, and counts them.
func codes(asked *int, answers ...string) ssh.AuthMethod {
	return ssh.RetryableAuthMethod(ssh.KeyboardInteractive(func(_, _ string, questions []string, _ []bool) ([]string, error) {
		if len(questions) == 0 {
			return nil, nil
		}
		i := *asked
		*asked++
		return []string{answers[min(i, len(answers)-1)]}, nil
	}), 6)
}

func (b *twin) connections() (users []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.claims {
		if c.Kind == Connection {
			users = append(users, c.Identity.User)
		}
	}
	return users
}

func TestACodeIsAskedWhereAuthWantsOne(t *testing.T) {
	f := start(t, func(c *Config) { c.HandshakeTimeout = 5 * time.Second })
	f.code = "123456"
	asked := 0
	said := ""
	c, _, err := f.login("gw-1", ssh.PublicKeys(f.alice), ssh.RetryableAuthMethod(ssh.KeyboardInteractive(
		func(_, instruction string, _ []string, _ []bool) ([]string, error) {
			asked++
			said = instruction
			return []string{[]string{"000000", "123 456"}[asked-1]}, nil
		}), 2))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if asked != 2 || !strings.Contains(said, "that is not the code") {
		t.Errorf("asked %d times, the second with %q", asked, said)
	}
	if got := f.connections(); !slices.Equal(got, []string{"alice", "alice"}) {
		t.Errorf("places were asked for %q: want alice's before and after the code", got)
	}
	f.mu.Lock()
	wanted := f.claims[0].Wanted
	f.mu.Unlock()
	if wanted != "gw-1" {
		t.Errorf("the claim says the connection is for %q, want gw-1", wanted)
	}
	session, err := c.NewSession() // by then the server has finished with the handshake
	if err != nil {
		t.Fatal(err)
	}
	session.Close()
	f.server.mu.Lock()
	defer f.server.mu.Unlock()
	if f.server.factors.all != 0 || len(f.server.factors.users) != 0 {
		t.Errorf("%d connections are still counted as waiting for a code", f.server.factors.all)
	}
}

func TestNothingButACodeDoesForACode(t *testing.T) {
	f := start(t)
	f.code = "123456"
	bob := newSigner(t)
	f.keys[string(bob.PublicKey().Marshal())] = "bob"
	for name, second := range map[string][]ssh.AuthMethod{
		"nothing":              {},
		"a password":           {ssh.Password("123456")},
		"another person's key": {ssh.PublicKeys(bob)},
	} {
		c, _, err := f.login("gw-1", append([]ssh.AuthMethod{ssh.PublicKeys(f.alice)}, second...)...)
		if err == nil {
			c.Close()
			t.Errorf("%s did for the second factor", name)
		}
	}
	asked := 0
	c, _, err := f.login("gw-1", codes(&asked, "123456"))
	if err == nil {
		c.Close()
	}
	if err == nil || asked != 0 {
		t.Errorf("a code without a key: asked %d times, %v", asked, err)
	}
	c, shown, err := f.login("gw-1", ssh.PublicKeys(f.alice), codes(&asked, "1", "2", "3", "123456"))
	if err == nil {
		c.Close()
		t.Error("the fourth code of a connection was taken")
	}
	if asked != maxCodes {
		t.Errorf("asked %d times, want %d; shown %q", asked, maxCodes, shown)
	}
}

// Whoever waits for a code has proved a key: he is bounded by his name and not by the crowd's limits.
func TestConnectionsThatWaitForACodeAreBoundedPerPerson(t *testing.T) {
	f := start(t)
	f.code = "123456"
	enough, asked := make(chan struct{}), make(chan struct{}, maxUserFactorWaits)
	done := make(chan error, maxUserFactorWaits)
	wait := ssh.KeyboardInteractive(func(_, _ string, q []string, _ []bool) ([]string, error) {
		asked <- struct{}{}
		<-enough
		return []string{"123456"}, nil
	})
	for range maxUserFactorWaits {
		go func() {
			c, _, err := f.login("gw-1", ssh.PublicKeys(f.alice), wait)
			if err == nil {
				c.Close()
			}
			done <- err
		}()
	}
	for range maxUserFactorWaits {
		<-asked
	}
	n := 0
	if c, shown, err := f.login("gw-1", ssh.PublicKeys(f.alice), codes(&n, "123456")); err == nil || n != 0 || !strings.Contains(shown, "wait for a code") {
		if err == nil {
			c.Close()
		}
		t.Errorf("one more: asked %d times, shown %q, %v", n, shown, err)
	}
	close(enough)
	for range maxUserFactorWaits {
		if err := <-done; err != nil {
			t.Errorf("one that waited: %v", err)
		}
	}
}

func TestOfferingAnothersKeyNeverYieldsHisIdentity(t *testing.T) {
	f := start(t)
	victim := newSigner(t)
	f.keys[string(victim.PublicKey().Marshal())] = "victim"
	offered := onlyPublic{victim.PublicKey()}
	for name, order := range map[string][]ssh.Signer{
		"the victim's first": {offered, f.alice},
		"one's own first":    {f.alice, offered},
	} {
		for _, code := range []string{"", "123456"} {
			f.mu.Lock()
			f.claims, f.code = nil, code
			f.mu.Unlock()
			asked := 0
			c, _, err := f.login("gw-1", ssh.PublicKeys(order...), codes(&asked, "123456"))
			if err == nil {
				// A channel, so that the identity of what came after is seen too.
				if s, err := c.NewSession(); err == nil {
					_ = s.Run("x")
					s.Close()
				}
				c.Close()
			}
			f.mu.Lock()
			for _, claim := range f.claims {
				if claim.Identity.User != "alice" || string(claim.Identity.Key) != string(f.alice.PublicKey().Marshal()) {
					t.Errorf("%s, code %q: %s got a place by the key of %s", name, code, claim.Identity.User, claim.Identity.User)
				}
			}
			n := len(f.claims)
			f.mu.Unlock()
			if name == "one's own first" && (err != nil || n == 0) {
				t.Errorf("%s: %v, %d claims", name, err, n)
			}
		}
	}
}

func TestRestrictionsOfACertificateOutliveTheSecondFactor(t *testing.T) {
	key := newSigner(t)
	cert := &ssh.Certificate{
		Key: key.PublicKey(), CertType: ssh.UserCert, KeyId: "alice", ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{
			CriticalOptions: map[string]string{"source-address": "192.0.2.0/24"},
			Extensions:      map[string]string{"permit-pty": ""},
		},
	}
	if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
		t.Fatal(err)
	}
	p := new(conn).authenticated(cert, Identity{User: "alice"})
	if p.CriticalOptions["source-address"] != "192.0.2.0/24" {
		t.Errorf("critical options after the last factor: %v", p.CriticalOptions)
	}
}

// securityKey signs as a security key does, by the flags it is given: 1 means that somebody touched it.
type securityKey struct {
	key   crypto.Signer // of Ed25519, or of ECDSA over P-256
	flags byte
}

func (k securityKey) PublicKey() ssh.PublicKey {
	var blob []byte
	switch key := k.key.Public().(type) {
	case ed25519.PublicKey:
		blob = ssh.Marshal(struct {
			Format      string
			Key         []byte
			Application string
		}{ssh.KeyAlgoSKED25519, key, "ssh:"})
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			panic(err)
		}
		blob = ssh.Marshal(struct {
			Format, Curve string
			Key           []byte
			Application   string
		}{ssh.KeyAlgoSKECDSA256, "nistp256", point, "ssh:"})
	}
	pub, err := ssh.ParsePublicKey(blob)
	if err != nil {
		panic(err)
	}
	return pub
}

func (k securityKey) Sign(_ io.Reader, data []byte) (*ssh.Signature, error) {
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	rest := []byte{k.flags, 0, 0, 0, 7}
	signed := slices.Concat(app[:], rest, message[:])
	key, ok := k.key.(*ecdsa.PrivateKey)
	if !ok {
		sig, err := k.key.Sign(nil, signed, crypto.Hash(0))
		return &ssh.Signature{Format: ssh.KeyAlgoSKED25519, Blob: sig, Rest: rest}, err
	}
	digest := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	return &ssh.Signature{Format: ssh.KeyAlgoSKECDSA256, Blob: ssh.Marshal(struct{ R, S *big.Int }{r, s}), Rest: rest}, err
}

func TestASecurityKeyMustBeTouched(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	nist, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"sk-ed25519": edwards, "sk-ecdsa": nist} {
		t.Run(name, func(t *testing.T) { mustBeTouched(t, key) })
	}
}

func mustBeTouched(t *testing.T, key crypto.Signer) {
	f := start(t)
	f.keys[string(securityKey{key: key}.PublicKey().Marshal())] = "alice"
	c, _, err := f.login("gw-1", ssh.PublicKeys(securityKey{key, 1}))
	if err != nil {
		t.Fatalf("touched: %v", err)
	}
	c.Close()
	if c, _, err := f.login("gw-1", ssh.PublicKeys(securityKey{key, 0})); err == nil {
		c.Close()
		t.Error("a signature that nobody touched the key for was taken")
	}
	// Nor does a certificate that says it need not be do any better.
	cert := &ssh.Certificate{
		Key: securityKey{key: key}.PublicKey(), CertType: ssh.UserCert, KeyId: "alice", ValidPrincipals: []string{"x"}, ValidBefore: ssh.CertTimeInfinity,
		Permissions: ssh.Permissions{Extensions: map[string]string{"no-touch-required": ""}},
	}
	if err := cert.SignCert(rand.Reader, newSigner(t)); err != nil {
		t.Fatal(err)
	}
	f.keys[string(cert.Marshal())] = "alice"
	signer, err := ssh.NewCertSigner(cert, securityKey{key, 0})
	if err != nil {
		t.Fatal(err)
	}
	if c, _, err := f.login("gw-1", ssh.PublicKeys(signer)); err == nil {
		c.Close()
		t.Error("a certificate made touch unnecessary")
	}
}
