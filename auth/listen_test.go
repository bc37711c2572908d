package auth

import (
	"testing"
	"time"

	"hawser/auth/api"
)

// What a device says of its port is held against where a hub sees it: hubs dial it, and people are told it.
func TestWhereADeviceListensIsAnAddressOfItsOwn(t *testing.T) {
	own := []string{"192.168.1.20", "2001:db8::20"}
	for _, x := range []struct {
		name, said, observed, had string
		want                      string
		ok                        bool
	}{
		{"nowhere", "", "198.51.100.7:4711", "", "", true},
		{"all of its addresses, seen by one", "0.0.0.0:22", "192.168.1.20:4711", "", "192.168.1.20:22", true},
		{"behind a NAT", "[::]:2222", "198.51.100.7:4711", "", "192.168.1.20:2222", true},
		{"what it was stays while it is as good", "[::]:2222", "192.168.1.20:4711", "[2001:db8::20]:2222", "[2001:db8::20]:2222", true},
		{"one", "10.0.0.5:22", "198.51.100.7:4711", "", "10.0.0.5:22", true},
		{"on the hub's machine", "[::]:2222", "127.0.0.1:4711", "", "127.0.0.1:2222", true},
		{"loopback from afar", "127.0.0.1:22", "198.51.100.7:4711", "", "", false},
		{"metadata", "169.254.169.254:80", "198.51.100.7:4711", "", "", false},
		{"metadata, dressed up", "[::ffff:169.254.169.254]:80", "198.51.100.7:4711", "", "", false},
		{"metadata of others", "100.100.100.200:80", "198.51.100.7:4711", "", "", false},
		{"metadata, through a translator", "[64:ff9b::a9fe:a9fe]:80", "198.51.100.7:4711", "", "", false},
		{"loopback, through a translator", "[64:ff9b::7f00:1]:80", "198.51.100.7:4711", "", "", false},
		{"everybody", "255.255.255.255:22", "198.51.100.7:4711", "", "", false},
		{"a name", "localhost:22", "198.51.100.7:4711", "", "", false},
		{"no port", "10.0.0.5:0", "198.51.100.7:4711", "", "", false},
	} {
		at, ok := listenOf(&api.DeviceState{Listen: x.said, Observed: x.observed, Addresses: own}, x.had)
		if at.Address != x.want || ok != x.ok {
			t.Errorf("%s: %q %v, want %q %v", x.name, at.Address, ok, x.want, x.ok)
		}
	}
}

// A device's interface flaps: it says B soon after A, and A again. B waited to be stored, and was: hubs dialled a device without a tunnel at B for ever.
func TestADeviceThatIsBackWhereItWasIsLeftThere(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	uuid, now := b.view.device("gw").UUID, b.cfg.Now()
	b.cfg.Now = func() time.Time { return now }
	say := func(address string) {
		b.noteListen(t.Context(), []*api.DeviceState{{Uuid: uuid, Online: true, Listen: address, Observed: "192.0.2.1:1", TunnelOff: true}})
	}
	for _, address := range []string{"192.0.2.10:22", "192.0.2.11:22", "192.0.2.10:22"} {
		say(address)
	}
	now = now.Add(2 * listenEvery)
	b.noteListen(t.Context(), nil)
	if got := b.view.device("gw").listen().Address; got != "192.0.2.10:22" {
		t.Errorf("it is dialled at %s", got)
	}
}
