package edge

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"hawser/tunnel/wire"
)

// examine runs the doctor and returns its findings as lines, "ok name: text" or "FAIL name: text: error".
func examine(t *testing.T, ctx context.Context, path string, hubs []string, via string) string {
	t.Helper()
	var b strings.Builder
	Diagnose(ctx, path, hubs, via, time.Time{}, func(c Check) {
		if c.Err != nil {
			b.WriteString("FAIL " + c.Name + ": " + c.Text + ": " + c.Err.Error() + "\n")
		} else {
			b.WriteString("ok " + c.Name + ": " + c.Text + "\n")
		}
	})
	return b.String()
}

func wants(t *testing.T, found string, lines ...string) {
	t.Helper()
	for _, want := range lines {
		if !strings.Contains(found, want) {
			t.Errorf("no %q in\n%s", want, found)
		}
	}
}

func TestTheDoctorAsksTheRunningAgentWhatItRemembers(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, _ := h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	h.next()
	a.history.add(wire.ConnEvent{Kind: wire.EventDNS, Text: "no such host"})
	a.history.add(wire.ConnEvent{Kind: wire.EventDNS, Text: "no such host\x1b[2J"})
	found := examine(t, t.Context(), dir, nil, "")
	wants(t, found, "ok state: "+dir+": gw-1 of ", "ok event: ", "ago started: ", ` dns-failed for 0s, 2 times: no such host\x1b[2J`,
		"ok quic (UDP): hub hub-1 by quic 127.0.0.1:", "ok tls (TCP): hub hub-1 by tls 127.0.0.1:")
	if strings.ContainsAny(found, "\x1b") {
		t.Errorf("drives the terminal: %q", found)
	}
}

func TestTheDoctorNamesAPortalAndAProxy(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	portal := answerer(t, func(nc net.Conn) {
		_, _ = nc.Read(make([]byte, 1))
		_, _ = nc.Write([]byte("HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n"))
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	wants(t, examine(t, ctx, dir, []string{portal}, ""), "FAIL tls (TCP): intercepted: a captive portal", "FAIL quic (UDP): ")
	proxy, _ := fakeProxy(t, "HTTP/1.1 407 No\r\n\r\n")
	found := examine(t, t.Context(), dir, nil, "http://u:s3cret@"+proxy)
	wants(t, found, "ok proxy: TCP goes through "+proxy, "FAIL tls (TCP): proxy-failed", "other credentials", "ok quic (UDP): ")
	if strings.Contains(found, "s3cret") {
		t.Error("the password is shown")
	}
}

// Anybody can take the name of an agent's socket; what they say is not shown as the agent's. Here both are the same user, so only the
// other half can be shown: an agent that finds its name taken runs all the same, and two directories do not meet.
func TestAgentsOfTwoDirectoriesDoNotMeet(t *testing.T) {
	if a, b := recallName("/x"), recallName("/y"); a.Name == b.Name || len(a.Name) > 100 {
		t.Errorf("%s and %s", a.Name, b.Name)
	}
	dir := t.TempDir()
	first := &Agent{cfg: Config{State: dir}}
	defer first.serveRecall()()
	(&Agent{cfg: Config{State: dir}}).serveRecall()()
	diagnoseAgent(dir, func(Check) {})
}
