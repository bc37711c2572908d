// Package sshconfig writes what stock OpenSSH needs to reach a cluster without
// a prompt: a configuration file and the known_hosts file it names. Start from
// [Config.Render] and [KnownHosts].
package sshconfig

import (
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/cpu"
)

// Config is what the files say.
type Config struct {
	Host       string   // a hub's name or address
	Port       string   // of its SSH side
	KeyPath    string   // the person's private key
	CertPath   string   // its certificate
	KnownHosts string   // path of the known_hosts file
	Login      string   // the login of end-to-end connections; empty: ssh's default
	Devices    []string // names, already checked against the grammar
}

// Render returns the text of an ssh_config(5) file: one alias a device for hub
// mode, one with the prefix e2e- for end to end, and the hub itself as `hub`.
func (c Config) Render() []byte {
	var b strings.Builder
	b.WriteString("# Written by hawser, and written again when devices join: changes made here are lost.\n\n")
	fmt.Fprintf(&b, "Host hub\n  User hawser\n%s\n", c.hub())
	for _, d := range c.Devices {
		fmt.Fprintf(&b, "Host %s\n  User %s\n%s\n", d, d, c.hub())
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

// hub is the part that every alias of hub mode shares.
func (c Config) hub() string {
	return fmt.Sprintf("  HostName %s\n  Port %s\n", c.Host, c.Port)
}

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
