package hub

import (
	"context"
	"errors"
	"testing"

	"hawser/auth/api"
)

func TestChunksAreStoredInOrderAndTogether(t *testing.T) {
	const total = 100
	var next uint64
	calls := 0
	started, proceed := make(chan struct{}, total), make(chan struct{})
	u := newUnstored(func(_ context.Context, chunks []*api.Chunk) error {
		started <- struct{}{}
		<-proceed
		calls++
		for _, c := range chunks {
			if c.Seq != next || c.Data[0] != byte(next) {
				t.Errorf("chunk %d came for %d", c.Seq, next)
			}
			next++
		}
		return nil
	})
	buf := make([]byte, 1) // the Writer's: used again after each call
	add := func(seq uint64) {
		buf[0] = byte(seq)
		if err := u.add(t.Context(), seq, buf); err != nil {
			t.Fatal(err)
		}
	}
	for seq := range uint64(maxUnstored) {
		add(seq)
	}
	<-started
	for seq := range uint64(maxUnstored) { // as many fit as are in the call
		add(maxUnstored + seq)
	}
	close(proceed)
	for seq := uint64(2 * maxUnstored); seq < total; seq++ {
		add(seq)
	}
	if err := u.wait(t.Context()); err != nil || next != total {
		t.Errorf("%d stored: %v", next, err)
	}
	if calls > total-2*maxUnstored+2 {
		t.Errorf("%d calls", calls)
	}
}

func TestNothingIsStoredBehindAnError(t *testing.T) {
	broken := errors.New("broken")
	calls := 0
	u := newUnstored(func(context.Context, []*api.Chunk) error { calls++; return broken })
	_ = u.add(t.Context(), 0, []byte{0})
	if err := u.wait(t.Context()); !errors.Is(err, broken) {
		t.Errorf("wait: %v", err)
	}
	if err := u.add(t.Context(), 1, []byte{1}); !errors.Is(err, broken) || calls != 1 {
		t.Errorf("add: %v after %d calls", err, calls)
	}
}
