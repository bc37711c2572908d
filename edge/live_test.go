package edge

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"hawser/tunnel/wire"
)

// A kill comes by the control stream, and the session by a stream of its own: one that began a moment after its kill ran until the hub gave it up,
// and what ignored HUP outlived that.
func TestAKillThatOvertakesItsSessionEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s liveSessions
		a := &Agent{}
		hub, other := wire.UUID{1}, wire.UUID{2}
		why := errors.New("ended by admin")
		for _, tt := range []struct {
			name  string
			id    [16]byte
			kill  func()
			ended bool
		}{
			{"killed before", [16]byte{1}, func() { s.end([16]byte{1}, hub, why) }, true},
			{"killed by another hub", [16]byte{2}, func() { s.end([16]byte{2}, other, why) }, false},
			{"many were killed since", [16]byte{3}, func() {
				s.end([16]byte{3}, hub, why)
				for i := range maxEarlyEnds {
					s.end([16]byte{9, byte(i)}, hub, why)
				}
			}, false},
		} {
			tt.kill()
			ctx, leave := s.add(context.Background(), tt.id, hub, &tenure{a: a})
			if (ctx.Err() != nil) != tt.ended || tt.ended && context.Cause(ctx) != why {
				t.Errorf("%s: %v", tt.name, context.Cause(ctx))
			}
			leave()
		}
		if len(s.early) > maxEarlyEnds {
			t.Errorf("%d are remembered", len(s.early))
		}
	})
}
