package ca

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestInviteComesBackAndPrintsNothing(t *testing.T) {
	s, err := NewSet("ber.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pin, err := Pin(s.Authority(TunnelCA).Certificate())
	if err != nil {
		t.Fatal(err)
	}
	want := Invite{User: "ann", Cluster: "ber.example", Hubs: []string{"hub-1:443"}, Auth: []string{"192.0.2.1:7443", "[2001:db8::1]:7443"}, Pin: pin, Secret: Secret("0123456789abcdef0123")}
	text, err := want.Reveal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseInvite(" " + text + "\n")
	if err != nil || got.User != want.User || got.Cluster != want.Cluster || strings.Join(got.Hubs, " ") != "hub-1:443" || len(got.Auth) != 2 || got.Pin != pin || string(got.Secret) != string(want.Secret) {
		t.Errorf("got %+v, %v", got, err)
	}
	if strings.Contains(got.String(), "0123") {
		t.Error("the secret is printed")
	}
	if _, err := ParseInvite(text[:len(text)-2]); !errors.Is(err, ErrInviteDamaged) {
		t.Errorf("cut short: %v", err)
	}
	if _, err := ParseInvite("hwt1_" + text[5:]); !errors.Is(err, ErrNoInvite) {
		t.Errorf("a token: %v", err)
	}
	want.Hubs, want.Auth = nil, nil
	if _, err := want.Reveal(); !errors.Is(err, ErrBadInvite) {
		t.Errorf("without an address: %v", err)
	}
}

func FuzzParseInvite(f *testing.F) {
	f.Add("hwi1_")
	f.Add("hwi1_AQAAA2FubgIAAAtiZXIuZXhhbXBsZQ")
	f.Fuzz(func(t *testing.T, text string) {
		i, err := ParseInvite(text)
		if err != nil {
			return
		}
		again, err := i.Reveal()
		if err != nil {
			t.Fatal(err)
		}
		if j, err := ParseInvite(again); err != nil || j.User != i.User || string(j.Secret) != string(i.Secret) {
			t.Errorf("%q came back as %+v, %v", text, j, err)
		}
	})
}

func TestCertificatesSayTheLoginTheyRestOn(t *testing.T) {
	now := time.Now()
	s, err := NewSet("ber.example", now)
	if err != nil {
		t.Fatal(err)
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	at := now.Add(-time.Hour).UTC().Truncate(time.Second)
	for _, want := range []Login{{At: at}, {At: at, MFA: true}} {
		chain, err := s.IssueUserX509(UserX509Request{Name: "ann", Key: pub, TTL: time.Hour, Now: now, Login: want})
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(chain[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := LoginOf(leaf); !got.At.Equal(want.At) || got.MFA != want.MFA {
			t.Errorf("got %+v, want %+v", got, want)
		}
		trust := s.Trust(1)
		if _, err := VerifyPeer([]*x509.Certificate{leaf}, &trust, now); err != nil {
			t.Error(err)
		}
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.IssueUser(UserRequest{Name: "ann", Roles: []string{"a"}, Key: key, TTL: time.Hour, Now: now, Sources: []string{"192.0.2.0/24", "2001:db8::/32"}, MFA: true})
	if err != nil {
		t.Fatal(err)
	}
	trust := s.Trust(1)
	for ip, want := range map[string]error{"192.0.2.9": nil, "2001:db8::9": nil, "198.51.100.1": ErrSourceAddress} {
		if _, err := VerifyUserCert(cert, &trust, now, &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}); !errors.Is(err, want) {
			t.Errorf("from %s: got %v, want %v", ip, err, want)
		}
	}
	if !UserCertMFA(cert.Extensions) {
		t.Error("the second factor is not said")
	}
}

func TestSecretKeyOutlivesEverything(t *testing.T) {
	s, err := NewSet("ber.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	again, err := UnmarshalSet(s.Marshal())
	if err != nil || *again.SecretKey() != *s.SecretKey() {
		t.Errorf("the secret key is another after %v", err)
	}
	// As after a rotation of the grant key, from whose first it follows.
	st := *s.state()
	st.byKind[GrantKey].current, err = Generate(GrantKey, "ber.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	again, err = UnmarshalSet(setOf(&st).Marshal())
	if err != nil || *again.SecretKey() != *s.SecretKey() {
		t.Errorf("the secret key is another after a rotation, %v", err)
	}
}
