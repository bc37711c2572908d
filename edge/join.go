package edge

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// Errors of joining. Each says what to do; what a hub or auth refused is a *RefusedError.
var (
	// ErrTokenKind is a token for a hub given to an edge.
	ErrTokenKind = errors.New("this token is not for a device; make one with `hawser token create --kind edge`")
	// ErrOtherCluster is a token of one cluster where an identity of another is stored.
	ErrOtherCluster = errors.New("this device belongs to another cluster; run `hawser-edge leave` first, or use another state directory")
	// ErrPin is a hub whose certificates are not under the CA that the token pins: another cluster, or someone in between. The secret was not sent.
	ErrPin = errors.New("the hub is not the one this token was made for (CA pin does not match); the token's secret was not sent; " +
		"if the cluster's CA was rotated since, make a new token with `hawser token create --kind edge`")
)

// join gets an identity by the token unless there is one. It tries again by itself while hubs cannot be reached.
func (a *Agent) join(ctx context.Context) error {
	var token ca.Token
	if b, err := a.state.read(tokenFile); err == nil {
		a.cfg.Token = string(b) // see split
	}
	if a.cfg.Token != "" {
		var err error
		if token, err = a.token(); errors.Is(err, os.ErrNotExist) && a.state.joined() {
			return nil // its file has done its work
		} else if err != nil {
			return err
		}
	}
	again := a.state.joined()
	if again {
		if c := a.state.get(); a.cfg.Token != "" && token.Cluster != c.Cluster {
			return fmt.Errorf("%w: it is \"%s\" in cluster \"%s\", the token is for \"%s\"", ErrOtherCluster, c.Name, c.Cluster, wire.Quote(token.Cluster, 80))
		}
		if a.cfg.Token == "" || slices.Contains(a.state.anchors().Pins(), token.Pin) {
			return nil
		}
	}
	if a.cfg.Token == "" {
		return fmt.Errorf("%w: %s holds no identity; give --token, from `hawser token create --kind edge`", ErrNoIdentity, a.cfg.State)
	}
	b := &backoff{rand: mathrand.Int64N}
	for tries := 1; ; tries++ {
		err := a.joinOnce(ctx, token)
		if err == nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		r, refused := errors.AsType[*RefusedError](err)
		if again && (errors.Is(err, errKnown) || errors.Is(err, ErrPin) || refused && r.authority() || tries == maxRejoins) {
			tunnel.Warn(a.log, "the token changes nothing; the identity that is stored has to do", "error", err)
			return nil
		}
		if errors.Is(err, ErrPin) || errors.Is(err, errIssued) || refused && r.authority() {
			return fmt.Errorf("join: %w", err)
		}
		wait := a.retryDelay(b, err)
		tunnel.Warn(a.log, "not joined yet", "error", err, "retry", wait.Round(time.Millisecond))
		_ = sleep(ctx, wait)
		if again, err := a.token(); err == nil { // its file may be another by now
			token = again
		}
	}
}

// token is the join token; "@FILE" is read anew.
func (a *Agent) token() (ca.Token, error) {
	text := a.cfg.Token
	if path, ok := strings.CutPrefix(text, "@"); ok {
		b, err := os.ReadFile(path)
		if err != nil {
			return ca.Token{}, fmt.Errorf("token: %w", err)
		}
		text = strings.TrimSpace(string(b))
	}
	token, err := ca.ParseToken(text)
	if err != nil {
		return token, fmt.Errorf("token: %w", err)
	}
	if token.Kind != ca.TokenEdge {
		return token, ErrTokenKind
	}
	return token, nil
}

// errIssued is an answer to a join that is not what auth would issue.
var errIssued = errors.New("what the hub returned is not a valid identity")

// errKnown is a hub that the identity knows, so that no token is needed. With a token of a CA it does not know, a device joins again, as who it is: what it
// knows was stolen, and the cluster has left it behind (`hawser ca rotate --compromised`).
var errKnown = errors.New("this device is in the cluster already")

// maxRejoins is how often that is tried before the identity there is has to do.
const maxRejoins = 5

// joinOnce asks the token's hubs, one at a time: the secret is on its way to at most one of them at any moment.
func (a *Agent) joinOnce(ctx context.Context, token ca.Token) error {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	hubs := token.Addresses
	if told := a.told(); len(told) > 0 {
		hubs = told
	}
	found, err := a.resolver.resolve(ctx, hubs)
	if err != nil {
		return err
	}
	_, late, err := race(ctx, plan(found, a.cfg.Carriers), 0, func(ctx context.Context, at attempt) (*wire.Joined, error) {
		joined, err := a.joinAt(ctx, at, token)
		r, refused := errors.AsType[*RefusedError](err)
		if errors.Is(err, errIssued) || refused && (r.authority() || r.Code == wire.ClosePending) {
			err = &finalError{err}
		}
		return joined, err
	}, func(*wire.Joined) {})
	<-late
	return err
}

func (a *Agent) joinAt(ctx context.Context, at attempt, token ca.Token) (*wire.Joined, error) {
	creds := a.state.get()
	der, err := ca.SelfSigned(creds.Key, a.clock.Now())
	if err != nil {
		return nil, fmt.Errorf("self-signed certificate: %w", err)
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: creds.Key}
	conn, err := a.dial(ctx, at, clientTLS(cert, func(cs tls.ConnectionState) error {
		trust, err := ca.PinnedTrust(cs.PeerCertificates, token.Cluster, token.Pin)
		if err != nil {
			if foreign := checkForeign(cs.PeerCertificates); foreign != nil {
				return fmt.Errorf("%w; the token's secret was not sent", foreign)
			}
			return fmt.Errorf("%w: %w", ErrPin, err)
		}
		if a.state.joined() && a.verifyHub(cs, a.state.anchors()) == nil {
			return errKnown
		}
		return a.verifyHub(cs, trust)
	}, tunnel.ALPN))
	if err != nil {
		return nil, err
	}
	defer conn.CloseWithError(wire.CloseNormal, "")
	if err := a.takeTurn(ctx); err != nil {
		return nil, err
	}
	defer a.giveTurn()
	if a.state.get() != creds {
		return nil, errors.New("already joined")
	}
	challenge, err := receiveAs[*wire.Challenge](ctx, conn, "challenge")
	if err != nil {
		return nil, err
	}
	if err := a.checkChallenge(conn, challenge, token.Cluster); err != nil {
		_ = conn.CloseWithError(closing(err))
		return nil, err
	}
	host, _ := os.Hostname()
	if err := tunnel.Send(conn, wire.Join{
		Secret: token.Secret, Name: a.cfg.Name, Hostname: truncate(host, 255), Labels: a.cfg.Labels, Evidence: evidence(),
		Arch: runtime.GOARCH, OS: runtime.GOOS, AgentVersion: a.cfg.Version,
	}); err != nil {
		return nil, fmt.Errorf("send join: %w", err)
	}
	m, err := receive(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("wait for the answer to join: %w", closeRefusal("join", err))
	}
	switch m := m.(type) {
	case *wire.Joined:
		if err := a.accept(m, token); err != nil {
			return nil, fmt.Errorf("%w: %w", errIssued, err)
		}
		return m, nil
	case *wire.Refused:
		return nil, refused("join", m)
	default:
		return nil, fmt.Errorf("the hub answered join with message %d", m.Type())
	}
}

// accept checks and stores an identity.
func (a *Agent) accept(m *wire.Joined, token ca.Token) error {
	trust, err := ca.OpenTrust(m.Trust, token.Pin)
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	if trust.Cluster != token.Cluster || m.Cluster != token.Cluster {
		return fmt.Errorf("trust is of cluster \"%s\", the token of \"%s\"", wire.Quote(trust.Cluster, 80), wire.Quote(token.Cluster, 80))
	}
	if err := wire.CheckDeviceName(m.Name); err != nil {
		return err
	}
	key := a.state.get().Key
	if _, err := checkIssued(key, m.UUID.String(), m.Cluster, m.Chain, m.SSHCert, trust); err != nil {
		return err
	}
	hubs := m.Hubs
	if len(hubs) == 0 {
		hubs = token.Addresses
	}
	if err := a.state.replace(trust, nil, func(c *identity.Credentials) {
		c.UUID, c.Name, c.Cluster = m.UUID.String(), m.Name, m.Cluster
		c.Chain, c.SSHCert, c.Trust, c.Counter, c.Hubs = m.Chain, m.SSHCert, m.Trust, m.Counter, hubs
	}); err != nil {
		return err
	}
	tunnel.Info(a.log, "joined", "device", m.Name, "uuid", m.UUID, "cluster", m.Cluster)
	if a.cfg.Name != "" && a.cfg.Name != m.Name {
		tunnel.Warn(a.log, "the cluster chose another name", "wished", a.cfg.Name, "device", m.Name)
	}
	if a.state.dir != nil {
		_ = a.state.dir.Remove(tokenFile)
	}
	return nil
}

// evidence is what the hardware says of itself: hints by which a person recognises a re-flashed device, never an identity.
func evidence() []wire.Label {
	var out []wire.Label
	add := func(key, value string) {
		if value != "" && len(out) < maxEvidence {
			out = append(out, wire.Label{Key: key, Value: truncate(value, 200)})
		}
	}
	for _, f := range []struct{ key, path string }{
		{"machine-id", "/etc/machine-id"},
		{"serial", "/sys/firmware/devicetree/base/serial-number"},
		{"model", "/sys/firmware/devicetree/base/model"},
		{"dmi-serial", "/sys/class/dmi/id/product_serial"},
	} {
		add(f.key, firstLine(f.path))
	}
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if len(i.HardwareAddr) > 0 && i.Flags&net.FlagLoopback == 0 {
			add("mac", i.HardwareAddr.String())
		}
	}
	return out
}

// firstLine is the first line of a small text file, without control characters; empty when it cannot be read.
func firstLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	b := make([]byte, 256)
	n, _ := f.Read(b)
	b = b[:n]
	for i, c := range b {
		if c < ' ' || c > '~' {
			b = b[:i]
			break
		}
	}
	return string(b)
}

func truncate(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }

// newNonce is 32 random bytes.
func newNonce() (n [32]byte) {
	rand.Read(n[:])
	return n
}
