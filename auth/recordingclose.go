package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/store"
	"hawser/recorder"
	"hawser/tunnel/wire"
)

const (
	// abandonAfter is how long nothing has come of an open recording whose session is over when auth closes it: its recorder, or the way to it, is
	// gone. Should more come after all, it is opened again.
	abandonAfter = 15 * time.Minute
	abandonEvery = time.Minute
	// closeAfter is how long after its closing chunk came auth closes a recording that nobody else has closed: the call to do so was lost. Should it come
	// after all, what it tells of the session's end is taken.
	closeAfter = time.Minute
	// maxOpen recordings are watched for that; of more the ends of some are found by the next run of the service.
	maxOpen = 1 << 16
)

// openRecordings are those that are not closed.
type openRecordings struct {
	mu   sync.Mutex
	byID map[[16]byte]*openRecording
}

type openRecording struct {
	heard time.Time // when something came
	ended time.Time // when its closing chunk came; zero: it has not
	next  uint64    // the chunk that comes next, where last is known
	last  [32]byte  // hash of the one before
	known bool

	// Of its manifest, as soon as it was read: these do not change.
	hub       string
	device    bool // the device makes it, so that all of it is sealed
	described bool // what its first chunk says is known
}

// heard notes that something came of a recording.
func (o *openRecordings) heard(id [16]byte, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[id]; r != nil {
		r.heard = now
	} else if len(o.byID) < maxOpen {
		if o.byID == nil {
			o.byID = make(map[[16]byte]*openRecording)
		}
		o.byID[id] = &openRecording{heard: now}
	}
}

// own notes what the manifest says of who makes a recording.
func (o *openRecordings) own(id [16]byte, m store.Manifest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[id]; r != nil {
		r.hub, r.device, r.described = m.Hub, m.Recorder == store.RecorderDevice, m.Kind != ""
	}
}

// owned tells whether it is known that a hub may add to a recording, bare chunks or the first one.
func (o *openRecordings) owned(id [16]byte, hub string, bare, first bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.byID[id]
	return r != nil && r.hub != "" && r.hub == hub && !(bare && r.device) && (r.described || !first)
}

func (o *openRecordings) closed(id [16]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.byID, id)
}

// link is the end of a recording's chain, if it is known.
func (o *openRecordings) link(id [16]byte) (next uint64, last [32]byte, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[id]; r != nil {
		return r.next, r.last, r.known
	}
	return 0, last, false
}

// stored notes how far a recording's chain goes, if that is beyond what is known. Where nothing is, only what surely ends it is taken, and false says so.
func (o *openRecordings) stored(id [16]byte, next uint64, last [32]byte, ends bool) (known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.byID[id]
	if r == nil {
		return false
	}
	if r.known && next >= r.next || ends && !r.known {
		r.next, r.last, r.known = next, last, true
	}
	return r.known
}

// end notes that a recording's closing chunk is stored.
func (o *openRecordings) end(id [16]byte, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if r := o.byID[id]; r != nil && r.ended.IsZero() {
		r.ended = now
	}
}

// overdue are those that should be closed by now: they have ended, or nothing has come of them for long.
func (o *openRecordings) overdue(now time.Time) (ended, quiet [][16]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, r := range o.byID {
		switch {
		case !r.ended.IsZero() && !r.ended.After(now.Add(-closeAfter)):
			ended = append(ended, id)
		case r.heard.Before(now.Add(-abandonAfter)):
			quiet = append(quiet, id)
		}
	}
	return ended, quiet
}

// appendChunks stores chunks that follow each other. They continue the hash chain of what is stored, or are what is stored: whoever makes a recording,
// it can only go on with it.
func (s *Server) appendChunks(ctx context.Context, c caller, id [16]byte, seq uint64, chunks [][]byte) error {
	last, err := s.chained(ctx, id, seq, chunks)
	if err == nil {
		err = s.recordings.Append(ctx, id, seq, chunks...)
	}
	if errors.Is(err, store.ErrClosed) && s.resumed(ctx, id) { // it was given up in this moment
		err = s.recordings.Append(ctx, id, seq, chunks...)
	}
	switch {
	case err == nil:
		next := seq + uint64(len(chunks))
		if !s.open.stored(id, next, last, false) { // they may have been there before, with others behind them
			if all, err := s.storedChunks(ctx, id); err != nil {
				return err
			} else if all == next {
				s.open.stored(id, next, last, true)
			}
		}
		if closes(chunks[len(chunks)-1]) {
			s.open.end(id, s.cfg.Now())
		}
		return nil
	case errors.Is(err, store.ErrGap):
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_RECORDING_GAP, "chunk %d does not follow; ask with no chunks for the next", seq)
	case errors.Is(err, store.ErrNoSpace):
		s.spaceRefused()
		return err
	case errors.Is(err, store.ErrClosed):
		if m, merr := s.recordings.Manifest(ctx, id); merr != nil || !m.Closed {
			return err // the store is
		}
		err = errors.New("the recording is closed")
	case errors.Is(err, store.ErrConflict), errors.Is(err, errChain):
	default:
		return err
	}
	// Its own recorder would not: something is broken, or it lies.
	s.recordRefusal(c, id, err.Error())
	return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%w", err)
}

// storedChunks is how many chunks of a recording auth has. store.ErrRemoved: it had them, and wants no more.
func (s *Server) storedChunks(ctx context.Context, id [16]byte) (chunks uint64, err error) {
	m, err := s.recordings.Manifest(ctx, id)
	if err == nil && m.Removed != nil {
		err = fmt.Errorf("%w: %x", store.ErrRemoved, id)
	}
	return m.Chunks, err
}

// lastHash is the hash of the last of so many chunks of a recording.
func (s *Server) lastHash(ctx context.Context, id [16]byte, chunks uint64) (last [32]byte, err error) {
	if next, last, known := s.open.link(id); known && next == chunks {
		return last, nil
	}
	err = s.recordings.Chunks(ctx, id, chunks-1, func(seq uint64, chunk []byte) error {
		if seq == chunks-1 {
			last = recorder.Hash(chunk)
		}
		return nil
	})
	return last, err
}

var errChain = errors.New("the chunk does not continue the recording")

// chained checks that chunks are of this recording, in order, each linked to the one before, and returns the hash of the last. What is behind a gap,
// or stored already, the store judges.
func (s *Server) chained(ctx context.Context, id [16]byte, seq uint64, chunks [][]byte) (last [32]byte, err error) {
	next, last, known := s.open.link(id)
	switch {
	case seq == 0:
		last, known = recorder.Genesis(id), true
	case !known || seq != next:
		known = false
		if next, err = s.storedChunks(ctx, id); err == nil && seq > next {
			err = store.ErrGap
		}
		if err != nil || seq != next {
			break
		}
		err = s.recordings.Chunks(ctx, id, seq-1, func(at uint64, chunk []byte) error {
			if at == seq-1 { // another call may have brought more meanwhile
				last, known = recorder.Hash(chunk), true
			}
			return nil
		})
	}
	if err != nil {
		return last, err
	}
	for i, b := range chunks {
		h, _, err := recorder.ParseChunk(b)
		switch {
		case err != nil:
			return last, fmt.Errorf("%w: chunk %d: %w", errChain, seq+uint64(i), err)
		case h.Seq != seq+uint64(i) || h.Size() != len(b):
			return last, fmt.Errorf("%w: chunk %d says that it is %d", errChain, seq+uint64(i), h.Seq)
		case (known || i > 0) && h.Previous != last:
			return last, fmt.Errorf("%w: chunk %d has another before it", errChain, h.Seq)
		}
		last = recorder.Hash(b)
	}
	return last, nil
}

// closes tells whether a chunk is the last of its recording.
func closes(chunk []byte) bool {
	h, _, err := recorder.ParseChunk(chunk)
	return err == nil && h.Flags&recorder.FlagLast != 0
}

// ending is how a recording ended.
type ending struct {
	actor, hub string
	exit       *int32 // nil: not known
	ended      string // how the session ended
	reason     string // why its end may be missing
	abandoned  bool
}

// finishRecording closes a recording of which auth has so many chunks. It is complete if the last is the closing one.
func (s *Server) finishRecording(ctx context.Context, id [16]byte, chunks uint64, e ending) error {
	// The closing chunk holds the end of the hash chain over all others: with its hash in the log, the whole recording is as it was.
	var closing string
	complete := false
	if chunks > 0 {
		err := s.recordings.Chunks(ctx, id, chunks-1, func(_ uint64, chunk []byte) error {
			complete = closes(chunk)
			closing = fmt.Sprintf("sha256:%x", sha256.Sum256(chunk))
			return nil
		})
		if err != nil {
			return err
		}
	}
	now, first := s.cfg.Now(), false
	m, err := s.recordings.UpdateManifest(ctx, id, func(m *store.Manifest) error {
		if m.Removed != nil {
			return fmt.Errorf("%w: %x", store.ErrRemoved, id)
		}
		if m.Chunks != chunks {
			return store.ErrConflict // another chunk came between
		}
		if first = !m.Closed; first {
			m.Closed, m.Complete, m.Abandoned, m.End, m.Closing = true, complete, e.abandoned && !complete, now, closing
		}
		if e.exit == nil || !first && (!byHub(*m) || m.Ended != "") {
			return nil
		}
		// Auth may have closed it before its hub could say this. What the recording itself says was read since, and counts.
		if m.Ended = e.ended; first || !m.Exited {
			m.Exited, m.ExitStatus = true, *e.exit
		}
		return nil
	})
	if err != nil {
		return err
	}
	if s.open.closed(id); !first {
		return nil
	}
	s.indexing.grew(id, true)
	if complete {
		s.checks.add(id)
	}
	ev := Event{
		Type: "recording.close", Actor: e.actor, Hub: e.hub, Session: hex.EncodeToString(id[:]), User: m.User, Login: m.Login, Device: m.Device, DeviceUUID: m.DeviceUUID,
		Object: closing, Count: chunks,
	}
	if !complete {
		ev.Type, ev.Reason = "recording.incomplete", wire.Quote(e.reason, maxText)
		if e.ended != "" {
			ev.Reason += "; the session had ended: " + wire.Quote(e.ended, maxText)
		}
	}
	s.record(ev)
	return nil
}

// recordStalled notes that a session was ended, or did not start, because it must be recorded and could not be: by what its hub says at its end.
func (s *Server) recordStalled(ctx context.Context, c caller, id [16]byte, sess *session, reason string) {
	if !strings.Contains(reason, recorder.ErrStalled.Error()) {
		return
	}
	e := Event{Type: "recording.stalled", Actor: c.String(), Hub: c.id.Name, Session: hex.EncodeToString(id[:]), Reason: clip(reason)}
	if sess != nil {
		e.User, e.Login, e.Way, e.Client = sess.user, sess.login, sess.way, sess.client
		if sess.device != nil {
			e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
		}
	} else { // auth had given it up before it could be told
		m, err := s.recordings.Manifest(ctx, id)
		if err != nil || m.Hub != c.id.UUID {
			return
		}
		e.User, e.Login, e.Way, e.Client, e.Device, e.DeviceUUID = m.User, m.Login, m.Way, m.ClientAddr, m.Device, m.DeviceUUID
	}
	s.record(e)
}

// resumed tells whether a recording was closed because nothing more came of it, and is open again.
func (s *Server) resumed(ctx context.Context, id [16]byte) bool {
	m, err := s.recordings.Manifest(ctx, id)
	if err != nil || !reopens(m) || s.reopen(ctx, id) != nil {
		return false
	}
	s.open.heard(id, s.cfg.Now())
	return true
}

// reopens tells whether a recording may go on that was closed: it was given up, and not removed since.
func reopens(m store.Manifest) bool { return m.Abandoned && m.Removed == nil }

// reopen lets a recording go on that was closed because nothing more came of it.
func (s *Server) reopen(ctx context.Context, id [16]byte) error {
	m, err := s.recordings.Manifest(ctx, id)
	if err != nil || !reopens(m) {
		return err
	}
	_, err = s.recordings.UpdateManifest(ctx, id, func(m *store.Manifest) error {
		if reopens(*m) {
			m.Closed, m.Abandoned, m.End, m.Closing = false, false, time.Time{}, ""
		}
		return nil
	})
	return err
}

// closeAbandoned closes recordings that nobody closes, until ctx ends: those of a hub or device that was killed and has not come back, or has
// nothing left of them, and those that were to be closed while auth was away.
func (s *Server) closeAbandoned(ctx context.Context) {
	begun := s.cfg.Now()
	all, err := s.recordings.List(ctx, store.Filter{})
	if err != nil && ctx.Err() == nil {
		s.log.Error("open recordings not found", "error", err)
	}
	for _, m := range all {
		if m.Closed {
			continue
		}
		s.open.heard(m.ID, begun)
		if ended, err := s.hasEnd(ctx, m); ended {
			s.open.end(m.ID, begun)
		} else if err != nil && ctx.Err() == nil {
			s.log.Error("open recording not read", "session", hex.EncodeToString(m.ID[:]), "error", err)
		}
	}
	all = nil
	tick := time.NewTicker(abandonEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sweepAbandoned(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// hasEnd tells whether the closing chunk of an open recording is stored.
func (s *Server) hasEnd(ctx context.Context, m store.Manifest) (ended bool, err error) {
	if m.Chunks == 0 {
		return false, nil
	}
	err = s.recordings.Chunks(ctx, m.ID, m.Chunks-1, func(_ uint64, chunk []byte) error {
		ended = closes(chunk)
		return nil
	})
	return ended, err
}

func (s *Server) sweepAbandoned(ctx context.Context) {
	now := s.cfg.Now()
	ended, quiet := s.open.overdue(now)
	for _, id := range ended {
		s.closeUnclosed(ctx, id)
	}
	for _, id := range quiet {
		if s.hubs.live(id) {
			s.open.heard(id, now) // it is quiet; from its end on it has as long again
			continue
		}
		s.closeUnclosed(ctx, id)
	}
}

// closeUnclosed closes a recording that nobody has closed.
func (s *Server) closeUnclosed(ctx context.Context, id [16]byte) {
	next, err := s.storedChunks(ctx, id)
	if err == nil {
		err = s.finishRecording(ctx, id, next, ending{actor: "auth", reason: "nothing more came of it", abandoned: true})
	}
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrRemoved):
		s.open.closed(id)
	case err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil:
		s.log.Error("abandoned recording not closed", "session", hex.EncodeToString(id[:]), "error", err)
	}
}
