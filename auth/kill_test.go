package auth

import (
	"testing"
	"time"

	"hawser/auth/api"
)

// A kill that its hub could not be told was forgotten: the session went on when the hub was back.
func TestAKillOfASessionWhoseHubIsAwayIsToldWhenItIsBack(t *testing.T) {
	table, now := newHubTable(), time.Now()
	ref := hubRef{uuid: "h", name: "hub-1"}
	w, _ := table.begin(ref, nil, now)
	stays, killed := &session{id: [16]byte{1}, hub: "h"}, &session{id: [16]byte{2}, hub: "h"}
	for _, s := range []*session{stays, killed} {
		if !table.add(s) {
			t.Fatal("not added")
		}
	}
	table.end(w, "gone", now)
	if table.kill(killed, "ended by admin") {
		t.Error("told to a hub that is away")
	}
	w, ended := table.begin(ref, [][]byte{stays.id[:], killed.id[:]}, now)
	if len(ended) > 0 {
		t.Errorf("ended %v", ended)
	}
	kills := table.takeKills(w)
	if len(kills) != 1 || [16]byte(kills[0].SessionId) != killed.id || kills[0].Reason != "ended by admin" {
		t.Errorf("told %v", kills)
	}
	select {
	case <-w.wake:
	default:
		t.Error("nobody was woken for it")
	}
	if len(table.doomed) > 0 {
		t.Error("remembered for ever")
	}
}

func TestAKillOfAWholeUserGoesToEveryHub(t *testing.T) {
	table, now := newHubTable(), time.Now()
	a, _ := table.begin(hubRef{uuid: "a"}, nil, now)
	b, _ := table.begin(hubRef{uuid: "b"}, nil, now)
	for range maxKills + 5 { // one that takes none costs so much and no more
		table.killAll(&api.Kill{User: "ann", Reason: "x"})
	}
	for _, w := range []*watch{a, b} {
		if kills := table.takeKills(w); len(kills) != maxKills || kills[0].User != "ann" {
			t.Errorf("told %d", len(kills))
		}
	}
	// One of a session is told behind it.
	s := &session{id: [16]byte{1}, hub: "a"}
	table.add(s)
	table.killAll(&api.Kill{DeviceUuid: "d"})
	if !table.kill(s, "y") || len(table.takeKills(a)) != 2 {
		t.Error("lost")
	}
}

// A session that was given back between the list it was found on and its kill was remembered for its hub for ever.
func TestAKillOfWhatIsOverIsNotRemembered(t *testing.T) {
	table := newHubTable()
	if table.kill(&session{id: [16]byte{1}, hub: "away"}, "ended by admin") || len(table.doomed) != 0 {
		t.Errorf("%d kills wait", len(table.doomed))
	}
}
