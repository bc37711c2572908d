package authclient

import (
	"fmt"
	"strings"
	"testing"
)

func refusing() *Client {
	x := new(Client)
	x.refusals.init()
	return x
}

func TestRefusalsOfOneKindAreOneLineWithANumber(t *testing.T) {
	x := refusing()
	for port := range 1000 {
		x.ReportRefusal(Refusal{Type: "user", Reason: "expired", User: "alice", Client: fmt.Sprintf("192.0.2.7:%d", port)})
	}
	x.ReportRefusal(Refusal{Type: "user", Reason: "expired", User: "alice", Client: "192.0.2.8:1"})
	m := x.refusals.take()
	if len(m.Refusals) != 2 || m.Refusals[0].Count != 1000 || m.Refusals[0].ClientAddress != "192.0.2.7:0" || m.Refusals[1].Count != 1 {
		t.Errorf("%v", m)
	}
	if m := x.refusals.take(); m != nil {
		t.Errorf("told again: %v", m)
	}
}

func TestAFloodOfRefusalsIsCountedAndNotKept(t *testing.T) {
	x := refusing()
	for i := range 5000 {
		x.ReportRefusal(Refusal{Type: "user", Reason: "unknown-key", User: fmt.Sprint(i) + strings.Repeat("\xff", 1000)})
	}
	told, dropped := 0, uint64(0)
	for m := x.refusals.take(); m != nil; m = x.refusals.take() {
		told += len(m.Refusals)
		dropped += m.Dropped
		for _, r := range m.Refusals {
			if len(r.User) > 4*maxRefusalText+8 || strings.Contains(r.User, "\xff") {
				t.Fatalf("user %q", r.User)
			}
		}
	}
	if told != maxRefusals || dropped != 5000-maxRefusals {
		t.Errorf("%d told, %d dropped", told, dropped)
	}
}
