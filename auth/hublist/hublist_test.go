package hublist

import (
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"fmt"
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
)

func sample() List {
	return List{Cluster: cluster, Revision: 7, Window: 1500 * time.Millisecond, Hubs: []Hub{
		{UUID: [16]byte{1}, Name: "hub-1", Zone: "a", Tunnel: []string{"hub-1.example.com:443", "[2001:db8::1]:443"}, SSH: []string{"hub-1.example.com:22"}},
		{UUID: [16]byte{2}, Name: "hub-2", Zone: "b", Tunnel: []string{"192.0.2.2:443"}, SSH: []string{"192.0.2.2:22"}},
		{UUID: [16]byte{3}, Name: "hub-3", Tunnel: []string{"192.0.2.3:443"}},
	}}
}

func sign(t testing.TB, l List) []byte {
	t.Helper()
	b, err := Sign(l, key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// many returns a list of n hubs, with UUIDs as of random hubs.
func many(n int) List {
	l := List{Cluster: cluster}
	for i := range n {
		l.Hubs = append(l.Hubs, Hub{UUID: device(1<<40 + i), Name: fmt.Sprintf("hub-%d", i)})
	}
	return l
}

func device(i int) (id [16]byte) {
	binary.BigEndian.PutUint64(id[:], uint64(i)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], uint64(i))
	return id
}

func TestVectorsOfTheHubList(t *testing.T) {
	want := sample()
	blob := sign(t, want)
	if got, err := Open(blob, pub, cluster); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("opened as %+v, %v", got, err)
	}
	dev := [16]byte{0x6f, 0x1c, 0x0a, 0x9e, 0x1a, 0x2b, 0x4c, 0x3d, 0x8e, 0x4f, 1, 0x23, 0x45, 0x67, 0x89, 0xab}
	list := []vectors.Vector{{Name: "GrantKeySeed", Bytes: key.Seed()}, {Name: "HubList", Bytes: blob}, {Name: "Device", Bytes: dev[:]}}
	for i, h := range Order(want, dev) {
		list = append(list, vectors.Vector{Name: fmt.Sprintf("Choice%d", i+1), Bytes: h.UUID[:]})
	}
	vectors.Check(t, "../../tunnel/testdata/hubs.txt",
		"A hub list of PROTOCOL.md section 10.6: the seed of the key that signs, the list, a device, and the hubs in the order in which that device takes them.", list)
}

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

func TestListBeyondALimitIsNotSigned(t *testing.T) {
	for name, change := range map[string]func(*List){
		"no cluster":    func(l *List) { l.Cluster = "" },
		"hubs":          func(l *List) { *l = many(MaxHubs + 1) },
		"window":        func(l *List) { l.Window = MaxWindow + 1 },
		"before":        func(l *List) { l.Window = -1 },
		"no UUID":       func(l *List) { l.Hubs[1].UUID = [16]byte{} },
		"UUID twice":    func(l *List) { l.Hubs[1].UUID = l.Hubs[0].UUID },
		"name":          func(l *List) { l.Hubs[0].Name = strings.Repeat("x", maxName+1) },
		"zone":          func(l *List) { l.Hubs[0].Zone = strings.Repeat("x", maxName+1) },
		"address":       func(l *List) { l.Hubs[0].Tunnel[0] = strings.Repeat("x", maxAddress+1) },
		"SSH addresses": func(l *List) { l.Hubs[0].SSH = make([]string, maxAddresses+1) },
	} {
		l := sample()
		change(&l)
		if _, err := Sign(l, key); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	l := many(MaxHubs)
	for i := range l.Hubs {
		l.Hubs[i].Tunnel = []string{strings.Repeat("x", maxAddress), strings.Repeat("y", maxAddress)}
	}
	if _, err := Sign(l, key); !errors.Is(err, ErrTooLarge) {
		t.Errorf("64 hubs of 600 bytes: %v", err)
	}
}

// The largest list must fit in the message that brings it.
func TestTunnelCarriesTheLargestList(t *testing.T) {
	if _, err := wire.Encode(wire.HubList{Blob: make([]byte, MaxBlob)}); err != nil {
		t.Error(err)
	}
	l := many(MaxHubs)
	for i := range l.Hubs {
		l.Hubs[i].Zone, l.Hubs[i].Tunnel, l.Hubs[i].SSH = "eu-central-1a", []string{"hub-1234.eu-central-1.example.com:443"}, []string{"hub-1234.eu-central-1.example.com:22"}
	}
	blob := sign(t, l)
	if len(blob) > 12<<10 {
		t.Errorf("a usual list of %d hubs takes %d bytes", MaxHubs, len(blob))
	}
}

func TestFleetSpreadsEvenlyOverTheHubs(t *testing.T) {
	const devices, hubs = 20000, 7
	l := many(hubs)
	for place := range 2 { // the second choice, too: where the fleet goes when its first is lost, and has its standby
		count := make(map[[16]byte]int)
		for i := range devices {
			count[Order(l, device(i))[place].UUID]++
		}
		for id, n := range count {
			if mean := devices / hubs; n < mean*9/10 || n > mean*11/10 {
				t.Errorf("choice %d: hub %x has %d devices, the mean is %d", place+1, id[:8], n, mean)
			}
		}
		if len(count) != hubs {
			t.Errorf("choice %d: %d hubs are used", place+1, len(count))
		}
	}
}

func TestHubThatGoesMovesOnlyItsOwnDevices(t *testing.T) {
	before := many(8)
	gone := before.Hubs[3].UUID
	after := before
	after.Hubs = slices.Delete(slices.Clone(before.Hubs), 3, 4)
	slices.Reverse(after.Hubs) // the order of the list says nothing
	to := make(map[[16]byte]int)
	for i := range 4000 {
		was, is := Order(before, device(i)), Order(after, device(i))
		kept := slices.DeleteFunc(slices.Clone(was), func(h Hub) bool { return h.UUID == gone })
		if !reflect.DeepEqual(kept, is) {
			t.Fatalf("device %d: the others changed their order", i)
		}
		if was[0].UUID == gone {
			to[is[0].UUID]++
		}
	}
	if len(to) != 7 {
		t.Errorf("the devices of one hub went to %d hubs, not to all the others", len(to))
	}
}

func TestOrderLeavesTheListAlone(t *testing.T) {
	l := many(9)
	was := slices.Clone(l.Hubs)
	Order(l, device(1))
	if !reflect.DeepEqual(l.Hubs, was) {
		t.Error("the list was sorted")
	}
	if got := Order(List{}, device(1)); len(got) != 0 {
		t.Errorf("of no hubs: %v", got)
	}
}

func FuzzOpen(f *testing.F) {
	l := sample()
	f.Add(sign(f, l))
	f.Add(l.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Open(b, pub, cluster)
		l, err := decode(b)
		if err != nil || l.valid() != nil {
			return
		}
		if back, err := decode(l.encode()); err != nil || !reflect.DeepEqual(l, back) {
			t.Errorf("%+v came back as %+v, %v", l, back, err)
		}
		if n := len(Order(l, [16]byte{1})); n != len(l.Hubs) {
			t.Errorf("%d of %d hubs", n, len(l.Hubs))
		}
	})
}
