package hub

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func testAdmission(rate float64) (*admission, *time.Time) {
	now := time.Unix(1000, 0)
	a := &admission{
		rate: func() float64 { return rate }, now: func() time.Time { return now },
		hubs: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("198.51.100.1:443")} },
	}
	return a, &now
}

func addr(i int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 40000)
}

func TestAStormIsAdmittedAtAnEvenRate(t *testing.T) {
	const rate = 200
	a, now := testAdmission(rate)
	perSecond := make([]int, 10)
	for tick := range 1000 { // 10 s of 20,000 attempts a second, each from its own network
		for i := range 200 {
			if a.admit(addr((tick*200 + i) << 8)) {
				perSecond[tick/100]++
			}
		}
		*now = now.Add(10 * time.Millisecond)
	}
	total := 0
	for _, n := range perSecond {
		total += n
	}
	for i, n := range perSecond {
		if n*len(perSecond) > 3*total/2+len(perSecond) {
			t.Errorf("second %d: %d of %d", i, n, total)
		}
	}
	if total < 9*rate {
		t.Errorf("%d in 10 s, the rate is %d", total, rate)
	}
	if len(a.prefixes) > maxPrefixes {
		t.Errorf("%d networks remembered", len(a.prefixes))
	}
}

func TestOneStrangersNetworkLeavesRoomForOthers(t *testing.T) {
	a, now := testAdmission(100)
	attacker, device := netip.MustParseAddrPort("192.0.2.7:5000"), 0
	for range 1000 {
		for range 20 {
			a.admit(attacker)
		}
		if a.admit(addr(device<<8)) && device < 200 {
			device++
		}
		*now = now.Add(10 * time.Millisecond)
	}
	if device < 200 {
		t.Errorf("%d devices got in beside the attacker", device)
	}
}

func TestANetworkWithARegisteredDeviceHasNoLimitOfItsOwn(t *testing.T) {
	a, now := testAdmission(100)
	a.registered(netip.MustParseAddr("2001:db8:1:ff::1"))
	n := 0
	for range 100 {
		for i := range 10 {
			if a.admit(netip.MustParseAddrPort(fmt.Sprintf("[2001:db8:1:ab::%x]:5000", i+1))) {
				n++
			}
		}
		*now = now.Add(10 * time.Millisecond)
	}
	if n < 100 {
		t.Errorf("%d in a second behind one NAT, the rate is 100", n)
	}
	a.close()
	if a.admit(netip.MustParseAddrPort("[2001:db8:1:ab::1]:5000")) {
		t.Error("a draining hub admits")
	}
	if !a.admit(netip.MustParseAddrPort("[::ffff:198.51.100.1]:443")) {
		t.Error("another hub is refused")
	}
	if a.admit(netip.MustParseAddrPort("198.51.100.1:444")) {
		t.Error("its neighbour is taken for the hub")
	}
}

func TestRetryIsAskedOnlyInAStorm(t *testing.T) {
	a, now := testAdmission(100)
	for range 1000 { // 10 a second
		if a.verify() {
			t.Fatal("few must not prove their address")
		}
		*now = now.Add(100 * time.Millisecond)
	}
	asked := 0
	for range 1000 { // 1000 a second
		if a.verify() {
			asked++
		}
		*now = now.Add(time.Millisecond)
	}
	if asked < 800 {
		t.Errorf("%d of 1000 must prove their address", asked)
	}
}

func TestTheRateFollowsTheFleet(t *testing.T) {
	for _, x := range []struct {
		devices, listed, online int
		w                       time.Duration
		want                    float64
	}{
		{0, 0, 0, 0, 50},
		{1000, 3, 3, 30 * time.Second, 50},
		{2000, 2, 2, 5 * time.Second, 600},
		{10000, 4, 4, 15 * time.Second, 500},
		{30000, 10, 1, 45 * time.Second, 1000}, // one of ten is up: all come to it
	} {
		if got := fleetRate(x.devices, x.listed, x.online, x.w); got != x.want {
			t.Errorf("%+v: %v", x, got)
		}
	}
}
