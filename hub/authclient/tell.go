package authclient

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
)

// tell tells auth what take gives, after each token of wake, until ctx ends: each batch until auth has it or says no, and the next no sooner than
// every. The first goes at once.
func tell[T any](
	ctx context.Context, x *Client, what string, every time.Duration, wake <-chan struct{}, take func() *T, call func(context.Context, *connect.Request[T]) error,
) {
	for {
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
		for m := take(); m != nil; m = take() {
			for wait := retryMin; ; {
				cctx, cancel := context.WithTimeout(ctx, callTimeout)
				err := call(cctx, connect.NewRequest(m))
				cancel()
				if ctx.Err() != nil {
					return
				}
				if err == nil {
					break
				}
				if !errors.Is(unavailable(err), ErrUnavailable) && connect.CodeOf(err) != connect.CodeResourceExhausted {
					x.c.Logger.Warn(what+" not reported", "error", fail(err))
					break
				}
				wait = backoff(wait)
				if !sleep(ctx, wait) {
					return
				}
			}
			if !sleep(ctx, every) {
				return
			}
		}
	}
}
