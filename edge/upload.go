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

	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// An Upload stream carries the chunks of a recording that this edge made: PROTOCOL.md, section 6.3.

// uploads are the recordings being made here, or made and not yet durable. Safe for concurrent use.
type uploads struct {
	added chan struct{} // nudges one askLoop; room for one
	bytes atomic.Int64  // of all chunks kept

	mu   sync.Mutex
	byID map[[16]byte]*upload // bounded by the sessions, and by uploadLinger after them
}

// upload is one recording on its way: a bounded queue of chunks.
type upload struct {
	id    [16]byte
	from  entry  // the entry hub of the session
	grant []byte // the session's, by which another hub may take it when that one is gone
	all   *uploads

	mu     sync.Mutex
	first  uint64 // the sequence of chunks[0]
	chunks [][]byte
	bytes  int
	last   bool          // no more chunks will come
	ended  time.Time     // when last was set
	gone   bool          // given up
	active bool          // a stream is sending it
	asked  time.Time     // when a hub was last asked to fetch it
	wake   chan struct{} // closed and replaced at every change
}

var (
	errUploadStalled = errors.New("the recording could not be uploaded in time")
	errUploadGone    = errors.New("the recording was given up")
)

func (u *uploads) add(id [16]byte, from entry, grant []byte) *upload {
	up := &upload{id: id, from: from, grant: grant, all: u, wake: make(chan struct{})}
	u.mu.Lock()
	if u.byID == nil {
		u.byID = map[[16]byte]*upload{}
	}
	u.byID[id] = up
	u.mu.Unlock()
	nudge(u.added)
	return up
}

func (u *uploads) get(id [16]byte) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.byID[id]
}

// pending lists the recordings that no stream is sending and no hub was just asked to fetch, and forgets those that are durable or were not fetched
// within uploadLinger.
func (u *uploads) pending(now time.Time) (idle []*upload, left int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, up := range u.byID {
		up.mu.Lock()
		switch {
		case up.last && len(up.chunks) == 0, up.last && now.Sub(up.ended) > uploadLinger, up.gone:
			u.bytes.Add(-int64(up.bytes))
			up.gone, up.chunks, up.bytes = true, nil, 0
			delete(u.byID, id)
		case !up.active && now.Sub(up.asked) > askEvery/2: // of several tunnels one asks
			up.asked = now
			idle = append(idle, up)
		}
		up.mu.Unlock()
	}
	return idle, len(u.byID)
}

// askLoop asks for what others must do, again every askEvery, until the link ends or is replaced: to fetch recordings, and how the entry hubs of
// detached streams are.
func (l *link) askLoop(ctx context.Context) error {
	a := l.a
	wake := a.streams.join(l)
	defer a.streams.leave(l)
	for {
		idle, left := a.uploads.pending(time.Now())
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
		if left+len(hubs) > 0 {
			again = time.After(askEvery)
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
func (l *link) askUpload(up *upload) error {
	if c := l.a.controls.get(up.from); c != nil && c.st.Attached() && c.send(wire.UploadWanted{RecordingID: up.id, Grant: up.grant}) == nil {
		return nil
	}
	return tunnel.Send(l.conn, wire.UploadWanted{RecordingID: up.id, Grant: up.grant})
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
		// One chunk each is always kept, so that none waits for another's; for more there is what all may hold.
		if u.bytes == 0 || u.bytes+len(chunk) <= uploadBuffer && u.all.bytes.Load()+int64(len(chunk)) <= uploadsBuffer {
			if want := u.first + uint64(len(u.chunks)); seq != want {
				u.mu.Unlock()
				return fmt.Errorf("chunk %d where %d was due", seq, want)
			}
			u.chunks = append(u.chunks, append([]byte(nil), chunk...))
			u.bytes += len(chunk)
			u.all.bytes.Add(int64(len(chunk)))
			u.changedLocked()
			u.mu.Unlock()
			return nil
		}
		wake := u.wake
		u.mu.Unlock()
		select {
		case <-wake:
		case <-timer.C:
			return errUploadStalled
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish says that no chunk will follow.
func (u *upload) finish() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last, u.ended = true, time.Now()
	u.changedLocked()
}

// durable drops the chunks below next, which auth has on disk.
func (u *upload) durable(next uint64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if next < u.first || next > u.first+uint64(len(u.chunks)) {
		return fmt.Errorf("the hub wants chunk %d, there are %d to %d", next, u.first, u.first+uint64(len(u.chunks)))
	}
	for ; u.first < next; u.first++ {
		u.bytes -= len(u.chunks[0])
		u.all.bytes.Add(-int64(len(u.chunks[0])))
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
	if !up.begin() {
		return in.refuse(wire.StreamRefused, errors.New("another stream is uploading it"))
	}
	defer up.end()
	st, err := in.accept(0) // not resumed: it is asked for anew
	if err != nil {
		return err
	}
	defer st.Close()
	if err := up.send(ctx, st); err != nil {
		return fmt.Errorf("upload recording %x: %w", up.id, err)
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
}

// send runs one Upload stream.
func (u *upload) send(ctx context.Context, st io.ReadWriteCloser) error {
	var word [8]byte
	if _, err := io.ReadFull(st, word[:]); err != nil {
		return err
	}
	seq := binary.BigEndian.Uint64(word[:])
	if err := u.durable(seq); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	acks := make(chan error, 1)
	go func() { // ends when the stream does, which the caller closes
		var word [8]byte
		for {
			if _, err := io.ReadFull(st, word[:]); err != nil {
				acks <- err
				cancel(err)
				return
			}
			if err := u.durable(binary.BigEndian.Uint64(word[:])); err != nil {
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
