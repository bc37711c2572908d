package lock

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"hawser/auth/internal/vectors"
	"hawser/tunnel/wire"
)

const cluster = "ber.example"

var (
	key = ed25519.NewKeyFromSeed(make([]byte, 32))
	pub = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

const device = "6f1c0a9e-1a2b-4c3d-8e4f-0123456789ab"

func sample() List {
	return List{Cluster: cluster, Revision: 7,
		Locks: []Lock{
			{ID: "a1", User: "alice", Message: "left the company"},
			{ID: "b2", Role: "field", Login: "root", Device: device, Expires: now.Add(time.Hour)},
			{ID: "c3", Key: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"},
			{ID: "d4", Source: netip.MustParsePrefix("192.0.2.0/24")},
			{ID: "e5", Source: netip.MustParsePrefix("2001:db8::/32"), Expires: now},
		},
		Voids: []Void{
			{User: "bob", Before: now.Add(-time.Minute), Until: now.Add(8 * time.Hour)},
			{User: Everybody, Before: now.Add(-24 * time.Hour), Until: now.Add(time.Hour)},
		},
	}
}

func sign(t testing.TB, l List) []byte {
	t.Helper()
	b, err := Sign(l, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectorsOfTheLocks(t *testing.T) {
	want := sample()
	blob := sign(t, want)
	if got, err := Open(blob, pub, cluster); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("opened as %+v, %v", got, err)
	}
	vectors.Check(t, "../../tunnel/testdata/locks.txt",
		"Locks of PROTOCOL.md section 10.7: the seed of the key that signs, then a list of five locks and two voids.",
		[]vectors.Vector{{Name: "GrantKeySeed", Bytes: key.Seed()}, {Name: "Locks", Bytes: blob}})
}

func TestALockMatchesWhereAllItNamesDoes(t *testing.T) {
	l := sample()
	for _, tt := range []struct {
		name string
		s    Subject
		want string // rule; empty: not refused
	}{
		{"nobody in particular", Subject{}, ""},
		{"user", Subject{User: "alice"}, "lock a1"},
		{"user on a device", Subject{User: "alice", Device: device, Login: "diag"}, "lock a1"},
		{"another user", Subject{User: "alicia"}, ""},
		{"role alone", Subject{User: "carol", Roles: []string{"field"}}, ""},
		{"role and login elsewhere", Subject{User: "carol", Roles: []string{"x", "field"}, Login: "root", Device: strings.Repeat("0", 36)}, ""},
		{"role, login and device", Subject{User: "carol", Roles: []string{"x", "field"}, Login: "root", Device: device}, "lock b2"},
		{"the device's own tunnel is not the role's", Subject{Device: device}, ""},
		{"key", Subject{User: "carol", Key: "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"}, "lock c3"},
		{"address", Subject{User: "carol", Source: netip.MustParseAddr("192.0.2.77")}, "lock d4"},
		{"address written as IPv6", Subject{User: "carol", Source: netip.MustParseAddr("::ffff:192.0.2.77")}, "lock d4"},
		{"address beside", Subject{User: "carol", Source: netip.MustParseAddr("192.0.3.1")}, ""},
		{"expired", Subject{User: "carol", Source: netip.MustParseAddr("2001:db8::1")}, ""},
		{"certificate before", Subject{User: "bob", IssuedAt: now.Add(-2 * time.Minute)}, "certificates of bob before 2026-11-21 11:59:00 UTC"},
		{"certificate at the date", Subject{User: "bob", IssuedAt: now.Add(-time.Minute)}, ""},
		{"no certificate", Subject{User: "bob"}, ""},
		{"everybody's", Subject{User: "carol", IssuedAt: now.Add(-25 * time.Hour)}, "certificates of * before 2026-11-20 12:00:00 UTC"},
	} {
		got := ""
		if d := l.Match(now, tt.s); d != nil {
			got = d.Rule()
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	if l.Match(now.Add(time.Hour), Subject{Roles: []string{"field"}, Login: "root", Device: device}) != nil {
		t.Error("a lock holds at the moment it expires")
	}
}

func TestTheLongestLockIsNamed(t *testing.T) {
	l := List{Locks: []Lock{{ID: "1", User: "a", Expires: now.Add(time.Hour)}, {ID: "2", User: "a"}, {ID: "3", User: "a", Expires: now.Add(2 * time.Hour)}}}
	if d := l.Match(now, Subject{User: "a"}); d == nil || d.Lock.ID != "2" {
		t.Errorf("named %+v", d)
	}
	l.Locks = slices.Delete(l.Locks, 1, 2)
	if d := l.Match(now, Subject{User: "a"}); d == nil || d.Lock.ID != "3" || d.Error() != "locked until 2026-11-21 14:00:00 UTC by an administrator" {
		t.Errorf("named %v", d)
	}
}

// A later version may know other things to name. Left out, they make a lock wider, never narrower.
func TestALockThatNamesSomethingUnknownRefusesMoreNotLess(t *testing.T) {
	l, err := decode(append(sample().encodeHead(), 3, 0, 0, 9, 200, 0, 0, 5, 'w', 'o', 'r', 'l', 'd'))
	if err != nil || l.Match(now, Subject{User: "carol"}) == nil {
		t.Errorf("%+v, %v", l, err)
	}
}

func (l List) encodeHead() []byte { l.Locks, l.Voids = nil, nil; return l.encode() }

func TestNoChangedListOpens(t *testing.T) {
	blob := sign(t, sample())
	for i := range blob {
		if _, err := Open(blob[:i], pub, cluster); err == nil {
			t.Fatalf("opens cut to %d", i)
		}
		bad := slices.Clone(blob)
		bad[i] ^= 1
		if _, err := Open(bad, pub, cluster); err == nil {
			t.Fatalf("opens with byte %d changed", i)
		}
	}
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32))).Public().(ed25519.PublicKey)
	if _, err := Open(blob, []ed25519.PublicKey{other, nil}, cluster); !errors.Is(err, ErrSignature) {
		t.Errorf("other key: %v", err)
	}
	if _, err := Open(blob, pub, "other.example"); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("other cluster: %v", err)
	}
	if _, err := Open(make([]byte, MaxBlob+1), pub, cluster); !errors.Is(err, ErrTooLarge) {
		t.Errorf("too long: %v", err)
	}
}

func TestAListBeyondALimitIsNotSigned(t *testing.T) {
	for name, change := range map[string]func(*List){
		"no cluster": func(l *List) { l.Cluster = "" },
		"bare":       func(l *List) { l.Locks[0].User = "" },
		"message":    func(l *List) { l.Locks[0].Message = strings.Repeat("x", MaxMessage+1) },
		"user":       func(l *List) { l.Locks[0].User = strings.Repeat("x", maxName+1) },
		"prefix":     func(l *List) { l.Locks[3].Source = netip.MustParsePrefix("192.0.2.1/24") },
		"locks":      func(l *List) { l.Locks = slices.Repeat(l.Locks[:1], MaxLocks+1) },
		"voids":      func(l *List) { l.Voids = slices.Repeat(l.Voids[:1], MaxVoids+1) },
		"year":       func(l *List) { l.Locks[0].Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"before":     func(l *List) { l.Locks[0].Expires = time.Date(1960, 1, 1, 0, 0, 0, 0, time.UTC) },
		"size": func(l *List) {
			l.Locks[0].Message = strings.Repeat("x", MaxMessage)
			l.Locks = slices.Repeat(l.Locks[:1], 200)
		},
	} {
		l := sample()
		change(&l)
		if _, err := Sign(l, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// The largest list must fit in the message that brings it.
func TestTheTunnelCarriesTheLargestList(t *testing.T) {
	if _, err := wire.Encode(wire.Locks{Revision: 1, Blob: make([]byte, MaxBlob)}); err != nil {
		t.Error(err)
	}
	l := List{Cluster: cluster}
	for i := range 300 {
		l.Locks = append(l.Locks, Lock{ID: fmt.Sprintf("%08x", i), User: fmt.Sprintf("user-%d", i), Message: "ask security@example.com about ticket 1234", Expires: now})
	}
	sign(t, l)
}

// Whatever is compacted: who was refused stays refused, and who logged in after every date is not.
func TestCompactingVoidsRefusesMoreNotLess(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var l List
		for range r.IntN(40) {
			user := string(rune('a' + r.IntN(12)))
			if r.IntN(20) == 0 {
				user = Everybody
			}
			l.Voids = append(l.Voids, Void{User: user, Before: now.Add(-time.Duration(r.IntN(1000)) * time.Second), Until: now.Add(time.Duration(r.IntN(200)-20) * time.Second)})
		}
		was := List{Voids: slices.Clone(l.Voids)}
		keep := 1 + r.IntN(10)
		l.Compact(now, keep)
		if len(l.Voids) > keep {
			t.Fatalf("%d voids are left of %d that may be", len(l.Voids), keep)
		}
		for i := range 200 {
			s := Subject{User: string(rune('a' + r.IntN(13))), IssuedAt: now.Add(-time.Duration(r.IntN(1100)) * time.Second)}
			at := now.Add(time.Duration(i) * time.Second)
			if was.Match(at, s) != nil && l.Match(at, s) == nil {
				t.Fatalf("%+v was refused by %+v and is not by %+v", s, was.Voids, l.Voids)
			}
		}
		if l.Match(now, Subject{User: "a", IssuedAt: now}) != nil {
			t.Fatal("a certificate newer than every date is void")
		}
	}
}

func TestCompactingDropsWhatIsOver(t *testing.T) {
	l := sample()
	l.Voids = append(l.Voids, Void{User: "bob", Before: now.Add(-time.Hour), Until: now}, Void{User: "dora", Before: now.Add(-48 * time.Hour), Until: now.Add(time.Minute)})
	l.Compact(now, 10)
	if len(l.Locks) != 4 || len(l.Voids) != 2 || l.Voids[0].User != Everybody || l.Voids[1].User != "bob" {
		t.Errorf("left %+v", l)
	}
}

func FuzzOpen(f *testing.F) {
	l := sample()
	f.Add(sign(f, l))
	f.Add(l.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Open(b, pub, cluster)
		l, err := decode(b)
		if err != nil {
			return
		}
		if back, err := decode(l.encode()); err != nil || !reflect.DeepEqual(l, back) {
			t.Errorf("%+v came back as %+v, %v", l, back, err)
		}
		if d := l.Match(now, Subject{User: "a", Roles: []string{"b"}, Source: netip.MustParseAddr("192.0.2.1"), IssuedAt: now}); d != nil {
			_, _ = d.Error(), d.Rule()
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	l := List{}
	for i := range 300 {
		l.Locks = append(l.Locks, Lock{ID: fmt.Sprint(i), User: fmt.Sprintf("user-%d", i)})
	}
	s := Subject{User: "carol", Roles: []string{"field"}, Login: "root", Device: device, Source: netip.MustParseAddr("192.0.2.1"), IssuedAt: now}
	for b.Loop() {
		if l.Match(now, s) != nil {
			b.Fatal("refused")
		}
	}
}
