package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What we chose for sinks.
const (
	sinkBatch   = 500       // events in one delivery
	sinkBytes   = 256 << 10 // and so many bytes of them, about
	sinkTimeout = 15 * time.Second
	sinkRetry   = time.Second // first wait after a failure; it doubles
	sinkMaxWait = time.Minute
	sinkAlarm   = 10 * time.Minute // how often the log says that one fails
	maxSinks    = 16
	maxSinkName = 32
)

// SinkConfig is one place to which every event goes besides the log. Each has a position of its own in the log, which is
// its spool: a sink that hangs or is away for days holds nothing up, and goes on where it was.
type SinkConfig struct {
	// Name names the sink's position; [a-z0-9-], at most 32.
	Name string `yaml:"name"`
	// Type is file, syslog or webhook.
	Type string `yaml:"type"`
	// Path of a file (type file), or of a socket (type syslog over unix).
	Path string `yaml:"path"`
	// Network of a syslog sink: tls (the default), tcp or unix.
	Network string `yaml:"network"`
	// Address of a syslog server, host:port.
	Address string `yaml:"address"`
	// CAFile holds PEM certificates that a syslog server over TLS or a webhook is verified by; empty: the system's.
	CAFile string `yaml:"ca_file"`
	// URL of a webhook: https, or http to this machine.
	URL string `yaml:"url"`
	// SecretFile holds the key by which a webhook's requests are signed, TokenFile a bearer token for them.
	SecretFile string `yaml:"secret_file"`
	TokenFile  string `yaml:"token_file"`
	// Backfill makes a new sink begin with the oldest event there is instead of the next.
	Backfill bool `yaml:"backfill"`
}

// Validate reports every problem at once.
func (c SinkConfig) Validate() error {
	var errs []error
	bad := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("sink %q: "+format, append([]any{c.Name}, args...)...))
	}
	if c.Name == "" || len(c.Name) > maxSinkName || strings.Trim(c.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		bad("name: give a word of a-z, 0-9 and -, at most %d letters", maxSinkName)
	}
	only := func(fields map[string]string, allowed ...string) {
		for name, v := range fields {
			ok := v == ""
			for _, a := range allowed {
				ok = ok || a == name
			}
			if !ok {
				bad("%s has no meaning for the type %s", name, c.Type)
			}
		}
	}
	fields := map[string]string{
		"path": c.Path, "network": c.Network, "address": c.Address, "ca_file": c.CAFile, "url": c.URL, "secret_file": c.SecretFile, "token_file": c.TokenFile,
	}
	switch c.Type {
	case "file":
		only(fields, "path")
		if !filepath.IsAbs(c.Path) {
			bad("path: give an absolute path")
		}
	case "syslog":
		only(fields, "network", "address", "ca_file", "path")
		switch c.Network {
		case "unix":
			if !filepath.IsAbs(c.Path) {
				bad("path: give the socket's absolute path, such as /dev/log")
			}
		case "", "tls", "tcp":
			if _, _, err := net.SplitHostPort(c.Address); err != nil {
				bad("address: %q is not host:port", c.Address)
			}
		default:
			bad("network: %q is none of tls, tcp and unix", c.Network)
		}
	case "webhook":
		only(fields, "url", "secret_file", "token_file", "ca_file")
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !local(u.Hostname())) {
			bad("url: %q is no https URL (http is for this machine only)", c.URL)
		}
	default:
		bad("type: %q is none of file, syslog and webhook", c.Type)
	}
	return errors.Join(errs...)
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// ValidateSinks checks all, and that each has a name of its own.
func ValidateSinks(list []SinkConfig) error {
	var errs []error
	seen := make(map[string]bool)
	for _, c := range list {
		errs = append(errs, c.Validate())
		if seen[c.Name] {
			errs = append(errs, fmt.Errorf("sink %q: there are two of this name", c.Name))
		}
		seen[c.Name] = true
	}
	if len(list) > maxSinks {
		errs = append(errs, fmt.Errorf("sinks: %d are more than %d", len(list), maxSinks))
	}
	return errors.Join(errs...)
}

// message is one line for a sink: an event, or a signed head of the log.
type message struct {
	line []byte
	// event is nil for a head.
	event *Event
}

// deliverer is what differs between sinks. It is used by one goroutine. An error says that nothing is known of what
// was delivered: all of it comes again.
type deliverer interface {
	deliver(ctx context.Context, batch []message) error
	close()
}

// Sinks feeds sinks from a log.
type Sinks struct {
	log   *Log
	sinks []*sink
	root  *os.Root
	l     *slog.Logger
}

type sink struct {
	c    SinkConfig
	d    deliverer
	next int64 // seq of the first event that is not surely delivered
	// again is where the delivery before began: over a stream without answers its end may have been lost with the connection.
	again int64
	head  string // last delivered
}

// NewSinks makes the sinks of a log; dir keeps their positions. Nothing is delivered before Run.
func NewSinks(log *Log, dir string, list []SinkConfig, logger *slog.Logger) (*Sinks, error) {
	if err := ValidateSinks(list); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	s := &Sinks{log: log, root: root, l: logger}
	for _, c := range list {
		x := &sink{c: c}
		switch c.Type {
		case "file":
			x.d = &fileSink{path: c.Path}
		case "syslog":
			x.d, err = newSyslog(c)
		default:
			x.d, err = newWebhook(c)
		}
		if err == nil {
			x.next, err = s.position(c)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("sink %s: %w", c.Name, err), root.Close())
		}
		x.again = x.next
		s.sinks = append(s.sinks, x)
	}
	return s, nil
}

// position is where the sink was.
func (s *Sinks) position(c SinkConfig) (int64, error) {
	b, err := s.root.ReadFile(c.Name)
	if errors.Is(err, fs.ErrNotExist) {
		if c.Backfill {
			return 0, nil
		}
		return s.log.Size(), nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("its position is damaged; remove %s to begin with the next event", filepath.Join(s.root.Name(), c.Name))
	}
	return min(n, s.log.Size()), nil
}

// Run delivers until ctx ends; then what had not been delivered waits in the log.
func (s *Sinks) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, x := range s.sinks {
		wg.Go(func() { s.feed(ctx, x) })
	}
	wg.Wait()
}

// Close gives back what NewSinks took; Run has ended.
func (s *Sinks) Close() error { return s.root.Close() }

func (s *Sinks) feed(ctx context.Context, x *sink) {
	defer x.d.close()
	wait := sinkRetry
	var alarmed time.Time
	failing := false
	for ctx.Err() == nil {
		changed := s.log.Changed()
		batch, next, err := s.batch(ctx, x)
		if err == nil && len(batch) == 0 {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err == nil {
			err = x.send(ctx, batch)
		}
		if err != nil && ctx.Err() != nil {
			break
		}
		if err != nil {
			if !failing || time.Since(alarmed) > sinkAlarm {
				failing, alarmed = true, time.Now()
				s.l.Error("audit events are not delivered; they wait in the log", "sink", x.c.Name, "error", err, "waiting", s.log.Size()-x.next)
			}
			x.next = x.again
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			wait = min(2*wait, sinkMaxWait)
			continue
		}
		if failing {
			failing = false
			s.l.Info("audit events are delivered again", "sink", x.c.Name)
		}
		wait = sinkRetry
		x.again, x.next = x.next, next
		if x.c.Type != "syslog" {
			x.again = next // it has said that it has them
		}
		if err := writeAtomic(s.root, x.c.Name, strconv.AppendInt(nil, x.again, 10)); err != nil {
			s.l.Warn("position of a sink not kept; after a restart it gets events twice", "sink", x.c.Name, "error", err)
		}
	}
	if x.again == x.next {
		return
	}
	// The connection outlived the last delivery, as far as is known.
	_ = writeAtomic(s.root, x.c.Name, strconv.AppendInt(nil, x.next, 10))
}

func (x *sink) send(ctx context.Context, batch []message) error {
	ctx, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	if err := x.d.deliver(ctx, batch); err != nil {
		return err
	}
	if last := batch[len(batch)-1]; last.event == nil {
		x.head = string(last.line)
	}
	return nil
}

// batch is what comes next for a sink: events, or, when it has all that are under it, the newest head.
func (s *Sinks) batch(ctx context.Context, x *sink) (out []message, next int64, err error) {
	next = x.next
	size := 0
	q := Query{From: x.next, To: s.log.Size()}
	if q.To > q.From {
		err = s.log.Search(ctx, q, func(e Entry) (bool, error) {
			ev, err := e.Event()
			if err != nil {
				return true, nil //nolint:nilerr // no event of ours; verify says so
			}
			if len(out) == 0 && e.Seq > x.next {
				s.l.Warn("audit events expired before a sink took them", "sink", x.c.Name, "count", e.Seq-x.next)
			}
			line := e.Line()
			out = append(out, message{line, &ev})
			size += len(line)
			next = e.Seq + 1
			return len(out) < sinkBatch && size < sinkBytes, nil
		})
	}
	if err != nil || len(out) > 0 {
		return out, next, err
	}
	next = q.To
	head := s.log.Head()
	if head == nil {
		return nil, next, nil
	}
	line, err := json.Marshal(struct {
		Head string `json:"hawser_audit_head"`
	}{string(head)})
	if err != nil || string(line) == x.head {
		return nil, next, err
	}
	return []message{{line: line}}, next, nil
}
