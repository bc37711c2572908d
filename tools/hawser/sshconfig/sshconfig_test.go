package sshconfig

import (
	"strings"
	"testing"
)

func TestEachHubHasAnAliasAndDevicesGoByTheFirst(t *testing.T) {
	c := Config{Hubs: []Hub{{"192.0.2.1", "22"}, {"192.0.2.2", "2222"}, {"2001:db8::3", "22"}}, Devices: []string{"gw-1", "hub-3"}, Login: "root"}
	got := string(c.Render())
	for _, want := range []string{
		"Host hub\n  User hawser\n  HostName 192.0.2.1\n  Port 22\n",
		"Host hub-2\n  User hawser\n  HostName 192.0.2.2\n  Port 2222\n",
		"Host gw-1\n  User gw-1\n  HostName 192.0.2.1\n",
		"Host e2e-gw-1\n  HostName gw-1\n  Port 22\n  ProxyJump hub\n  User root\n",
		"Host hub-3\n  User hub-3\n  HostName 192.0.2.1\n", // a device of that name is the device
	} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q in\n%s", want, got)
		}
	}
	if strings.Count(got, "Host hub-3\n") != 1 {
		t.Errorf("one name for two:\n%s", got)
	}
}

// A device with a port of its own is trusted by its name, as by every other way, and never prompted for; one that another device's name shadows has no alias.
func TestADeviceThatListensHasAnAliasOfItsOwn(t *testing.T) {
	c := Config{Hubs: []Hub{{"192.0.2.1", "22"}}, Devices: []string{"gw-1", "gw-2", "gw-3", "direct-gw-2"}, Login: "root",
		Direct: map[string]string{"gw-1": "[2001:db8::7]:2222", "gw-2": "192.0.2.9:22", "gw-3": "evil\n  ProxyCommand x"}}
	got := string(c.Include(""))
	if want := "Host direct-gw-1\n  HostName 2001:db8::7\n  Port 2222\n  HostKeyAlias gw-1\n  User root\n"; !strings.Contains(got, want) {
		t.Errorf("lacks %q in\n%s", want, got)
	}
	if !strings.Contains(got, "e2e-gw-1 direct-gw-1 gw-2") {
		t.Errorf("direct-gw-1 has not the options of the others:\n%s", got)
	}
	if strings.Contains(got, "192.0.2.9") || strings.Contains(got, "evil") {
		t.Errorf("an alias that must not be:\n%s", got)
	}
}
