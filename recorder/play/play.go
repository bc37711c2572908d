// Package play plays recordings to a terminal.
package play

import (
	"context"
	"io"
	"time"

	"hawser/recorder/reader"
)

// Options of Play.
type Options struct {
	Speed   float64       // 1 or 0 as recorded, 2 twice as fast; math.Inf(1) does not wait
	IdleCap time.Duration // longest pause, in the recording's time; 0 is no cap
	Raw     bool          // write the bytes as recorded, unfiltered: only for a file or a pipe
}

// Play writes the recording's output to out with its timing.
func Play(ctx context.Context, r *reader.Reader, out io.Writer, o Options) error { return nil }

// WriteRaw writes the recorded output, byte for byte and without waiting.
func WriteRaw(r *reader.Reader, out io.Writer) error { return nil }
