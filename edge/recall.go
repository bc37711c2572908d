package edge

import (
	"bufio"
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
	"sync"
	"syscall"
	"time"

	"hawser/edge/netwatch"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// What a running agent remembers is in its memory alone. It tells it on a socket in the abstract namespace (unix(7)), which is on no flash and ends with the
// process, to root and its own user, for `hawser-edge doctor`; and to the login of a session what there is to know of that session, for `hawser-edge status`.
// Who asks sends one line, and the answer is lines of a name, a tab and a text.

const (
	// maxRecall bounds what is told.
	maxRecall = 16 << 10
	// recallTimeout bounds one telling: who asks and does not read holds up only itself.
	recallTimeout = 2 * time.Second
	// maxAsking are answered at once; beyond, one is told nothing.
	maxAsking = 8
	// maxAsk bounds what is asked, in bytes.
	maxAsk = 1 << 10
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
		var asking sync.WaitGroup
		defer asking.Wait()
		defer a.guard("recall", nil)
		slots := make(chan struct{}, maxAsking)
		for {
			c, err := ln.AcceptUnix()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				_ = sleep(context.Background(), time.Second) // out of descriptors
				continue
			}
			uid, ok := peerUID(c)
			if !ok || !trusted(uid) && (a.engine == nil || !a.engine.Hosts(uid)) {
				c.Close() // a stranger takes nobody's turn
				continue
			}
			select {
			case slots <- struct{}{}:
			default:
				c.Close()
				continue
			}
			asking.Go(func() {
				defer func() { <-slots }()
				defer c.Close()
				defer a.guard("recall", nil)
				_ = c.SetDeadline(time.Now().Add(recallTimeout))
				line, err := bufio.NewReaderSize(io.LimitReader(c, maxAsk), maxAsk).ReadString('\n')
				if err == nil {
					_, _ = io.WriteString(c, a.answer(strings.TrimSuffix(line, "\n"), uid))
				}
			})
		}
	}()
	return func() { ln.Close(); <-done }
}

// answer is what is told to somebody of that uid.
func (a *Agent) answer(line string, uid uint32) string {
	switch {
	case line != askRecall:
		return a.inside(line, uid)
	case trusted(uid):
		return a.recall(time.Now())
	}
	return ""
}

// peerUID is whose process is at the other end.
func peerUID(c *net.UnixConn) (uid uint32, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) {
		cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
		if err == nil {
			uid, ok = cred.Uid, true
		}
	})
	return uid, ok
}

// trusted reports whether it is root or our own user.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Getuid() }

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
	if alarm := a.logHeads.alarm(); alarm != "" {
		b.WriteString("audit log\t" + alarm + "\n")
	}
	for _, c := range a.streams.refused.Counts() {
		fmt.Fprintf(&b, "refused\t%s: %d times\n", wire.Quote(c.Cause, 80), c.Times)
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
func diagnoseAgent(path string, tell func(Check)) { ask(recallName(path), askRecall, tell) }

// askRecall is the line that asks for what is remembered.
const askRecall = "recall"

// ask asks a running agent, and reports whether it was one that may be believed.
func ask(agent *net.UnixAddr, line string, tell func(Check)) bool {
	c, err := net.DialUnix("unix", nil, agent)
	if err != nil {
		return false
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(recallTimeout))
	if uid, ok := peerUID(c); !ok || !trusted(uid) {
		return false // anybody can take a name
	}
	_, _ = io.WriteString(c, line+"\n")
	b, _ := io.ReadAll(io.LimitReader(c, maxRecall))
	for line := range strings.Lines(string(b)) {
		if name, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			tell(Check{Name: name, Text: text})
		}
	}
	return true
}
