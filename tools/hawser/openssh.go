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
func writeSSHConfig(dir string, p *profile.Profile, more []string, login string, devices []*api.Device) (string, error) {
	conf, known, err := sshConfigOf(dir, p, more, login, devices)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return filepath.Join(filepath.Dir(conf.KnownHosts), sshConfigFile), errors.Join(
		identity.WriteFileAtomic(root, knownHostsFile, known, 0o600),
		identity.WriteFileAtomic(root, sshConfigFile, conf.Render(), 0o600),
	)
}

// sshConfigOf is what ssh needs to know, with the known_hosts file that is to be below dir.
func sshConfigOf(dir string, p *profile.Profile, more []string, login string, devices []*api.Device) (conf sshconfig.Config, known []byte, err error) {
	var hubs []sshconfig.Hub
	for i, addr := range append([]string{p.Settings.SSHAddr}, more...) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil && i == 0 {
			return conf, nil, fmt.Errorf("ssh_addr of the profile: %w", err)
		}
		if err == nil {
			hubs = append(hubs, sshconfig.Hub{Host: host, Port: port})
		}
	}
	blob, err := p.Trust()
	if err != nil {
		return conf, nil, fmt.Errorf("read the profile's trust: %w", err)
	}
	trust, err := ca.OpenStoredTrust(blob)
	if err != nil {
		return conf, nil, err
	}
	var authorities []ssh.PublicKey
	for _, wire := range append(append([][]byte{}, trust.HubHostCA...), trust.DeviceHostCA...) {
		k, err := ssh.ParsePublicKey(wire)
		if err != nil {
			return conf, nil, fmt.Errorf("read a host authority: %w", err)
		}
		authorities = append(authorities, k)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return conf, nil, err
	}
	conf = sshconfig.Config{
		Hubs: hubs, KeyPath: p.KeyPath(), CertPath: p.CertPath(), KnownHosts: filepath.Join(abs, knownHostsFile),
		Login: login, Direct: make(map[string]string),
	}
	for _, d := range devices {
		conf.Devices = append(conf.Devices, d.Name)
		if d.ListenAddress != "" {
			conf.Direct[d.Name] = d.ListenAddress
		}
	}
	return conf, sshconfig.KnownHosts(authorities...), nil
}

// renewBefore is how much of a certificate's life a person's command wants left.
const renewBefore = 5 * time.Minute

func newSSH() *cobra.Command {
	return &cobra.Command{
		Use:   "ssh [--wait 1h] [ssh options] DEVICE [command]",
		Short: "Run ssh(1) with the profile's configuration",
		Long: `Run ssh(1) with the profile's configuration. With --wait, which comes first, or with HAWSER_WAIT in the environment, a device that is
away is waited for, at most so long (24h); the hub does the waiting, and for e2e-DEVICE this command.`,
		DisableFlagParsing: true,
		ValidArgsFunction:  completeDevices,
		RunE:               func(c *cobra.Command, args []string) error { return runOpenSSH(c, "ssh", args) },
	}
}

func newSCP() *cobra.Command {
	return &cobra.Command{
		Use:                "scp [--wait 1h] [scp options] SOURCE ... TARGET | scp -l site=ber FILE ... :PATH",
		Short:              "Run scp(1) with the profile's configuration; --wait as for hawser ssh. With :PATH it copies to many devices, or from them",
		Long:               scpHelp(),
		DisableFlagParsing: true,
		RunE: func(c *cobra.Command, args []string) error {
			if fleetCopies(args) {
				return runFleetCopy(c, args)
			}
			return runOpenSSH(c, "scp", args)
		},
	}
}

// runOpenSSH runs a program of the system's OpenSSH with a configuration made
// for the devices as they are now; its exit code passes through.
func runOpenSSH(c *cobra.Command, program string, args []string) error {
	if len(args) == 0 || args[0] == "--help" || args[0] == "-h" {
		return c.Help()
	}
	wait, args, err := waitFlag(args)
	if err != nil {
		return err
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
	more, err := admin.chooseHub(c)
	if err != nil {
		return err
	}
	config, err := writeSSHConfig(admin.profile.Dir, admin.profile, more, "", res.Msg.Devices)
	if err != nil {
		return err
	}
	if err := admin.waitEndToEnd(c, wait, args, res.Msg.Devices); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.Context(), path, append([]string{"-F", config}, args...)...)
	if wait > 0 {
		cmd.Env = append(os.Environ(), waitVariable+"="+wait.String()) // the configuration sends it
	}
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
	if _, err := c.adoptTrust(res.Msg.Trust); err != nil {
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

// renewIfDue gets new certificates when the present ones are about to end, or another CA signs now: the one that signed them may be gone tomorrow.
func (c *client) renewIfDue(cmd *cobra.Command) error {
	cert, err := c.profile.TLSCertificate()
	if err != nil {
		return err
	}
	if time.Until(cert.Leaf.NotAfter) > renewBefore && !c.behind(cmd, cert.Leaf) {
		return nil
	}
	return c.renew(cmd)
}

// renew gets new certificates for the profile's key.
func (c *client) renew(cmd *cobra.Command) error {
	s := &c.profile.Settings
	req := &api.RenewMyselfRequest{TtlSeconds: uint64(s.TTL / time.Second)}
	if s.SSHKey != "" { // the SSH certificate is another key's than ours
		cert, err := c.profile.SSHCertificate()
		if err != nil {
			return err
		}
		req.SshPublicKey = cert.Key.Marshal()
	}
	res, err := c.RenewMyself(cmd.Context(), connect.NewRequest(req))
	if err != nil {
		return fmt.Errorf("renew the profile's certificates: %w", err)
	}
	adoptHubs(s, res.Msg.Hubs)
	if res.Msg.LoginEndsUnix > 0 {
		s.LoginEnds = time.Unix(res.Msg.LoginEndsUnix, 0).UTC()
	}
	return c.profile.Save(c.profile.Settings, profile.Credentials{SSHCert: res.Msg.SshCertificate, Chain: res.Msg.Chain, Trust: res.Msg.Trust})
}
