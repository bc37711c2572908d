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

	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// Check is one finding of Diagnose: Err says what is wrong and what mends it; nil is fine.
type Check struct {
	Name, Text string
	Err        error
}

// Diagnose checks what an agent needs (the state directory, the clock, names, and each carrier to each hub) and tells each finding as it is made. It registers
// nowhere: a handshake that the hub takes, up to its challenge, is all it asks for.
func Diagnose(ctx context.Context, path string, hubs []string, build time.Time, tell func(Check)) {
	creds, err := diagnoseState(path)
	text := path
	if creds != nil && creds.UUID != "" {
		text = fmt.Sprintf("%s: %s of %s", path, creds.Name, creds.Cluster)
	}
	tell(Check{"state", text, err})
	tell(diagnoseClock(creds, build))
	if m := readMachine(); m.kernel != 0 {
		tell(Check{"machine", fmt.Sprintf("kernel %d, %d MB RAM, %d streams at most", m.kernel, m.ram>>20, m.streams()), nil})
	}
	_, err = os.Stat("/dev/ptmx")
	if err != nil {
		err = fmt.Errorf("%w; sessions with a terminal need a mounted devpts: mount -t devpts devpts /dev/pts", err)
	}
	tell(Check{"terminal", "/dev/ptmx", err})
	if len(hubs) == 0 && creds != nil {
		hubs = creds.Hubs
	}
	if len(hubs) == 0 {
		tell(Check{"hubs", "none known", errors.New("join first, or name one with --hub HOST:PORT")})
		return
	}
	r := newResolver(false)
	for _, h := range hubs {
		found, err := r.resolve(ctx, []string{h})
		var list []string
		for _, f := range found {
			list = append(list, f.addr.String())
		}
		tell(Check{"names", h + " is " + strings.Join(list, ", "), err})
		if err != nil || creds == nil || creds.UUID == "" {
			continue
		}
		for _, carrier := range []Carriers{OnlyQUIC, OnlyTLS} {
			tell(diagnoseCarrier(ctx, creds, found, carrier, build))
		}
	}
}

func diagnoseState(path string) (*identity.Credentials, error) {
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w; it is made by `hawser-edge join`", err)
	}
	probe, err := os.CreateTemp(path, ".doctor-*")
	if err != nil {
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
func diagnoseClock(creds *identity.Credentials, build time.Time) Check {
	now := time.Now()
	c := Check{Name: "clock", Text: now.UTC().Format(time.RFC3339)}
	switch {
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

// diagnoseCarrier dials and waits for the challenge.
func diagnoseCarrier(ctx context.Context, creds *identity.Credentials, found []resolved, carrier Carriers, build time.Time) Check {
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
	a := &Agent{machine: readMachine(), clock: newClock(time.Now, build)}
	start := time.Now()
	r, late, err := race(ctx, plan(found, carrier), 0, func(ctx context.Context, at attempt) (string, error) {
		conn, err := a.dial(ctx, at, clientTLS(creds.TLSCertificate(), func(cs tls.ConnectionState) error { return a.verifyHub(cs, trust) }, tunnel.ALPN))
		if err != nil {
			return "", err
		}
		defer conn.CloseWithError(wire.CloseNormal, "doctor")
		challenge, err := receiveAs[*wire.Challenge](ctx, conn, "challenge")
		if err != nil {
			return "", err
		}
		return challenge.HubName, a.checkChallenge(conn, challenge, creds.Cluster)
	}, func(string) {})
	<-late
	if err != nil {
		c.Text, c.Err = "no hub answers", err
		return c
	}
	c.Text = fmt.Sprintf("hub %s at %s in %d ms", r.value, r.attempt.addr, time.Since(start).Milliseconds())
	return c
}
