package front

import (
	"context"
	"io"
	"time"
)

// input is what a person typed, read by a goroutine of its own so that the wait for more can be given up: the hub reads it while there is
// no device, and what it did not take goes to the device. One goroutine reads at a time.
type input struct {
	chunks chan []byte // closed at the end
	rest   []byte
}

// newInput begins to read r until it or ctx ends.
func (c *conn) newInput(ctx context.Context, r io.Reader) *input {
	in := &input{chunks: make(chan []byte)}
	c.goRun(func() {
		defer close(in.chunks)
		var buffers [2][]byte // who takes one has done with the other
		for i := 0; ; i ^= 1 {
			if buffers[i] == nil {
				buffers[i] = make([]byte, 4096)
			}
			n, err := r.Read(buffers[i])
			if n > 0 {
				select {
				case in.chunks <- buffers[i][:n]:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	return in
}

// Read implements io.Reader.
func (in *input) Read(p []byte) (int, error) {
	if len(in.rest) == 0 {
		b, ok := <-in.chunks
		if !ok {
			return 0, io.EOF
		}
		in.rest = b
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// Next implements shell.Input.
func (in *input) Next(ctx context.Context, wait time.Duration) ([]byte, error) {
	if len(in.rest) == 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case b, ok := <-in.chunks:
			if !ok {
				return nil, io.EOF
			}
			in.rest = b
		case <-t.C:
			return nil, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	b := in.rest
	in.rest = nil
	return append([]byte(nil), b...), nil
}

// Unread implements shell.Input.
func (in *input) Unread(b []byte) { in.rest = append(b, in.rest...) }
