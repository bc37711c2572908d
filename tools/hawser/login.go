package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/tools/hawser/profile"
)

const (
	// loginTimeout of one call: auth takes its time over a password, and lets few be judged at once.
	loginTimeout = 30 * time.Second
	// tunnelPort is where hubs take TLS, unless told otherwise.
	tunnelPort = "443"
)

// loginFlags are what `hawser login` was told.
type loginFlags struct {
	user, invite, pin, cluster string
	hubs                       []string
	sshKey                     string
	noAgent                    bool
	ttl                        time.Duration
	passwordStdin              bool
	passwordFD                 int
	otp                        string
	noOTP                      bool
}

func newLogin() *cobra.Command {
	f := loginFlags{passwordFD: -1}
	c := &cobra.Command{
		Use:   "login [--user NAME] [--hub ADDR] [--invite LINK]",
		Short: "Get certificates for a new key, by password and code, or accept an invitation",
		Long: `Log in: a key is made here, and certificates of it are got for the password and a code of the authenticator.
Both go to the auth service over TLS that ends there; a hub on the way passes it on and sees neither.
The key goes into the ssh-agent, which forgets it when the certificates end, or into files below HAWSER_HOME.

The first login at a cluster is by the invitation an admin hands over (hawser user invite), or with --hub and the CA's pin.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return login(c, f) },
	}
	fs := c.Flags()
	fs.StringVarP(&f.user, "user", "u", "", "your Hawser name (default: the profile's)")
	fs.StringArrayVar(&f.hubs, "hub", nil, "host or host:port of a hub's tunnel side, or of the auth service (may be repeated; default: the profile's)")
	fs.StringVar(&f.invite, "invite", "", "invitation or reset link, hwi1_...; - reads it from standard input")
	fs.StringVar(&f.pin, "ca-pin", "", "pin of the cluster's CA, sha256:..., for a first login with --hub")
	fs.StringVar(&f.cluster, "cluster", "", "the cluster's name, with --ca-pin (default: what it says)")
	fs.StringVar(&f.sshKey, "ssh-key", "", "public key file to put into the SSH certificate in place of a new key: a security key's, such as ~/.ssh/id_ed25519_sk.pub")
	fs.BoolVar(&f.noAgent, "no-agent", false, "keep the key in a file even where there is an ssh-agent")
	fs.DurationVar(&f.ttl, "ttl", 0, "life of each certificate, where it is to be shorter than your roles'; ssh renews it until the login ends (hawser config ssh)")
	fs.BoolVar(&f.passwordStdin, "password-stdin", false, "read the password from standard input, one line")
	fs.IntVar(&f.passwordFD, "password-fd", -1, "read the password from this file descriptor, one line")
	fs.StringVar(&f.otp, "otp", "", "the authenticator's code, in place of asking for it")
	fs.BoolVar(&f.noOTP, "no-otp", false, "you have no authenticator: ask for no code")
	return c
}

func (f *loginFlags) validate() error {
	switch {
	case f.passwordStdin && f.passwordFD >= 0:
		return usageError{errors.New("give --password-stdin or --password-fd")}
	case f.otp != "" && f.noOTP:
		return usageError{errors.New("give --otp or --no-otp")}
	case f.invite != "" && (f.user != "" || len(f.hubs) > 0 || f.pin != ""):
		return usageError{errors.New("an invitation says user, hubs and pin itself")}
	case f.invite == "-" && f.passwordStdin:
		return usageError{errors.New("standard input holds the invitation: give the password by --password-fd")}
	case f.ttl < 0:
		return usageError{errors.New("--ttl must be positive")}
	}
	return nil
}

// loginTarget is where to log in and how to know it.
type loginTarget struct {
	settings profile.Settings
	addrs    []string
	verify   apiclient.Verify
	invite   *ca.Invite
}

// session is one login on its way.
type loginRun struct {
	loginFlags
	c        *cobra.Command
	ctx      context.Context
	terminal *terminal // opened when first needed
	profile  *profile.Profile
	target   loginTarget
	key      ed25519.PrivateKey
	sshBlob  []byte // of --ssh-key; empty: key is the SSH key too
	conn     *apiclient.Client
}

func login(c *cobra.Command, f loginFlags) error {
	if err := f.validate(); err != nil {
		return err
	}
	dir, err := profile.DefaultDir()
	if err != nil {
		return err
	}
	r := &loginRun{loginFlags: f, c: c, ctx: c.Context()}
	defer r.close()
	if r.profile, err = profile.Open(dir); errors.Is(err, profile.ErrNone) {
		r.profile, err = profile.Create(dir)
	}
	if err != nil {
		return err
	}
	if err := r.find(); err != nil {
		return err
	}
	if err := r.makeKey(); err != nil {
		return err
	}
	cred, err := r.prove()
	if err != nil {
		return err
	}
	return r.keep(cred)
}

func (r *loginRun) close() {
	if r.conn != nil {
		r.conn.Close()
	}
	if r.profile != nil {
		_ = r.profile.Close()
	}
	if r.terminal != nil {
		r.terminal.close()
	}
}

// ask asks at the terminal; flag is what answers without one.
func (r *loginRun) ask(prompt string, hidden bool, flag string) (string, error) {
	if r.terminal == nil {
		t, err := openTerminal(r.c)
		if err != nil {
			return "", usageError{fmt.Errorf("%w; give %s", err, flag)}
		}
		r.terminal = t
	}
	return r.terminal.ask(r.ctx, prompt, hidden)
}

// find decides where to log in: at the invitation's cluster, at one named by --hub, or at the profile's.
func (r *loginRun) find() error {
	t := &r.target
	t.settings = r.profile.Settings
	t.settings.SSHKey = ""
	switch {
	case r.invite != "":
		text := r.invite
		if text == "-" {
			b, err := readInput(r.c, "-")
			if err != nil {
				return err
			}
			text = string(b)
		}
		i, err := ca.ParseInvite(text)
		if err != nil {
			return usageError{err}
		}
		t.invite = &i
		t.settings = profile.Settings{Cluster: i.Cluster, User: i.User, CAPin: i.Pin, Hubs: i.Hubs, SSHAddr: t.settings.SSHAddr}
		if len(i.Auth) > 0 {
			t.settings.APIAddr = i.Auth[0]
		}
		t.addrs = append(append([]string(nil), i.Hubs...), i.Auth...)
		t.verify = apiclient.ByPin(i.Cluster, i.Pin, nil)
		return nil
	case len(r.hubs) > 0:
		for _, h := range r.hubs {
			if _, _, err := net.SplitHostPort(h); err != nil {
				h = net.JoinHostPort(strings.Trim(h, "[]"), tunnelPort)
			}
			t.addrs = append(t.addrs, h)
		}
		return r.know()
	case r.profile.Settings.Cluster == "":
		return fmt.Errorf("%w in %s: log in with the invitation you were given (--invite), or name a hub with --hub", profile.ErrNone, r.profile.Dir)
	}
	t.addrs = r.profile.Addresses()
	t.verify = heldTrust(r.profile)
	return nil
}

// know finds out by what CA the cluster at --hub is to be known: by the profile's, by --ca-pin, or by a pin that a person compares.
func (r *loginRun) know() error {
	t := &r.target
	old := r.profile.Settings
	if old.Cluster != "" && r.pin == "" && (r.cluster == "" || r.cluster == old.Cluster) {
		t.verify = heldTrust(r.profile)
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	cluster, pin, err := apiclient.Probe(ctx, t.addrs)
	if err != nil {
		return err
	}
	if r.cluster != "" {
		cluster = r.cluster
	}
	if r.pin == "" {
		answer, err := r.ask(fmt.Sprintf("Cluster %s, whose CA has the pin\n  %s\nis not known here. Compare it with what an admin sees in `hawser ca status`.\nIs it the same? [yes/no] ",
			shown(cluster), pin), false, "--ca-pin (an admin sees it in `hawser ca status`)")
		if err != nil {
			return err
		}
		if strings.TrimSpace(answer) != "yes" {
			return errors.New("not logged in: the cluster was not confirmed")
		}
		r.pin = pin
	}
	t.settings = profile.Settings{Cluster: cluster, CAPin: r.pin, Hubs: t.addrs, User: r.user}
	if r.user == "" && cluster == old.Cluster { // the same cluster, whose CA was replaced
		t.settings.User = old.User
	}
	t.verify = apiclient.ByPin(cluster, r.pin, nil)
	return nil
}

// makeKey makes the key that is certified. It is new at each login, and nobody else ever has it.
func (r *loginRun) makeKey() error {
	if r.sshKey != "" {
		b, err := readInput(r.c, r.sshKey)
		if err != nil {
			return err
		}
		pub, _, _, _, err := ssh.ParseAuthorizedKey(b)
		if err != nil {
			return usageError{fmt.Errorf("%s is not a public key as ssh-keygen writes it", r.sshKey)}
		}
		if r.target.settings.SSHKey, err = filepath.Abs(strings.TrimSuffix(r.sshKey, ".pub")); err != nil {
			return err
		}
		r.sshBlob = pub.Marshal()
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	self, err := ca.SelfSigned(key, time.Now())
	if err != nil {
		return err
	}
	r.key = key
	cert := &tls.Certificate{Certificate: [][]byte{self}, PrivateKey: key}
	r.conn, err = apiclient.Dial(apiclient.Options{
		More: r.target.addrs, Verify: r.target.verify, Certificate: func() *tls.Certificate { return cert },
		Reached: func(a string) { r.profile.Reached(a) },
	})
	return err
}

// prove logs in, or accepts the invitation.
func (r *loginRun) prove() (*api.UserCredentials, error) {
	if r.target.invite != nil {
		return r.accept()
	}
	user := r.user
	if user == "" {
		user = r.target.settings.User
	}
	var err error
	if user == "" {
		if user, err = r.ask("User: ", false, "--user"); err != nil {
			return nil, err
		}
	}
	password, err := r.password(fmt.Sprintf("Password of %s at %s: ", shown(user), shown(r.target.settings.Cluster)))
	if err != nil {
		return nil, err
	}
	code := r.otp
	if code == "" && !r.noOTP {
		if code, err = r.ask("Code of the authenticator (empty where you have none): ", false, "--otp CODE or --no-otp"); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	res, err := r.conn.Login.Login(ctx, connect.NewRequest(&api.LoginRequest{
		User: user, Password: password, Code: digits(code), SshPublicKey: r.sshBlob, TtlSeconds: uint64(r.ttl / time.Second),
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// digits are a code's, as people copy it.
func digits(code string) string { return strings.ReplaceAll(strings.TrimSpace(code), " ", "") }

// password gets the password from where the flags say, or asks.
func (r *loginRun) password(prompt string) (string, error) {
	switch {
	case r.passwordStdin:
		return readSecret(r.c.InOrStdin())
	case r.passwordFD >= 0:
		f := os.NewFile(uintptr(r.passwordFD), "password")
		if f == nil {
			return "", usageError{fmt.Errorf("--password-fd %d is not open", r.passwordFD)}
		}
		defer f.Close()
		return readSecret(f)
	}
	return r.ask(prompt, true, "--password-stdin")
}

// accept sets a password and an authenticator by an invitation.
func (r *loginRun) accept() (*api.UserCredentials, error) {
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	opened, err := r.conn.Login.OpenInvitation(ctx, connect.NewRequest(&api.OpenInvitationRequest{Secret: r.target.invite.Secret}))
	if err != nil {
		return nil, err
	}
	i, words := opened.Msg, r.c.ErrOrStderr()
	what := "invitation"
	if i.Reset_ {
		what = "reset"
	}
	fmt.Fprintf(words, "%s of %s to %s\n", what, shown(i.User), shown(r.target.invite.Cluster))
	password, err := r.newPassword(int(i.MinPassword))
	if err != nil {
		return nil, err
	}
	code := r.otp
	if code == "" && (!r.noOTP || i.CodeRequired) {
		if f, ok := words.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			fmt.Fprint(words, qrCode(i.OtpauthUrl))
		}
		fmt.Fprintf(words, "Put this into an authenticator app:\n  %s\n  secret: %s\n", shown(i.OtpauthUrl), shown(i.OtpSecret))
		prompt := "Its code (empty: go without one): "
		if i.CodeRequired {
			prompt = "Its code: "
		}
		if code, err = r.ask(prompt, false, "--no-otp, where your roles do not ask for a code"); err != nil {
			return nil, err
		}
	}
	for {
		res, err := r.acceptWith(password, digits(code))
		if err == nil {
			return res, nil
		}
		// A mistyped code or a password that is too weak spends nothing: the person tries again.
		if r.terminal == nil {
			return nil, err
		}
		switch api.CodeOf(err) {
		case api.Code_CODE_BAD_CODE:
			fmt.Fprintln(words, "hawser:", api.MessageOf(err))
			if code, err = r.ask("Its code: ", false, "--otp"); err != nil {
				return nil, err
			}
		case api.Code_CODE_BAD_PASSWORD:
			fmt.Fprintln(words, "hawser:", api.MessageOf(err))
			if r.passwordStdin || r.passwordFD >= 0 {
				return nil, err
			}
			if password, err = r.newPassword(int(i.MinPassword)); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
}

func (r *loginRun) acceptWith(password, code string) (*api.UserCredentials, error) {
	ctx, cancel := context.WithTimeout(r.ctx, loginTimeout)
	defer cancel()
	res, err := r.conn.Login.AcceptInvitation(ctx, connect.NewRequest(&api.AcceptInvitationRequest{
		Secret: r.target.invite.Secret, Password: password, Code: code, SshPublicKey: r.sshBlob, TtlSeconds: uint64(r.ttl / time.Second),
	}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// newPassword asks twice, where it asks.
func (r *loginRun) newPassword(least int) (string, error) {
	for {
		first, err := r.password(fmt.Sprintf("New password (%d characters at least): ", least))
		if err != nil || r.passwordStdin || r.passwordFD >= 0 {
			return first, err
		}
		again, err := r.ask("Once more: ", true, "--password-stdin")
		if err != nil {
			return "", err
		}
		if first == again {
			return first, nil
		}
		fmt.Fprintln(r.c.ErrOrStderr(), "hawser: the two are not the same")
	}
}

// keep puts key and certificates where ssh and hawser find them.
func (r *loginRun) keep(cred *api.UserCredentials) error {
	trust, err := ca.OpenStoredTrust(cred.Trust)
	if err != nil {
		return fmt.Errorf("the trust bundle that auth sent: %w", err)
	}
	s := r.target.settings
	if s.Cluster != cred.Cluster || trust.Cluster != cred.Cluster {
		return fmt.Errorf("auth speaks for cluster %s, not %s", shown(cred.Cluster), shown(s.Cluster))
	}
	s.User, s.TTL, s.LoginEnds = cred.User, r.ttl, time.Unix(max(cred.LoginEndsUnix, cred.NotAfterUnix), 0).UTC()
	pins := trust.Pins()
	if len(pins) > 0 {
		s.CAPin = pins[0]
	}
	adoptHubs(&s, cred.Hubs)
	notAfter := time.Unix(cred.NotAfterUnix, 0)
	// Another's SSH key is in a security key or an agent already; ours is then for the API alone.
	inAgent := !r.noAgent && r.sshKey == "" && profile.HasAgent()
	r.profile.RemoveFromAgent() // what an earlier login put there
	if inAgent {
		if err := profile.AddToAgent(r.key, cred.SshCertificate, "hawser "+cred.User+"@"+cred.Cluster, notAfter, s.LoginEnds); err != nil {
			return err
		}
	}
	err = r.profile.SaveLogin(s, profile.Credentials{SSHCert: cred.SshCertificate, Chain: cred.Chain, Trust: cred.Trust}, r.key, !inAgent)
	if err != nil {
		return err
	}
	if err := keepKnownHosts(r.profile); err != nil {
		return fmt.Errorf("logged in, but ssh may not know the hubs: %w; `hawser config ssh` writes its files anew", err)
	}
	where := "in " + r.profile.Dir
	if inAgent {
		where = "in the ssh-agent"
	}
	fmt.Fprintf(r.c.ErrOrStderr(), "%s at %s until %s; the key is %s\n", shown(cred.User), shown(cred.Cluster), when(cred.NotAfterUnix), where)
	return nil
}

// adoptHubs takes over where the cluster's hubs are: those that are up first, one address of each before the second of any.
func adoptHubs(s *profile.Settings, hubs []*api.Hub) {
	var tunnels []string
	sshAddr := ""
	known := false // the hub that the profile names is one still
	for _, online := range []bool{true, false} {
		for i, more := 0, true; more; i++ {
			more = false
			for _, h := range hubs {
				if h.Online != online {
					continue
				}
				if i < len(h.TunnelAddresses) {
					tunnels, more = append(tunnels, h.TunnelAddresses[i]), true
				}
				if i < len(h.SshAddresses) {
					more = true
					known = known || h.SshAddresses[i] == s.SSHAddr
					if sshAddr == "" {
						sshAddr = h.SshAddresses[i]
					}
				}
			}
		}
	}
	if len(tunnels) > 0 {
		s.Hubs = tunnels
	}
	if !known && sshAddr != "" {
		s.SSHAddr = sshAddr
	}
}

func newLogout() *cobra.Command {
	var everywhere bool
	c := &cobra.Command{
		Use:   "logout",
		Short: "Forget the key and the certificates of this login",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			dir, err := profile.DefaultDir()
			if err != nil {
				return err
			}
			p, err := profile.Open(dir)
			if err != nil {
				return err
			}
			defer p.Close()
			told := tellLogout(c.Context(), everywhere)
			if told != nil && everywhere {
				return told // what is valid elsewhere is still so
			}
			p.RemoveFromAgent()
			if err := p.Forget(); err != nil {
				return err
			}
			if told != nil && !errors.Is(told, profile.ErrLoggedOut) && connect.CodeOf(told) != connect.CodeUnauthenticated {
				fmt.Fprintln(c.ErrOrStderr(), "hawser: logged out here; the auth service was not told:", told)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&everywhere, "everywhere", false, "void all certificates you have, on every machine, and end your sessions")
	return c
}

// tellLogout tells auth.
func tellLogout(ctx context.Context, everywhere bool) error {
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	ctx, cancel := context.WithTimeout(ctx, loginTimeout)
	defer cancel()
	_, err = admin.conn.User.Logout(ctx, connect.NewRequest(&api.LogoutRequest{Everywhere: everywhere}))
	return err
}
