package names

import (
	"regexp"
	"strings"
	"testing"
)

func TestFormsOfAName(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Name
	}{
		{"gw-17", Name{OfDevice, "gw-17", ""}},
		{"root=gw-17", Name{OfDevice, "gw-17", "root"}},
		{"root+gw-17", Name{OfDevice, "gw-17", "root"}},
		{"root@gw-17", Name{OfDevice, "gw-17", "root"}},
		{"Adm.in-1=a", Name{OfDevice, "a", "Adm.in-1"}},
		{"hawser", Name{Kind: OfHub}},
		{"root=hawser", Name{}},
		{"", Name{}},
		{"=gw", Name{}},
		{"root=", Name{}},
		{"-oProxyCommand=gw", Name{}},
		{"a=b=c", Name{}},
		{"GW-17", Name{}},
		{"gw.17", Name{}},
		{"gw-", Name{}},
		{"localhost", Name{}},
		{"e2e-gw-1", Name{}},
		{"gw\x1b[2J", Name{}},
		{"gw 1", Name{}},
		{"ro ot=gw-1", Name{}},
		{strings.Repeat("a", 63), Name{OfDevice, strings.Repeat("a", 63), ""}},
		{strings.Repeat("a", 64), Name{}},
		{strings.Repeat("a", 8192), Name{}},
	} {
		if got := Parse(c.in); got != c.want {
			t.Errorf("Parse(%q) = %+v, want %+v", c.in, got, c.want)
		}
	}
}

func TestOwnNameMeansTheHubUnlessItIsADevice(t *testing.T) {
	devices := map[string]bool{"bob": true}
	is := func(s string) bool { return devices[s] }
	if n := Resolve("alice", "alice", is); n.Kind != OfHub {
		t.Errorf("own name: got %+v, want the hub", n)
	}
	if n := Resolve("bob", "bob", is); n != (Name{OfDevice, "bob", ""}) {
		t.Errorf("own name that is a device: got %+v", n)
	}
	if n := Resolve("carol", "alice", is); n.Kind != OfDevice {
		t.Errorf("another name: got %+v, want a device", n)
	}
	if n := Resolve("Alice.B", "Alice.B", is); n.Kind != OfHub {
		t.Errorf("own name that no device could have: got %+v, want the hub", n)
	}
}

func TestEndToEndTargets(t *testing.T) {
	for _, c := range []struct {
		host     string
		port     uint32
		device   string
		explicit bool
		ok       bool
	}{
		{"gw-1", 22, "gw-1", false, true},
		{"e2e-gw-1", 22, "gw-1", true, true},
		{"gw-1", 23, "", false, false},
		{"localhost", 22, "", false, false},
		{"127.0.0.1", 22, "", false, false},
		{"::1", 22, "", false, false},
		{"e2e-localhost", 22, "", false, false},
		{"e2e-e2e-gw", 22, "", false, false},
		{"hub", 22, "", false, false},
	} {
		d, e, ok := EndToEnd(c.host, c.port)
		if d != c.device || ok != c.ok || e != c.explicit && ok {
			t.Errorf("EndToEnd(%q, %d) = %q %v %v", c.host, c.port, d, e, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"gw-17", "root=gw", "a+b@c", "hawser", "\x00", "e2e-x", "\u202egw"} {
		f.Add(s)
	}
	device := regexp.MustCompile(`^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$`)
	login := regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\$?$`)
	f.Fuzz(func(t *testing.T, s string) {
		n := Parse(s)
		if n.Kind == OfDevice != (n.Device != "") {
			t.Fatalf("%q: %+v", s, n)
		}
		if n.Device != "" && (!device.MatchString(n.Device) || !strings.HasSuffix(s, n.Device)) {
			t.Fatalf("%q gave device %q", s, n.Device)
		}
		if n.Login != "" && (!login.MatchString(n.Login) || !strings.HasPrefix(s, n.Login)) {
			t.Fatalf("%q gave login %q", s, n.Login)
		}
		if d, _, ok := EndToEnd(s, 22); ok && !device.MatchString(d) {
			t.Fatalf("%q gave end-to-end device %q", s, d)
		}
	})
}
