package edge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// An Upload stream carries the chunks of a recording that this edge made: PROTOCOL.md, section 6.3.

// uploads are the recordings being made here, or made and not yet durable. Safe for concurrent use.
type uploads struct {
	added chan struct{} // nudges one askLoop; room for one
	bytes atomic.Int64  // of all chunks kept
	log   tunnel.Logger

	mu   sync.Mutex
	byID map[[16]byte]*upload // bounded by the sessions, and after them by uploadLinger, or by trim while no hub knows of them
}

// upload is one recording on its way: a bounded queue of chunks.
type upload struct {
	id     [16]byte
	all    *uploads
	strict bool // what waits is bounded by the recorder's window
	writer atomic.Pointer[recorder.Writer]

	mu     sync.Mutex
	from   entry        // the entry hub of the session
	grant  []byte       // the session's, by which another hub may take it when that one is gone; nil: no hub knows of the session yet
	sealer *seal.Sealer // made when it is first sent; nil: the grant has no key
	first  uint64       // the sequence of chunks[0]
	chunks [][]byte
	bytes  int
	extra  int           // of small chunks taken beyond the bounds
	last   bool          // no more chunks will come
	ended  time.Time     // when last was set, or a hub learned of it after that
	gone   bool          // given up
	active bool          // a stream is sending it
	due    time.Time     // when a hub is asked (again) to fetch it, unless a stream is sending it
	wait   time.Duration // before that, after a stream that ended early; doubles until a chunk is durable, or there is another tunnel or hub
	wake   chan struct{} // closed and replaced at every change
}

var (
	errUploadGone = errors.New("the recording was given up")
)

// add begins an upload. A hub may fetch it at once: it is added with all that holds of it.
func (u *uploads) add(up *upload) *upload {
	up.all, up.wake = u, make(chan struct{})
	u.mu.Lock()
	if u.byID == nil {
		u.byID = map[[16]byte]*upload{}
	}
	u.byID[up.id] = up
	u.mu.Unlock()
	nudge(u.added)
	return up
}

// sealFor seals what is sent for auth, by the key of the session's grant.
func (u *upload) sealFor(key [32]byte) {
	if key == [32]byte{} {
		return
	}
	s, err := seal.To(key, u.id)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sealer = s; err != nil { // it must not go in clear
		u.gone = true
	}
}

func (u *upload) sealed() *seal.Sealer {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sealer
}

func (u *uploads) get(id [16]byte) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byID[id]
}

// wanted is an upload that a hub is to be asked to fetch.
type wanted struct {
	id    [16]byte
	from  entry
	grant []byte
}

// pending lists the recordings that no stream is sending and no hub was just asked to fetch, and forgets those that are durable or were not fetched
// within uploadLinger. Those that no hub knows of wait; again is when the next of the others is due, zero: there are none.
func (u *uploads) pending(now time.Time) (idle []wanted, again time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, up := range u.byID {
		up.mu.Lock()
		switch {
		case up.gone, up.last && len(up.chunks) == 0:
			u.forgetLocked(id, up)
		case up.grant == nil:
		case up.last && now.Sub(up.ended) > uploadLinger:
			tunnel.Warn(u.log, "recording given up", "session", fmt.Sprintf("%x", id), "bytes", fmt.Sprint(up.bytes), "error", "no hub has fetched it for "+uploadLinger.String())
			u.forgetLocked(id, up)
		case !up.active: // a stream that ends says so
			if !now.Before(up.due) {
				every := askEvery / 2
				if up.last { // one that no hub fetches must not keep a quiet device talking
					every = max(every, min(now.Sub(up.ended)/8, askSlowly))
				}
				up.due = now.Add(every) // of several tunnels one asks
				idle = append(idle, wanted{id, up.from, up.grant})
			}
			if again.IsZero() || up.due.Before(again) {
				again = up.due
			}
		}
		up.mu.Unlock()
	}
	return idle, again
}

// forgetLocked gives up one. u.mu and up.mu are held.
func (u *uploads) forgetLocked(id [16]byte, up *upload) {
	u.bytes.Add(-int64(up.bytes))
	up.gone, up.chunks, up.bytes = true, nil, 0
	up.changedLocked()
	delete(u.byID, id)
}

// drop gives up one of which no hub will learn.
func (u *uploads) drop(id [16]byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up := u.byID[id]; up != nil {
		up.mu.Lock()
		defer up.mu.Unlock()
		if up.grant == nil {
			u.forgetLocked(id, up)
			tunnel.Warn(u.log, "recording dropped", "session", fmt.Sprintf("%x", id), "error", "no hub has learned of its session")
		}
	}
}

// trim gives up recordings that have ended, until they are no more than maxOver and leave room of so many bytes; false: there is not that much. Those
// that no hub knows of go first, and then those that no hub fetches, the oldest of each.
func (u *uploads) trim(room int) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for {
		var oldest *upload
		var known bool
		var when time.Time
		n := 0
		for _, up := range u.byID {
			up.mu.Lock()
			if of := up.grant != nil; up.last && (!of || !up.active && time.Since(up.ended) > fetchWait) {
				if n++; oldest == nil || known && !of || known == of && up.ended.Before(when) {
					oldest, known, when = up, of, up.ended
				}
			}
			up.mu.Unlock()
		}
		enough := u.bytes.Load()+int64(room) <= uploadsBuffer
		if n == 0 || n <= maxOver && enough {
			return enough
		}
		oldest.mu.Lock()
		tunnel.Warn(u.log, "recording given up", "session", fmt.Sprintf("%x", oldest.id), "bytes", fmt.Sprint(oldest.bytes), "error", "no hub has fetched it, and there is no room for more")
		u.forgetLocked(oldest.id, oldest)
		oldest.mu.Unlock()
	}
}

// again has those asked for at once that no stream sends: there is another tunnel.
func (u *uploads) again() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, up := range u.byID {
		up.mu.Lock()
		up.due, up.wait = time.Time{}, 0
		up.mu.Unlock()
	}
}

// askLoop asks for what others must do, again and again, until the link ends or is replaced: to fetch recordings, and how the entry hubs of
// detached streams are.
func (l *link) askLoop(ctx context.Context) error {
	a := l.a
	wake := a.streams.join(l)
	defer a.streams.leave(l)
	defer nudge(a.uploads.added) // what this one was told is for the others
	a.uploads.again()
	for {
		a.uploads.trim(0)
		idle, due := a.uploads.pending(time.Now())
		for _, up := range idle {
			if err := l.askUpload(up); err != nil {
				return err
			}
		}
		hubs := a.streams.lostHubs()
		for _, hub := range hubs {
			if err := tunnel.Send(l.conn, wire.HubQuery{Hub: hub}); err != nil {
				return err
			}
		}
		var again <-chan time.Time
		if len(hubs) > 0 && (due.IsZero() || time.Until(due) > askEvery) {
			due = time.Now().Add(askEvery)
		}
		if !due.IsZero() {
			again = time.After(time.Until(due))
		}
		select {
		case <-again:
		case <-wake:
		case <-a.uploads.added:
		case <-l.replaced:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// askUpload asks the entry hub of the session to fetch its recording, and when that has no way here any more this tunnel's hub: the grant entitles it.
func (l *link) askUpload(up wanted) error {
	ask := wire.UploadWanted{RecordingID: up.id, Grant: up.grant}
	if c := l.a.controls.get(up.from); c != nil && c.st.Attached() && c.send(ask) == nil {
		return nil
	}
	return tunnel.Send(l.conn, ask)
}

func (u *upload) changedLocked() {
	close(u.wake)
	u.wake = make(chan struct{})
}

// sink takes the next chunk, waiting for room. It is the recorder's Sink.
func (u *upload) sink(ctx context.Context, seq uint64, chunk []byte) error {
	if len(chunk) > recorder.MaxStoredChunk {
		return fmt.Errorf("chunk of %d bytes", len(chunk))
	}
	timer := time.NewTimer(uploadStall)
	defer timer.Stop()
	for {
		u.mu.Lock()
		if u.gone {
			u.mu.Unlock()
			return errUploadGone
		}
		// One chunk each is always kept, so that none waits for another's, and a small one, so that what lacks room can say so; for more there is what
		// all may hold.
		if u.strict || u.bytes == 0 || u.roomLocked(len(chunk)) || len(chunk) <= recorder.SmallChunk && u.extra < maxExtra {
			if want := u.first + uint64(len(u.chunks)); seq != want {
				u.mu.Unlock()
				return fmt.Errorf("chunk %d where %d was due", seq, want)
			}
			if u.bytes > 0 && !u.roomLocked(len(chunk)) {
				u.extra += len(chunk)
			}
			u.chunks = append(u.chunks, append([]byte(nil), chunk...))
			u.bytes += len(chunk)
			u.all.bytes.Add(int64(len(chunk)))
			u.changedLocked()
			u.mu.Unlock()
			return nil
		}
		wake, unknown := u.wake, u.grant == nil
		full := u.bytes+len(chunk) > uploadBuffer
		u.mu.Unlock()
		if unknown { // nobody will fetch anything soon
			if full || !u.all.trim(len(chunk)) {
				return recorder.ErrNoRoom
			}
			continue
		}
		select {
		case <-wake:
		case <-timer.C:
			return recorder.ErrNoRoom
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// roomLocked tells whether there is room for n bytes more.
func (u *upload) roomLocked(n int) bool {
	return u.bytes+n <= uploadBuffer && u.all.bytes.Load()+int64(n) <= uploadsBuffer
}

// room is the recorder's, asked after a chunk was dropped.
func (u *upload) room() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.roomLocked(recorder.MaxStoredChunk)
}

// finish says that no chunk will follow.
func (u *upload) finish() {
	u.mu.Lock()
	u.last, u.ended = true, time.Now()
	u.changedLocked()
	u.mu.Unlock()
	u.all.trim(0)
}

// errNotAuths is a hub that lies, or an auth that lost what it had.
var errNotAuths = errors.New("the hub says what auth has, and not in auth's words")

// durable drops the chunks below next, which auth has on disk: ack is its word for that, of a recording that is sealed for it.
func (u *upload) durable(next uint64, ack []byte) error {
	if err := u.drop(next, ack); err != nil {
		return err
	}
	if w := u.writer.Load(); w != nil {
		w.Acknowledge(next)
	}
	return nil
}

func (u *upload) drop(next uint64, ack []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if next < u.first { // an answer that was overtaken
		return nil
	}
	if next > u.first+uint64(len(u.chunks)) {
		return fmt.Errorf("the hub wants chunk %d, there are %d to %d", next, u.first, u.first+uint64(len(u.chunks)))
	}
	if u.sealer != nil && next > u.first && !u.sealer.Acknowledged(next, recorder.Hash(u.chunks[next-1-u.first]), ack) {
		return errNotAuths
	}
	if next > u.first {
		u.wait = 0
	}
	for ; u.first < next; u.first++ {
		u.bytes -= len(u.chunks[0])
		u.all.bytes.Add(-int64(len(u.chunks[0])))
		u.chunks[0] = nil // the array goes with the next chunk that finds no room in it
		u.chunks = u.chunks[1:]
	}
	u.changedLocked()
	return nil
}

// next waits for the chunk with the sequence, or the first after it that is not durable, and returns its sequence; nil: there is none, the last was
// before it.
func (u *upload) next(ctx context.Context, seq uint64) ([]byte, uint64, error) {
	for {
		u.mu.Lock()
		wake := u.wake
		seq = max(seq, u.first) // auth may have chunks by another hub that this stream has not sent
		switch i := seq - u.first; {
		case u.gone:
			u.mu.Unlock()
			return nil, seq, errUploadGone
		case i < uint64(len(u.chunks)):
			chunk := u.chunks[i]
			u.mu.Unlock()
			return chunk, seq, nil
		case u.last:
			u.mu.Unlock()
			return nil, seq, nil
		}
		u.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, seq, context.Cause(ctx)
		}
	}
}

// complete reports that everything is durable.
func (u *upload) complete() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.last && len(u.chunks) == 0
}

// serveUpload sends a recording up the stream the hub opened for it.
func (in *incoming) serveUpload(ctx context.Context) error {
	up := in.l.a.uploads.get(in.req.RecordingID)
	if up == nil {
		return in.refuse(wire.StreamNotFound, errors.New("no such recording here"))
	}
	if err := up.mayGo(in.from); err != nil {
		return in.refuse(wire.StreamNotFound, err)
	}
	if !up.begin() {
		return in.refuse(wire.StreamRefused, errors.New("another stream is uploading it"))
	}
	defer up.end()
	st, err := in.accept(0) // not resumed: it is asked for anew
	if err != nil {
		return err
	}
	defer st.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the upload: another tunnel has this one's place, and goes on with it
		select {
		case <-in.l.replaced:
			cancel()
			st.Reset(wire.StreamCancelled)
		case <-ctx.Done():
		}
	}()
	if err := up.send(ctx, st); err != nil {
		return fmt.Errorf("upload recording %x: %w", up.id, err)
	}
	return nil
}

// mayGo tells whether a hub may have it: what is sealed for auth whoever asks, when its session has a grant; what is not, the session's hub alone.
func (u *upload) mayGo(to entry) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.grant == nil:
		return errors.New("no hub has granted the session of this recording")
	case u.sealer == nil && u.from != to:
		return errors.New("the recording is for another hub")
	}
	return nil
}

// begin claims the upload for one stream.
func (u *upload) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	was := u.active
	u.active = true
	return !was
}

func (u *upload) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active = false
	slowest := askLive
	if u.last {
		slowest = askSlowly
	}
	u.wait = min(max(2*u.wait, askAgain), slowest)
	u.due = time.Now().Add(u.wait)
	nudge(u.all.added) // where it is not done
}

// hear reads what the hub wants next, before which all is at auth.
func (u *upload) hear(st io.Reader) (next uint64, err error) {
	var word [8 + seal.AckSize]byte
	if _, err := io.ReadFull(st, word[:]); err != nil {
		return 0, err
	}
	next = binary.BigEndian.Uint64(word[:])
	return next, u.durable(next, word[8:])
}

// send runs one Upload stream.
func (u *upload) send(ctx context.Context, st io.ReadWriteCloser) error {
	key := make([]byte, seal.PublicSize)
	if s := u.sealed(); s != nil {
		copy(key, s.Public())
	}
	if _, err := st.Write(key); err != nil {
		return err
	}
	seq, err := u.hear(st)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	acks := make(chan error, 1)
	go func() { // ends when the stream does, which the caller closes
		for {
			if _, err := u.hear(st); err != nil {
				acks <- err
				cancel(err)
				return
			}
		}
	}()
	for ; ; seq++ {
		var chunk []byte
		var err error
		chunk, seq, err = u.next(ctx, seq)
		if err != nil {
			return err
		}
		if chunk == nil {
			break
		}
		if s := u.sealed(); s != nil {
			h, _, err := recorder.ParseChunk(chunk)
			if err != nil {
				return err
			}
			chunk = s.Seal(h.Seq, h.Flags, chunk)
		}
		frame := append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(chunk)), uint32(len(chunk))), chunk...)
		if _, err := st.Write(frame); err != nil {
			return err
		}
	}
	if c, ok := st.(interface{ CloseWrite() error }); ok {
		if err := c.CloseWrite(); err != nil {
			return err
		}
	}
	// The hub closes when all is on disk.
	if err := <-acks; err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !u.complete() {
		return errors.New("the hub closed before the last chunk was durable")
	}
	return nil
}
