package edge

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// fakeConn is a connection from an address, that tells when it was closed.
type fakeConn struct {
	net.Conn
	from   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.from))
}
func (c *fakeConn) Close() error { c.closed = true; return nil }

func TestStrangersThatStallKeepNobodyOut(t *testing.T) {
	g := gate{total: 4, perSource: 2}
	now := time.Now()
	enter := func(from string, at time.Duration) (*fakeConn, *ticket) {
		c := &fakeConn{from: from}
		return c, g.enter(c, now.Add(at))
	}
	first, _ := enter("192.0.2.1:1", 0)
	enter("192.0.2.1:2", 0)
	if _, tk := enter("192.0.2.1:3", time.Second); tk != nil {
		t.Error("one source has more than its share at once")
	}
	if _, tk := enter("192.0.2.1:3", evictAge); tk == nil || !first.closed {
		t.Error("one that stalls keeps its own source out")
	}
	_, other := enter("[2001:db8::1]:1", evictAge)
	enter("[2001:db8::2]:1", evictAge) // of the same /64
	if _, tk := enter("[2001:db8::3]:1", evictAge); tk != nil {
		t.Error("a /64 counts as many")
	}
	if _, tk := enter("198.51.100.1:1", evictAge); tk == nil {
		t.Error("a new source is kept out by others that stall")
	}
	g.leave(other)
	g.leave(other)
	if n := len(g.waiting); n != 3 {
		t.Errorf("%d wait, want 3", n)
	}
}

func TestTheFirstBytesTellAHubFromAPerson(t *testing.T) {
	for _, x := range []struct {
		name, sent string
		hub        bool
	}{
		{"a hub", wire.DialMagic, true},
		{"a person", "SSH-2.0-OpenSSH_9.2\r\n", false},
		{"almost a hub", strings.Replace(wire.DialMagic, "1", "2", 1), false},
		{"somebody silent", "", false},
	} {
		here, there := net.Pipe()
		go io.WriteString(there, x.sent)
		first, hub := sniff(here)
		if hub != x.hub {
			t.Errorf("%s: hub is %v", x.name, hub)
		}
		if !hub && x.sent != "" { // nothing is lost of it
			go there.Close()
			rest, _ := io.ReadAll(&sniffed{here, first})
			if !strings.HasPrefix(x.sent, string(rest)) || len(rest) == 0 {
				t.Errorf("%s: %q is what is read of it", x.name, rest)
			}
		}
		here.Close()
		there.Close()
	}
}

func TestStrangersFillNoLog(t *testing.T) {
	var lines int
	log := &strangersLog{to: logFunc(func(string) { lines++ })}
	known := log.until()
	for range 1000 {
		known.Log(tunnel.LevelWarn, "user refused")
	}
	if lines > strangerLines {
		t.Errorf("%d lines of a stranger's", lines)
	}
	known.known.Store(true)
	known.Log(tunnel.LevelInfo, "connected")
	if lines != strangerLines+1 {
		t.Error("who is known is not logged")
	}
}

type logFunc func(msg string)

func (f logFunc) Log(_ tunnel.Level, msg string, _ ...any) { f(msg) }

func TestWhereAnAgentListensIsSaidPlainly(t *testing.T) {
	for s, want := range map[string]string{":2222": "[::]:2222", "0.0.0.0:22": "0.0.0.0:22", "[2001:db8::1]:22": "[2001:db8::1]:22", "host:22": "", "22": "", "[fe80::1%eth0]:22": ""} {
		got, err := parsePort(s)
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	c := Config{State: "x", TunnelOff: true}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("no tunnel and no port: %v", err)
	}
}
