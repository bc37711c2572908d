package auth

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/store"
)

func (s *Server) storeError(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded):
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	case errors.Is(err, store.ErrQuota):
		return api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_READ_ONLY, time.Minute,
			"recordings take all of the cluster's recording_quota; raise it, shorten retention, or remove some with `hawser recordings rm`")
	case errors.Is(err, store.ErrNoSpace):
		return api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_READ_ONLY, time.Minute, "the auth service's disk is nearly full; free some space there")
	case errors.Is(err, store.ErrRemoved): // a hub throws away what it still has of it
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_RECORDING_REMOVED, "the recording was removed")
	case errors.Is(err, store.ErrConflict):
		return connect.NewError(connect.CodeAborted, errors.New("someone else changed the same thing at the same time; try again"))
	case errors.Is(err, store.ErrClosed):
		return connect.NewError(connect.CodeUnavailable, errors.New("the auth service is stopping"))
	case errors.Is(err, store.ErrTooLarge):
		return connect.NewError(connect.CodeInvalidArgument, errors.New("too large to store"))
	}
	s.log.Error("call failed", "error", err)
	return connect.NewError(connect.CodeInternal, errors.New("internal error; see the log of the auth service"))
}

var (
	errTooOften    = errors.New("too often; try again in a few seconds")
	errManyInvited = errors.New("too many people are invited; try again when an invitation has ended")
)

func invalid(format string, args ...any) error {
	return api.NewError(connect.CodeInvalidArgument, api.Code_CODE_UNSPECIFIED, format, args...)
}

func notFound(format string, args ...any) error {
	return api.NewError(connect.CodeNotFound, api.Code_CODE_UNSPECIFIED, format, args...)
}
