package edge

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// What a running agent remembers is in its memory alone. It tells it on a socket in the abstract namespace (unix(7)), which is on no flash and ends with the
// process, to root and its own user: for `hawser-edge doctor`.

const (
	// maxRecall bounds what is told.
	maxRecall = 16 << 10
	// recallTimeout bounds one telling: who asks and does not read holds up only itself.
	recallTimeout = 2 * time.Second
)

// recallName is the socket of the agent on this state directory.
func recallName(path string) *net.UnixAddr {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	sum := sha256.Sum256([]byte(path))
	return &net.UnixAddr{Net: "unix", Name: "@hawser-edge-" + hex.EncodeToString(sum[:8])}
}

// serveRecall tells what is remembered to who asks, until the returned function is called.
func (a *Agent) serveRecall() (stop func()) {
	ln, err := net.ListenUnix("unix", recallName(a.cfg.State))
	if err != nil {
		tunnel.Debug(a.log, "doctor will not see what this agent remembers", "error", err)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer a.guard("recall", nil)
		for {
			c, err := ln.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				_ = sleep(context.Background(), time.Second) // out of descriptors
				continue
			}
			if trustedPeer(c) {
				_ = c.SetDeadline(time.Now().Add(recallTimeout))
				_, _ = io.WriteString(c, a.recall(time.Now()))
			}
			c.Close()
		}
	}()
	return func() { ln.Close(); <-done }
}

// trustedPeer reports whether root or our own user is at the other end.
func trustedPeer(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	_ = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Getuid())
	})
	return ok
}

// recall is what is remembered, a line a thing: its name, a tab, and the text.
func (a *Agent) recall(now time.Time) string {
	var b strings.Builder
	for _, k := range a.keepers {
		if l := k.current.Load(); l != nil {
			fmt.Fprintf(&b, "tunnel\t%d: %s by %s, for %s, %d streams", k.slot, wire.Quote(l.challenge.HubName, 80), l.at, now.Sub(l.since).Round(time.Second), l.open())
			if l.suspect.Load() {
				b.WriteString(", does not answer")
			}
			b.WriteByte('\n')
		}
	}
	if network := netwatch.Network(); network != "" {
		fmt.Fprintf(&b, "nat\t%s: UDP every %s, TCP every %s\n", network, a.nat.interval(network, tunnel.CarrierQUIC), a.nat.interval(network, tunnel.CarrierTLS))
	}
	for _, e := range a.history.list(now) {
		fmt.Fprintf(&b, "event\t%s ago %s", e.Ago.Round(time.Second), e.Kind)
		if e.Times > 1 {
			fmt.Fprintf(&b, " for %s, %d times", e.Lasted.Round(time.Second), e.Times)
		}
		if e.Hub != "" {
			b.WriteString(" at " + wire.Quote(e.Hub, 80))
		}
		if e.Text != "" {
			b.WriteString(": " + wire.Quote(e.Text, maxHistoryText))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// diagnoseAgent asks the agent that runs on the state directory, if one does.
func diagnoseAgent(path string, tell func(Check)) {
	c, err := net.DialUnix("unix", nil, recallName(path))
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(recallTimeout))
	if !trustedPeer(c) {
		return // anybody can take a name
	}
	b, _ := io.ReadAll(io.LimitReader(c, maxRecall))
	for line := range strings.Lines(string(b)) {
		if name, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			tell(Check{Name: name, Text: text})
		}
	}
}
