package audit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// feeding runs sinks until stop, which waits.
func feeding(t *testing.T, l *Log, dir string, list ...SinkConfig) (stop func()) {
	t.Helper()
	s, err := NewSinks(l, dir, list, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	return stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("not in 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond) // another process's file has no condition to wait for
	}
}

func seqsIn(file string) (n int, last int64) {
	b, _ := os.ReadFile(file)
	last = -1
	for line := range bytes.SplitSeq(b, []byte("\n")) {
		if e, err := ParseLine(line); err == nil {
			n, last = n+1, e.Seq
		}
	}
	return n, last
}

func TestAFileSinkFollowsRotationAndGoesOnAfterARestart(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "audit.log")
	fill(t, l, 5) // before there was a sink
	c := SinkConfig{Name: "f", Type: "file", Path: out}
	stop := feeding(t, l, dir, c)
	fill(t, l, 100)
	eventually(t, "100 events in the file", func() bool { n, last := seqsIn(out); return n == 100 && last == 104 })
	if err := os.Rename(out, out+".1"); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 10)
	eventually(t, "10 events in the new file", func() bool { n, _ := seqsIn(out); return n == 10 })
	stop()
	fill(t, l, 7)
	feeding(t, l, dir, c)
	eventually(t, "what was recorded meanwhile", func() bool { n, last := seqsIn(out); return n == 17 && last == 121 })
	if _, err := l.MakeHead(t.Context()); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 1)
	eventually(t, "the head", func() bool { b, _ := os.ReadFile(out); return bytes.Contains(b, []byte("hawser_audit_head")) })
}

func TestASyslogMessageIsOfRFC5424(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	srv, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	feeding(t, l, t.TempDir(), SinkConfig{Name: "s", Type: "syslog", Network: "tcp", Address: srv.Addr().String()})
	if err := l.Record(Event{Type: "user.login.refuse", User: "a\nb"}); err != nil {
		t.Fatal(err)
	}
	conn, err := srv.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	var n int
	if _, err := fmt.Fscanf(r, "%d ", &n); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(string(b), " ", 8)
	if len(parts) != 8 || parts[0] != "<85>1" || parts[3] != "hawser-auth" || parts[5] != "user.login.refuse" || parts[6] != "-" || !strings.HasPrefix(parts[7], "\ufeff{\"seq\":") {
		t.Errorf("%q", b)
	}
	if _, err := time.Parse(time.RFC3339Nano, parts[1]); err != nil || strings.ContainsAny(string(b), "\n\r") {
		t.Errorf("%q: %v", b, err)
	}
}

// TestASyslogServerThatWentAwayLosesNothing: the last delivery before the connection broke comes again.
func TestASyslogServerThatWentAwayLosesNothing(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	srv, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	feeding(t, l, t.TempDir(), SinkConfig{Name: "s", Type: "syslog", Network: "tcp", Address: srv.Addr().String()})
	fill(t, l, 1)
	first, err := srv.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = first.Close() // unread
	fill(t, l, 1)
	second, err := srv.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	got, r := "", bufio.NewReader(second)
	for !strings.Contains(got, `"seq":0,`) || !strings.Contains(got, `"seq":1,`) {
		b := make([]byte, 4096)
		n, err := r.Read(b)
		if err != nil {
			t.Fatalf("%v after %q", err, got)
		}
		got += string(b[:n])
	}
}

func TestAWebhookIsSignedAndTriedAgain(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	dir := t.TempDir()
	secret, token := filepath.Join(dir, "secret"), filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tries, got := 0, make(chan string, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries++; tries == 1 {
			http.Error(w, "not now", http.StatusServiceUnavailable)
			return
		}
		b, _ := io.ReadAll(r.Body)
		m := hmac.New(sha256.New, []byte("s3cret"))
		m.Write([]byte(r.Header.Get(timestampHeader) + "."))
		m.Write(b)
		if r.Header.Get(signatureHeader) != "sha256="+hex.EncodeToString(m.Sum(nil)) || r.Header.Get("Authorization") != "Bearer t0ken" {
			t.Errorf("headers %v", r.Header)
		}
		got <- string(b)
	}))
	defer srv.Close()
	feeding(t, l, dir, SinkConfig{Name: "w", Type: "webhook", URL: srv.URL, SecretFile: secret, TokenFile: token})
	fill(t, l, 1)
	if b := <-got; !strings.Contains(b, `"seq":0,`) {
		t.Errorf("%q", b)
	}
}

// TestAStuckSinkStallsNothing: the server takes the connection and then nothing.
func TestAStuckSinkStallsNothing(t *testing.T) {
	l := open(t, t.TempDir(), nil)
	srv, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	out := filepath.Join(t.TempDir(), "audit.log")
	stop := feeding(t, l, t.TempDir(), SinkConfig{Name: "stuck", Type: "syslog", Network: "tcp", Address: srv.Addr().String()},
		SinkConfig{Name: "hook", Type: "webhook", URL: "http://" + srv.Addr().String()}, SinkConfig{Name: "file", Type: "file", Path: out})
	const n = 20000 // more than socket buffers hold
	begin := time.Now()
	fill(t, l, n)
	took := time.Since(begin)
	t.Logf("%d events in %v", n, took)
	if took > 20*time.Second {
		t.Errorf("%d events took %v", n, took)
	}
	eventually(t, "the file has all", func() bool { got, _ := seqsIn(out); return got >= n })
	begin = time.Now()
	stop()
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("to stop took %v", took)
	}
}

func TestASinkThatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]SinkConfig{
		"no name": {Type: "file", Path: "/x"}, "path": {Name: "a", Type: "file", Path: "x"}, "type": {Name: "a", Type: "ftp"}, "up": {Name: "../a", Type: "file", Path: "/x"},
		"plain http": {Name: "a", Type: "webhook", URL: "http://example.com"}, "network": {Name: "a", Type: "syslog", Network: "udp", Address: "h:1"},
		"meaningless": {Name: "a", Type: "file", Path: "/x", URL: "https://x"},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if ValidateSinks([]SinkConfig{{Name: "a", Type: "file", Path: "/x"}, {Name: "a", Type: "file", Path: "/y"}}) == nil {
		t.Error("two of one name")
	}
}
