// Package reader reads recordings.
package reader

import (
	"io"
	"time"

	"hawser/recorder"
)

// Event is one record.
type Event struct {
	Type          recorder.RecordType
	Time          time.Duration // since the recording's start
	Data          []byte        // Input, Stdout, Stderr, Marker; valid until the next call of Next
	Participant   uint32        // Input
	Width, Height uint32        // Resize
	Kind          string        // Start
	Command       string        // Start
	Term          string        // Start
	Env           []string      // Start
	Status        uint32        // Exit
	Signal        string        // Exit
	Missing       uint64        // Gap: bytes
	Reason        string        // Gap
	Head          *Head         // Head
}

// Head is the closing head.
type Head struct {
	ID                    [16]byte
	Chunks                uint64
	Hash                  [32]byte
	Input, Stdout, Stderr uint64
	Gaps                  uint64
	Duration              time.Duration
	Signature             []byte
}

// Reader yields the events of one recording.
type Reader struct{}

// New reads the stored chunks next returns, in order, until its io.EOF.
func New(next func() ([]byte, error)) *Reader { return &Reader{} }

// Header is the recording's header, read from the first chunk.
func (r *Reader) Header() (recorder.Header, error) { return recorder.Header{}, nil }

// Next returns the next event, io.EOF at the end.
func (r *Reader) Next() (Event, error) { return Event{}, io.EOF }

// Complete tells, once Next returned io.EOF, whether the recording was closed by its recorder.
func (r *Reader) Complete() bool { return false }
