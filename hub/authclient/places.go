package authclient

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/place"
)

const (
	// releaseWait is how long somebody who sees his session end waits for auth to hear of it first, where the place is under a cap.
	releaseWait = time.Second
	// renewTimeout bounds one renewal: another is due.
	renewTimeout = place.RenewEvery - time.Second
	// fenceEvery is the longest without a look at whether the lease may be over.
	fenceEvery = 250 * time.Millisecond
)

// renewing keeps the lease of this run of the hub, on which its places hang, until ctx ends.
func (x *Client) renewing(ctx context.Context) {
	for {
		wait := place.RenewEvery
		if err := x.renewPlaces(ctx); err != nil {
			wait = backoff(retryMin)
			if ctx.Err() == nil {
				x.c.Logger.Debug("places not renewed", "error", err)
			}
		}
		if !sleep(ctx, wait) {
			return
		}
	}
}

func (x *Client) renewPlaces(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	m, sent := x.places.Renewal(), time.Now()
	res, err := x.api.Place.RenewPlaces(ctx, connect.NewRequest(&api.RenewPlacesRequest{
		Incarnation: x.c.Incarnation[:], Seq: m.Seq, Answered: m.Answered, Epoch: m.Epoch, Held: placeIDs(m.Held), Pending: placeIDs(m.Pending),
	}))
	if err != nil {
		return fail(err)
	}
	r := res.Msg
	x.places.Renewed(m, r.Epoch, time.Duration(r.TtlMs)*time.Millisecond, fromPlaceIDs(r.Exact), fromPlaceIDs(r.Counted), sent)
	if r.Report {
		x.allSessions.Store(true)
		x.SessionsDirty()
	}
	return nil
}

func placeIDs(ids [][16]byte) [][]byte {
	out := make([][]byte, len(ids))
	for i := range ids {
		out[i] = ids[i][:]
	}
	return out
}

func fromPlaceIDs(ids [][]byte) [][16]byte {
	out := make([][16]byte, 0, len(ids))
	for _, id := range ids {
		if len(id) == 16 {
			out = append(out, [16]byte(id))
		}
	}
	return out
}

// fencing tells which sessions and connections must end because auth may soon give their places to others, until ctx ends: cap_mode exact.
func (x *Client) fencing(ctx context.Context, lapsed func(ids [][16]byte)) {
	for {
		if ids, _ := x.places.Lapsed(time.Now()); len(ids) > 0 {
			lapsed(ids)
		}
		if !sleep(ctx, fenceEvery) {
			return
		}
	}
}

// LeaseLeft is how long what this hub holds under cap_mode exact may go on, by the last renewal; 0: no longer.
func (x *Client) LeaseLeft() time.Duration {
	now := time.Now()
	_, until := x.places.Lapsed(now)
	return max(until.Sub(now), 0)
}

// placeOf is the id of what a claim takes a place for; forwards take none.
func placeOf(r *api.AdmitRequest) (id [16]byte, counts bool) {
	switch {
	case r.Kind == api.Kind_KIND_CONNECTION && len(r.ConnectionId) == 16:
		return [16]byte(r.ConnectionId), true
	case r.Kind == api.Kind_KIND_SESSION && len(r.SessionId) == 16:
		return [16]byte(r.SessionId), true
	}
	return id, false
}
