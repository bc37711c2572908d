package recorder

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
)

// ErrClosed is why records given after Close are not recorded.
var ErrClosed = errors.New("recorder: closed")

// Streams of Output.
const (
	Stdout byte = 1
	Stderr byte = 2
)

// Options of a Writer.
type Options struct {
	Codec     Codec         // nil is Flate
	ChunkSize int           // bytes of records in a chunk; 0 is MaxChunk, which is also the most
	ChunkAge  time.Duration // longest wait of a record before its chunk is cut; 0 is MaxChunkAge
	// Sink takes the stored chunks, one call at a time, in order. The chunk is valid until Sink returns. It may
	// block, which in time blocks the methods of the Writer; it returns soon after ctx is done. It should try
	// again what can be tried again: an error ends the recording.
	Sink func(ctx context.Context, seq uint64, chunk []byte) error
	// Sign signs the closing head. nil leaves it unsigned.
	Sign func(message []byte) []byte
}

// Writer records one session. Its methods are safe for concurrent use.
//
// They return at once while the queue has room and block when it has not, until the sink takes a chunk, the
// recording fails or Close is called. After a failure they do nothing; Failed and Err tell.
type Writer struct {
	header Header
	o      Options

	done   chan struct{} // closed when the goroutine has ended
	failed chan struct{} // closed at the first error
	wake   chan struct{} // one token: look again
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	room    *sync.Cond // on mu: the queue got shorter, or the recording ended
	running bool       // the goroutine was started
	closing bool
	err     error
	current rawChunk
	last    uint64 // time of the last record, microseconds since the start
	queue   []rawChunk
	sums    sums
	lost    uint64 // bytes that came while closing

	// Owned by the goroutine.
	seq      uint64
	previous [32]byte
}

// rawChunk is a chunk before compression.
type rawChunk struct {
	records *[]byte   // from buffers; nil when empty
	time    uint64    // of the first record, microseconds since the start
	cut     time.Time // when it must be stored at the latest
}

// sums is what the closing head counts.
type sums struct{ input, stdout, stderr, gaps uint64 }

// buffers holds chunk buffers of all Writers, before and after compression: an idle session holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, MaxStoredChunk+1<<10); return &b }}

// NewWriter prepares a recording. Nothing runs before the first record or Close.
func NewWriter(h Header, o Options) *Writer {
	if h.Start.IsZero() {
		h.Start = time.Now()
	}
	if o.Codec == nil {
		o.Codec = Flate
	}
	if o.ChunkSize <= 0 || o.ChunkSize > MaxChunk {
		o.ChunkSize = MaxChunk
	}
	if o.ChunkAge <= 0 {
		o.ChunkAge = MaxChunkAge
	}
	w := &Writer{
		header: h, o: o, previous: Genesis(h.ID),
		done: make(chan struct{}), failed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.room = sync.NewCond(&w.mu)
	return w
}

// Output records what the process wrote to Stdout or Stderr.
func (w *Writer) Output(stream byte, b []byte) {
	t := RecordStdout
	if stream == Stderr {
		t = RecordStderr
	}
	w.bytes(t, 0, b)
}

// Input records what the session's owner, participant 0, sent.
func (w *Writer) Input(b []byte) { w.bytes(RecordInput, 0, b) }

// InputFrom records what a participant sent; 0 is the owner.
func (w *Writer) InputFrom(participant uint32, b []byte) { w.bytes(RecordInput, participant, b) }

// Resize records the terminal's new size in characters.
func (w *Writer) Resize(width, height uint32) {
	p := binary.AppendUvarint(nil, uint64(width))
	w.record(RecordResize, binary.AppendUvarint(p, uint64(height)))
}

// Start records the start of the process. Of env it keeps what fits FORMAT.md's bounds.
func (w *Writer) Start(kind, command, term string, env []string) {
	w.record(RecordStart, appendStart(nil, kind, command, term, env))
}

// Exit records the end of the process. Signal is its RFC 4254 name, without SIG, or empty.
func (w *Writer) Exit(status uint32, signal string) {
	p := appendUint(nil, ExitStatus, uint64(status))
	w.record(RecordExit, appendText(p, ExitSignal, signal, maxText))
}

// Marker records a remark of the recorder, such as why it is about to end.
func (w *Writer) Marker(text string) {
	w.record(RecordMarker, []byte(text[:min(len(text), maxText)]))
}

// Gap records that bytes are missing here, and why.
func (w *Writer) Gap(bytes uint64, reason string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gapLocked(bytes, reason)
}

// Failed is closed when the recording cannot go on.
func (w *Writer) Failed() <-chan struct{} { return w.failed }

// Err is why the recording failed, or nil.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close stores what is queued and the closing head, and waits for it. When ctx ends first, the sink's
// context is cancelled and the recording stays incomplete. Idempotent: every call returns the same error.
func (w *Writer) Close(ctx context.Context) error {
	w.mu.Lock()
	if !w.closing {
		w.closing = true
		w.startLocked()
		w.room.Broadcast()
		w.signal()
	}
	w.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		w.cancel(context.Cause(ctx))
		<-w.done
	}
	return w.Err()
}

// bytes appends data as one record, or several where it does not fit a chunk.
func (w *Writer) bytes(t RecordType, participant uint32, b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	prefix := 0
	if t == RecordInput {
		prefix = uvarintLen(uint64(participant))
	}
	for len(b) > 0 {
		if !w.reserveLocked(recordOverhead + 1) {
			w.lost += uint64(len(b))
			return
		}
		n := min(len(b), w.o.ChunkSize-len(*w.current.records)-recordOverhead)
		n = max(n, 1)
		r := w.beginLocked(t, prefix+n)
		if t == RecordInput {
			r = binary.AppendUvarint(r, uint64(participant))
		}
		*w.current.records = append(r, b[:n]...)
		b = b[n:]
		switch t {
		case RecordInput:
			w.sums.input += uint64(n)
		case RecordStdout:
			w.sums.stdout += uint64(n)
		case RecordStderr:
			w.sums.stderr += uint64(n)
		}
	}
}

// record appends one record of a bounded payload.
func (w *Writer) record(t RecordType, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reserveLocked(recordOverhead + len(payload)) {
		w.putLocked(t, payload)
	}
}

// putLocked appends one record for which there is room.
func (w *Writer) putLocked(t RecordType, payload []byte) {
	*w.current.records = append(w.beginLocked(t, len(payload)), payload...)
}

func (w *Writer) gapLocked(bytes uint64, reason string) {
	p := gapPayload(bytes, reason)
	if w.reserveLocked(recordOverhead + len(p)) {
		w.putLocked(RecordGap, p)
		w.sums.gaps++
	}
}

// reserveLocked makes room for n bytes in the current chunk. False: nothing is recorded any more.
func (w *Writer) reserveLocked(n int) bool {
	w.startLocked()
	for {
		if w.err != nil || w.closing {
			return false
		}
		if w.fitsLocked(n) {
			return true
		}
		if len(w.queue) < queuedChunks {
			w.queue = append(w.queue, w.current)
			w.current = rawChunk{}
			w.signal()
			continue
		}
		w.room.Wait()
	}
}

// fitsLocked gives the current chunk a buffer if it has none. An empty chunk takes any record.
func (w *Writer) fitsLocked(n int) bool {
	if w.current.records == nil {
		w.last = w.nowLocked()
		w.current = rawChunk{records: buffers.Get().(*[]byte), time: w.last, cut: time.Now().Add(w.o.ChunkAge)}
		w.signal()
	}
	used := len(*w.current.records)
	return used == 0 || used+n <= w.o.ChunkSize
}

// beginLocked appends a record's fixed part and returns the chunk's bytes.
func (w *Writer) beginLocked(t RecordType, length int) []byte {
	now := w.nowLocked()
	r := append(*w.current.records, byte(t))
	r = binary.AppendUvarint(r, now-w.last)
	w.last = now
	return binary.AppendUvarint(r, uint64(length))
}

// nowLocked is the time since the start in microseconds; it never runs back.
func (w *Writer) nowLocked() uint64 {
	return max(w.last, uint64(max(0, time.Since(w.header.Start).Microseconds())))
}

// startLocked starts the goroutine and writes the header record.
func (w *Writer) startLocked() {
	if w.running {
		return
	}
	w.running = true
	w.fitsLocked(0)
	w.putLocked(RecordHeader, w.header.append(nil))
	go w.run()
}

func (w *Writer) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run stores chunks until the recording is closed or has failed.
func (w *Writer) run() {
	defer close(w.done)
	defer w.cancel(nil)
	timer := time.NewTimer(w.o.ChunkAge)
	defer timer.Stop()
	for {
		c, wait, more := w.next()
		switch {
		case c.records != nil:
			err := w.store(*c.records, c.time, 0)
			*c.records = (*c.records)[:0]
			buffers.Put(c.records)
			if err != nil {
				w.fail(err)
				return
			}
		case more:
			timer.Reset(wait)
			select {
			case <-w.wake:
			case <-timer.C:
			case <-w.ctx.Done():
				w.fail(context.Cause(w.ctx))
				return
			}
		default:
			if err := w.storeHead(); err != nil {
				w.fail(err)
			}
			return
		}
	}
}

// next returns the chunk to store, or how long to wait for one; more is false when there will be none.
func (w *Writer) next() (c rawChunk, wait time.Duration, more bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) > 0 {
		c = w.queue[0]
		w.queue = append(w.queue[:0], w.queue[1:]...)
		w.room.Broadcast()
		return c, 0, true
	}
	if w.closing && w.lost > 0 {
		p := gapPayload(w.lost, "recorder closed")
		if w.fitsLocked(recordOverhead + len(p)) {
			w.putLocked(RecordGap, p)
			w.sums.gaps++
			w.lost = 0
		}
	}
	if w.current.records == nil {
		return c, w.o.ChunkAge, !w.closing
	}
	if wait = time.Until(w.current.cut); wait <= 0 || w.closing {
		c, w.current = w.current, rawChunk{}
		return c, 0, true
	}
	return c, wait, true
}

// store compresses a chunk, links it and gives it to the sink.
func (w *Writer) store(records []byte, at uint64, flags uint8) error {
	h := ChunkHeader{Version: Version, Codec: w.o.Codec.ID(), Flags: flags, Seq: w.seq, Time: at,
		RawLen: uint32(len(records)), Previous: w.previous}
	packed := buffers.Get().(*[]byte)
	defer func() { *packed = (*packed)[:0]; buffers.Put(packed) }()
	b := h.appendHeader(*packed)
	b = w.o.Codec.Compress(b, records)
	if len(b)-ChunkHeaderSize >= len(records) {
		b = append(b[:ChunkHeaderSize], records...)
		h.Codec = CodecNone
	}
	h.BodyLen = uint32(len(b) - ChunkHeaderSize)
	h.appendHeader(b[:0])
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	*packed = b
	if err := w.o.Sink(w.ctx, w.seq, b); err != nil {
		return fmt.Errorf("store recording chunk %d: %w", w.seq, err)
	}
	w.seq++
	w.previous = Hash(b)
	return nil
}

func (w *Writer) storeHead() error {
	w.mu.Lock()
	s, at := w.sums, w.last
	w.mu.Unlock()
	p := appendBytes(nil, HeadID, w.header.ID[:])
	p = appendUint(p, HeadChunks, w.seq)
	p = appendBytes(p, HeadHash, w.previous[:])
	p = appendUint(p, HeadInput, s.input)
	p = appendUint(p, HeadStdout, s.stdout)
	p = appendUint(p, HeadStderr, s.stderr)
	p = appendUint(p, HeadGaps, s.gaps)
	p = appendUint(p, HeadDuration, at)
	if w.o.Sign != nil {
		p = appendBytes(p, HeadSignature, w.o.Sign(HeadMessage(p)))
	}
	r := []byte{byte(RecordHead), 0}
	r = append(binary.AppendUvarint(r, uint64(len(p))), p...)
	return w.store(r, at, FlagLast)
}

// fail ends the recording: what is queued is not stored.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.queue, w.current = nil, rawChunk{}
	close(w.failed)
	w.room.Broadcast()
}
