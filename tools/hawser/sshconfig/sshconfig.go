// Package sshconfig writes what stock OpenSSH needs to reach a cluster without
// a prompt: a configuration file and the known_hosts file it names. Start from
// [Config.Render] and [KnownHosts].
package sshconfig

import (
	"fmt"
	"net/netip"
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
	// Direct is where devices serve people themselves, by name: ip:port.
	Direct map[string]string
}

// Hub is where a hub's SSH side is.
type Hub struct{ Host, Port string }

// Render returns the text of an ssh_config(5) file: one alias a device for hub
// mode, one with the prefix e2e- for end to end, one with direct- where the device
// has a port of its own, and the hubs themselves as
// `hub`, `hub-2`, `hub-3`..., but for names that a device has.
func (c Config) Render() []byte {
	var b strings.Builder
	b.WriteString(header)
	c.aliases(&b)
	b.WriteString("Host *\n")
	b.WriteString(c.options())
	return []byte(b.String())
}

const header = "# Written by hawser, and written again when devices join: changes made here are lost.\n\n"

// aliases writes what the names stand for, and returns them: nothing outside these is to be touched.
func (c Config) aliases(b *strings.Builder) (names []string) {
	for i, h := range c.Hubs {
		alias := "hub"
		if i > 0 {
			alias = fmt.Sprintf("hub-%d", i+1)
		}
		if !slices.Contains(c.Devices, alias) {
			fmt.Fprintf(b, "Host %s\n  User hawser\n%s\n", alias, h.at())
			names = append(names, alias)
		}
	}
	for _, d := range c.Devices {
		fmt.Fprintf(b, "Host %s\n  User %s\n%s\n", d, d, c.Hubs[0].at())
		fmt.Fprintf(b, "Host e2e-%s\n  HostName %s\n  Port 22\n  ProxyJump hub\n", d, d)
		if c.Login != "" {
			fmt.Fprintf(b, "  User %s\n", c.Login)
		}
		b.WriteString("\n")
		names = append(names, d, "e2e-"+d)
		// The certificate names the device and not its address.
		if at, err := netip.ParseAddrPort(c.Direct[d]); err == nil && !slices.Contains(c.Devices, "direct-"+d) {
			fmt.Fprintf(b, "Host direct-%s\n  HostName %s\n  Port %d\n  HostKeyAlias %s\n", d, at.Addr(), at.Port(), d)
			if c.Login != "" {
				fmt.Fprintf(b, "  User %s\n", c.Login)
			}
			b.WriteString("\n")
			names = append(names, "direct-"+d)
		}
	}
	return names
}

// options are the same for every host of the cluster.
func (c Config) options() string {
	return fmt.Sprintf(`  IdentityFile %s
  CertificateFile %s
  IdentitiesOnly yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PreferredAuthentications publickey,keyboard-interactive
  PasswordAuthentication no
  SendEnv HAWSER_WAIT
%s`, quote(c.KeyPath), quote(c.CertPath), quote(c.KnownHosts), ciphers())
}

// maxPatterns are on one Host line: older clients read no endless ones.
const maxPatterns = 30

// Include returns the text of a file to be included in a person's own ssh_config(5): as Render, but it concerns the hubs and devices alone,
// by alias or by the hubs' addresses. renew is a shell command that is run before each connection to one of them; empty: none.
func (c Config) Include(renew string) []byte {
	var b strings.Builder
	b.WriteString(header)
	names := c.aliases(&b)
	for _, h := range c.Hubs {
		// For DEVICE@HOST. This machine itself is not taken for a hub: a person may have an sshd of his own there.
		if ip, err := netip.ParseAddr(h.Host); !slices.Contains(names, h.Host) && h.Host != "localhost" && (err != nil || !ip.IsLoopback()) {
			names = append(names, h.Host)
		}
	}
	for some := range slices.Chunk(names, maxPatterns) {
		if renew != "" {
			fmt.Fprintf(&b, "Match originalhost %s exec \"%s\"\n", strings.Join(some, ","), strings.ReplaceAll(renew, "%", "%%"))
		}
		fmt.Fprintf(&b, "Host %s\n%s\n", strings.Join(some, " "), c.options())
	}
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
