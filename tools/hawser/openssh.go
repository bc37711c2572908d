package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/tools/hawser/profile"
	"hawser/tools/hawser/sshconfig"
	"hawser/tunnel/identity"
)

const (
	sshConfigFile  = "ssh_config"
	knownHostsFile = "known_hosts"
)

// writeSSHConfig writes ssh_config and known_hosts below dir for the profile's
// person and returns the configuration's path; more are the addresses of hubs
// beside the profile's own. Files that already say the same are left alone.
func writeSSHConfig(dir string, p *profile.Profile, more []string, login string, devices []string) (string, error) {
	var hubs []sshconfig.Hub
	for i, addr := range append([]string{p.Settings.SSHAddr}, more...) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil && i == 0 {
			return "", fmt.Errorf("ssh_addr of the profile: %w", err)
		}
		if err == nil {
			hubs = append(hubs, sshconfig.Hub{Host: host, Port: port})
		}
	}
	blob, err := p.Trust()
	if err != nil {
		return "", fmt.Errorf("read the profile's trust: %w", err)
	}
	trust, err := ca.OpenTrust(blob, p.Settings.CAPin)
	if err != nil {
		return "", err
	}
	var authorities []ssh.PublicKey
	for _, wire := range append(append([][]byte{}, trust.HubHostCA...), trust.DeviceHostCA...) {
		k, err := ssh.ParsePublicKey(wire)
		if err != nil {
			return "", fmt.Errorf("read a host authority: %w", err)
		}
		authorities = append(authorities, k)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	conf := sshconfig.Config{
		Hubs: hubs, KeyPath: p.KeyPath(), CertPath: p.CertPath(), KnownHosts: filepath.Join(abs, knownHostsFile),
		Login: login, Devices: devices,
	}
	return filepath.Join(abs, sshConfigFile), errors.Join(
		identity.WriteFileAtomic(root, knownHostsFile, sshconfig.KnownHosts(authorities...), 0o600),
		identity.WriteFileAtomic(root, sshConfigFile, conf.Render(), 0o600),
	)
}

// renewBefore is how much of a certificate's life a person's command wants left.
const renewBefore = 5 * time.Minute

func newSSH() *cobra.Command {
	return &cobra.Command{
		Use:                "ssh [ssh options] DEVICE [command]",
		Short:              "Run ssh(1) with the profile's configuration",
		DisableFlagParsing: true,
		ValidArgsFunction:  completeDevices,
		RunE:               func(c *cobra.Command, args []string) error { return runOpenSSH(c, "ssh", args) },
	}
}

func newSCP() *cobra.Command {
	return &cobra.Command{
		Use:                "scp [scp options] SOURCE ... TARGET",
		Short:              "Run scp(1) with the profile's configuration",
		DisableFlagParsing: true,
		RunE:               func(c *cobra.Command, args []string) error { return runOpenSSH(c, "scp", args) },
	}
}

// runOpenSSH runs a program of the system's OpenSSH with a configuration made
// for the devices as they are now; its exit code passes through.
func runOpenSSH(c *cobra.Command, program string, args []string) error {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		return c.Help()
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return fmt.Errorf("%w: install OpenSSH's client", err)
	}
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	if err := admin.renewIfDue(c); err != nil {
		return err
	}
	res, err := admin.ListDevices(c.Context(), connect.NewRequest(&api.ListDevicesRequest{}))
	if err != nil {
		return err
	}
	var names []string
	for _, d := range res.Msg.Devices {
		names = append(names, d.Name)
	}
	more, err := admin.chooseHub(c)
	if err != nil {
		return err
	}
	config, err := writeSSHConfig(admin.profile.Dir, admin.profile, more, "", names)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(c.Context(), path, append([]string{"-F", config}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if e, ok := errors.AsType[*exec.ExitError](err); ok {
			return silent{e} // ssh has already said what was wrong
		}
		return err
	}
	return nil
}

// chooseHub points the profile at a hub that is up, the one it names already
// where that is, and returns one address of each other.
func (c *client) chooseHub(cmd *cobra.Command) (more []string, err error) {
	res, err := c.Whoami(cmd.Context(), connect.NewRequest(&api.WhoamiRequest{}))
	if err != nil {
		return nil, err
	}
	up := slices.DeleteFunc(res.Msg.Hubs, func(h *api.Hub) bool { return !h.Online || len(h.SshAddresses) == 0 })
	if len(up) == 0 {
		return nil, offlineError{errors.New("no hub is up: start one with hawser-hub run, or see hawser hub ls")}
	}
	s := &c.profile.Settings
	own := slices.IndexFunc(up, func(h *api.Hub) bool { return slices.Contains(h.SshAddresses, s.SSHAddr) })
	if own < 0 {
		own, s.SSHAddr = 0, up[0].SshAddresses[0]
	}
	for i, h := range up {
		if i != own {
			more = append(more, h.SshAddresses[0])
		}
	}
	return more, nil
}

// silent is an error that has been shown already.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// renewIfDue gets new certificates when the present ones are about to end.
func (c *client) renewIfDue(cmd *cobra.Command) error {
	cert, err := c.profile.TLSCertificate()
	if err != nil {
		return err
	}
	if time.Until(cert.Leaf.NotAfter) > renewBefore {
		return nil
	}
	res, err := c.RenewMyself(cmd.Context(), connect.NewRequest(&api.RenewMyselfRequest{}))
	if err != nil {
		return fmt.Errorf("renew the profile's certificates: %w", err)
	}
	return c.profile.Save(c.profile.Settings, profile.Credentials{SSHCert: res.Msg.SshCertificate, Chain: res.Msg.Chain, Trust: res.Msg.Trust})
}
