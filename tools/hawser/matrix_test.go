package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/edge"
)

// site is a whole cluster in this process with one device, and its authorities' keys, with which any certificate can be made.
type site struct {
	*cluster
	set  *ca.Set
	keys map[ca.Kind]ssh.Signer
}

// newSite starts one whose device has that clock.
func newSite(t *testing.T, clock func() time.Time) *site {
	t.Helper()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	g := newParts(context.Background())
	t.Cleanup(func() {
		if err := g.end(); err != nil {
			t.Error(err)
		}
		root.Close()
	})
	c := &cluster{
		cfg: upConfig{
			Dir: dir, Bind: netip.MustParseAddr("127.0.0.1"), Hubs: 1, Cluster: "ber.example",
			Log: slog.New(slog.DiscardHandler), Words: io.Discard,
		},
		root: root, group: g,
	}
	if err := c.start(g.ctx); err != nil {
		t.Fatal(err)
	}
	token, err := c.auth.CreateToken(t.Context(), &api.CreateTokenRequest{Kind: "edge"})
	if err != nil {
		t.Fatal(err)
	}
	a, err := edge.New(edge.Config{State: filepath.Join(dir, "gw-1"), Token: token, Name: "gw-1", Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	g.next()
	g.run("edge", a.Run)
	s := &site{cluster: c, keys: map[ca.Kind]ssh.Signer{}}
	s.open(t, filepath.Join(dir, "auth"))
	return s
}

// open reads the authorities with the key beside them, as auth does.
func (s *site) open(t *testing.T, data string) {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(data, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(read("auth.key"))))
	if err != nil || len(key) != 32 {
		t.Fatalf("key file: %v, %d bytes", err, len(key))
	}
	plain, err := ca.Open((*[32]byte)(key), read("authorities.sealed"))
	if err != nil {
		t.Fatal(err)
	}
	if s.set, err = ca.UnmarshalSet(plain); err != nil {
		t.Fatal(err)
	}
	for _, authority := range fields(t, plain)[2] {
		f := fields(t, authority)
		signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(f[2][0]))
		if err != nil {
			t.Fatal(err)
		}
		s.keys[ca.Kind(binary.BigEndian.Uint64(f[1][0]))] = signer
	}
}

// fields reads the fields of a blob, by tag: a byte of tag, three of length, the value.
func fields(t *testing.T, b []byte) map[byte][][]byte {
	t.Helper()
	out := map[byte][][]byte{}
	for len(b) > 0 {
		n := 4
		if len(b) >= 4 {
			n += int(b[1])<<16 | int(b[2])<<8 | int(b[3])
		}
		if len(b) < n {
			t.Fatal("a field is cut")
		}
		out[b[0]] = append(out[b[0]], b[4:n])
		b = b[n:]
	}
	return out
}

// wrong is a certificate that opens nothing, and the word for it in the audit log.
type wrong struct {
	name   string
	change func(*ssh.Certificate)
	by     ca.Kind // that signs it; 0: the user CA
	word   string  // empty: the connection ends before a certificate is seen
}

var wrongs = []wrong{
	{"host as user", func(c *ssh.Certificate) { c.CertType = ssh.HostCert }, 0, "wrong-type"},
	{"by the device host CA", nil, ca.DeviceHostCA, "wrong-ca"},
	{"another cluster", func(c *ssh.Certificate) { c.Extensions["cluster@hawser"] = "ams.example" }, 0, "wrong-cluster"},
	{"empty principals", func(c *ssh.Certificate) { c.ValidPrincipals = nil }, 0, "no-principals"},
	{"another's principal", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"hawser:user:bob"} }, 0, "wrong-principal"},
	{"the login as principal", func(c *ssh.Certificate) { c.ValidPrincipals = []string{"root"} }, 0, "wrong-principal"},
	{"not yet valid", func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Minute).Unix()) }, 0, "not-yet-valid"},
	{"expired", func(c *ssh.Certificate) {
		c.ValidAfter, c.ValidBefore = uint64(time.Now().Add(-time.Hour).Unix()), uint64(time.Now().Add(-time.Second).Unix())
	}, 0, "expired"},
	{"unknown critical option", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"verify-required": ""} }, 0, "critical-option"},
	{"source elsewhere", func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"source-address": "192.0.2.1/32"} }, 0, "source-address"},
	{"RSA 8192", func(c *ssh.Certificate) {
		n := new(big.Int).Lsh(big.NewInt(1), 8191)
		c.Key, _ = ssh.NewPublicKey(&rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537})
	}, 0, "key-size"},
}

// showing is a certificate that is shown, and signs with whatever key there is.
type showing struct {
	cert *ssh.Certificate
	key  ssh.Signer
}

func (s showing) PublicKey() ssh.PublicKey { return s.cert }

func (s showing) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.key.Sign(rand, data)
}

// SignWithAlgorithm is asked for with an RSA key.
func (s showing) SignWithAlgorithm(rand io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return s.Sign(rand, data)
}

// certify makes the admin's certificate, changed and signed anew.
func (s *site) certify(t *testing.T, w wrong) showing {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := s.set.IssueUser(ca.UserRequest{Name: adminName, Roles: []string{"admin"}, Key: key.PublicKey(), TTL: time.Hour, Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if w.change != nil {
		w.change(cert)
	}
	kind := w.by
	if kind == 0 {
		kind = ca.UserCA
	}
	if err := cert.SignCert(rand.Reader, s.keys[kind]); err != nil {
		t.Fatal(err)
	}
	return showing{cert, key}
}

func config(name string, key ssh.Signer) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: name, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second,
	}
}

// enter runs `echo in` on the device, through the hub's SSH or the device's own.
func (s *site) enter(t *testing.T, endToEnd bool, key ssh.Signer) error {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	var client *ssh.Client
	if endToEnd {
		hub, err := ssh.Dial("tcp", s.ready.SSHAddr, config("hawser", s.certify(t, wrong{})))
		if err != nil {
			t.Fatalf("reach the hub: %v", err)
		}
		defer hub.Close()
		var nc net.Conn
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) { // the device may be on its way here
			if nc, err = hub.Dial("tcp", "gw-1:22"); err == nil {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("reach the device: %v", err)
			}
		}
		conn, chans, reqs, err := ssh.NewClientConn(nc, "gw-1:22", config(me.Username, key))
		if err != nil {
			return err
		}
		client = ssh.NewClient(conn, chans, reqs)
	} else {
		client, err = ssh.Dial("tcp", s.ready.SSHAddr, config(me.Username+"=gw-1", key))
		if err != nil {
			return err
		}
	}
	defer client.Close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	out, err := session.Output("echo in")
	if err == nil && string(bytes.TrimSpace(out)) != "in" {
		err = fmt.Errorf("it said %q", out)
	}
	return err
}

// refused are the events of refused certificates: type and reason.
func (s *site) refused(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(s.cfg.Dir, "auth", "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	out := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			for m := range objects(line) {
				if kind, _ := m["type"].(string); strings.HasSuffix(kind, ".auth.refuse") {
					out[fmt.Sprint(kind, " ", m["reason"])] = true
				}
			}
		}
	}
	return out
}

// objects are the JSON object of a line and those in it.
func objects(line []byte) func(yield func(map[string]any) bool) {
	return func(yield func(map[string]any) bool) {
		var m map[string]any
		if json.Unmarshal(line, &m) != nil || !yield(m) {
			return
		}
		for _, v := range m {
			if in, ok := v.(map[string]any); ok && !yield(in) {
				return
			}
		}
	}
}

func TestEveryWrongCertificateIsRefusedAtHubAndDeviceWithItsReason(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	s := newSite(t, nil)
	other, err := ca.NewSet("ber.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ways := []struct {
		name     string
		endToEnd bool
		event    string
	}{{"end to end", true, "device.auth.refuse"}, {"hub", false, "user.auth.refuse"}} // the first waits for the device
	want := map[string]bool{}
	for _, way := range ways {
		if err := s.enter(t, way.endToEnd, s.certify(t, wrong{})); err != nil {
			t.Fatalf("%s: a good certificate: %v", way.name, err)
		}
		for _, w := range wrongs {
			if err := s.enter(t, way.endToEnd, s.certify(t, w)); err == nil {
				t.Errorf("%s: %s came in", way.name, w.name)
			}
			want[way.event+" "+w.word] = true
		}
		// Signed by an authority of the same name that is not this cluster's.
		good := s.certify(t, wrong{})
		strange, err := other.IssueUser(ca.UserRequest{Name: adminName, Roles: []string{"admin"}, Key: good.key.PublicKey(), TTL: time.Hour, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		if s.enter(t, way.endToEnd, showing{strange, good.key}) == nil {
			t.Errorf("%s: another authority's came in", way.name)
		}
		want[way.event+" unknown-ca"] = true
		// A certificate for a certificate's key, which is not even parsed as one.
		nested := *good.cert
		nested.SignatureKey = strange
		if s.enter(t, way.endToEnd, showing{&nested, good.key}) == nil {
			t.Errorf("%s: a nested one came in", way.name)
		}
		want[way.event+" malformed"] = true
		// The certificate of somebody else, with a key of one's own.
		if s.enter(t, way.endToEnd, showing{good.cert, s.certify(t, wrong{}).key}) == nil {
			t.Errorf("%s: a certificate without its key came in", way.name)
		}
		want[way.event+" unproven"] = true
		if err := s.enter(t, way.endToEnd, s.certify(t, wrong{})); err != nil {
			t.Errorf("%s: a good certificate after the wrong ones: %v", way.name, err)
		}
	}
	var missing []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		got := s.refused(t)
		missing = nil
		for _, w := range slices.Sorted(maps.Keys(want)) {
			if !got[w] {
				missing = append(missing, w)
			}
		}
		if len(missing) == 0 {
			return
		}
	}
	t.Errorf("not in the audit log: %s\nthere are: %s", strings.Join(missing, ", "), strings.Join(slices.Sorted(maps.Keys(s.refused(t))), ", "))
}

// A server is who it says only by a host certificate of ours: stock ssh, with the known_hosts that we write, takes nothing else for one.
func TestStockSSHKnowsNoServerByAnotherCertificate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, nil)
	config, _, err := s.writeConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	host := func(c *ssh.Certificate) {
		c.CertType, c.ValidPrincipals, c.Extensions = ssh.HostCert, []string{"gw-1"}, nil
	}
	for _, tt := range []struct {
		wrong
		in bool
	}{
		{wrong{name: "a device's", change: host, by: ca.DeviceHostCA}, true}, // so that this can fail
		{wrong{name: "a user's"}, false},
		{wrong{name: "a user's that names the device", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"gw-1"} }}, false},
		{wrong{name: "a user's by the device host CA", change: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"gw-1"} }, by: ca.DeviceHostCA}, false},
		{wrong{name: "a host's by the user CA", change: host}, false},
		{wrong{name: "another device's", change: func(c *ssh.Certificate) { host(c); c.ValidPrincipals = []string{"gw-2"} }, by: ca.DeviceHostCA}, false},
		{wrong{name: "an expired one", change: func(c *ssh.Certificate) { host(c); c.ValidBefore = uint64(time.Now().Add(-time.Minute).Unix()) }, by: ca.DeviceHostCA}, false},
	} {
		shown := s.certify(t, tt.wrong)
		signer, err := ssh.NewCertSigner(shown.cert, shown.key)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		came := make(chan bool, 1)
		go func() {
			nc, err := l.Accept()
			if err != nil {
				came <- false
				return
			}
			defer nc.Close()
			conf := &ssh.ServerConfig{NoClientAuth: true}
			conf.AddHostKey(signer)
			_, _, _, err = ssh.NewServerConn(nc, conf)
			came <- err == nil
		}()
		port := strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		out, _ := exec.Command("ssh", "-F", config, "-o", "ProxyJump=none", "-o", "HostName=127.0.0.1", "-o", "HostKeyAlias=gw-1", "-o", "BatchMode=yes", "-p", port, "e2e-gw-1", "true").CombinedOutput()
		l.Close()
		if in := <-came; in != tt.in {
			t.Errorf("%s: taken %v, want %v\n%s", tt.name, in, tt.in, out)
		}
	}
}

// A device without a clock battery has the time of its last power cut, of its build, or none: it serves by the time that auth signs, and a
// certificate that is over stays over.
func TestADeviceWithAWrongClockServesAndKnowsWhatHasExpired(t *testing.T) {
	if testing.Short() {
		t.Skip("starts clusters")
	}
	for _, year := range []int{1970, 2000, 2050} {
		t.Run(fmt.Sprint(year), func(t *testing.T) {
			began, start := time.Date(year, 1, 1, 0, 0, 30, 0, time.UTC), time.Now()
			s := newSite(t, func() time.Time { return began.Add(time.Since(start)) })
			for _, endToEnd := range []bool{true, false} { // end to end waits for the device
				if err := s.enter(t, endToEnd, s.certify(t, wrong{})); err != nil {
					t.Errorf("end to end %v: %v", endToEnd, err)
				}
			}
			for _, w := range wrongs {
				if w.word != "expired" && w.word != "not-yet-valid" {
					continue
				}
				if err := s.enter(t, true, s.certify(t, w)); err == nil {
					t.Errorf("%s came in", w.name)
				} else if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s: %v", w.name, err)
				}
			}
		})
	}
}
