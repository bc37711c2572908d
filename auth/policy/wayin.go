package policy

import (
	"net"
	"slices"
)

// WayIn is the command line of the first way among ways: for a refusal, which names the way that works. hub is the host:port
// at which people reach one. login may be empty. Empty: ways holds none that a person can take.
func WayIn(ways []string, device, login, hub string) string {
	host, port, err := net.SplitHostPort(hub)
	if err != nil {
		host, port = hub, ""
	}
	switch {
	case slices.Contains(ways, WayHub):
		command := "ssh "
		if port != "" && port != "22" {
			command += "-p " + port + " "
		}
		if login != "" {
			device = login + "=" + device
		}
		return command + device + "@" + host
	case slices.Contains(ways, WayEndToEnd):
		if port != "" && port != "22" {
			host = net.JoinHostPort(host, port)
		}
		if login == "" {
			login = "LOGIN"
		}
		return "ssh -J " + host + " " + login + "@" + device
	case slices.Contains(ways, WayDirect):
		if login == "" {
			login = "LOGIN"
		}
		return "ssh " + login + "@direct-" + device + ", as `hawser config ssh` has it"
	}
	return ""
}
