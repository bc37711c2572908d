package play

import (
	"hawser/recorder"
	"hawser/recorder/reader"
)

// Unseal gives what opens the recording where it is encrypted, before Load. What is kept of it stays encrypted.
func (l *Recording) Unseal(open reader.Opener) {
	l.open = func(next func() ([]byte, error)) *reader.Reader { return reader.New(next).Unseal(open) }
	l.middle = func(h recorder.Header, chunk uint64, next func() ([]byte, error)) *reader.Reader {
		return reader.From(h, chunk, next).Unseal(open)
	}
}
