package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/api"
	"hawser/auth/audit"
	"hawser/auth/ca"
	"hawser/auth/loghead"
	"hawser/tools/hawser/profile"
	"hawser/tunnel/wire"
)

func newAudit() *cobra.Command {
	return group("audit", "The audit log: who did what, where and when, and the proof that nobody changed it",
		newAuditTail(), newAuditSearch(), newAuditExport(), newAuditVerify(), newAuditHead())
}

// auditFlags are what is looked for.
type auditFlags struct{ user, device, session, kind, since, until string }

func (a *auditFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.user, "user", "", "whom it concerns, or who did it")
	f.StringVar(&a.device, "device", "", "name or UUID")
	f.StringVar(&a.session, "session", "", "id of a session or connection, or its beginning")
	f.StringVar(&a.kind, "type", "", "of event, such as session.refuse; session is all that begin with it")
}

func (a *auditFlags) addTimes(c *cobra.Command) {
	c.Flags().StringVar(&a.since, "since", "", "so long ago (90m, 7d), or a time (2026-11-21, 2026-11-21T10:00, RFC 3339)")
	c.Flags().StringVar(&a.until, "until", "", "up to then")
}

func (a *auditFlags) filter(now time.Time) (*api.AuditFilter, error) {
	f := &api.AuditFilter{User: a.user, Device: a.device, Session: a.session, Type: a.kind}
	for _, x := range []struct {
		name, text string
		to         *int64
	}{{"since", a.since, &f.SinceUnixNano}, {"until", a.until, &f.UntilUnixNano}} {
		if x.text == "" {
			continue
		}
		t, err := parseMoment(x.text, now)
		if err != nil {
			return nil, usageError{fmt.Errorf("--%s: %w", x.name, err)}
		}
		*x.to = t.UnixNano()
	}
	return f, nil
}

// parseMoment reads a time, or how long ago it was. Times without a zone are local.
func parseMoment(s string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n int
		if _, err := fmt.Sscanf(days+";", "%d;", &n); err == nil && n >= 0 && n < 100000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is neither a duration such as 90m or 7d nor a time such as 2026-11-21T10:00", s)
}

func newAuditTail() *cobra.Command {
	var a auditFlags
	var follow bool
	var n uint32
	var format string
	c := &cobra.Command{
		Use: "tail", Short: "The newest events, and with -f those to come", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return auditLines(c, &a, n, follow, format)
		},
	}
	a.add(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	c.Flags().Uint32VarP(&n, "lines", "n", 20, "so many of those that are there")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table or json (the lines as they are stored)")
	return c
}

func newAuditSearch() *cobra.Command {
	var a auditFlags
	var n uint32
	var format string
	c := &cobra.Command{
		Use: "search", Short: "Find events by time, person, device, session and type", Args: cobra.NoArgs,
		Example: "  hawser audit search --user alice --since 7d\n  hawser audit search --device gw-17 --type session.refuse -o json",
		RunE: func(c *cobra.Command, _ []string) error {
			return auditLines(c, &a, n, false, format)
		},
	}
	a.add(c)
	a.addTimes(c)
	c.Flags().Uint32Var(&n, "limit", 1000, "the newest so many at most")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table or json (the lines as they are stored)")
	return c
}

// retryFollow is how long tail -f waits for the service after it was lost.
const retryFollow = 2 * time.Second

func auditLines(c *cobra.Command, a *auditFlags, n uint32, follow bool, format string) error {
	if format != formatTable && format != formatJSON {
		return usageError{fmt.Errorf("unknown format %q: table or json", format)}
	}
	f, err := a.filter(time.Now())
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p := &eventPrinter{w: bufio.NewWriter(c.OutOrStdout()), format: format}
	for {
		err := p.stream(ctx, &api.SearchAuditRequest{Filter: f, Limit: n, Follow: follow, FromSeq: p.next})
		switch {
		case ctx.Err() != nil && c.Context().Err() == nil:
			return p.end() // interrupted
		case !follow || err == nil, connect.CodeOf(err) != connect.CodeUnavailable && connect.CodeOf(err) != connect.CodeUnknown, p.next == 0:
			return errors.Join(err, p.end())
		}
		fmt.Fprintln(c.ErrOrStderr(), "hawser: the auth service is away; trying again")
		n = 100000 // all since the last that came
		t := time.NewTimer(retryFollow)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// eventPrinter prints events as they come.
type eventPrinter struct {
	w      *bufio.Writer
	format string
	next   int64 // seq after the last
	headed bool
}

func (p *eventPrinter) stream(ctx context.Context, r *api.SearchAuditRequest) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	stream, err := c.conn.Audit.SearchAudit(ctx, connect.NewRequest(r))
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		for _, line := range stream.Msg().Lines {
			if err := p.print(line); err != nil {
				return err
			}
		}
		if err := p.w.Flush(); err != nil {
			return err
		}
	}
	return stream.Err()
}

func (p *eventPrinter) end() error { return p.w.Flush() }

func (p *eventPrinter) print(line string) error {
	e, err := audit.ParseLine([]byte(line))
	if err != nil {
		return fmt.Errorf("the auth service sent what is no event: %w", err)
	}
	p.next = e.Seq + 1
	if p.format == formatJSON {
		_, err := fmt.Fprintln(p.w, line)
		return err
	}
	ev, err := e.Event()
	if err != nil {
		return err
	}
	if !p.headed {
		p.headed = true
		fmt.Fprintf(p.w, "%-19s  %-22s %-14s %-16s %s\n", "TIME", "TYPE", "USER", "DEVICE", "WHAT")
	}
	cell := func(s string) string { return dash(strings.Trim(quoteCell(s), `"`)) }
	user := ev.User
	if user == "" {
		user = strings.TrimPrefix(ev.Actor, "user:")
	}
	_, err = fmt.Fprintf(p.w, "%-19s  %-22s %-14s %-16s %s\n", ev.Time.Local().Format(time.DateTime), cell(ev.Type), cell(user), cell(ev.Device), what(&ev))
	return err
}

// what says the rest of an event in one line.
func what(e *audit.Event) string {
	var b strings.Builder
	add := func(name, v string) {
		if v == "" {
			return
		}
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%s=%s", name, quoteCell(v))
	}
	add("reason", e.Reason)
	add("rule", e.Rule)
	add("object", e.Object)
	if e.Count > 1 {
		add("count", fmt.Sprint(e.Count))
	}
	add("login", e.Login)
	add("channel", e.Channel)
	add("command", e.Command)
	if e.ExitStatus != nil {
		add("exit", fmt.Sprint(*e.ExitStatus))
	}
	add("message", e.Message)
	add("by", e.Actor)
	add("method", e.Method)
	add("way", e.Way)
	add("from", e.Client)
	add("source", e.Source)
	add("via", e.Via)
	add("hub", e.Hub)
	add("kind", e.Kind)
	add("roles", strings.Join(e.Roles, ","))
	add("session", e.Session[:min(len(e.Session), 12)])
	return b.String()
}

func newAuditExport() *cobra.Command {
	var a auditFlags
	var head string
	c := &cobra.Command{
		Use: "export FILE", Short: "Write events with the proof that they are those of the log", Args: cobra.ExactArgs(1),
		Long: `Write events, as they are stored, and what proves offline that nothing in them was changed, dropped or reordered.

Without a filter nothing is left out from --since on. With --head the file proves besides that the log grew from that head, which
somebody kept elsewhere: a file of "hawser audit head", or log_head of "hawser-hub status -o json". "hawser audit verify FILE" checks it.`,
		RunE: func(c *cobra.Command, args []string) error {
			f, err := a.filter(time.Now())
			if err != nil {
				return err
			}
			r := &api.ExportAuditRequest{Filter: f}
			if head != "" {
				h, err := readHead(head)
				if err != nil {
					return err
				}
				r.OlderHeadSize = h.Size
			}
			n, err := exportTo(c.Context(), args[0], r)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "%d events written to %s\n", n, args[0])
			return nil
		},
	}
	a.add(c)
	a.addTimes(c)
	c.Flags().StringVar(&head, "head", "", "`HEADFILE` from which the log is proved to have grown")
	return c
}

// exportTo writes beside the file and renames: what has its name is whole.
func exportTo(ctx context.Context, file string, r *api.ExportAuditRequest) (events int, err error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	defer c.close()
	stream, err := c.conn.Audit.ExportAudit(ctx, connect.NewRequest(r))
	if err != nil {
		return 0, err
	}
	defer func() { _ = stream.Close() }()
	f, err := os.CreateTemp(filepath.Dir(file), ".audit-*")
	if err != nil {
		return 0, fmt.Errorf("write the export: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	lines := 0
	for stream.Receive() {
		for _, line := range stream.Msg().Lines {
			lines++
			if _, err := w.WriteString(line + "\n"); err != nil {
				return 0, fmt.Errorf("write the export: %w", err)
			}
		}
	}
	if err := stream.Err(); err != nil {
		return 0, err
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close(), os.Rename(f.Name(), file)); err != nil {
		return 0, fmt.Errorf("write the export: %w", err)
	}
	return max(lines-2, 0), nil
}

func newAuditVerify() *cobra.Command {
	var head, key string
	var recordings bool
	c := &cobra.Command{
		Use: "verify [FILE]", Short: "Find out whether an export, or the log itself, was changed", Args: cobra.MaximumNArgs(1),
		Long: `Find out whether an export was edited, or had lines dropped, reordered or cut off: offline, by the file and nothing else. With --head it is held
against a head that somebody kept elsewhere, so that not even those who run the cluster could have made the log anew.

Without FILE the auth service must prove that its log of now continues that of --head. With --recordings every recording is held against
the log besides: is each there that it knows of, or was it removed by somebody, and is its end the one in the log?
"hawser-auth verify" does all of it over a copy of auth's data, without asking anybody.

Heads are checked against the cluster's key in your profile, or the one of --key.`,
		RunE: func(c *cobra.Command, args []string) error {
			keys, err := logKeys(key)
			if err != nil {
				return err
			}
			var kept *loghead.Head
			if head != "" {
				if kept, err = openHead(head, keys); err != nil {
					return err
				}
			}
			if recordings {
				if len(args) > 0 {
					return usageError{errors.New("--recordings asks the auth service, and takes no FILE")}
				}
				return verifyRecordings(c, kept, keys)
			}
			if len(args) == 0 {
				if kept == nil {
					return usageError{errors.New("give the FILE of an export, or --head HEADFILE, or both")}
				}
				return verifyLog(c, kept, keys)
			}
			return verifyFile(c.OutOrStdout(), args[0], keys, kept)
		},
	}
	c.Flags().StringVar(&head, "head", "", "`HEADFILE` that was kept elsewhere")
	c.Flags().StringVar(&key, "key", "", "`KEY` of the log, as audit head --key prints it, instead of your profile's")
	c.Flags().BoolVar(&recordings, "recordings", false, "hold every recording against the log")
	return c
}

func readHead(file string) (loghead.Head, error) {
	f, err := os.Open(file)
	if err != nil {
		return loghead.Head{}, fmt.Errorf("read the head: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, loghead.MaxSize+1))
	if err != nil {
		return loghead.Head{}, fmt.Errorf("read the head: %w", err)
	}
	h, err := loghead.Parse(b)
	if err != nil {
		return h, fmt.Errorf("%s: %w; `hawser audit head` prints one", file, err)
	}
	return h, nil
}

func openHead(file string, keys []ed25519.PublicKey) (*loghead.Head, error) {
	h, err := readHead(file)
	if err != nil {
		return nil, err
	}
	if len(keys) > 0 {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if _, err := loghead.Open(b, h.Cluster, keys); err != nil {
			return nil, fmt.Errorf("%s: %w; a head that is older than a rotation of the time key verifies with --key and the key of then", file, err)
		}
	}
	return &h, nil
}

// logKeys are those that sign heads, as the profile trusts them; none where there is no profile.
func logKeys(given string) ([]ed25519.PublicKey, error) {
	if given != "" {
		k, err := loghead.ParseKey(given)
		if err != nil {
			return nil, usageError{fmt.Errorf("--key: %w", err)}
		}
		return []ed25519.PublicKey{k}, nil
	}
	dir, err := profile.DefaultDir()
	if err != nil {
		return nil, err
	}
	p, err := profile.Open(dir)
	if errors.Is(err, profile.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	blob, err := p.Trust()
	if err != nil {
		return nil, nil //nolint:nilerr // a profile without a bundle is as none
	}
	trust, err := ca.OpenStoredTrust(blob)
	if err != nil {
		return nil, fmt.Errorf("read the trust bundle of the profile: %w", err)
	}
	return trust.TimeKeys, nil
}

func verifyFile(out io.Writer, file string, keys []ed25519.PublicKey, kept *loghead.Head) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read the export: %w", err)
	}
	defer f.Close()
	r, err := audit.Verify(f, keys, kept)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	fmt.Fprintf(out, "cluster %s, %d events", quoteCell(r.Head.Cluster), r.Events)
	if r.Events > 0 {
		fmt.Fprintf(out, ", %d to %d", r.First, r.Last)
	}
	fmt.Fprintf(out, ", of the log's %d on %s\n", r.Head.Size, r.Head.Time.UTC().Format(time.RFC3339))
	if r.Filter != "" {
		fmt.Fprintf(out, "only %s: what was left out is not judged\n", quoteCell(r.Filter))
	}
	if len(keys) == 0 {
		fmt.Fprintln(out, "SIGNATURE NOT CHECKED: there is no profile here and no --key")
	}
	if kept == nil {
		fmt.Fprintln(out, "not held against a head kept elsewhere (--head)")
	}
	for _, fault := range r.Faults {
		fmt.Fprintln(out, "CHANGED:", quoteCell(fault))
	}
	if len(r.Faults) > 0 {
		return fmt.Errorf("%s is not what the log holds: %d faults", file, len(r.Faults))
	}
	fmt.Fprintln(out, "verified: unchanged")
	return nil
}

// verifyLog has auth prove that its log continues kept's.
func verifyLog(c *cobra.Command, kept *loghead.Head, keys []ed25519.PublicKey) error {
	if len(keys) == 0 {
		return errors.New("there is no key to check what the auth service says: log in with `hawser login`, or give --key")
	}
	cl, err := dial()
	if err != nil {
		return err
	}
	defer cl.close()
	res, err := cl.conn.Audit.GetLogHead(c.Context(), connect.NewRequest(&api.GetLogHeadRequest{}))
	if err != nil {
		return err
	}
	now, err := loghead.Open([]byte(res.Msg.Head), kept.Cluster, keys)
	if err != nil {
		return err
	}
	var proof []tlog.Hash
	if now.Size > kept.Size {
		res, err := cl.conn.Audit.ProveLog(c.Context(), connect.NewRequest(&api.ProveLogRequest{Older: kept.Size, Newer: now.Size}))
		if err != nil {
			return err
		}
		for _, h := range res.Msg.Hashes {
			if len(h) != tlog.HashSize {
				return loghead.ErrRewritten
			}
			proof = append(proof, tlog.Hash(h))
		}
	}
	if err := loghead.CheckGrowth(*kept, now, proof); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "verified: the log of %d events continues the %d of the head kept\n", now.Size, kept.Size)
	return nil
}

func newAuditHead() *cobra.Command {
	var key bool
	c := &cobra.Command{
		Use: "head", Short: "Print the signed head of the log: keep it where those who run the cluster cannot change it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if key {
				keys, err := logKeys("")
				if err != nil {
					return err
				}
				if len(keys) == 0 {
					return errors.New("the profile holds no trust bundle; `hawser login` fetches it")
				}
				for _, k := range keys {
					fmt.Fprintln(c.OutOrStdout(), loghead.FormatKey(k))
				}
				return nil
			}
			cl, err := dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.conn.Audit.GetLogHead(c.Context(), connect.NewRequest(&api.GetLogHeadRequest{}))
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.OutOrStdout(), res.Msg.Head)
			return err
		},
	}
	c.Flags().BoolVar(&key, "key", false, "print the key that signs heads instead, for verify --key; it is not secret")
	return c
}

// quoteCell is text that stays where it is printed; with quotes where it holds a space or must be quoted.
func quoteCell(s string) string {
	q := wire.Quote(s, maxCell)
	if strings.Contains(q, " ") {
		return `"` + q + `"`
	}
	return q
}
