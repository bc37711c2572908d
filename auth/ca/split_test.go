package ca

import (
	"errors"
	"testing"
)

func TestAnOrderToSplitIsForOneDeviceAndByTheGrantKey(t *testing.T) {
	s, trust := newSet(t, "ber.example")
	order := SignSplit(s.GrantKey(), "d1", "token")
	if got, err := OpenSplit(order, trust.GrantKeys, "d1"); err != nil || got != "token" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := OpenSplit(order, trust.GrantKeys, "d2"); !errors.Is(err, ErrBadSplit) {
		t.Errorf("for another device: %v", err)
	}
	if _, err := OpenSplit(order, trust.TimeKeys, "d1"); !errors.Is(err, ErrBadSplit) {
		t.Errorf("by another key: %v", err)
	}
}

func FuzzOpenSplit(f *testing.F) {
	s, trust := newSet(f, "ber.example")
	f.Add(SignSplit(s.GrantKey(), "d1", "token"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = OpenSplit(b, trust.GrantKeys, "d1") })
}
