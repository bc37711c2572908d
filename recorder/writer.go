package recorder

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
)

// ErrClosed is why records given after Close are not recorded.
var ErrClosed = errors.New("recorder: closed")

// Streams of a session. Stdin is for Passed.
const (
	Stdin  byte = 0
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
	// again what can be tried again: an error ends the recording, but for ErrNoRoom, after which the chunk is dropped.
	Sink func(ctx context.Context, seq uint64, chunk []byte) error
	// Sign signs the closing head. nil leaves it unsigned.
	Sign func(message []byte) []byte
	// Room tells whether a sink that returned ErrNoRoom has room again. nil: it may have.
	Room func() bool
	// Window makes the recording strict; the owner then calls Acknowledge. nil: things pass as fast as the sink takes them.
	Window *Window
	// Digest hashes the streams and requests, for the head to be compared with a device's witness.
	Digest bool
	// Key encrypts the recording: every chunk but the first, which then holds the header alone, and the closing one. Header.Keys has it wrapped.
	// nil: it is not encrypted.
	Key *[32]byte
}

// Writer records one session. Its methods are safe for concurrent use.
//
// They return at once while the queue has room and block when it has not, until the sink takes a chunk, the
// recording fails or Close is called. After a failure they do nothing; Failed and Err tell.
type Writer struct {
	header Header
	begun  time.Time // by the monotonic clock: Header.Start may be of another, which a device without a clock of its own has from auth
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
	digest  Sums
	lost    uint64 // bytes that came while closing
	window  *window
	sealer  *Sealer // nil: nothing is encrypted
	witness []byte
	without string // why there is no witness

	// Owned by the goroutine.
	seq      uint64
	previous [32]byte
	missing  missing
}

// rawChunk is a chunk before compression.
type rawChunk struct {
	records *[]byte   // from buffers; nil when empty
	time    uint64    // of the first record, microseconds since the start
	cut     time.Time // when it must be stored at the latest
	since   time.Time // when it was begun
	bytes   int       // of what passed, for the window
}

// sums is what the closing head counts.
type sums struct{ input, stdout, stderr, gaps, withheld uint64 }

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
		header: h, begun: time.Now(), o: o, previous: Genesis(h.ID),
		done: make(chan struct{}), failed: make(chan struct{}), wake: make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancelCause(context.Background())
	w.room = sync.NewCond(&w.mu)
	if o.Window != nil {
		w.window = &window{Window: *o.Window}
	}
	if o.Key != nil {
		s := NewSealer(*o.Key)
		w.sealer, w.o.Key, w.header.Command = &s, nil, ""
	}
	return w
}

// Output records what the process wrote to Stdout or Stderr. False: a strict recording could not take it, so it must not be shown.
func (w *Writer) Output(stream byte, b []byte) bool {
	t := RecordStdout
	if stream == Stderr {
		t = RecordStderr
	}
	return w.bytes(t, 0, b)
}

// Input records what the session's owner, participant 0, sent. False: it must not be passed on.
func (w *Writer) Input(b []byte) bool { return w.bytes(RecordInput, 0, b) }

// InputFrom records what a participant sent; 0 is the owner. False: it must not be passed on.
func (w *Writer) InputFrom(participant uint32, b []byte) bool {
	return w.bytes(RecordInput, participant, b)
}

// Resize records the terminal's new size in characters.
func (w *Writer) Resize(width, height uint32) {
	p := binary.AppendUvarint(nil, uint64(width))
	w.record(RecordResize, binary.AppendUvarint(p, uint64(height)))
}

// Start records the start of the process. Of env it keeps what fits FORMAT.md's bounds. An error means that the process must not start: a strict
// recording could not be stored.
func (w *Writer) Start(kind, command, term string, env []string) error {
	w.record(RecordStart, appendStart(nil, kind, command, term, env))
	return w.started()
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

// Request records a channel request. A payload longer than fits a record is kept as its hash.
func (w *Writer) Request(r Request) {
	if r.Payload != nil {
		r.Hash = sha256.Sum256(r.Payload)
	}
	p := appendText(nil, RequestName, r.Name, maxText)
	if r.Payload == nil || len(r.Payload) > maxCommand {
		p = appendBytes(p, RequestDigest, r.Hash[:])
	} else {
		p = appendBytes(p, RequestPayload, r.Payload)
	}
	if r.FromDevice {
		p = appendUint(p, RequestFromDevice, 1)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reserveLocked(recordOverhead + len(p)) {
		w.putLocked(RecordRequest, p)
		w.digest.Request(r.FromDevice, r.Name, r.Hash)
	}
}

// Passed takes what passed on a stream that the recording does not keep, Header.Unkept: it is counted, and hashed for the head. False: it must
// not pass, for a strict recording is behind.
func (w *Writer) Passed(stream byte, b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	pass := w.admitLocked(0)
	if w.err == nil && !w.closing {
		w.sumLocked(stream, b, true)
	}
	return pass
}

// Witness takes the device's witness for the head, or why there is none.
func (w *Writer) Witness(blob []byte, without string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(blob) <= MaxWitness && w.witness == nil {
		w.witness, w.without = append([]byte(nil), blob...), without
	}
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
func (w *Writer) bytes(t RecordType, participant uint32, b []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	prefix := 0
	if t == RecordInput {
		prefix = uvarintLen(uint64(participant))
	}
	if !w.admitLocked(len(b)) {
		return false
	}
	for len(b) > 0 {
		if !w.reserveLocked(recordOverhead + 1) {
			w.lost += uint64(len(b))
			return w.window == nil
		}
		n := min(len(b), w.o.ChunkSize-len(*w.current.records)-recordOverhead)
		n = max(n, 1)
		r := w.beginLocked(t, prefix+n)
		if t == RecordInput {
			r = binary.AppendUvarint(r, uint64(participant))
		}
		*w.current.records = append(r, b[:n]...)
		w.sumLocked(streamOf(t), b[:n], participant == 0)
		w.current.bytes += n
		b = b[n:]
	}
	return true
}

func streamOf(t RecordType) byte {
	switch t {
	case RecordStdout:
		return Stdout
	case RecordStderr:
		return Stderr
	}
	return Stdin
}

// sumLocked counts what passed on a stream. What a guest typed does not pass on the owner's: the device says it in a request.
func (w *Writer) sumLocked(stream byte, b []byte, owner bool) {
	switch n := uint64(len(b)); stream {
	case Stdin:
		w.sums.input += n
	case Stdout:
		w.sums.stdout += n
	case Stderr:
		w.sums.stderr += n
	}
	if w.o.Digest && owner {
		w.digest.Pass(stream, b)
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
		now := time.Now()
		w.current = rawChunk{records: buffers.Get().(*[]byte), time: w.last, cut: now.Add(w.o.ChunkAge), since: now}
		w.signal()
		w.watchLocked()
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

// nowLocked is the time since the start in microseconds; it never runs back, nor with the system's clock.
func (w *Writer) nowLocked() uint64 {
	return max(w.last, uint64(max(0, time.Since(w.begun).Microseconds())))
}

// startLocked starts the goroutine and writes the header record.
func (w *Writer) startLocked() {
	if w.running {
		return
	}
	w.running = true
	w.fitsLocked(0)
	w.putLocked(RecordHeader, w.header.append(nil))
	if w.sealer != nil { // it stands alone, for it stays readable
		w.queue = append(w.queue, w.current)
		w.current = rawChunk{}
	}
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
			err := error(ErrNoRoom)
			if !w.lacksRoom() {
				err = w.storeMissing()
			}
			if err == nil {
				err = w.store(*c.records, c.time, 0)
			}
			if errors.Is(err, ErrNoRoom) && w.window == nil {
				w.drop(*c.records, c.time)
				err = nil
			}
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
			err := w.storeMissing()
			if err == nil {
				err = w.storeHead()
			}
			if err != nil {
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
		w.sentLocked(c)
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
		w.sentLocked(c)
		return c, 0, true
	}
	return c, wait, true
}

// store compresses a chunk, encrypts it where that is wanted, links it and gives it to the sink.
func (w *Writer) store(records []byte, at uint64, flags uint8) error {
	if w.sealer != nil && w.seq > 0 && flags&FlagLast == 0 {
		flags |= FlagSealed
	}
	h := ChunkHeader{Version: Version, Codec: w.o.Codec.ID(), Flags: flags, Seq: w.seq, Time: at,
		RawLen: uint32(len(records)), Previous: w.previous}
	packed := buffers.Get().(*[]byte)
	defer func() { *packed = (*packed)[:0]; buffers.Put(packed) }()
	b := h.appendHeader(*packed)
	if flags&FlagLast == 0 {
		b = w.o.Codec.Compress(b, records)
	}
	if n := len(b) - ChunkHeaderSize; n == 0 || n >= len(records) { // the closing chunk is hashes: and so its every byte has one meaning
		b = append(b[:ChunkHeaderSize], records...)
		h.Codec = CodecNone
	}
	h.BodyLen = uint32(len(b) - ChunkHeaderSize)
	if flags&FlagSealed != 0 {
		h.BodyLen += SealOverhead
	}
	h.appendHeader(b[:0])
	if flags&FlagSealed != 0 {
		b = w.sealer.seal(b, h.Seq)
	}
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
	p = appendSome(p, HeadWithheld, s.withheld)
	if w.o.Digest {
		p = w.appendDigest(p)
	}
	if w.o.Sign != nil {
		p = appendBytes(p, HeadSignature, w.o.Sign(HeadMessage(p)))
	}
	r := []byte{byte(RecordHead), 0}
	r = append(binary.AppendUvarint(r, uint64(len(p))), p...)
	return w.store(r, at, FlagLast)
}

// appendDigest appends what a witness is compared with, and the witness. Nothing is added any more.
func (w *Writer) appendDigest(p []byte) []byte {
	for i, tag := range []byte{HeadInputHash, HeadStdoutHash, HeadStderrHash} {
		h := w.digest.Hash(byte(i))
		p = appendBytes(p, tag, h[:])
	}
	p = appendUint(p, HeadInputHashed, w.digest.Bytes(Stdin))
	n, h := w.digest.Requests(false)
	p = appendBytes(appendUint(p, HeadRequests, n), HeadRequestsHash, h[:])
	n, h = w.digest.Requests(true)
	p = appendBytes(appendUint(p, HeadAnswers, n), HeadAnswersHash, h[:])
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.witness) > 0 {
		return appendBytes(p, HeadWitness, w.witness)
	}
	return appendText(p, HeadUnwitnessed, w.without, maxText)
}

// fail ends the recording: what is queued is not stored.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	w.queue, w.current = nil, rawChunk{}
	close(w.failed)
	if w.window != nil {
		w.overLocked(err)
	}
	w.room.Broadcast()
}
