package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/tools/hawser/profile"
	"hawser/tools/hawser/sshconfig"
	"hawser/tunnel/identity"
)

const (
	// includeFile of a profile is what a person's own ssh_config includes.
	includeFile = "ssh_include"
	// maxIncluded devices get an alias; the others are reached as DEVICE@HUB.
	maxIncluded = 2000
	// renewShare of a certificate's life is left when it is renewed, renewBefore at least.
	renewShare = 8
	// renewPause is how young a certificate is not asked to be renewed, or a quarter of its life: what auth gives may end as soon.
	renewPause = 5 * time.Minute
)

func newConfig() *cobra.Command {
	return group("config", "What other programs need to use the cluster", newConfigSSH())
}

func newConfigSSH() *cobra.Command {
	var show, remove, yes bool
	var file string
	c := &cobra.Command{
		Use:   "ssh",
		Short: "Let plain ssh, scp and what is built on them reach devices by name",
		Long: `Write a file for ssh_config(5) below HAWSER_HOME: aliases of the hubs (hub) and of the devices (gw-1 through the hub, e2e-gw-1 end to end,
direct-gw-1 where the device has a port of its own),
the cluster's host authorities, and a check before each connection that renews certificates that are about to end.
Your own ~/.ssh/config gets one line, an Include at its top, and only if you say so; --remove takes it out again.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if show && remove {
				return usageError{errors.New("give --print or --remove")}
			}
			if file == "" {
				home, err := os.UserHomeDir()
				if err != nil {
					return err
				}
				file = filepath.Join(home, ".ssh", "config")
			}
			if remove {
				return removeConfigSSH(c, file)
			}
			admin, err := dial()
			if err != nil {
				return err
			}
			defer admin.close()
			if show {
				files, err := admin.includeFiles(c)
				if err != nil {
					return err
				}
				_, err = c.OutOrStdout().Write(files[includeFile])
				return err
			}
			if err := admin.writeInclude(c); err != nil {
				return err
			}
			return includeIt(c, file, admin.profile.Path(includeFile), yes)
		},
	}
	f := c.Flags()
	f.BoolVar(&show, "print", false, "print what would be written, and write nothing")
	f.BoolVar(&remove, "remove", false, "undo it: take the line out of your ssh_config, and remove the file")
	f.BoolVarP(&yes, "yes", "y", false, "add the Include line without asking")
	f.StringVar(&file, "ssh-config", "", "your ssh_config (default: ~/.ssh/config)")
	return c
}

// includeIt adds the line, if it is wanted.
func includeIt(c *cobra.Command, file, include string, yes bool) error {
	words := c.ErrOrStderr()
	there, err := sshconfig.HasInclude(file, include)
	if err != nil {
		return err
	}
	if there {
		fmt.Fprintf(words, "%s is up to date, and %s includes it\n", include, file)
		return nil
	}
	if !yes {
		t, err := openTerminal(c)
		if err == nil {
			defer t.close()
			yes, err = t.yes(c.Context(), fmt.Sprintf("Add one line to the top of %s?\n  %s", file, sshconfig.IncludeLine(include)))
		}
		if err != nil && !errors.Is(err, errNoTerminal) {
			return err
		}
	}
	if !yes {
		fmt.Fprintf(words, "wrote %s; ssh reads it by -F %s, or by this line at the top of %s (--yes adds it):\n", include, include, file)
		fmt.Fprint(c.OutOrStdout(), sshconfig.IncludeLine(include))
		return nil
	}
	if err := sshconfig.AddInclude(file, include); err != nil {
		return fmt.Errorf("add a line to %s: %w", file, err)
	}
	fmt.Fprintf(words, "%s includes %s now; `hawser config ssh --remove` undoes it\n", file, include)
	return nil
}

func removeConfigSSH(c *cobra.Command, file string) error {
	dir, err := profile.DefaultDir()
	if err != nil {
		return err
	}
	include := filepath.Join(dir, includeFile)
	found, err := sshconfig.RemoveInclude(file, include)
	if err != nil {
		return fmt.Errorf("take the line out of %s: %w", file, err)
	}
	err = os.Remove(include)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !found && err != nil {
		fmt.Fprintf(c.ErrOrStderr(), "%s includes nothing of hawser's\n", file)
	}
	return nil
}

// includeFiles are the include and the known_hosts that it names.
func (c *client) includeFiles(cmd *cobra.Command) (map[string][]byte, error) {
	res, err := c.ListDevices(cmd.Context(), connect.NewRequest(&api.ListDevicesRequest{}))
	if err != nil {
		return nil, err
	}
	devices := slices.SortedFunc(slices.Values(res.Msg.Devices), func(a, b *api.Device) int { return strings.Compare(a.Name, b.Name) })
	if len(devices) > maxIncluded {
		fmt.Fprintf(cmd.ErrOrStderr(), "hawser: only the first %d of %d devices get an alias; DEVICE@HUB reaches all\n", maxIncluded, len(devices))
		devices = devices[:maxIncluded]
	}
	more, err := c.chooseHub(cmd)
	if err != nil {
		return nil, err
	}
	conf, known, err := sshConfigOf(c.profile.Dir, c.profile, more, "", devices)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{includeFile: conf.Include(renewCommand(c.profile.Dir)), knownHostsFile: known}, nil
}

func (c *client) writeInclude(cmd *cobra.Command) error {
	files, err := c.includeFiles(cmd)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(c.profile.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range []string{knownHostsFile, includeFile} {
		if err := identity.WriteFileAtomic(root, name, files[name], 0o600); err != nil {
			return err
		}
	}
	return nil
}

// keepKnownHosts writes known_hosts anew where there is one: after a rotation a login brings other authorities.
func keepKnownHosts(p *profile.Profile) error {
	if _, err := os.Stat(p.Path(knownHostsFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	_, known, err := sshConfigOf(p.Dir, p, nil, "", nil)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(p.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return identity.WriteFileAtomic(root, knownHostsFile, known, 0o600)
}

// renewCommand is what ssh runs before a connection. A path that cannot be said to ssh and a shell alike says nothing: certificates are then
// renewed by hawser's own commands only.
func renewCommand(home string) string {
	program, err := os.Executable()
	if err != nil || strings.ContainsAny(program+home, "'\"\\\n") {
		return ""
	}
	return fmt.Sprintf("HAWSER_HOME='%s' '%s' renew --quiet", home, program)
}

func newRenew() *cobra.Command {
	var quiet bool
	c := &cobra.Command{
		Use:   "renew",
		Short: "Renew the certificates of this login, if they are about to end",
		Long: `Renew the certificates if less than an eighth of their life is left, or another CA signs now. ssh runs it with --quiet before a connection
(hawser config ssh): then it does nothing but that, says what is wrong on stderr, and never fails.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			err := renewNow(c, quiet)
			if err != nil && quiet {
				fmt.Fprintln(c.ErrOrStderr(), "hawser: certificates not renewed:", errText(err))
				return nil
			}
			return err
		},
	}
	c.Flags().BoolVarP(&quiet, "quiet", "q", false, "for ssh_config: be quick, and never fail")
	return c
}

// errText is an error for people, whoever made it.
func errText(err error) string {
	if m := api.MessageOf(err); m != "" {
		return m
	}
	return err.Error()
}

func renewNow(cmd *cobra.Command, quiet bool) error {
	dir, err := profile.DefaultDir()
	if err != nil {
		return err
	}
	p, err := profile.Open(dir)
	if err != nil {
		return err
	}
	due, until, err := due(p, time.Now())
	_ = p.Close()
	if err != nil {
		return err
	}
	if quiet && !due {
		return nil // by far the most: no connection is made
	}
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	if due {
		err = admin.renew(cmd)
	} else {
		err = admin.renewIfDue(cmd)
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(admin.profile.Path(includeFile)); err == nil {
		if err := admin.writeInclude(cmd); err != nil {
			return err
		}
	}
	if !quiet {
		if cert, err := admin.profile.TLSCertificate(); err == nil {
			until = cert.Leaf.NotAfter
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "certificates until %s\n", when(until.Unix()))
	}
	return nil
}

// due tells whether the certificates should be renewed, from the files alone.
func due(p *profile.Profile, now time.Time) (due bool, until time.Time, err error) {
	cert, err := p.SSHCertificate()
	if errors.Is(err, os.ErrNotExist) {
		return false, time.Time{}, fmt.Errorf("%w; `hawser login` logs in", profile.ErrLoggedOut)
	}
	if err != nil {
		return false, time.Time{}, err
	}
	from, until := time.Unix(int64(cert.ValidAfter), 0).Add(ca.Backdate), time.Unix(int64(min(cert.ValidBefore, 1<<40)), 0)
	life := until.Sub(from)
	left := until.Sub(now)
	if left <= 0 {
		return false, until, fmt.Errorf("%w: the certificates ended %s; `hawser login` logs in", profile.ErrLoggedOut, ago(now, until.Unix()))
	}
	if ends := p.Settings.LoginEnds; !ends.IsZero() && ends.Sub(until) < time.Minute {
		return false, until, nil // there is no more to be had
	}
	return left < max(renewBefore, life/renewShare) && now.Sub(from) > min(renewPause, life/4), until, nil
}
