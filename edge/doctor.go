package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// Check is one finding of Diagnose: Err says what is wrong and what mends it; nil is fine.
type Check struct {
	Name, Text string
	Err        error
}

// Diagnose checks what an agent needs (the state directory, the clock, the network, names, and each carrier to each hub), asks a running agent what
// it remembers, and tells each finding as it is made. It registers nowhere: a handshake that the hub takes, up to its challenge, is all it
// asks for. via is Config.Proxy.
func Diagnose(ctx context.Context, path string, hubs []string, via string, build time.Time, tell func(Check)) {
	creds, err := diagnoseState(path)
	text := path
	if creds != nil && creds.UUID != "" {
		text = fmt.Sprintf("%s: %s of %s", path, creds.Name, creds.Cluster)
	}
	tell(Check{"state", text, err})
	tell(diagnoseClock(creds, floorIn(path), build))
	if m := readMachine(); m.kernel != 0 {
		tell(Check{"machine", fmt.Sprintf("kernel %d, %d MB RAM, %d streams at most", m.kernel, m.ram>>20, m.streams()), nil})
	}
	_, err = os.Stat("/dev/ptmx")
	if err != nil {
		err = fmt.Errorf("%w; sessions with a terminal need a mounted devpts: mount -t devpts devpts /dev/pts", err)
	}
	tell(Check{"terminal", "/dev/ptmx", err})
	diagnoseAgent(path, tell)
	if len(hubs) == 0 && creds != nil {
		hubs = creds.Hubs
	}
	if len(hubs) == 0 {
		tell(Check{"hubs", "none known", errors.New("join first, or name one with --hub HOST:PORT")})
		return
	}
	network := netwatch.Network()
	if network == "" {
		network = "no default route: only hubs on this machine's own networks can be reached"
	}
	tell(Check{"network", network, nil})
	p, err := parseProxy(via)
	if p != nil {
		tell(Check{"proxy", "TCP goes through " + p.addr, nil})
	} else if err != nil {
		tell(Check{"proxy", "", err})
	}
	r := newResolver(p != nil)
	for _, h := range hubs {
		found, err := r.resolve(ctx, []string{h})
		var list []string
		for _, f := range found {
			if f.addr.IsValid() {
				list = append(list, f.addr.String())
			}
		}
		if len(list) == 0 && p != nil {
			list = append(list, "for the proxy to look up")
		}
		tell(Check{"names", h + " is " + strings.Join(list, ", "), err})
		if err != nil || creds == nil || creds.UUID == "" {
			continue
		}
		first := make(chan Check, 1)
		go func() { first <- diagnoseCarrier(ctx, creds, found, p, OnlyQUIC, build) }()
		tls := diagnoseCarrier(ctx, creds, found, p, OnlyTLS, build)
		quic := <-first
		if quic.Err != nil && tls.Err == nil {
			quic.Text = "UDP is blocked; the agent works over TLS and tries UDP again"
		}
		tell(quic)
		tell(tls)
	}
}

func diagnoseState(path string) (*identity.Credentials, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w; it is made by `hawser-edge join`", err)
	}
	probe, err := os.CreateTemp(path, ".doctor-*")
	if err != nil {
		if unwritable(err) {
			return nil, fmt.Errorf("%w; an agent goes on from memory, and forgets at its end what it learns", err)
		}
		return nil, fmt.Errorf("%w; an agent must be able to write here", err)
	}
	probe.Close()
	if err := os.Remove(filepath.Clean(probe.Name())); err != nil {
		return nil, err
	}
	dir, err := identity.Open(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	creds, err := identity.Load(dir)
	if err != nil {
		return nil, err
	}
	return creds, nil
}

// diagnoseClock compares the system clock with what it cannot be. An agent serves all the same, by signed time.
func diagnoseClock(creds *identity.Credentials, floor, build time.Time) Check {
	now := time.Now()
	c := Check{Name: "clock", Text: now.UTC().Format(time.RFC3339)}
	if !floor.IsZero() {
		c.Text += ", never before " + floor.UTC().Format(time.RFC3339)
	}
	switch {
	case now.Before(floor):
		c.Err = errors.New("it is before the newest time that auth has signed for this device; the agent goes by its hub's signed time")
	case now.Before(build):
		c.Err = fmt.Errorf("it is before this program was built (%s); the agent goes by its hub's signed time", build.UTC().Format(time.RFC3339))
	case creds != nil && creds.UUID != "":
		notBefore, notAfter, err := validity(creds)
		switch {
		case err != nil:
			c.Err = err
		case now.Before(notBefore):
			c.Err = fmt.Errorf("it is before this device's certificate begins (%s)", notBefore.UTC().Format(time.RFC3339))
		case now.After(notAfter):
			c.Err = fmt.Errorf("it is after this device's certificate ended (%s); a running agent renews it", notAfter.UTC().Format(time.RFC3339))
		}
	}
	return c
}

// floorIn is the stored floor of the clock.
func floorIn(path string) time.Time {
	if _, err := os.Stat(path); err != nil {
		return time.Time{} // identity.Open would make it
	}
	dir, err := identity.Open(path)
	if err != nil {
		return time.Time{}
	}
	defer dir.Close()
	return (&state{dir: dir}).floor()
}

// diagnoseCarrier dials and waits for the challenge.
func diagnoseCarrier(ctx context.Context, creds *identity.Credentials, found []resolved, p *proxy, carrier Carriers, build time.Time) Check {
	ctx, cancel := context.WithTimeout(ctx, messageTimeout)
	defer cancel()
	c := Check{Name: "quic (UDP)"}
	if carrier == OnlyTLS {
		c.Name = "tls (TCP)"
	}
	trust, err := storedTrust(creds)
	if err != nil {
		c.Err = err
		return c
	}
	a := &Agent{machine: readMachine(), clock: newClock(time.Now, build), proxy: p}
	start := time.Now()
	r, late, err := race(ctx, plan(found, carrier), 0, func(ctx context.Context, at attempt) (*wire.Challenge, error) {
		conn, err := a.dial(ctx, at, clientTLS(creds.TLSCertificate(), func(cs tls.ConnectionState) error { return a.verifyHub(cs, trust) }, tunnel.ALPN))
		if err != nil {
			return nil, err
		}
		defer conn.CloseWithError(wire.CloseNormal, "doctor")
		challenge, err := receiveAs[*wire.Challenge](ctx, conn, "challenge")
		if err != nil {
			return nil, err
		}
		return challenge, a.checkChallenge(conn, challenge, creds.Cluster)
	}, func(*wire.Challenge) {}) // a pointer, as for the others: one race less in the program
	<-late
	if err != nil {
		kind, why := classify(err)
		c.Text, c.Err = kind.String(), err
		if kind == wire.EventIntercepted {
			c.Err = errors.New(why)
		}
		return c
	}
	c.Text = fmt.Sprintf("hub %s by %s in %d ms", r.value.HubName, r.attempt, time.Since(start).Milliseconds())
	return c
}
