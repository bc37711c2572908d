package api

import (
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
)

// NewError makes a Connect error that carries p's code for CodeOf.
func NewError(c connect.Code, p Code, format string, args ...any) *connect.Error {
	return NewRetryError(c, p, 0, format, args...)
}

// NewRetryError is NewError with the time after which a new try makes sense.
func NewRetryError(c connect.Code, p Code, after time.Duration, format string, args ...any) *connect.Error {
	err := connect.NewError(c, fmt.Errorf(format, args...))
	seconds := uint32((after + time.Second - 1) / time.Second)
	// Marshalling two integers cannot fail; without the detail the text still says it.
	if detail, derr := connect.NewErrorDetail(&Problem{Code: p, RetryAfterSeconds: seconds}); derr == nil {
		err.AddDetail(detail)
	}
	return err
}

// ProblemOf returns what a failed call says about itself, or nil.
func ProblemOf(err error) *Problem {
	cerr, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return nil
	}
	for _, d := range cerr.Details() {
		if v, err := d.Value(); err == nil {
			if p, ok := v.(*Problem); ok {
				return p
			}
		}
	}
	return nil
}

// CodeOf returns the code of a failed call, CODE_UNSPECIFIED where it has none.
func CodeOf(err error) Code { return ProblemOf(err).GetCode() }

// MessageOf returns what the service said, without the transport's prefix.
func MessageOf(err error) string {
	if cerr, ok := errors.AsType[*connect.Error](err); ok {
		return cerr.Message()
	}
	return err.Error()
}
