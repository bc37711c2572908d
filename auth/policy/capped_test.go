package policy

import (
	"testing"
	"time"
)

// A device admits nobody by itself whom the cluster counts: also by a role that says nothing of this device, or by a cap of the cluster's.
func TestWhoIsCountedIsKnownToEveryDevice(t *testing.T) {
	dev := Device{Name: "gw-1", Labels: map[string]string{"site": "ber"}}
	allow := Rule{Devices: map[string][]string{"site": {"ber"}}, Logins: []string{"root"}, Channels: []string{Shell}}
	free := Role{Name: "free", Allow: allow}
	elsewhere := Role{Name: "elsewhere", Allow: Rule{Devices: map[string][]string{"site": {"ams"}}}, Options: Options{MaxSessions: 3}}
	idle := Role{Name: "idle", Allow: allow, Options: Options{IdleTimeout: time.Minute}}
	for _, x := range []struct {
		name  string
		caps  Caps
		roles []string
		want  bool
	}{
		{"no caps", Caps{}, []string{"free", "idle"}, false},
		{"of a role that concerns another device", Caps{}, []string{"free", "elsewhere"}, true},
		{"of somebody else", Caps{}, []string{"free"}, false},
		{"of the cluster", Caps{PerDevice: 2}, []string{"free"}, true},
		{"channels of a connection alone", Caps{PerConnection: 2}, []string{"free"}, false},
	} {
		b, err := Compile(1, Cluster{Caps: x.caps}.Apply([]Role{free, elsewhere, idle}), dev).Encode()
		if err != nil {
			t.Fatal(err)
		}
		c, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Access(x.roles).For("root", WayDirect).Capped(); got != x.want {
			t.Errorf("%s: capped is %v", x.name, got)
		}
	}
}
