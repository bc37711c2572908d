package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// parts are goroutines that run together. When one fails, or ctx is over, all
// end: the stage begun last first, so that what a part still has to say at its
// end finds the parts below it alive.
type parts struct {
	ctx    context.Context // over when everything shall end; its cause says why
	stop   context.CancelCauseFunc
	stages []*stage

	mu   sync.Mutex // guards errs
	errs []error
}

// stage is a set of parts that end together.
type stage struct {
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newParts(ctx context.Context) *parts {
	p := &parts{}
	p.ctx, p.stop = context.WithCancelCause(ctx)
	return p
}

// next begins a stage; the parts run from now on belong to it.
func (p *parts) next() {
	s := &stage{}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(p.ctx))
	p.stages = append(p.stages, s)
}

// run starts a part in the present stage. One that returns an error while nobody
// asked it to end ends them all.
func (p *parts) run(name string, f func(context.Context) error) {
	s := p.stages[len(p.stages)-1]
	s.wg.Go(func() {
		err := f(s.ctx)
		if err == nil || errors.Is(err, context.Canceled) && s.ctx.Err() != nil {
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
func (p *parts) until(ready <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(p.ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// end ends all parts and returns what failed.
func (p *parts) end() error {
	p.stop(nil)
	for _, s := range slices.Backward(p.stages) {
		s.cancel()
		s.wg.Wait()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.errs...)
}
