package registry

import (
	"errors"
	"slices"
	"testing"
	"time"

	"hawser/tunnel/wire"
)

var (
	start = time.Unix(1_800_000_000, 0)
	gw    = wire.UUID{1}
	run1  = wire.Incarnation{1}
	run2  = wire.Incarnation{2}
)

func reg(i wire.Incarnation, slot uint8, counter uint64) *Tunnel {
	return &Tunnel{UUID: gw, Incarnation: i, Slot: slot, Counter: counter, Signature: make([]byte, 64), Challenged: 1 << 63}
}

func accept(t *testing.T, r *Registry, n *Tunnel, displaces ...*Tunnel) {
	t.Helper()
	got, err := r.Register(n, start)
	if err != nil {
		t.Fatalf("register %v/%d/%d: %v", n.Incarnation, n.Slot, n.Counter, err)
	}
	if !slices.Equal(got, displaces) {
		t.Fatalf("register %v/%d/%d displaced %v, want %v", n.Incarnation, n.Slot, n.Counter, got, displaces)
	}
}

func refuse(t *testing.T, r *Registry, n *Tunnel, want error) {
	t.Helper()
	if _, err := r.Register(n, start); !errors.Is(err, want) {
		t.Fatalf("register %v/%d/%d: %v, want %v", n.Incarnation, n.Slot, n.Counter, err, want)
	}
}

func TestNewerCounterFencesTheSameSlotOnly(t *testing.T) {
	var r Registry
	a, b, c := reg(run1, 0, 1), reg(run1, 1, 2), reg(run1, 0, 3)
	accept(t, &r, a)
	accept(t, &r, b)
	accept(t, &r, c, a)
	if r.Lookup(gw) != c {
		t.Error("slot 0 does not hold the newest tunnel")
	}
	if r.Remove(a) {
		t.Error("a displaced tunnel's end made the device go offline")
	}
	if r.Remove(c) || r.Lookup(gw) != b {
		t.Error("slot 1 did not take over")
	}
	if !r.Remove(b) {
		t.Error("the last tunnel's end went unnoticed")
	}
}

func TestReplayedCounterIsRefusedEvenAfterTheTunnelEnded(t *testing.T) {
	var r Registry
	a := reg(run1, 0, 5)
	accept(t, &r, a)
	refuse(t, &r, reg(run1, 0, 5), ErrStale)
	accept(t, &r, reg(run1, 1, 4)) // the other slot has a counter of its own
	refuse(t, &r, reg(run1, 1, 4), ErrStale)
	r.Remove(a)
	refuse(t, &r, reg(run1, 0, 5), ErrStale)
}

func TestNewIncarnationFencesAllOlderTunnels(t *testing.T) {
	var r Registry
	a, b := reg(run1, 0, 1), reg(run1, 1, 2)
	accept(t, &r, a)
	accept(t, &r, b)
	c := reg(run2, 1, 1)
	accept(t, &r, c, a, b)
	refuse(t, &r, reg(run1, 0, 1), ErrStale)
	if got := r.All(); len(got) != 1 || got[0] != c {
		t.Errorf("All = %v", got)
	}
}

func TestTwoMachinesTakingTurnsAreRefused(t *testing.T) {
	var r Registry
	_, _ = r.Register(reg(run1, 0, 1), start)
	_, _ = r.Register(reg(run2, 0, 1), start)
	var err error
	for n := uint64(2); n < 4 && err == nil; n++ {
		_, err = r.Register(reg(run1, 0, n), start)
		if err == nil {
			_, err = r.Register(reg(run2, 0, n), start)
		}
	}
	if !errors.Is(err, ErrClone) {
		t.Fatalf("three displacements: %v, want ErrClone", err)
	}
	theirs, err := r.Register(reg(run1, 0, 8), start)
	if !errors.Is(err, ErrClone) || len(theirs) != 1 || theirs[0].Incarnation != run2 || len(r.All()) != 1 {
		t.Errorf("returned with it: %v, %v; want the tunnel of the other machine, which stays", theirs, err)
	}
	if _, err := r.Register(reg(run1, 0, 9), start.Add(3*cloneWindow)); err != nil {
		t.Errorf("long after: %v", err)
	}
}

func TestTurnsThatAreForgivenCountNoMore(t *testing.T) {
	var r Registry
	r.Forgive(wire.UUID{1}) // of which nothing is known
	turn := func(n uint64) error {
		_, err := r.Register(reg(run1, 0, n), start)
		if err == nil {
			_, err = r.Register(reg(run2, 0, n), start)
		}
		return err
	}
	_, _ = turn(1), turn(2)
	if err := turn(3); !errors.Is(err, ErrClone) {
		t.Fatalf("got %v, want ErrClone", err)
	}
	for id := range r.devices {
		r.Forgive(id)
	}
	if _, err := r.Register(reg(run1, 0, 9), start); err != nil {
		t.Errorf("after it was forgiven: %v", err)
	}
}

func TestUnknownSlotIsRefused(t *testing.T) {
	refuse(t, new(Registry), reg(run1, 2, 1), ErrSlot)
}

func TestToForgetADeviceWakesWhoWaitsForIt(t *testing.T) {
	var r Registry
	changed := r.Changed(wire.UUID{1}) // it has no tunnel, and did not have one in this run
	r.Forget(wire.UUID{1})
	select {
	case <-changed:
	default:
		t.Error("who waits for a removed device is not told")
	}
}
