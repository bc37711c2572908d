package audit

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// syslogSink sends RFC 5424 messages: over TLS (RFC 5425) and TCP (RFC 6587) with octet counting, over a unix socket as
// datagrams, or with octet counting where it is a stream.
type syslogSink struct {
	c        SinkConfig
	tls      *tls.Config
	host     string
	conn     net.Conn
	datagram bool
}

const (
	facility        = 10 // authpriv
	severityWarning = 4
	severityNotice  = 5
	severityInfo    = 6
)

func newSyslog(c SinkConfig) (*syslogSink, error) {
	s := &syslogSink{c: c, host: "-"}
	if h, err := os.Hostname(); err == nil && h != "" && !strings.ContainsFunc(h, func(r rune) bool { return r <= ' ' || r > '~' }) {
		s.host = h[:min(len(h), 255)]
	}
	if c.Network == "" || c.Network == "tls" {
		roots, err := rootsOf(c.CAFile)
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(c.Address)
		s.tls = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: host}
	}
	return s, nil
}

// rootsOf reads PEM certificates; nil, which is the system's, for no file.
func rootsOf(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("ca_file: %s holds no PEM certificate", file)
	}
	return pool, nil
}

func (s *syslogSink) dial(ctx context.Context) error {
	var d net.Dialer
	var err error
	switch s.c.Network {
	case "tcp":
		s.conn, err = d.DialContext(ctx, "tcp", s.c.Address)
	case "unix":
		s.datagram = true
		if s.conn, err = d.DialContext(ctx, "unixgram", s.c.Path); err != nil {
			s.datagram = false
			s.conn, err = d.DialContext(ctx, "unix", s.c.Path)
		}
	default:
		s.conn, err = (&tls.Dialer{NetDialer: &d, Config: s.tls}).DialContext(ctx, "tcp", s.c.Address)
	}
	return err
}

// gone tells whether the server has closed the connection since: what is written then is lost without an error.
func (s *syslogSink) gone() bool {
	if s.datagram {
		return false
	}
	_ = s.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	var b [1]byte
	_, err := s.conn.Read(b[:])
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

var errGone = errors.New("the syslog server closed the connection")

func (s *syslogSink) deliver(ctx context.Context, batch []message) error {
	if s.conn != nil && s.gone() {
		s.close()
		return errGone
	}
	if s.conn == nil {
		if err := s.dial(ctx); err != nil {
			return err
		}
	}
	if at, ok := ctx.Deadline(); ok {
		_ = s.conn.SetWriteDeadline(at)
	}
	conn := s.conn
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var b []byte
	for _, m := range batch {
		text := s.format(m)
		if s.datagram {
			if _, err := s.conn.Write(text); err != nil {
				s.close()
				return err
			}
			continue
		}
		b = append(append(strconv.AppendInt(b, int64(len(text)), 10), ' '), text...)
	}
	if len(b) > 0 {
		if _, err := s.conn.Write(b); err != nil {
			s.close()
			return err
		}
	}
	return nil
}

func (s *syslogSink) format(m message) []byte {
	severity, id, at := severityInfo, "head", time.Now()
	if e := m.event; e != nil {
		id, at = e.Type[:min(len(e.Type), 32)], e.Time
		switch {
		case strings.HasSuffix(e.Type, ".refuse"), strings.HasSuffix(e.Type, ".lockout"):
			severity = severityNotice
		case strings.HasPrefix(e.Type, "audit."), e.Type == "hub.incident", e.Type == "device.clone":
			severity = severityWarning
		}
	}
	if id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' }) {
		id = "-"
	}
	// The line is ASCII but for printable letters: the BOM says that it is UTF-8.
	return fmt.Appendf(nil, "<%d>1 %s %s hawser-auth - %s - \ufeff%s", facility*8+severity, at.UTC().Format("2006-01-02T15:04:05.000000Z"), s.host, id, m.line)
}

func (s *syslogSink) close() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}
