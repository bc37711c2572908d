package apiclient

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/ca"
	"hawser/tunnel"
)

// stagger is how long an address has to answer before the next is tried beside it: a hub that is gone for good says nothing at all.
const stagger = 750 * time.Millisecond

// dialer makes connections to the auth service through any of several addresses.
type dialer struct {
	addrs []string
	tls   *tls.Config
	dial  func(ctx context.Context, network, addr string) (net.Conn, error)
	told  func(addr string)
	good  atomic.Int32 // index of the address that answered last
}

// tried is how one address did.
type tried struct {
	at   int
	conn *tls.Conn
	err  error
}

// dialTLS returns the first connection whose other end has proved to be the auth service, with the address that did so last tried first. The
// others have ended when it returns.
func (d *dialer) dialTLS(ctx context.Context, network, _ string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	results := make(chan tried, len(d.addrs))
	var wg sync.WaitGroup
	next, running, first := 0, 0, int(d.good.Load())
	start := func() {
		at := (first + next) % len(d.addrs)
		next++
		running++
		wg.Go(func() {
			c, err := d.handshake(ctx, network, d.addrs[at])
			results <- tried{at, c, err}
		})
	}
	var errs []error
	t := time.NewTimer(stagger)
	defer t.Stop()
	start()
	for running > 0 {
		select {
		case <-t.C:
			if next < len(d.addrs) {
				start()
				t.Reset(stagger)
			}
			continue
		case r := <-results:
			running--
			if r.err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", d.addrs[r.at], r.err))
				if next < len(d.addrs) {
					start()
					t.Reset(stagger)
				}
				continue
			}
			cancel()
			wg.Wait()
			for range running {
				if late := <-results; late.conn != nil {
					_ = late.conn.Close()
				}
			}
			d.good.Store(int32(r.at))
			if d.told != nil {
				d.told(d.addrs[r.at])
			}
			return r.conn, nil
		}
	}
	if len(errs) == 1 {
		return nil, errs[0]
	}
	return nil, fmt.Errorf("no address reaches the auth service: %w", errors.Join(errs...))
}

// Probe asks what is behind addrs, which nobody has vouched for: the cluster that the auth service there says it serves, and the pin of the CA
// by which it says so. Nothing is sent to it. Whoever goes on by the pin has somebody compare it first.
func Probe(ctx context.Context, addrs []string) (cluster, pin string, err error) {
	d := &dialer{addrs: addrs, dial: (&net.Dialer{}).DialContext, tls: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{tunnel.ALPNAPI, "h2"}, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, _, err := claimOf(cs.PeerCertificates)
			return err
		},
	}}
	c, err := d.dialTLS(ctx, "tcp", "")
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	return claimOf(c.(*tls.Conn).ConnectionState().PeerCertificates)
}

// claimOf is whom a chain names that holds under its own CA. That is what follows the leaf; what may follow that is of CAs that were rotated away.
func claimOf(chain []*x509.Certificate) (cluster, pin string, err error) {
	if len(chain) < 2 {
		return "", "", errors.New("this is no auth service, nor a hub that passes on to one: its certificate comes without a CA's")
	}
	if pin, err = ca.Pin(chain[1].Raw); err != nil {
		return "", "", err
	}
	if len(chain[0].Subject.Organization) == 1 {
		cluster = chain[0].Subject.Organization[0]
	}
	return cluster, pin, ByPin(cluster, pin, nil)(chain)
}

func (d *dialer) handshake(ctx context.Context, network, addr string) (*tls.Conn, error) {
	nc, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	tc := d.tls.Clone()
	tc.ServerName, _, _ = net.SplitHostPort(addr)
	c := tls.Client(nc, tc)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = nc.Close()
		return nil, err
	}
	return c, nil
}
