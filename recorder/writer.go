package recorder

import (
	"context"
	"time"
)

// Header says what is recorded. It is the first record.
type Header struct {
	ID            [16]byte // the recording's id, also the session's
	Cluster       string
	User          string
	Device        string // name
	DeviceUUID    string
	Login         string
	Way           string // hub, end-to-end, direct
	ClientAddr    string
	Hub           string // name or UUID of the entry hub
	Kind          string // shell, exec, sftp, ...
	Command       string
	Term          string
	Width, Height uint32
	Start         time.Time // zero means now
	SignerKey     []byte    // Ed25519 public key that Options.Sign uses; may be empty
}

// Codec compresses chunks. Implementations are safe for concurrent use.
type Codec interface {
	// ID is the codec id in the chunk's header.
	ID() byte
	// Compress appends the compressed form of src to dst.
	Compress(dst, src []byte) []byte
}

// Options of a Writer.
type Options struct {
	Codec     Codec         // nil is Flate
	ChunkSize int           // bytes of records in a chunk; 0 is MaxChunk, which is also the most
	ChunkAge  time.Duration // 0 is MaxChunkAge
	// Sink takes the stored chunks, one call at a time, in order. It owns nothing of chunk after it
	// returns. It may block, and should try again what can be tried again: an error ends the recording.
	Sink func(ctx context.Context, seq uint64, chunk []byte) error
	// Sign signs the closing head. nil leaves it unsigned.
	Sign func(message []byte) []byte
}

// Writer records one session.
type Writer struct{}

// NewWriter prepares a recording.
func NewWriter(h Header, o Options) *Writer { return &Writer{} }

func (w *Writer) Output(stream byte, b []byte)                   {}
func (w *Writer) Input(b []byte)                                 {}
func (w *Writer) InputFrom(participant uint32, b []byte)         {}
func (w *Writer) Resize(width, height uint32)                    {}
func (w *Writer) Start(kind, command, term string, env []string) {}
func (w *Writer) Exit(status uint32, signal string)              {}
func (w *Writer) Marker(text string)                             {}
func (w *Writer) Gap(bytes uint64, reason string)                {}
func (w *Writer) Failed() <-chan struct{}                        { return nil }
func (w *Writer) Err() error                                     { return nil }
func (w *Writer) Close(ctx context.Context) error                { return nil }

// Streams of Output.
const (
	Stdout byte = 1
	Stderr byte = 2
)
