package authclient

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/place"
)

// slow is an auth service that takes so long to hear of an end.
type slow struct {
	fakeAuth
	answers time.Duration
}

func (s *slow) Release(ctx context.Context, _ *connect.Request[api.ReleaseRequest]) (*connect.Response[api.ReleaseResponse], error) {
	select {
	case <-time.After(s.answers):
		return connect.NewResponse(&api.ReleaseResponse{}), nil
	case <-ctx.Done():
		return nil, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
	}
}

// gone is an auth service that is not there.
type gone struct{ fakeAuth }

func (*gone) Release(context.Context, *connect.Request[api.ReleaseRequest]) (*connect.Response[api.ReleaseResponse], error) {
	return nil, connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))
}

// Where no cap counts it nobody waits, and where one does a second at most: then the client sees the end, and auth is told again.
func TestTheEndOfASessionWaitsForAuthASecondAtMost(t *testing.T) {
	for name, c := range map[string]struct {
		counted bool
		answers time.Duration // -1: auth is not there
		takes   time.Duration
		queued  int
	}{
		"auth answers":              {true, 300 * time.Millisecond, 300 * time.Millisecond, 0},
		"auth hangs":                {true, time.Hour, time.Second, 1},
		"auth is not there":         {true, -1, 0, 1},
		"no cap counts it":          {false, 300 * time.Millisecond, 0, 1},
		"nor while auth hangs then": {false, time.Hour, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slow{answers: c.answers}
				x := newClient(&s.fakeAuth)
				x.api.Hub, x.places, x.releases = s, place.NewHolder(), make(chan *api.ReleaseRequest, releaseQueue)
				if c.answers < 0 {
					x.api.Hub = new(gone)
				}
				id := [16]byte{1}
				x.places.Ask(id)
				if err := x.places.Granted(id, c.counted, false, time.Now()); err != nil {
					t.Fatal(err)
				}
				begun := time.Now()
				x.Release(id, 0, "exited")
				if took := time.Since(begun); took != c.takes || len(x.releases) != c.queued {
					t.Errorf("it took %v, and %d are to be told again; want %v and %d", took, len(x.releases), c.takes, c.queued)
				}
			})
		})
	}
}
