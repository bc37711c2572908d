package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// parts are goroutines that run together: when one fails, all are told to end.
type parts struct {
	ctx  context.Context
	stop context.CancelCauseFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	errs []error
}

func newParts(ctx context.Context) *parts {
	ctx, stop := context.WithCancelCause(ctx)
	return &parts{ctx: ctx, stop: stop}
}

// run starts a part. One that returns an error while nobody asked it to end
// ends them all.
func (p *parts) run(name string, f func(context.Context) error) {
	p.wg.Go(func() {
		err := f(p.ctx)
		if err == nil || errors.Is(err, context.Canceled) && p.ctx.Err() != nil {
			return
		}
		err = fmt.Errorf("%s: %w", name, err)
		p.mu.Lock()
		p.errs = append(p.errs, err)
		p.mu.Unlock()
		p.stop(err)
	})
}

// until waits for a part to say that it is ready, or for anything to fail.
func (p *parts) until(ctx context.Context, ready <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait returns when all parts have, with what failed.
func (p *parts) wait() error {
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}
