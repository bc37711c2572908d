package edge

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestHubsAreInterleavedAndRememberedWhenDNSFails(t *testing.T) {
	var dns error
	r := newResolver(false)
	r.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if dns != nil {
			return nil, dns
		}
		switch host {
		case "a.example":
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("::ffff:192.0.2.2")}, nil
		case "b.example":
			return []netip.Addr{netip.MustParseAddr("2001:db8::1")}, nil
		}
		return nil, errors.New("no such host")
	}
	hubs := []string{"a.example:443", "b.example:8443", "192.0.2.9:443", "gone.example:443"}
	want := []string{"192.0.2.1:443", "[2001:db8::1]:8443", "192.0.2.9:443", "192.0.2.2:443"}
	for _, dns = range []error{nil, errors.New("no resolver")} {
		got, err := r.resolve(t.Context(), hubs)
		if err != nil || len(got) != len(want) {
			t.Fatalf("DNS %v: %v, %v", dns, got, err)
		}
		for i := range want {
			if got[i].addr.String() != want[i] {
				t.Errorf("DNS %v: address %d is %v, want %v", dns, i, got[i].addr, want[i])
			}
		}
	}
	if _, err := r.resolve(t.Context(), []string{"gone.example:443"}); !errors.Is(err, errNoAddress) {
		t.Fatalf("a hub without addresses gave %v", err)
	}
}

func TestHubAddressesAreHostAndPort(t *testing.T) {
	for _, bad := range []string{"", "hub", "hub:", "hub:0", "hub:65536", ":443", "hub:https", "::1:443"} {
		if _, _, err := splitHostPort(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if h, p, err := splitHostPort("[2001:db8::1]:443"); err != nil || h != "2001:db8::1" || p != 443 {
		t.Errorf("%q %d %v", h, p, err)
	}
}

func TestWithAProxyTheHubsNameGoesToIt(t *testing.T) {
	r := newResolver(true)
	r.lookup = func(_ context.Context, _, host string) ([]netip.Addr, error) {
		if host == "a.example" {
			return []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}, nil
		}
		return nil, errors.New("no resolver")
	}
	found, err := r.resolve(t.Context(), []string{"a.example:443", "b.example:443", "192.0.2.9:443"})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, at := range plan(found, AnyCarrier) {
		if !at.addr.IsValid() {
			got = append(got, at.carrier.String()+" "+at.hub)
			continue
		}
		got = append(got, at.carrier.String()+" "+at.addr.String())
	}
	want := []string{"tls a.example:443", "tls b.example:443", "tls 192.0.2.9:443", "quic 192.0.2.1:443", "quic 192.0.2.9:443", "quic 192.0.2.2:443"}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

func TestLastGoodAddressesOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	st, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer st.close()
	now := []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1")}
	var dns error
	agent := func() *resolver {
		r := newResolver(false)
		r.lookup = func(context.Context, string, string) ([]netip.Addr, error) { return now, dns }
		r.keepIn(st)
		return r
	}
	written := func() time.Time {
		t.Helper()
		i, err := os.Stat(filepath.Join(dir, addressFile))
		if err != nil {
			t.Fatal(err)
		}
		return i.ModTime()
	}
	hubs := []string{"a.example:443"}
	r := agent()
	if _, err := r.resolve(t.Context(), hubs); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, addressFile)); err == nil {
		t.Error("written before a tunnel stood")
	}
	r.save(time.Now())
	first := written()
	// Another order is no change; another address is, and waits its hour.
	now = []netip.Addr{now[1], now[0]}
	_, _ = r.resolve(t.Context(), hubs)
	now = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	_, _ = r.resolve(t.Context(), hubs)
	r.save(time.Now())
	if got := written(); got != first {
		t.Error("written again at once")
	}
	r.save(time.Now().Add(addressesEvery + time.Second))
	dns, now = errors.New("no resolver"), nil
	r = agent()
	failed := 0
	r.failed = func(error) { failed++ }
	got, err := r.resolve(t.Context(), hubs)
	if err != nil || len(got) != 1 || got[0].addr.String() != "[2001:db8::1]:443" || failed != 1 {
		t.Errorf("after a restart without DNS: %v, %v, told %d times", got, err, failed)
	}
	// Damage, in both copies, costs the memory and nothing else.
	for _, name := range []string{addressFile, addressFile + ".bak"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("a.example 192.0.2.7\n\x00"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := agent().resolve(t.Context(), hubs); !errors.Is(err, dns) {
		t.Errorf("with a damaged file: %v", err)
	}
}

func FuzzAddressFile(f *testing.F) {
	f.Add([]byte("a.example 192.0.2.1 2001:db8::1\nb.example 192.0.2.2\n"))
	f.Add([]byte("a\n\n x y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m := decodeAddresses(b)
		if len(m) > maxHosts {
			t.Errorf("%d hosts", len(m))
		}
		again := decodeAddresses(encodeAddresses(m))
		if len(again) != len(m) {
			t.Errorf("%d hosts became %d", len(m), len(again))
		}
	})
}

func TestWhatTheResolverRemembersIsBounded(t *testing.T) {
	r := newResolver(false)
	r.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
		return slices.Repeat([]netip.Addr{netip.MustParseAddr("192.0.2.1")}, 100), nil
	}
	for i := range 3 * maxHosts {
		host := "h" + strconv.Itoa(i) + ".example"
		if _, err := r.addresses(t.Context(), host); err != nil {
			t.Fatal(err)
		}
		if len(r.last) > maxHosts || len(r.last[host]) != maxHostAddresses {
			t.Fatalf("%d hosts, %d addresses", len(r.last), len(r.last[host]))
		}
	}
	if b := encodeAddresses(r.last); len(b) > maxAddressFile || len(decodeAddresses(b)) != maxHosts {
		t.Errorf("%d bytes", len(b))
	}
}
