package hub

import (
	"net/netip"
	"testing"
	"time"

	"hawser/hub/authclient"
	"hawser/tunnel/wire"
)

func TestAHubIsNotMadeToReachItself(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.1.2.3")}
	auth := []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:3025"), netip.MustParseAddrPort("127.0.0.1:3025")}
	for _, c := range []struct {
		at           string
		plain, local bool // allowed
	}{
		{"10.1.2.4:22", true, true},
		{"[2001:db8::1]:22", true, true},
		{"127.0.0.1:22", false, true},
		{"127.9.9.9:22", false, true},
		{"[::1]:22", false, true},
		{"169.254.1.1:22", false, true},
		{"[fe80::1]:22", false, true},
		{"10.1.2.3:22", false, true},
		{"10.9.9.9:22", true, true},
		{"10.9.9.9:3025", false, false},
		{"127.0.0.1:3025", false, false},
		{"169.254.169.254:80", false, false},
		{"[fd00:ec2::254]:80", false, false},
		{"[64:ff9b::a09:909]:3025", false, false},
		{"[64:ff9b::7f00:1]:22", false, true},
		{"255.255.255.255:22", false, false},
		{"0.0.0.0:22", false, false},
		{"224.0.0.1:22", false, false},
	} {
		at := netip.MustParseAddrPort(c.at)
		if err := besideAllowed(at, false, own, auth); (err == nil) != c.plain {
			t.Errorf("%s: %v", c.at, err)
		}
		if err := besideAllowed(at, true, own, auth); (err == nil) != c.local {
			t.Errorf("%s, meant: %v", c.at, err)
		}
	}
}

// What a device says of its own address makes hubs connect there: a stolen one named auth, the hub, or what gives a cloud's machine its credentials.
func TestAHubDialsNoDeviceAtWhatIsNone(t *testing.T) {
	own := []netip.Addr{netip.MustParseAddr("10.1.2.3")}
	auth := []netip.AddrPort{netip.MustParseAddrPort("10.9.9.9:3025")}
	for _, c := range []struct {
		at                string
		apart, oneMachine bool // allowed
	}{
		{"10.1.2.4:22", true, true},
		{"127.0.0.1:22", false, true},
		{"10.1.2.3:6379", false, true},
		{"10.9.9.9:3025", false, false},
		{"[64:ff9b::a09:909]:3025", false, false},
		{"169.254.1.1:22", false, false},
		{"[fe80::1]:22", false, false},
		{"169.254.169.254:80", false, false},
		{"100.100.100.200:80", false, false},
		{"168.63.129.16:80", false, false},
		{"255.255.255.255:22", false, false},
		{"[::]:22", false, false},
		{"224.0.0.1:22", false, false},
	} {
		at := netip.MustParseAddrPort(c.at)
		if err := dialAllowed(at, false, own, auth); (err == nil) != c.apart {
			t.Errorf("%s: %v", c.at, err)
		}
		if err := dialAllowed(at, true, own, auth); (err == nil) != c.oneMachine {
			t.Errorf("%s, all on one machine: %v", c.at, err)
		}
	}
}

func TestAuthIsKnownWhileItsNameDoesNotResolve(t *testing.T) {
	var x resolved
	at := x.note("auth.example:7443", []netip.Addr{netip.MustParseAddr("::ffff:10.9.9.9")}, 7443, true)
	if got := x.note("auth.example:7443", nil, 7443, false); len(got) != 1 || got[0] != at[0] || got[0].String() != "10.9.9.9:7443" {
		t.Errorf("it is at %v", got)
	}
}

// A device that says another address each time, or registers and goes, was dialled as if nothing had failed.
func TestAnotherAddressIsDialledAtOnceAndDoesNotResetTheWait(t *testing.T) {
	x := dialOut{wake: make(chan struct{}, 1)}
	id := wire.UUID{1}
	at := func(s string) *authclient.Device {
		return &authclient.Device{UUID: id, TunnelOff: true, Listen: netip.MustParseAddrPort(s)}
	}
	x.set(id, at("10.0.0.1:22"))
	e := x.of[id]
	e.wait, e.next = dialRetryMax, time.Now().Add(time.Hour)
	x.set(id, at("10.0.0.1:22"))
	if e.next.IsZero() {
		t.Error("the same address is dialled at once")
	}
	x.set(id, at("10.0.0.2:22"))
	if !e.next.IsZero() || e.wait != dialRetryMax {
		t.Errorf("another is dialled at %v, and after that in %v", e.next, e.wait)
	}
}
