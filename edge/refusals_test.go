package edge

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// lineLogger keeps the lines above debug.
type lineLogger struct {
	testLogger
	mu    sync.Mutex
	lines []string
}

func (l *lineLogger) Log(level tunnel.Level, msg string, kv ...any) {
	l.testLogger.Log(level, msg, kv...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if level > tunnel.LevelDebug {
		l.lines = append(l.lines, fmt.Sprint(append([]any{msg}, kv...)...))
	}
}

func (l *lineLogger) count(part string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if strings.Contains(line, part) {
			n++
		}
	}
	return n
}

func TestFalseHubListsAreRefusedCountedAndLoggedOnce(t *testing.T) {
	h := newTestHub(t)
	log := &lineLogger{testLogger: testLogger{t}}
	a, _ := h.start(Config{Token: h.token("edge"), Name: "gw-1", Logger: log})
	at := h.next()
	other, err := ca.NewSet("other.example", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sign := func(set *ca.Set, cluster string, revision uint64) []byte {
		b, err := hublist.Sign(hublist.List{Cluster: cluster, Revision: revision, Hubs: []hublist.Hub{{UUID: h.uuid, Name: "hub-1", Tunnel: []string{h.address}}}}, set.GrantKey())
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	send := func(blob []byte) {
		t.Helper()
		if err := tunnel.Send(at.conn, wire.HubList{Blob: blob}); err != nil {
			t.Fatal(err)
		}
	}
	send(sign(h.set, testCluster, 5))
	held := func() {
		t.Helper()
		for {
			select {
			case m := <-at.messages:
				if p, ok := m.(*wire.PolicyHeld); ok && p.Hubs == 5 {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the true list is not held")
			}
		}
	}
	held()
	forged := sign(h.set, testCluster, 6)
	forged[len(forged)-1] ^= 1
	const times = 20
	for range times {
		send(forged)
		send(sign(h.set, testCluster, 4))
		send(sign(other, testCluster, 7))
		send(sign(other, "other.example", 8))
	}
	send(sign(h.set, testCluster, 5)) // it answers, and all before it are judged
	held()
	if l := a.hubList(); l.Revision != 5 {
		t.Errorf("list of revision %d is held", l.Revision)
	}
	var counted uint64
	for _, c := range a.streams.refused.Counts() {
		counted += c.Times
	}
	if counted != 4*times {
		t.Errorf("%d refusals counted, want %d", counted, 4*times)
	}
	if n := log.count("refused; more like it"); n != 1 {
		t.Errorf("logged %d times, want once", n)
	}
	if text := a.recall(time.Now()); !strings.Contains(text, fmt.Sprintf("refused\tmessage %d of a hub: %d times", wire.HubList{}.Type(), 4*times)) {
		t.Errorf("the doctor is not told:\n%s", text)
	}
}

func TestAHubOfAnotherVersionIsToldSoAndAnotherHubIsTaken(t *testing.T) {
	set, err := ca.NewSet(testCluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	newer, ours := newTestHubOf(t, set), newTestHubOf(t, set)
	dir := t.TempDir()
	_, stop := ours.start(Config{State: dir, Token: ours.token("edge"), Name: "gw-1"})
	ours.next()
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	newer.mu.Lock()
	newer.version = wire.Version + 1
	newer.mu.Unlock()
	ours.start(Config{State: dir, Hubs: []string{newer.address, ours.address}})
	select {
	case err := <-newer.closed:
		if c, ok := errors.AsType[*wire.CloseError](err); !ok || c.Code != wire.CloseUpgrade || !strings.Contains(c.Reason, "speaks version 2") {
			t.Errorf("the hub is told %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the agent did not come")
	}
	ours.next()
}
