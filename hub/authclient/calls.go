package authclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
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

// Admit asks for a place. A refusal is in the response.
func (x *Client) Admit(ctx context.Context, r *api.AdmitRequest) (*api.AdmitResponse, error) {
	resp, err := x.api.Hub.Admit(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, unavailable(err)
	}
	return resp.Msg, nil
}

// Release gives a session or connection back. It does not wait; where the queue is full the next Watch's list tells auth.
func (x *Client) Release(id [16]byte, status int32, reason string) {
	select {
	case x.releases <- &api.ReleaseRequest{SessionId: id[:], ExitStatus: status, Reason: reason}:
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

func (x *Client) release(ctx context.Context, r *api.ReleaseRequest) {
	for wait, tries := retryMin, 0; tries < 5; tries++ {
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

// recordingPatience is how long a chunk is tried while auth does not answer.
const recordingPatience = time.Minute

// AppendRecording stores chunks and returns which it wants next; it tries again while auth is away, for recordingPatience.
func (x *Client) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordingPatience)
	defer cancel()
	for wait := retryMin; ; {
		cctx, done := context.WithTimeout(ctx, callTimeout)
		resp, err := x.api.Hub.AppendRecording(cctx, connect.NewRequest(r))
		done()
		if err == nil {
			return resp.Msg.NextSeq, nil
		}
		if !errors.Is(unavailable(err), ErrUnavailable) || ctx.Err() != nil {
			return 0, fail(err)
		}
		wait = backoff(wait)
		if !sleep(ctx, wait) {
			return 0, fail(err)
		}
	}
}

// CloseRecording marks a recording complete.
func (x *Client) CloseRecording(ctx context.Context, r *api.CloseRecordingRequest) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := x.api.Hub.CloseRecording(ctx, connect.NewRequest(r))
	if err != nil {
		return fail(err)
	}
	return nil
}

// CloseCode says a failed join or renewal in the tunnel's terms.
func CloseCode(err error) (code wire.CloseCode, message string, retry time.Duration) {
	p := api.ProblemOf(err)
	retry = time.Duration(p.GetRetryAfterSeconds()) * time.Second
	message = api.MessageOf(err)
	switch p.GetCode() {
	case api.Code_CODE_TOKEN_UNKNOWN, api.Code_CODE_TOKEN_SPENT, api.Code_CODE_TOKEN_EXPIRED, api.Code_CODE_TOKEN_WRONG_KIND:
		return wire.CloseToken, message, retry
	case api.Code_CODE_RATE_LIMITED:
		return wire.CloseRate, message, retry
	case api.Code_CODE_COUNTER_MISMATCH:
		return wire.CloseClone, message, retry
	case api.Code_CODE_DEVICE_UNKNOWN:
		return wire.CloseBanned, message, retry
	case api.Code_CODE_UNSPECIFIED:
		return wire.CloseUnavailable, "the hub cannot reach the auth service", 5 * time.Second
	}
	return wire.CloseAuth, message, retry
}
