package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"hawser/tunnel"
)

// An attempt is one dial of the race: what, where, and how long after the start of its stage.
type attempt struct {
	carrier tunnel.Carrier
	hub     string // host:port as named, for the log
	addr    netip.AddrPort
	delay   time.Duration
	target  string // hubTarget.key
}

func (a attempt) String() string {
	if !a.addr.IsValid() {
		return fmt.Sprintf("%s %s by proxy", a.carrier, a.hub)
	}
	return fmt.Sprintf("%s %s", a.carrier, a.addr)
}

// lead is how much later than its stage each carrier starts.
type lead struct{ quic, tls time.Duration }

// plan puts the addresses of one hub in order: QUIC to each address, staggered, and TLS to each tcpDelay behind it.
func plan(addrs []resolved, c Carriers) []attempt { return planned(addrs, c, lead{tls: tcpDelay}) }

func planned(addrs []resolved, c Carriers, by lead) []attempt {
	switch c {
	case OnlyQUIC:
		by.quic = 0
	case OnlyTLS:
		by.tls = 0
	}
	var out []attempt
	for i, r := range addrs {
		at := time.Duration(i) * addressStagger
		if c != OnlyTLS && r.only != OnlyTLS {
			out = append(out, attempt{carrier: tunnel.CarrierQUIC, hub: r.hub, addr: r.addr, delay: at + by.quic})
		}
		if c != OnlyQUIC && r.only != OnlyQUIC {
			out = append(out, attempt{carrier: tunnel.CarrierTLS, hub: r.hub, addr: r.addr, delay: at + by.tls})
		}
	}
	return out
}

// A stage is the attempts at one hub.
type stage struct {
	at   time.Duration // after the start of the race; at once when all before it have failed
	find func(context.Context) ([]attempt, error)
}

// A result is what one attempt came to.
type result[T any] struct {
	attempt attempt
	value   T
	err     error
	stage   bool      // a stage's find has returned: err or found, no value
	found   []attempt // by a stage
}

// errNoAddress is the outcome of a race without runners.
var errNoAddress = errors.New("no hub address")

// race is raceStages for attempts that are all known.
func race[T any](ctx context.Context, attempts []attempt, grace time.Duration, try func(context.Context, attempt) (T, error), discard func(T)) (result[T], <-chan *result[T], error) {
	var stages []stage
	if len(attempts) > 0 {
		stages = []stage{{find: func(context.Context) ([]attempt, error) { return attempts, nil }}}
	}
	return raceStages(ctx, stages, grace, try, discard)
}

// raceStages runs the attempts of the stages and returns the first that succeeded, where to succeed means to be registered: try returns only
// after the ACK. The others are cancelled and awaited, except that after a win on TLS the QUIC attempts go on for grace, and one that succeeds then is sent on
// late (nil otherwise: late always yields exactly one value). A value that lost is given to discard. An error that try wraps in *finalError ends the race at
// once: asking elsewhere would not change it.
func raceStages[T any](ctx context.Context, stages []stage, grace time.Duration, try func(context.Context, attempt) (T, error), discard func(T)) (result[T], <-chan *result[T], error) {
	late := make(chan *result[T], 1)
	if len(stages) == 0 {
		late <- nil
		return result[T]{}, late, errNoAddress
	}
	ctx, cancel := context.WithCancel(ctx)
	tlsCtx, cancelTLS := context.WithCancel(ctx)
	results := make(chan result[T]) // pending counts who will send on it, and all are received
	pending, next := 0, 0
	begin := func() {
		s := stages[next]
		next++
		pending++
		go func() {
			list, err := s.find(ctx)
			results <- result[T]{stage: true, found: list, err: err}
		}()
	}
	run := func(a attempt) {
		pending++
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
	// drain awaits what was cancelled, and returns what succeeded nevertheless.
	drain := func() (won *result[T]) {
		for ; pending > 0; pending-- {
			r := <-results
			switch {
			case r.err != nil || r.stage:
			case won == nil:
				won = &r
			default:
				discard(r.value)
			}
		}
		cancelTLS()
		cancel()
		return won
	}
	started := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for {
		if pending == 0 {
			if next == len(stages) || ctx.Err() != nil {
				break
			}
			begin()
		}
		var due <-chan time.Time
		if next < len(stages) {
			timer.Reset(stages[next].at - time.Since(started))
			due = timer.C
		}
		var r result[T]
		select {
		case r = <-results:
			pending--
		case <-due:
			if ctx.Err() == nil {
				begin()
			} else {
				next = len(stages)
			}
			continue
		}
		switch {
		case r.stage && r.err == nil:
			for _, a := range r.found {
				run(a)
			}
			continue
		case r.err != nil:
			if ctx.Err() == nil {
				if !r.stage {
					r.err = fmt.Errorf("%s: %w", r.attempt, r.err)
				}
				errs = append(errs, r.err)
			}
			if final, ok := errors.AsType[*finalError](r.err); ok {
				cancel()
				late <- nil
				if won := drain(); won != nil { // it had registered, or was about to
					return *won, late, nil
				}
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
					case q.err != nil || q.stage:
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
		if lost := drain(); lost != nil {
			discard(lost.value)
		}
		late <- nil
		return r, late, nil
	}
	if err := context.Cause(ctx); err != nil || len(errs) == 0 {
		errs = append(errs, cmp.Or(err, errNoAddress))
	}
	drain()
	late <- nil
	return result[T]{}, late, errors.Join(errs...)
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
