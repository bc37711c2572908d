// Package reader reads recordings: chunks in, events out, the hash chain checked on the way.
//
// Start with New and call Next until io.EOF, or check a whole recording with Verify. A recording that was
// cut off anywhere yields its events up to the last whole chunk; Complete then says false. Whatever the
// bytes are, the reader returns an error rather than use memory beyond one chunk.
package reader

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"hawser/recorder"
	"hawser/recorder/zstdcodec"
)

// Errors of Next and Verify. The events before the error are as recorded.
var (
	ErrFormat    = errors.New("recording: malformed")
	ErrChain     = errors.New("recording: chain broken: a chunk was changed, moved or removed")
	ErrHead      = errors.New("recording: closing head does not match what it closes")
	ErrSignature = errors.New("recording: signature of the closing head is wrong or missing")
	ErrSealed    = errors.New("recording: encrypted")
)

// maxEnv bounds the variables of one start record.
const maxEnv = 1024

// Event is one record.
type Event struct {
	Type          recorder.RecordType
	Time          time.Duration // since the recording's start
	Data          []byte        // Input, Stdout, Stderr, Marker; valid until the next call of Next
	Participant   uint32        // Input; 0 is the session's owner
	Width, Height uint32        // Resize
	Kind          string        // Start
	Command       string        // Start
	Term          string        // Start
	Env           []string      // Start
	Status        uint32        // Exit
	Signal        string        // Exit
	Missing       uint64        // Gap: bytes
	Reason        string        // Gap
}

// Head is the closing head.
type Head struct {
	ID                    [16]byte
	Chunks                uint64 // before the closing one
	Hash                  [32]byte
	Input, Stdout, Stderr uint64 // bytes
	Gaps                  uint64 // records
	Duration              time.Duration
	Signature             []byte // nil: unsigned
	message               []byte // what the signature signs
}

// Reader yields the events of one recording. Not safe for concurrent use.
type Reader struct {
	next     func() ([]byte, error)
	header   *recorder.Header
	head     *Head
	seq      uint64   // of the chunk wanted next
	previous [32]byte // hash of the last chunk
	records  []byte   // rest of the current chunk
	time     uint64   // of the last record, microseconds
	seen     Head     // what was counted so far
	err      error    // sticky
}

// New reads the stored chunks that next returns, in order, until its io.EOF. The reader does not keep a
// chunk beyond the following call of next.
func New(next func() ([]byte, error)) *Reader { return &Reader{next: next} }

// Chunks splits a recording's file, the plain concatenation of its chunks, for New.
func Chunks(f io.Reader) func() ([]byte, error) {
	buf := make([]byte, recorder.MaxStoredChunk)
	return func() ([]byte, error) {
		n, err := io.ReadFull(f, buf[:recorder.ChunkHeaderSize])
		if err == io.ErrUnexpectedEOF {
			return buf[:n], nil
		}
		if err != nil {
			return nil, err
		}
		h, _, err := recorder.ParseChunk(buf[:n])
		if err != nil && err != recorder.ErrTruncated {
			return nil, err
		}
		m, err := io.ReadFull(f, buf[n:h.Size()])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = nil
		}
		return buf[:n+m], err
	}
}

// Header is the recording's header; it reads the first chunk if that was not read yet. io.EOF means that
// the recording was cut before its first chunk was whole.
func (r *Reader) Header() (recorder.Header, error) {
	if r.header == nil && r.err == nil {
		r.err = r.chunk()
	}
	if r.header == nil {
		return recorder.Header{}, r.err
	}
	return *r.header, nil
}

// Complete tells, once Next returned io.EOF, whether the recorder closed the recording.
func (r *Reader) Complete() bool { return r.head != nil }

// Head is the closing head once Next returned io.EOF, nil if the recording is incomplete.
func (r *Reader) Head() *Head { return r.head }

// Next returns the next event, and io.EOF after the last. Errors are final.
func (r *Reader) Next() (Event, error) {
	for r.err == nil {
		if len(r.records) == 0 {
			r.err = r.chunk()
			continue
		}
		t, p, err := r.record()
		if err != nil {
			r.err = err
			break
		}
		e, err := decodeRecord(t, p)
		if err != nil {
			r.err = err
			break
		}
		e.Time = microseconds(r.time)
		switch t {
		case recorder.RecordInput:
			r.seen.Input += uint64(len(e.Data))
		case recorder.RecordStdout:
			r.seen.Stdout += uint64(len(e.Data))
		case recorder.RecordStderr:
			r.seen.Stderr += uint64(len(e.Data))
		case recorder.RecordGap:
			r.seen.Gaps++
		case recorder.RecordResize, recorder.RecordStart, recorder.RecordExit, recorder.RecordMarker:
		case recorder.RecordHeader, recorder.RecordHead:
			r.err = fmt.Errorf("%w: record %d out of place", ErrFormat, t)
			continue
		default:
			continue // of a later minor version
		}
		return e, nil
	}
	return Event{}, r.err
}

// chunk reads the next chunk into records. io.EOF: there is none, or it is cut off.
func (r *Reader) chunk() error {
	stored, err := r.next()
	if err != nil {
		return err
	}
	h, body, err := recorder.ParseChunk(stored)
	if errors.Is(err, recorder.ErrTruncated) {
		return io.EOF
	}
	switch {
	case err != nil:
		return err
	case h.Size() != len(stored):
		return fmt.Errorf("%w: %d bytes after chunk %d", ErrFormat, len(stored)-h.Size(), h.Seq)
	case r.head != nil:
		return fmt.Errorf("%w: chunk %d after the closing one", ErrChain, h.Seq)
	case h.Seq != r.seq:
		return fmt.Errorf("%w: chunk %d where %d belongs", ErrChain, h.Seq, r.seq)
	case r.header != nil && h.Previous != r.previous:
		return fmt.Errorf("%w: at chunk %d", ErrChain, h.Seq)
	case h.Flags&recorder.FlagSealed != 0:
		return ErrSealed
	case h.Flags&^recorder.FlagLast != 0:
		return fmt.Errorf("%w: unknown flags %#x", ErrFormat, h.Flags)
	case h.Time < r.time:
		return fmt.Errorf("%w: chunk %d goes back in time", ErrFormat, h.Seq)
	}
	if r.records, err = decompress(h, body); err != nil {
		return fmt.Errorf("%w: chunk %d: %w", ErrFormat, h.Seq, err)
	}
	r.time = h.Time
	if r.header == nil {
		if err := r.readHeader(h); err != nil {
			return err
		}
	}
	hash := recorder.Hash(stored)
	if h.Flags&recorder.FlagLast != 0 {
		if err := r.readHead(); err != nil {
			return err
		}
	}
	r.seq, r.previous = h.Seq+1, hash
	return nil
}

// readHeader reads the first record of the first chunk and checks that the chain begins with its id.
func (r *Reader) readHeader(h recorder.ChunkHeader) error {
	t, p, err := r.record()
	if err != nil {
		return err
	}
	if t != recorder.RecordHeader {
		return fmt.Errorf("%w: does not begin with a header", ErrFormat)
	}
	header, err := decodeHeader(p)
	if err != nil {
		return err
	}
	if h.Previous != recorder.Genesis(header.ID) {
		return fmt.Errorf("%w: at chunk 0", ErrChain)
	}
	r.header, r.previous = &header, h.Previous
	return nil
}

// readHead reads the closing chunk and compares it with what was read.
func (r *Reader) readHead() error {
	t, p, err := r.record()
	if err != nil {
		return err
	}
	if t != recorder.RecordHead || len(r.records) != 0 {
		return fmt.Errorf("%w: closing chunk is not one head", ErrFormat)
	}
	h, err := decodeHead(p)
	if err != nil {
		return err
	}
	s := r.seen
	if h.ID != r.header.ID || h.Chunks != r.seq || h.Hash != r.previous ||
		h.Input != s.Input || h.Stdout != s.Stdout || h.Stderr != s.Stderr || h.Gaps != s.Gaps {
		return ErrHead
	}
	r.head = h
	return nil
}

// record takes one record off the chunk and moves the time.
func (r *Reader) record() (recorder.RecordType, []byte, error) {
	b := r.records
	if len(b) == 0 {
		return 0, nil, fmt.Errorf("%w: empty chunk", ErrFormat)
	}
	delta, n := binary.Uvarint(b[1:])
	if n <= 0 || r.time+delta < r.time {
		return 0, nil, fmt.Errorf("%w: record's time", ErrFormat)
	}
	length, m := binary.Uvarint(b[1+n:])
	start := 1 + n + m
	if m <= 0 || length > uint64(len(b)-start) {
		return 0, nil, fmt.Errorf("%w: record beyond its chunk", ErrFormat)
	}
	r.time += delta
	r.records = b[start+int(length):]
	return recorder.RecordType(b[0]), b[start : start+int(length)], nil
}

// decompress returns a chunk's records: exactly as many bytes as the header says, at most one chunk.
func decompress(h recorder.ChunkHeader, body []byte) ([]byte, error) {
	var raw []byte
	switch h.Codec {
	case recorder.CodecNone:
		raw = body
	case recorder.CodecFlate:
		raw = make([]byte, h.RawLen)
		z := flate.NewReader(bytes.NewReader(body))
		if _, err := io.ReadFull(z, raw); err != nil {
			return nil, err
		}
		if n, err := z.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			return nil, errors.New("longer than it says")
		}
	case recorder.CodecZstd:
		var err error
		if raw, err = zstdcodec.Decompress(body, int(h.RawLen)); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("codec %d is not known", h.Codec)
	}
	if len(raw) != int(h.RawLen) {
		return nil, errors.New("length differs from the header's")
	}
	return raw, nil
}
