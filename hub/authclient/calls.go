package authclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/place"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// ErrUnavailable: auth could not be asked.
var ErrUnavailable = errors.New("auth service cannot be reached")

// unavailable wraps errors that mean nobody answered.
func unavailable(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodeUnavailable, connect.CodeDeadlineExceeded, connect.CodeUnknown, connect.CodeCanceled:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return fail(err)
}

// Admit asks for a place. A refusal is in the response. A place is held until it is released; one whose answer was lost is given back.
func (x *Client) Admit(ctx context.Context, r *api.AdmitRequest) (*api.AdmitResponse, error) {
	r.HubIncarnation = x.c.Incarnation[:]
	id, counts := placeOf(r)
	if r.Way == policy.WayDirect && !x.places.Fresh(time.Now()) {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, place.ErrLapsed)
	}
	if counts {
		r.Attempt = x.places.Ask(id)
	}
	resp, err := x.api.Hub.Admit(ctx, connect.NewRequest(r))
	switch {
	case err != nil:
		if counts {
			x.queueRelease(id, &api.ReleaseRequest{SessionId: id[:], Reason: "the answer was lost", Attempt: r.Attempt})
		}
		return nil, unavailable(err)
	case !counts:
	case resp.Msg.Refusal != nil, len(resp.Msg.Grant) == 0: // none: of a question that comes before the one for a place
		x.places.Gone(id)
	default:
		a := resp.Msg.GetAccess()
		if err := x.places.Granted(id, a.GetCounted(), a.GetExact(), time.Now()); err != nil {
			x.queueRelease(id, &api.ReleaseRequest{SessionId: id[:], Reason: "this hub's lease may be over (cap_mode exact)", Attempt: r.Attempt})
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return resp.Msg, nil
}

// CheckSecondFactor holds a code that a person gave against his authenticator; whether it was right is in the response.
func (x *Client) CheckSecondFactor(ctx context.Context, r *api.CheckSecondFactorRequest) (*api.CheckSecondFactorResponse, error) {
	resp, err := x.api.Hub.CheckSecondFactor(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, unavailable(err)
	}
	return resp.Msg, nil
}

// Release gives a session or connection back. Where its place is under a cap it waits until auth has heard of it, for a second at most;
// what auth did not hear is told again, and where that queue is full the next renewals tell it.
func (x *Client) Release(id [16]byte, status int32, reason string) {
	x.ReleaseRan(id, status, reason, "", "")
}

// maxRanCommand bounds the command that auth is told with the end of a session, in bytes.
const maxRanCommand = 4096

// ReleaseRan is Release, with what ran: at Admit that was not known yet.
func (x *Client) ReleaseRan(id [16]byte, status int32, reason, channel, command string) {
	r := &api.ReleaseRequest{SessionId: id[:], ExitStatus: status, Reason: reason, Channel: channel, Command: []byte(command[:min(len(command), maxRanCommand)])}
	attempt, counted := x.places.Gone(id)
	r.HubIncarnation, r.Attempt = x.c.Incarnation[:], attempt
	if !counted {
		x.queueRelease(id, r)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseWait)
	defer cancel()
	if _, err := x.api.Hub.Release(ctx, connect.NewRequest(r)); err != nil {
		x.queueRelease(id, r)
	}
}

func (x *Client) queueRelease(id [16]byte, r *api.ReleaseRequest) {
	x.places.Lost(id, r.Attempt)
	r.HubIncarnation = x.c.Incarnation[:]
	select {
	case x.releases <- r:
	default:
	}
}

func (x *Client) releasing(ctx context.Context) {
	for {
		select {
		case r := <-x.releases:
			x.release(ctx, r)
		case <-ctx.Done():
			// What is queued at the end is still told, if auth answers at once.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			for {
				select {
				case r := <-x.releases:
					if _, err := x.api.Hub.Release(last, connect.NewRequest(r)); err != nil {
						return
					}
				default:
					return
				}
			}
		}
	}
}

// releaseTries of telling auth of an end are made, some ten minutes: that it is over renewals tell too, but not why.
const releaseTries = 200

func (x *Client) release(ctx context.Context, r *api.ReleaseRequest) {
	for wait, tries := retryMin, 0; tries < releaseTries && !x.places.Again([16]byte(r.SessionId), r.Attempt); tries++ {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		_, err := x.api.Hub.Release(cctx, connect.NewRequest(r))
		cancel()
		if err == nil || !errors.Is(unavailable(err), ErrUnavailable) {
			return
		}
		wait = backoff(wait)
		if !sleep(ctx, wait) {
			return
		}
	}
}

// JoinDevice passes on an edge's join.
func (x *Client) JoinDevice(ctx context.Context, r *api.JoinDeviceRequest) (*api.DeviceCredentials, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.JoinDevice(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// RenewDevice passes on an edge's renewal.
func (x *Client) RenewDevice(ctx context.Context, r *api.RenewDeviceRequest) (*api.DeviceCredentials, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.RenewDevice(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// ReportClone says that two machines take turns with one identity, and asks what is to be done with the one that came last.
func (x *Client) ReportClone(ctx context.Context, r *api.ReportCloneRequest) (*api.ReportCloneResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.ReportClone(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, fail(err)
	}
	return resp.Msg, nil
}

// SignTime gets auth's time over a nonce.
func (x *Client) SignTime(ctx context.Context, nonce []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.SignTime(ctx, connect.NewRequest(&api.SignTimeRequest{Nonce: nonce}))
	if err != nil {
		return nil, fail(err)
	}
	return resp.Msg.Time, nil
}

// CloseCode says a failed join or renewal in the tunnel's terms.
func CloseCode(err error) (code wire.CloseCode, message string, retry time.Duration) {
	p := api.ProblemOf(err)
	retry = time.Duration(p.GetRetryAfterSeconds()) * time.Second
	message = api.MessageOf(err)
	switch p.GetCode() {
	case api.Code_CODE_TOKEN_UNKNOWN, api.Code_CODE_TOKEN_SPENT, api.Code_CODE_TOKEN_EXPIRED, api.Code_CODE_TOKEN_WRONG_KIND, api.Code_CODE_TOKEN_SOURCE:
		return wire.CloseToken, message, retry
	case api.Code_CODE_RATE_LIMITED:
		return wire.CloseRate, message, retry
	case api.Code_CODE_PENDING:
		return wire.ClosePending, message, retry
	case api.Code_CODE_COUNTER_MISMATCH, api.Code_CODE_QUARANTINED:
		return wire.CloseClone, message, retry
	case api.Code_CODE_DEVICE_UNKNOWN, api.Code_CODE_LOCKED:
		return wire.CloseBanned, message, retry
	case api.Code_CODE_UNSPECIFIED:
		return wire.CloseUnavailable, "the hub cannot reach the auth service", 5 * time.Second
	}
	return wire.CloseAuth, message, retry
}
