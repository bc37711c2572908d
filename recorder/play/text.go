package play

import (
	"bufio"
	"io"

	"hawser/recorder/index"
	"hawser/recorder/reader"
)

// Text writes what a recording's terminal showed, as lines of text without colours or controls, each when it scrolled off, was erased or was
// overwritten: what a person who had scrolled back would have read.
func Text(r *reader.Reader, out io.Writer) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	b := bufio.NewWriter(out)
	t := index.NewTerminal(h)
	t.Lines(func(line string, _, _ int64) {
		_, _ = b.WriteString(line) // Flush tells
		_ = b.WriteByte('\n')
	})
	for {
		e, err := r.Next()
		if err == io.EOF {
			t.Flush()
			return b.Flush()
		}
		if err != nil {
			t.Flush()
			_ = b.Flush()
			return err
		}
		t.Apply(e)
	}
}
