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

// Why auth did not take chunks of a recording. Where it could not be asked the error is ErrUnavailable.
var (
	// ErrRecordingRefused: it never will.
	ErrRecordingRefused = errors.New("auth refuses this recording")
	// ErrRecordingRemoved: nor is any of it to be kept. It is an ErrRecordingRefused too.
	ErrRecordingRemoved = fmt.Errorf("%w: it was removed", ErrRecordingRefused)
	// ErrRecordingGap: others are wanted before; a call without chunks tells which.
	ErrRecordingGap = errors.New("auth wants earlier chunks")
	// ErrStoreFull: it has no room now.
	ErrStoreFull = errors.New("the auth service has no room for recordings")
)

func recordingError(err error) error {
	switch api.CodeOf(err) {
	case api.Code_CODE_RECORDING_GAP:
		return ErrRecordingGap
	case api.Code_CODE_RECORDING_REMOVED:
		return ErrRecordingRemoved
	}
	what := ErrUnavailable
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied, connect.CodeInvalidArgument, connect.CodeFailedPrecondition, connect.CodeNotFound, connect.CodeAlreadyExists,
		connect.CodeOutOfRange, connect.CodeUnimplemented:
		what = ErrRecordingRefused
	case connect.CodeResourceExhausted:
		what = ErrStoreFull
	}
	return fmt.Errorf("%w: %s", what, wire.Quote(api.MessageOf(err), 512))
}

// recordingPatience is how long a chunk of an upload is tried while auth does not take it.
const recordingPatience = time.Minute

// AppendRecording stores chunks and returns which is wanted next: all before are on auth's disk.
func (x *Client) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (next uint64, err error) {
	res, err := x.appendRecording(ctx, r)
	return res.GetNextSeq(), err
}

func (x *Client) appendRecording(ctx context.Context, r *api.AppendRecordingRequest) (*api.AppendRecordingResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.AppendRecording(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, recordingError(err)
	}
	return resp.Msg, nil
}

// AppendPatiently is AppendRecording, tried again for a while where that may help, with what auth says of it to the edge.
func (x *Client) AppendPatiently(ctx context.Context, r *api.AppendRecordingRequest) (*api.AppendRecordingResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, recordingPatience)
	defer cancel()
	for wait := retryMin; ; {
		res, err := x.appendRecording(ctx, r)
		if err == nil || errors.Is(err, ErrRecordingRefused) || errors.Is(err, ErrRecordingGap) {
			return res, err
		}
		wait = backoff(wait)
		if !sleep(ctx, wait) {
			return nil, err
		}
	}
}

// CloseRecording tells auth that no chunk will follow. It is idempotent.
func (x *Client) CloseRecording(ctx context.Context, r *api.CloseRecordingRequest) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := x.api.Hub.CloseRecording(ctx, connect.NewRequest(r)); err != nil {
		return recordingError(err)
	}
	return nil
}
