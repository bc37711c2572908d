package edge

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hawser/tunnel"
)

// An attempt is one dial of the race: what, where, and how long after the start.
type attempt struct {
	carrier tunnel.Carrier
	hub     string // host:port as named, for the log
	addr    netip.AddrPort
	delay   time.Duration
}

func (a attempt) String() string { return fmt.Sprintf("%s %s", a.carrier, a.addr) }

// plan puts the addresses of one round in order: QUIC to each address, staggered, and TLS to each tcpDelay behind it.
func plan(addrs []resolved, c Carriers) []attempt {
	var out []attempt
	for i, r := range addrs {
		at := time.Duration(i) * addressStagger
		if c != OnlyTLS {
			out = append(out, attempt{tunnel.CarrierQUIC, r.hub, r.addr, at})
		}
		if c != OnlyQUIC {
			late := tcpDelay
			if c == OnlyTLS {
				late = 0
			}
			out = append(out, attempt{tunnel.CarrierTLS, r.hub, r.addr, at + late})
		}
	}
	return out
}

// A result is what one attempt came to.
type result[T any] struct {
	attempt attempt
	value   T
	err     error
}

// errNoAddress is the outcome of a race without runners.
var errNoAddress = errors.New("no hub address")

// race runs the attempts and returns the first that succeeded, where to succeed means to be registered: try returns only after the ACK. The
// others are cancelled and awaited, except that after a win on TLS the QUIC attempts go on for grace, and one that succeeds then is sent on late (nil otherwise: late
// always yields exactly one value). A value that lost is given to discard. An error that try wraps in *finalError ends the race at once: asking elsewhere would not change it.
func race[T any](ctx context.Context, attempts []attempt, grace time.Duration, try func(context.Context, attempt) (T, error), discard func(T)) (result[T], <-chan *result[T], error) {
	late := make(chan *result[T], 1)
	if len(attempts) == 0 {
		late <- nil
		return result[T]{}, late, errNoAddress
	}
	ctx, cancel := context.WithCancel(ctx)
	tlsCtx, cancelTLS := context.WithCancel(ctx)
	results := make(chan result[T], len(attempts)) // room for all: no attempt ever blocks on it
	for _, a := range attempts {
		actx := ctx
		if a.carrier == tunnel.CarrierTLS {
			actx = tlsCtx
		}
		go func() {
			r := result[T]{attempt: a}
			if r.err = sleep(actx, a.delay); r.err == nil {
				r.value, r.err = try(actx, a)
			}
			results <- r
		}()
	}
	pending := len(attempts)
	// drain awaits what was cancelled.
	drain := func() {
		for ; pending > 0; pending-- {
			if r := <-results; r.err == nil {
				discard(r.value)
			}
		}
		cancelTLS()
		cancel()
	}
	var errs []error
	for pending > 0 {
		r := <-results
		pending--
		if r.err != nil {
			if ctx.Err() == nil {
				errs = append(errs, fmt.Errorf("%s: %w", r.attempt, r.err))
			}
			if final, ok := errors.AsType[*finalError](r.err); ok {
				cancel()
				drain()
				late <- nil
				return r, late, final
			}
			continue
		}
		cancelTLS()
		if r.attempt.carrier == tunnel.CarrierTLS && grace > 0 {
			go func() {
				timer := time.AfterFunc(grace, cancel)
				defer timer.Stop()
				var better *result[T]
				for ; pending > 0; pending-- {
					q := <-results
					switch {
					case q.err != nil:
					case better == nil && q.attempt.carrier == tunnel.CarrierQUIC:
						better = &q
						cancel()
					default:
						discard(q.value)
					}
				}
				drain()
				late <- better
			}()
			return r, late, nil
		}
		cancel()
		drain()
		late <- nil
		return r, late, nil
	}
	err := context.Cause(ctx)
	drain()
	late <- nil
	if err == nil {
		err = errors.Join(errs...)
	}
	return result[T]{}, late, err
}

// A finalError is an answer that another address would repeat: a refusal by authority.
type finalError struct{ err error }

func (e *finalError) Error() string { return e.err.Error() }
func (e *finalError) Unwrap() error { return e.err }

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
