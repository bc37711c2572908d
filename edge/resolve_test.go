package edge

import (
	"context"
	"errors"
	"net/netip"
	"testing"
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
