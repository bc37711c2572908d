// Package play plays recordings to a terminal.
//
// Play keeps the recorded timing and passes the output through a Filter, for a recording is hostile input:
// whoever was recorded chose its bytes. WriteRaw gives them as they are, for a file or a pipe.
package play

import (
	"context"
	"io"
	"math"
	"time"

	"hawser/recorder"
	"hawser/recorder/reader"
)

// Options of Play.
type Options struct {
	Speed   float64       // 1 or 0 as recorded, 2 twice as fast; math.Inf(1) does not wait
	IdleCap time.Duration // longest pause, in the recording's time; 0 is no cap
	Raw     bool          // write the bytes as recorded, unfiltered: only for a file or a pipe
}

// Play writes the recording's output, stdout and stderr as they came, to out with its timing. It returns nil at
// the end of a recording, complete or not; r.Complete tells.
func Play(ctx context.Context, r *reader.Reader, out io.Writer, o Options) (err error) {
	w := out
	if !o.Raw {
		f := NewFilter(out)
		defer func() {
			if e := f.Restore(); err == nil {
				err = e
			}
		}()
		w = f
	}
	var played time.Duration
	for {
		e, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := pause(ctx, e.Time-played, o); err != nil {
			return err
		}
		played = e.Time
		if e.Type == recorder.RecordStdout || e.Type == recorder.RecordStderr {
			if _, err := w.Write(e.Data); err != nil {
				return err
			}
		}
	}
}

// pause waits for d of the recording's time.
func pause(ctx context.Context, d time.Duration, o Options) error {
	if o.IdleCap > 0 {
		d = min(d, o.IdleCap)
	}
	if o.Speed > 0 {
		d = time.Duration(math.Min(float64(d)/o.Speed, math.MaxInt64/2))
	}
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}

// WriteRaw writes the recorded output, byte for byte and without waiting.
func WriteRaw(r *reader.Reader, out io.Writer) error {
	return Play(context.Background(), r, out, Options{Speed: math.Inf(1), Raw: true})
}
