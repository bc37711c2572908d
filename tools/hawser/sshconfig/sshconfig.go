// Package sshconfig writes what stock OpenSSH needs to reach a cluster without
// a prompt: a configuration file and the known_hosts file it names. Start from
// [Config.Render] and [KnownHosts].
package sshconfig

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Config is what the files say.
type Config struct {
	Hubs       []Hub    // the first is the one that devices are reached by
	KeyPath    string   // the person's private key
	CertPath   string   // its certificate
	KnownHosts string   // path of the known_hosts file
	Login      string   // the login of end-to-end connections; empty: ssh's default
	Devices    []string // names, already checked against the grammar
}

// Hub is where a hub's SSH side is.
type Hub struct{ Host, Port string }

// Render returns the text of an ssh_config(5) file: one alias a device for hub
// mode, one with the prefix e2e- for end to end, and the hubs themselves as
// `hub`, `hub-2`, `hub-3`..., but for names that a device has.
func (c Config) Render() []byte {
	var b strings.Builder
	b.WriteString("# Written by hawser, and written again when devices join: changes made here are lost.\n\n")
	for i, h := range c.Hubs {
		alias := "hub"
		if i > 0 {
			alias = fmt.Sprintf("hub-%d", i+1)
		}
		if !slices.Contains(c.Devices, alias) {
			fmt.Fprintf(&b, "Host %s\n  User hawser\n%s\n", alias, h.at())
		}
	}
	for _, d := range c.Devices {
		fmt.Fprintf(&b, "Host %s\n  User %s\n%s\n", d, d, c.Hubs[0].at())
		fmt.Fprintf(&b, "Host e2e-%s\n  HostName %s\n  Port 22\n  ProxyJump hub\n", d, d)
		if c.Login != "" {
			fmt.Fprintf(&b, "  User %s\n", c.Login)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, `Host *
  IdentityFile %s
  CertificateFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PasswordAuthentication no
  KbdInteractiveAuthentication no
%s`, quote(c.KeyPath), quote(c.CertPath), quote(c.KnownHosts), ciphers())
	return []byte(b.String())
}

// ciphers prefers AES-GCM where this machine computes it in hardware, as hubs do: OpenSSH's own first choice costs both ends a multiple.
// The list is written out, for "^" needs OpenSSH 8.1.
func ciphers() string {
	if !cpu.X86.HasAES && !cpu.ARM64.HasAES && !cpu.S390X.HasAESGCM {
		return ""
	}
	return "  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr\n"
}

// at is the part that every alias of hub mode shares.
func (h Hub) at() string { return fmt.Sprintf("  HostName %s\n  Port %s\n", h.Host, h.Port) }

// quote makes a path one word of ssh_config(5), which knows no escape for a
// double quote.
func quote(path string) string {
	return `"` + strings.ReplaceAll(path, "%", "%%") + `"`
}

// KnownHosts returns the text of a known_hosts file that trusts these host
// authorities. Hubs' and devices' may share the pattern: a device's name has no
// dot, so its certificate never matches a hub's name.
func KnownHosts(authorities ...ssh.PublicKey) []byte {
	var b strings.Builder
	for _, k := range authorities {
		b.WriteString("@cert-authority * ")
		b.Write(ssh.MarshalAuthorizedKey(k))
	}
	return []byte(b.String())
}
