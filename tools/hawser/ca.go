package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/loghead"
	"hawser/tools/hawser/profile"
)

func newCA() *cobra.Command {
	advance := func(ctx context.Context, c *client, kinds []string) (caAnswer, error) {
		return c.conn.CA.AdvanceCA(ctx, connect.NewRequest(&api.AdvanceCARequest{Kinds: kinds}))
	}
	back := func(ctx context.Context, c *client, kinds []string) (caAnswer, error) {
		return c.conn.CA.RollBackCA(ctx, connect.NewRequest(&api.RollBackCARequest{Kinds: kinds}))
	}
	return group("ca", "The cluster's certificate authorities and keys, and their rotation", newCAStatus(), newCARotate(),
		newCAStep("advance", "Begin the next phase of a rotation", advance), newCAStep("rollback", "Go back to the old authority", back), newCAExport())
}

// caAnswer is what every step of a rotation is answered with.
type caAnswer = *connect.Response[api.CAStatusResponse]

const kindHelp = "user, hub, device, target, tunnel, grant or time; may be repeated"

func newCAStatus() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "status",
		Short: "How far each authority's rotation is, and who has not renewed",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			a, err := dial()
			if err != nil {
				return err
			}
			defer a.close()
			res, err := a.conn.CA.CAStatus(c.Context(), connect.NewRequest(&api.CAStatusRequest{}))
			if err != nil {
				return err
			}
			return printCA(c.OutOrStdout(), format, res.Msg)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	return c
}

func newCARotate() *cobra.Command {
	var r api.RotateCARequest
	var grace time.Duration
	c := &cobra.Command{
		Use:   "rotate [--kind KIND ...]",
		Short: "Replace authorities in phases: init, update-clients, update-servers",
		Long: "Replaces the authorities named, or all. The phases follow one another over the grace period,\n" +
			"or by `hawser ca advance` with --manual; `hawser ca rollback` goes back in each. With --compromised the old keys count for nothing from the start, but that parts which are\n" +
			"connected have half a minute to leave the old tunnel CA; the command waits for that and lists who has to join anew.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if grace != 0 && (grace < ca.MinGrace || grace > ca.MaxGrace) {
				return usageError{fmt.Errorf("--grace %v is not between %v and %v", grace, ca.MinGrace, ca.MaxGrace)}
			}
			if r.Compromised && (r.Manual || grace != 0) {
				return usageError{errors.New("--compromised goes by itself and at once: give neither --grace nor --manual")}
			}
			r.GraceMs = uint64(grace.Milliseconds())
			a, err := dial()
			if err != nil {
				return err
			}
			defer a.close()
			res, err := a.conn.CA.RotateCA(c.Context(), connect.NewRequest(&r))
			if err != nil {
				return err
			}
			if !r.Compromised {
				return printCA(c.OutOrStdout(), formatTable, res.Msg)
			}
			return waitCompromised(c, res.Msg)
		},
	}
	f := c.Flags()
	f.StringArrayVar(&r.Kinds, "kind", nil, kindHelp+" (default: all)")
	f.DurationVar(&grace, "grace", 0,
		"how long the phases take together (default 48h); with --manual, what devices spread their renewals over (default 1h)")
	f.BoolVar(&r.Manual, "manual", false, "each phase lasts until hawser ca advance")
	f.BoolVar(&r.Compromised, "compromised", false, "the old keys are in another's hands: no grace, no cross-certificate")
	return c
}

// waitCompromised waits until nothing trusts the old authorities, and says who is left behind.
func waitCompromised(c *cobra.Command, st *api.CAStatusResponse) error {
	rotating := func() bool {
		return slices.ContainsFunc(st.Authorities, func(a *api.Authority) bool { return a.Compromised && a.Phase != ca.PhaseStandby.String() })
	}
	if rotating() {
		fmt.Fprintln(c.ErrOrStderr(), "waiting until those that are connected have left the old CA (half a minute at most)")
	}
	deadline := time.Now().Add(2 * ca.Handover)
	for rotating() {
		if time.Now().After(deadline) {
			return errors.New("the old CA is still trusted; see hawser ca status and the log of the auth service")
		}
		select {
		case <-time.After(time.Second):
		case <-c.Context().Done():
			return context.Cause(c.Context())
		}
		// Each time anew: this command's own certificate was the old CA's.
		a, err := dial()
		if err != nil {
			return err
		}
		res, err := a.conn.CA.CAStatus(c.Context(), connect.NewRequest(&api.CAStatusRequest{}))
		a.close()
		if connect.CodeOf(err) == connect.CodeUnauthenticated {
			fmt.Fprintln(c.ErrOrStderr(), "the old CA is trusted no more, and your certificates were by it:",
				"log in again, and see hawser ca status for who has to join anew")
			return nil
		}
		if err != nil {
			return err
		}
		st = res.Msg
	}
	return printCA(c.OutOrStdout(), formatTable, st)
}

func newCAStep(use, short string, step func(context.Context, *client, []string) (caAnswer, error)) *cobra.Command {
	var kinds []string
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := dial()
			if err != nil {
				return err
			}
			defer a.close()
			res, err := step(c.Context(), a, kinds)
			if err != nil {
				return err
			}
			return printCA(c.OutOrStdout(), formatTable, res.Msg)
		},
	}
	c.Flags().StringArrayVar(&kinds, "kind", nil, kindHelp+" (default: all that are being rotated)")
	return c
}

// caView is how the authorities are printed as data.
type caView struct {
	TrustRevision uint64          `json:"trust_revision" yaml:"trust_revision"`
	Authorities   []authorityView `json:"authorities" yaml:"authorities"`
	Behind        []laggardView   `json:"behind" yaml:"behind"`
	BehindTotal   uint32          `json:"behind_total" yaml:"behind_total"`
}

type authorityView struct {
	Kind        string        `json:"kind" yaml:"kind"`
	Phase       string        `json:"phase" yaml:"phase"`
	Fingerprint string        `json:"fingerprint" yaml:"fingerprint"`
	Created     time.Time     `json:"created" yaml:"created"`
	Next        string        `json:"next,omitempty" yaml:"next,omitempty"`
	Since       time.Time     `json:"since,omitzero" yaml:"since,omitempty"`
	Until       time.Time     `json:"until,omitzero" yaml:"until,omitempty"`
	Compromised bool          `json:"compromised,omitempty" yaml:"compromised,omitempty"`
	Retired     []retiredView `json:"retired,omitempty" yaml:"retired,omitempty"`
}

type retiredView struct {
	Fingerprint string    `json:"fingerprint" yaml:"fingerprint"`
	At          time.Time `json:"at" yaml:"at"`
	Compromised bool      `json:"compromised,omitempty" yaml:"compromised,omitempty"`
}

type laggardView struct {
	Kind       string `json:"kind" yaml:"kind"`
	Name       string `json:"name" yaml:"name"`
	UUID       string `json:"uuid" yaml:"uuid"`
	Online     bool   `json:"online" yaml:"online"`
	MustRejoin bool   `json:"must_rejoin" yaml:"must_rejoin"`
}

func milli(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

func viewCA(st *api.CAStatusResponse) caView {
	v := caView{TrustRevision: st.TrustRevision, BehindTotal: st.BehindTotal, Behind: []laggardView{}}
	for _, a := range st.Authorities {
		x := authorityView{
			Kind: a.Kind, Phase: a.Phase, Fingerprint: a.Fingerprint, Created: time.Unix(a.CreatedUnix, 0).UTC(), Next: a.NextFingerprint,
			Since: milli(a.SinceUnixMilli), Until: milli(a.UntilUnixMilli), Compromised: a.Compromised,
		}
		for _, r := range a.Retired {
			x.Retired = append(x.Retired, retiredView{r.Fingerprint, time.Unix(r.AtUnix, 0).UTC(), r.Compromised})
		}
		v.Authorities = append(v.Authorities, x)
	}
	for _, l := range st.Behind {
		v.Behind = append(v.Behind, laggardView{l.Kind, l.Name, l.Uuid, l.Online, l.MustRejoin})
	}
	return v
}

func printCA(w io.Writer, format string, st *api.CAStatusResponse) error {
	v := viewCA(st)
	switch format {
	case formatJSON, formatYAML:
		return data(w, format, v)
	case formatName:
		for _, a := range v.Authorities {
			fmt.Fprintln(w, a.Kind)
		}
		return nil
	}
	var rows [][]string
	for _, a := range v.Authorities {
		until := ""
		switch {
		case a.Phase == ca.PhaseStandby.String():
		case a.Until.IsZero():
			until = "hawser ca advance"
		default:
			until = a.Until.Local().Format(time.DateTime)
		}
		rows = append(rows, []string{a.Kind, a.Phase, until, a.Fingerprint, a.Next})
	}
	if err := table(w, []string{"KIND", "PHASE", "UNTIL", "KEY", "NEXT"}, rows); err != nil || len(v.Behind) == 0 {
		return err
	}
	fmt.Fprintf(w, "\nnot renewed yet (%d):\n", v.BehindTotal)
	rows = nil
	for _, l := range v.Behind {
		state := "offline"
		if l.Online {
			state = "online"
		}
		next := "renews by itself"
		if l.MustRejoin {
			next = "must join again, with a new token"
		}
		rows = append(rows, []string{l.Kind, l.Name, state, next})
	}
	if err := table(w, []string{"KIND", "NAME", "STATE", "THEN"}, rows); err != nil {
		return err
	}
	if more := int(v.BehindTotal) - len(v.Behind); more > 0 {
		fmt.Fprintf(w, "and %d more\n", more)
	}
	return nil
}

func newCAExport() *cobra.Command {
	var kind string
	c := &cobra.Command{
		Use:   "export --kind user|host|target|tunnel|time",
		Short: "Print what others trust the cluster by; old and new while a CA is rotated",
		Long: "user    authorized_keys lines, for TrustedUserCAKeys of another sshd\n" +
			"host    known_hosts lines: hubs and devices\n" +
			"target  the lines for the sshd of a server without an agent (hawser device add)\n" +
			"tunnel  the X.509 tunnel CA in PEM\n" +
			"time    what signs the heads of the audit log, for hawser audit verify --key; keep it before the time key is rotated",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !slices.Contains([]string{"user", "host", "target", "tunnel", "time"}, kind) {
				return usageError{fmt.Errorf("--kind is %q: user, host, target, tunnel or time", kind)}
			}
			a, err := dial()
			if err != nil {
				return err
			}
			defer a.close()
			trust, err := a.newestTrust(c.Context())
			if err != nil {
				return err
			}
			text, err := export(trust, kind)
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.OutOrStdout(), text)
			return err
		},
	}
	c.Flags().StringVar(&kind, "kind", "", "user, host, target, tunnel or time")
	return c
}

// export is the text of what trust says of a kind.
func export(trust *ca.Trust, kind string) (string, error) {
	var b strings.Builder
	lines := func(prefix string, lists ...[][]byte) error {
		for _, key := range slices.Concat(lists...) {
			k, err := ssh.ParsePublicKey(key)
			if err != nil {
				return fmt.Errorf("read an authority: %w", err)
			}
			b.WriteString(prefix)
			b.Write(ssh.MarshalAuthorizedKey(k))
		}
		return nil
	}
	switch kind {
	case "user":
		if err := lines("", trust.UserCA); err != nil {
			return "", err
		}
	case "host":
		if err := lines("@cert-authority * ", trust.HubHostCA, trust.DeviceHostCA); err != nil {
			return "", err
		}
	case "target":
		b.WriteString(targetLines)
		if err := lines("", trust.TargetCA); err != nil {
			return "", err
		}
	case "time":
		for _, k := range trust.TimeKeys {
			fmt.Fprintln(&b, loghead.FormatKey(k))
		}
	case "tunnel":
		for _, der := range trust.TunnelCA {
			if err := pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
				return "", err
			}
		}
	}
	return b.String(), nil
}

// newestTrust asks auth for the bundle of now, takes it over into the profile where it is newer, and returns it.
func (c *client) newestTrust(ctx context.Context) (*ca.Trust, error) {
	res, err := c.Whoami(ctx, connect.NewRequest(&api.WhoamiRequest{}))
	if err != nil {
		return nil, err
	}
	return c.adoptTrust(res.Msg.Trust)
}

// adoptTrust takes over a bundle that follows on the profile's.
func (c *client) adoptTrust(blob []byte) (*ca.Trust, error) {
	stored, err := c.profile.Trust()
	if err != nil {
		return nil, fmt.Errorf("read the profile's trust: %w", err)
	}
	held, err := ca.OpenStoredTrust(stored)
	if err != nil {
		return nil, fmt.Errorf("read the profile's trust: %w", err)
	}
	next, err := ca.OpenNextTrust(blob, held)
	if errors.Is(err, ca.ErrOldTrust) {
		return held, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the trust bundle that auth sent: %w", err)
	}
	if next.Revision == held.Revision {
		return next, nil
	}
	return next, c.profile.SaveTrust(blob)
}

// heldTrust verifies auth by the profile's bundle: it follows a rotation, slept through or not, where a pin would not.
func heldTrust(p *profile.Profile) apiclient.Verify {
	blob, err := p.Trust()
	if err != nil {
		return apiclient.ByPin(p.Settings.Cluster, p.Settings.CAPin, nil)
	}
	trust, err := ca.OpenStoredTrust(blob)
	if err != nil {
		return apiclient.ByPin(p.Settings.Cluster, p.Settings.CAPin, nil)
	}
	return apiclient.ByTrust(func() *ca.Trust { return trust }, nil)
}

// behind reports whether another CA signs for people now than signed the profile's certificates.
func (c *client) behind(cmd *cobra.Command, leaf *x509.Certificate) bool {
	trust, err := c.newestTrust(cmd.Context())
	if err != nil {
		return false // whatever comes next says what is wrong
	}
	cert, err := c.profile.SSHCertificate()
	return err == nil && !trust.Newest(leaf, cert, ca.UserCA)
}
