package edge

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hawser/tunnel/wire"
)

func TestWhyADeviceWasAwayIsAStoryOfFewLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h history
		h.add(wire.ConnEvent{Kind: wire.EventLost, Hub: "hub-1", Text: "timeout"})
		time.Sleep(time.Minute)
		for range 10 {
			h.add(wire.ConnEvent{Kind: wire.EventDNS, Text: "no such host"})
			time.Sleep(time.Minute)
		}
		h.add(wire.ConnEvent{Kind: wire.EventUDPBlocked})
		time.Sleep(time.Second)
		got := h.list(time.Now())
		want := []wire.ConnEvent{
			{Kind: wire.EventLost, Ago: 11*time.Minute + time.Second, Times: 1, Hub: "hub-1", Text: "timeout"},
			{Kind: wire.EventDNS, Ago: 10*time.Minute + time.Second, Lasted: 9 * time.Minute, Times: 10, Text: "no such host"},
			{Kind: wire.EventUDPBlocked, Ago: time.Second, Times: 1},
		}
		if len(got) != len(want) {
			t.Fatalf("%+v", got)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("event %d: %+v\nwant %+v", i, got[i], want[i])
			}
		}
	})
}

func TestHistoryIsBoundedAndFitsItsMessage(t *testing.T) {
	var h history
	for i := range 100 {
		h.add(wire.ConnEvent{Kind: wire.EventKind(1 + i%15), Hub: strings.Repeat("h", 300), Text: strings.Repeat("\u00e4", 500)})
	}
	list := h.list(time.Now())
	if len(list) != historySize || list[historySize-1].Kind != wire.EventKind(1+99%15) {
		t.Errorf("%d events, the last %v", len(list), list[len(list)-1].Kind)
	}
	if _, err := wire.Encode(wire.History{Events: list}); err != nil {
		t.Error(err)
	}
}

func TestAHubIsToldOnlyWhatItHasNotGot(t *testing.T) {
	var h history
	a, b := wire.NewIncarnation(), wire.NewIncarnation()
	unsaid := func(hub wire.Incarnation) int {
		events, number := h.since(h.toldTo(hub), time.Now())
		h.tell(hub, number)
		return len(events)
	}
	h.add(wire.ConnEvent{Kind: wire.EventStarted})
	h.add(wire.ConnEvent{Kind: wire.EventDNS})
	if n := unsaid(a); n != 2 {
		t.Errorf("the first hub was told %d", n)
	}
	h.add(wire.ConnEvent{Kind: wire.EventDNS}) // not hidden in the one that was told already
	if n := unsaid(a); n != 1 {
		t.Errorf("the first hub was told %d more", n)
	}
	if n := unsaid(b); n != 3 {
		t.Errorf("another hub was told %d", n)
	}
	if n := unsaid(a); n != 0 {
		t.Errorf("with no news: %d", n)
	}
	for range 3 * historyHubs {
		unsaid(wire.NewIncarnation())
	}
	if len(h.told) != historyHubs {
		t.Errorf("remembers %d hubs", len(h.told))
	}
}
