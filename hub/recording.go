package hub

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/recorder"
	"hawser/recorder/zstdcodec"
)

// maxUnstored chunks of a recording wait for the call that stores those before them, and go together in the next: a call costs a round
// trip and a disk sync, whatever it carries. As many more are in the call. 1 MiB before compression.
const maxUnstored = 16

// gather is how long a call waits for maxUnstored chunks: nothing beside the age that the Writer lets a chunk have.
const gather = 50 * time.Millisecond

// recording is a Writer that also tells auth how the session ended.
type recording struct {
	*recorder.Writer
	status atomic.Int32
}

// Exit implements front.Recording.
func (r *recording) Exit(status uint32, signal string) {
	r.status.Store(int32(status))
	r.Writer.Exit(status, signal)
}

// Record implements front.Backend.
func (b *backend) Record(p *front.Place, header recorder.Header) front.Recording {
	h := b.h
	creds := h.auth.Credentials()
	header.Cluster, header.Hub = creds.Cluster, creds.Name
	r := new(recording)
	id := header.ID
	u := newUnstored(func(ctx context.Context, chunks []*api.Chunk) error {
		req := &api.AppendRecordingRequest{RecordingId: id[:], Chunks: chunks}
		if chunks[0].Seq == 0 {
			req.Grant = p.Grant
		}
		_, err := h.auth.AppendRecording(ctx, req)
		if err != nil {
			h.config.Logger.Error("recording not stored", "session", hex.EncodeToString(id[:]), "error", err)
		}
		return err
	})
	r.Writer = recorder.NewWriter(header, recorder.Options{
		Codec: zstdcodec.Codec(),
		Sink: func(ctx context.Context, seq uint64, chunk []byte) error {
			c, _, err := recorder.ParseChunk(chunk)
			if err != nil {
				return err
			}
			if err := u.add(ctx, seq, chunk); err != nil || c.Flags&recorder.FlagLast == 0 {
				return err
			}
			if err := u.wait(ctx); err != nil {
				return err
			}
			return h.closeRecording(ctx, &api.CloseRecordingRequest{
				RecordingId: id[:], Grant: p.Grant, Chunks: seq + 1, ExitStatus: r.status.Load(),
			})
		},
	})
	return r
}

const (
	// closeTries of CloseRecording are made, with closeRetry, then twice that and so on between them: a recording that is complete at auth
	// would else count as cut short for a call that was lost.
	closeTries = 4
	closeRetry = 500 * time.Millisecond
)

// closeRecording tells auth that a recording is complete, until auth has heard it, ctx ends or it is no use. It is idempotent there.
func (h *Hub) closeRecording(ctx context.Context, r *api.CloseRecordingRequest) error {
	for try := 1; ; try++ {
		err := h.auth.CloseRecording(ctx, r)
		if err == nil || try == closeTries || !errors.Is(err, authclient.ErrUnavailable) {
			return err
		}
		t := time.NewTimer(closeRetry << (try - 1))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

// unstored holds a recording's chunks on their way to auth, in order. One goroutine stores them; it lives while there are any.
type unstored struct {
	store func(ctx context.Context, chunks []*api.Chunk) error

	mu      sync.Mutex
	changed sync.Cond // chunks, running or err
	chunks  []*api.Chunk
	running bool
	err     error         // the first; nothing is stored after it
	enough  chan struct{} // one token: gathering may end
}

func newUnstored(store func(context.Context, []*api.Chunk) error) *unstored {
	u := &unstored{store: store, enough: make(chan struct{}, 1)}
	u.changed.L = &u.mu
	return u
}

// add takes a copy of a chunk, waiting for room. It returns the error of an earlier one's storing. ctx ends the storing and the wait.
func (u *unstored) add(ctx context.Context, seq uint64, chunk []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.err == nil && len(u.chunks) >= maxUnstored {
		u.changed.Wait() // store ends with ctx
	}
	if u.err != nil {
		return u.err
	}
	u.chunks = append(u.chunks, &api.Chunk{Seq: seq, Data: bytes.Clone(chunk)})
	if len(u.chunks) == maxUnstored {
		u.hurry()
	}
	if !u.running {
		u.running = true
		go u.run(ctx)
	}
	return nil
}

// wait waits until all is stored.
func (u *unstored) wait(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.hurry()
	for u.running {
		u.changed.Wait()
	}
	if u.err == nil {
		return context.Cause(ctx)
	}
	return u.err
}

// hurry ends gathering, now or the next.
func (u *unstored) hurry() {
	select {
	case u.enough <- struct{}{}:
	default:
	}
}

func (u *unstored) run(ctx context.Context) {
	timer := time.NewTimer(gather)
	defer timer.Stop()
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.chunks) > 0 && u.err == nil {
		u.mu.Unlock()
		timer.Reset(gather)
		select {
		case <-u.enough:
		case <-timer.C:
		case <-ctx.Done():
		}
		u.mu.Lock()
		batch := u.chunks
		u.chunks = nil
		u.changed.Broadcast()
		u.mu.Unlock()
		err := u.store(ctx, batch)
		u.mu.Lock()
		u.err = err
	}
	u.running = false
	u.changed.Broadcast()
}
