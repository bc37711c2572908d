package policy

import (
	"crypto/ed25519"
	"reflect"
	"testing"
	"time"

	"hawser/auth/internal/vectors"
)

func TestVectorOfASignedPolicy(t *testing.T) {
	const cluster, uuid = "ber.example", "6f1c0a9e-1a2b-4c3d-8e4f-0123456789ab"
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	admin, _ := Builtin("admin")
	field := Role{
		Name:    "field",
		Allow:   Rule{Devices: map[string][]string{"site": {"ber"}}, Logins: []string{"root", "diag"}, Channels: []string{Shell, LocalForward}, ForwardTo: []string{"127.0.0.1:80"}},
		Deny:    Rule{Logins: []string{"root"}, Channels: []string{SFTP}},
		Options: Options{DetachedLife: new(90 * time.Second), IdleTimeout: 15 * time.Minute, MaxSessionDuration: 8 * time.Hour, DisconnectExpiredCert: true, RecordStdin: StdinRedacted},
	}
	want := Compile(9, []Role{field, admin}, Device{Name: "gw-1", UUID: uuid, Labels: map[string]string{"site": "ber"}})
	blob, err := SignCompiled(key, cluster, uuid, want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenCompiled(blob, []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, cluster, uuid)
	if err != nil || got.Revision != want.Revision || !reflect.DeepEqual(got.Access([]string{"field"}).Logins, []string{"diag", "root"}) {
		t.Errorf("opened as %+v, %v", got, err)
	}
	want.Recipients = [][32]byte{{1, 2}, {31: 3}}
	encrypted, err := SignCompiled(key, cluster, uuid, want)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = OpenCompiled(encrypted, []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}, cluster, uuid); err != nil || !reflect.DeepEqual(got.Recipients, want.Recipients) {
		t.Errorf("recipients %x, %v", got.Recipients, err)
	}
	vectors.Check(t, "../../tunnel/testdata/policy.txt", "A policy of PROTOCOL.md section 10.2: the seed of the key that signs, then a policy of two roles, and the same with recipients.",
		[]vectors.Vector{{Name: "GrantKeySeed", Bytes: key.Seed()}, {Name: "Policy", Bytes: blob}, {Name: "PolicyWithRecipients", Bytes: encrypted}})
}
