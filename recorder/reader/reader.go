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
	ErrSealed    = errors.New("recording: encrypted to auditors")
	ErrWitness   = errors.New("recording: it is not what the device says that passed")
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

	// One of these is set for the types of their names; what they hold stays valid.
	FileOp   *recorder.FileOp
	Forward  *recorder.Forward
	AgentUse *recorder.AgentUse
	Joined   *recorder.Participant // RecordParticipant
	Ran      *recorder.Command     // RecordCommand
	Withheld *recorder.Withheld
	Request  *recorder.Request
}

// Head is the closing head.
type Head struct {
	ID                    [16]byte
	Chunks                uint64 // before the closing one
	Hash                  [32]byte
	Input, Stdout, Stderr uint64 // bytes
	Gaps                  uint64 // records
	Withheld              uint64 // bytes of input
	Duration              time.Duration
	Digest                *Digest // nil: the recorder took none
	Witness               []byte  // nil: there is none
	Unwitnessed           string  // why there is none, as the recorder says
	Signature             []byte  // nil: unsigned
	message               []byte  // what the signature signs
}

// Digest is what the recorder says passed, for comparison with a device's witness.
type Digest struct {
	Input, Stdout, Stderr [32]byte // SHA-256; of input what was kept of the owner's
	InputBytes            uint64   // that Input is of
	Counted               bool     // InputBytes is told: older recorders did not
	Requests, Answers     uint64   // to the device, by the device
	RequestsHash          [32]byte
	AnswersHash           [32]byte
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
	blind    bool     // go on where chunks are sealed, without what is in them
	sealed   bool     // some were
	open     Opener
	sealer   *recorder.Sealer // once open has given the key
	err      error            // sticky
	middle   bool             // see From
}

// New reads the stored chunks that next returns, in order, until its io.EOF. The reader does not keep a
// chunk beyond the following call of next.
func New(next func() ([]byte, error)) *Reader { return &Reader{next: next} }

// Opener finds the key of an encrypted recording, of which wrapped is the header's copies. recorder/unseal makes one of identities.
type Opener func(wrapped [][]byte) (key [32]byte, err error)

// Unseal has encrypted chunks opened. Without, or with nil, they end reading with ErrSealed. It is called before the first chunk is read, and
// returns r.
func (r *Reader) Unseal(open Opener) *Reader {
	r.open = open
	return r
}

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
		if string(buf[:4]) == evidenceMagic {
			return nil, io.EOF
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
		case recorder.RecordWithheld:
			r.seen.Withheld += e.Withheld.Bytes
		case recorder.RecordResize, recorder.RecordStart, recorder.RecordExit, recorder.RecordMarker, recorder.RecordFileOp,
			recorder.RecordForward, recorder.RecordAgentUse, recorder.RecordParticipant, recorder.RecordCommand, recorder.RecordRequest:
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
	if r.middle && r.previous == [32]byte{} {
		r.previous = h.Previous // what came before is not known
	}
	switch {
	case err != nil:
		return fmt.Errorf("chunk %d: %w", r.seq, err)
	case h.Size() != len(stored):
		return fmt.Errorf("%w: %d bytes after chunk %d", ErrFormat, len(stored)-h.Size(), h.Seq)
	case r.head != nil:
		return fmt.Errorf("%w: chunk %d after the closing one", ErrChain, h.Seq)
	case h.Seq != r.seq:
		return fmt.Errorf("%w: chunk %d where %d belongs", ErrChain, h.Seq, r.seq)
	case r.header != nil && h.Previous != r.previous:
		return fmt.Errorf("%w: at chunk %d", ErrChain, h.Seq)
	case h.Flags&^(recorder.FlagLast|recorder.FlagSealed) != 0:
		return fmt.Errorf("%w: unknown flags %#x", ErrFormat, h.Flags)
	case h.Time < r.time:
		return fmt.Errorf("%w: chunk %d goes back in time", ErrFormat, h.Seq)
	case !r.mayBe(h):
		return fmt.Errorf("%w: chunk %d is encrypted, or is not, where it must not be", ErrFormat, h.Seq)
	}
	if h.Flags&recorder.FlagSealed != 0 {
		if r.open == nil && r.blind { // its place in the chain is all that can be seen of it
			r.sealed, r.time, r.seq, r.previous = true, h.Time, h.Seq+1, recorder.Hash(stored)
			return nil
		}
		if body, err = r.unseal(h, body); err != nil {
			return err
		}
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
		if err := r.readHead(h.Time); err != nil {
			return err
		}
	}
	r.seq, r.previous = h.Seq+1, hash
	return nil
}

// mayBe tells whether a chunk is encrypted as its place demands: of an encrypted recording all are but the first and the closing one, so that
// nobody without the key adds others to it.
func (r *Reader) mayBe(h recorder.ChunkHeader) bool {
	want := r.header != nil && len(r.header.Keys) > 0 && h.Flags&recorder.FlagLast == 0
	return want == (h.Flags&recorder.FlagSealed != 0)
}

// unseal decrypts a chunk's body.
func (r *Reader) unseal(h recorder.ChunkHeader, body []byte) ([]byte, error) {
	if r.open == nil {
		return nil, ErrSealed
	}
	if r.sealer == nil {
		key, err := r.open(r.header.Keys)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSealed, err)
		}
		s := recorder.NewSealer(key)
		r.sealer = &s
	}
	plain, err := r.sealer.Open(h, body)
	if err != nil {
		return nil, fmt.Errorf("%w: chunk %d does not open: it was changed, or belongs to another recording", ErrFormat, h.Seq)
	}
	return plain, nil
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
	if len(header.Keys) > 0 && len(r.records) > 0 {
		return fmt.Errorf("%w: more than the header in the first chunk of an encrypted recording", ErrFormat)
	}
	r.header, r.previous = &header, h.Previous
	return nil
}

// readHead reads the closing chunk and compares it with what was read.
func (r *Reader) readHead(at uint64) error {
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
	if r.middle {
		s = *h
	}
	if h.ID != r.header.ID || h.Chunks != r.seq || h.Hash != r.previous || r.time != at || h.Duration != microseconds(at) ||
		!r.sealed && (!r.counted(h.Input, s.Input, recorder.UnkeptInput) || !r.counted(h.Stdout, s.Stdout, recorder.UnkeptStdout) ||
			!r.counted(h.Stderr, s.Stderr, recorder.UnkeptStderr) || h.Gaps != s.Gaps || h.Withheld != s.Withheld) {
		return ErrHead
	}
	r.head = h
	return nil
}

// counted tells whether so many bytes of a stream may have been seen where the head says so many passed.
func (r *Reader) counted(said, seen uint64, stream uint8) bool {
	return said == seen || r.header.Unkept&stream != 0 && said > seen
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
