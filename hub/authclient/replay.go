package authclient

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

// Replay is a recording that auth sends for a person.
type Replay struct {
	Recording *api.Recording
	// Next returns its stored chunks, and then io.EOF.
	Next func() ([]byte, error)
	// Close may be called at any time, and while Next runs.
	Close func()
}

// Denied is auth's answer, in words for the person.
type Denied struct{ Message string }

func (d *Denied) Error() string { return d.Message }

// Replay asks for a recording. The error is a *Denied, or ErrUnavailable.
func (x *Client) Replay(ctx context.Context, r *api.ReplayRecordingRequest) (*Replay, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := x.api.Replay.ReplayRecording(ctx, connect.NewRequest(r))
	if err == nil && !stream.Receive() {
		err = stream.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		cancel()
		return nil, replayError(err)
	}
	told := &Replay{Recording: stream.Msg().Recording}
	chunks := stream.Msg().Chunks
	told.Next = func() ([]byte, error) {
		for len(chunks) == 0 {
			if !stream.Receive() {
				if err := stream.Err(); err != nil {
					return nil, replayError(err)
				}
				return nil, io.EOF
			}
			chunks = stream.Msg().Chunks
		}
		b := chunks[0].GetData()
		chunks = chunks[1:]
		return b, nil
	}
	told.Close = cancel
	return told, nil
}

func replayError(err error) error {
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied, connect.CodeNotFound, connect.CodeInvalidArgument, connect.CodeResourceExhausted:
		return &Denied{api.MessageOf(err)}
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return unavailable(err)
}
