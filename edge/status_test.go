package edge

import (
	"errors"
	"testing"
)

func TestLeavingForgetsKeyAndIdentity(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	a, err := New(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := Leave(dir); err != nil {
		t.Fatal(err)
	}
	if s, err := ReadStatus(dir); !errors.Is(err, ErrNoIdentity) {
		t.Fatalf("after leaving there is still %+v, %v", s, err)
	}
}

func TestLeavingIsRefusedWhileAnAgentRuns(t *testing.T) {
	h := newTestHub(t)
	dir := t.TempDir()
	h.start(Config{State: dir, Token: h.token("edge"), Name: "gw-1"})
	h.next()
	if err := Leave(dir); err == nil {
		t.Fatal("the identity of a running agent was taken away")
	}
	if s, err := ReadStatus(dir); err != nil || !s.Running {
		t.Fatalf("%+v, %v", s, err)
	}
}
