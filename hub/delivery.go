package hub

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/spool"
	"hawser/recorder"
)

const (
	// maxBatch chunks go in one call, and maxBatchBytes: a call costs a round trip and a disk sync, whatever it carries.
	maxBatch      = 64
	maxBatchBytes = 1 << 20
	// maxUnspooled bytes of a recording's chunks are in memory alone; beyond, they go to the disk, or what passes waits for auth to take some.
	// Twice a call's: one is filled while the other is stored.
	maxUnspooled = 2 << 20
	// spoolAfter is how long a chunk is in memory alone. With the age that a Writer lets a chunk have it is what a kill -9 loses.
	spoolAfter = 500 * time.Millisecond
	// gather is how long a call waits for more chunks of a recording that is not strict: nothing beside the age that the Writer lets one have.
	gather = 100 * time.Millisecond
	// storeRetry and storeRetryMax bound the wait before auth is asked again, spread by half; strictRetryMax that of a strict recording, whose
	// session ends after 10 s.
	storeRetry, storeRetryMax, strictRetryMax = 100 * time.Millisecond, 3 * time.Second, 500 * time.Millisecond
	// slowStore is how long what passes waits for auth to take chunks that find no room, where it did lately.
	slowStore = 2 * time.Second
	// maxLate recordings of an earlier run are uploaded at once; those that wait for auth are not among them.
	maxLate = 4
)

var errInternal = errors.New("internal error")

// recordingStore is what deliveries need of auth.
type recordingStore interface {
	AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (next uint64, err error)
	CloseRecording(ctx context.Context, r *api.CloseRecordingRequest) error
}

// deliveries take recordings' chunks to auth. What auth has not taken in a moment is kept in the spool, from which it goes on when auth is back,
// or the hub.
type deliveries struct {
	store recordingStore
	spool *spool.Spool
	log   *slog.Logger
	ctx   context.Context // ends with the hub; what is not stored then stays in the spool
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu   sync.Mutex
	live map[*delivery]struct{}
	byID map[[16]byte]*delivery // those of live that sessions of this run make
}

func newDeliveries(store recordingStore, s *spool.Spool, log *slog.Logger) *deliveries {
	d := &deliveries{store: store, spool: s, log: log, live: make(map[*delivery]struct{}), byID: make(map[[16]byte]*delivery)}
	d.ctx, d.stop = context.WithCancel(context.Background())
	return d
}

// goDo runs f until close waits for it; false: it is too late.
func (d *deliveries) goDo(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		return false
	}
	d.wg.Go(f)
	return true
}

// close puts what is not stored into the spool and waits until nothing is under way. Every recording's Writer is closed.
func (d *deliveries) close() {
	d.mu.Lock()
	d.stop()
	d.mu.Unlock()
	d.wg.Wait()
	d.mu.Lock()
	live := d.live
	d.live, d.byID = make(map[*delivery]struct{}), make(map[[16]byte]*delivery)
	d.mu.Unlock()
	for x := range live {
		if lost := x.shut(); lost > 0 {
			d.log.Error("recording cut short: auth could not be reached and the spool has no room", "session", recordingName(x.id), "chunks", lost)
		}
		if x.file != nil {
			_ = x.file.Close()
		}
	}
}

// delivery is one recording on its way to auth, in order: first what is in its file, then what is in memory.
type delivery struct {
	all    *deliveries
	id     [16]byte
	grant  []byte
	strict bool
	late   bool // of an earlier run: no chunk will be added
	writer atomic.Pointer[recorder.Writer]
	file   *spool.Recording // nil: none could be made
	asked  bool             // auth has said which chunk it wants, or it is new to auth; only work has it, one at a time, and told
	told   bool             // that it waits for auth is in the log

	mu      sync.Mutex
	changed sync.Cond // on mu: chunks were stored or spooled, or it is over
	memory  []held
	bytes   int       // of those
	stored  uint64    // all before are on auth's disk
	took    time.Time // when auth took some last
	away    bool      // auth does not answer, or not in time
	last    bool      // the closing chunk has come
	ending  *ending   // how the session ended; nil: not known
	running bool
	over    bool  // nothing is stored any more
	err     error // why it was given up
	enough  chan struct{}
	timer   *time.Timer // spills
}

// shut spools what is in memory, for the hub is ending, and lets go of what finds no room: so many chunks are lost.
func (x *delivery) shut() (lost int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.spillLocked()
	lost = len(x.memory)
	x.overLocked()
	return lost
}

// overLocked lets nothing be stored any more.
func (x *delivery) overLocked() {
	x.running, x.over, x.memory, x.bytes = false, true, nil, 0
	if x.timer != nil {
		x.timer.Stop()
	}
	x.changed.Broadcast()
}

// held is a chunk in memory alone.
type held struct {
	spool.Chunk
	came time.Time
}

// ending is how a session ended, as auth is told it.
type ending struct {
	status int32
	reason string
}

// maxReason bounds a reason in the spool, in bytes.
const maxReason = 512

// note is what the spool keeps of it: the status u32, and the reason.
func (e ending) note() []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(e.status)), e.reason[:min(len(e.reason), maxReason)]...)
}

func parseEnding(b []byte) *ending {
	if len(b) < 4 {
		return nil
	}
	return &ending{int32(binary.BigEndian.Uint32(b)), string(b[4:])}
}

func (d *deliveries) add(x *delivery) {
	x.all, x.enough = d, make(chan struct{}, 1)
	x.changed.L = &x.mu
	d.mu.Lock()
	defer d.mu.Unlock()
	d.live[x] = struct{}{}
	if !x.late {
		d.byID[x.id] = x
	}
}

// sessionEnded notes how a session ended. It is in the spool from then on: should the hub be killed before auth has the recording, the next run
// tells it.
func (d *deliveries) sessionEnded(id [16]byte, e ending) {
	d.mu.Lock()
	x := d.byID[id]
	d.mu.Unlock()
	if x == nil {
		return // not recorded, or a connection
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ending = &e
	if x.file == nil || x.over {
		return
	}
	if err := x.file.End(e.note()); err != nil {
		d.log.Error("the end of a session is not in the spool", "session", recordingName(id), "error", err)
	}
}

// begin is for a recording that is about to be made.
func (d *deliveries) begin(id [16]byte, grant []byte, strict bool) *delivery {
	f, err := d.spool.Begin(id, grant)
	if err != nil {
		d.log.Error("no file for a recording: should auth be away, little of it is kept", "session", recordingName(id), "error", err)
	}
	x := &delivery{id: id, grant: grant, strict: strict, file: f, asked: true}
	d.add(x)
	return x
}

// resume begins to upload and close the recordings that an earlier run left, maxLate at once, until ctx ends. One that auth does not take now goes to
// the end of the line: what cannot be told apart from an auth that is away, and never succeeds, keeps no place from the others.
func (d *deliveries) resume(ctx context.Context, left []*spool.Recording) {
	if len(left) == 0 {
		return
	}
	line := make(chan *delivery, len(left)) // room for all, so that who holds one may always put it back
	for _, f := range left {
		x := &delivery{id: f.ID, grant: f.Note, file: f, late: true, last: true, ending: parseEnding(f.Ending)}
		d.add(x)
		line <- x
	}
	var open atomic.Int64
	open.Store(int64(len(left)))
	for range min(maxLate, len(left)) {
		d.goDo(func() {
			ctx, stop := context.WithCancel(ctx)
			defer stop()
			defer context.AfterFunc(d.ctx, stop)()
			wait := backoff{most: storeRetryMax}
			for ctx.Err() == nil {
				var x *delivery
				select {
				case x = <-line:
				case <-ctx.Done():
				}
				if x == nil {
					return
				}
				moved, err := x.work()
				if err == nil || moved {
					wait.reset()
				}
				if err == nil {
					if open.Add(-1) == 0 {
						close(line)
					}
					continue
				}
				line <- x
				wait.pause(ctx)
			}
		})
	}
}

// waiting is how many recordings have chunks that are not at auth.
func (d *deliveries) waiting() (n int) {
	d.mu.Lock()
	live := make([]*delivery, 0, len(d.live))
	for x := range d.live {
		live = append(live, x)
	}
	d.mu.Unlock()
	for _, x := range live {
		x.mu.Lock()
		if x.late || x.last || x.unstoredLocked() {
			n++
		}
		x.mu.Unlock()
	}
	return n
}

func (x *delivery) unstoredLocked() bool {
	if len(x.memory) > 0 {
		return true
	}
	if x.file == nil {
		return false
	}
	first, next := x.file.Range()
	return first < next
}

// add is the Writer's Sink. Of a best-effort recording it waits for room while auth takes chunks, and else keeps them in the spool.
func (x *delivery) add(ctx context.Context, seq uint64, chunk []byte) error {
	h, _, err := recorder.ParseChunk(chunk)
	if err != nil {
		return err
	}
	last := h.Flags&recorder.FlagLast != 0
	if err := x.keep(ctx, seq, chunk, last); err != nil || !last {
		return err
	}
	return x.wait(ctx)
}

// keep takes a chunk into memory, and sees to it that it is stored.
func (x *delivery) keep(ctx context.Context, seq uint64, chunk []byte, last bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if err := x.roomLocked(ctx, len(chunk)); err != nil {
		return err
	}
	switch {
	case x.timer == nil:
		x.timer = time.AfterFunc(spoolAfter, x.spill)
	case len(x.memory) == 0:
		x.timer.Reset(spoolAfter)
	}
	x.memory = append(x.memory, held{spool.Chunk{Seq: seq, Data: bytes.Clone(chunk)}, time.Now()})
	x.bytes += len(chunk)
	x.last = last
	if x.strict || x.plentyLocked() {
		x.hurry()
	}
	if !x.running {
		x.running = x.all.goDo(x.run)
	}
	return nil
}

// roomLocked makes room for n bytes, or says ErrNoRoom.
func (x *delivery) roomLocked(ctx context.Context, n int) error {
	for {
		if x.err != nil {
			return x.err
		}
		if x.bytes+n <= maxUnspooled || n <= recorder.SmallChunk && x.bytes+n <= 2*maxUnspooled {
			return nil
		}
		if x.strict || x.away {
			if x.spillLocked(); x.bytes+n <= maxUnspooled {
				continue
			}
			if time.Since(x.took) > slowStore {
				return recorder.ErrNoRoom
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		stop := context.AfterFunc(ctx, x.wake)
		timer := time.AfterFunc(slowStore, x.wake)
		x.changed.Wait()
		timer.Stop()
		stop()
	}
}

func (x *delivery) wake() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.changed.Broadcast()
}

// room tells whether what found no room would find some now.
func (x *delivery) room() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.bytes < maxUnspooled/2 || x.file != nil && x.file.Room(recorder.MaxStoredChunk)
}

// spill puts into the spool what has been in memory for too long, and what came after it.
func (x *delivery) spill() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.memory) == 0 {
		return
	}
	wait := spoolAfter - time.Since(x.memory[0].came)
	if wait <= 0 {
		x.away, wait = true, spoolAfter
		x.spillLocked()
	}
	if len(x.memory) > 0 && !x.over {
		x.timer.Reset(wait)
	}
}

// spillNow puts into the spool what is in memory.
func (x *delivery) spillNow() {
	x.mu.Lock()
	defer x.mu.Unlock() // deferred, as everywhere around spillLocked: after a panic in it end takes the lock
	x.spillLocked()
}

// spillAway is that, where auth does not take it now.
func (x *delivery) spillAway() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.away = true
	x.spillLocked()
}

// spillLocked puts into the spool what is in memory.
func (x *delivery) spillLocked() {
	n := 0
	for ; x.file != nil && n < len(x.memory) && x.file.Append(x.memory[n].Chunk) == nil; n++ {
		x.bytes -= len(x.memory[n].Data)
	}
	x.memory = append([]held(nil), x.memory[n:]...)
	x.changed.Broadcast()
}

// wait waits until all is stored and auth has closed the recording. That the hub goes on without the Writer is no error: what is not stored is in
// the spool.
func (x *delivery) wait(ctx context.Context) error {
	stop := context.AfterFunc(ctx, x.wake)
	defer stop()
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.running && ctx.Err() == nil && x.all.ctx.Err() == nil && (len(x.memory) > 0 || !x.away) {
		x.changed.Wait()
	}
	return x.err
}

// hurry ends gathering, now or the next.
func (x *delivery) hurry() {
	select {
	case x.enough <- struct{}{}:
	default:
	}
}

// run is work for as long as there is any.
func (x *delivery) run() {
	wait := backoff{most: storeRetryMax}
	if x.strict {
		wait.most = strictRetryMax
	}
	for {
		moved, err := x.work()
		if err == nil {
			return
		}
		if moved {
			wait.reset()
		}
		wait.pause(x.all.ctx)
	}
}

// backoff is the wait before auth is asked again, each longer than the last.
type backoff struct{ next, most time.Duration }

func (b *backoff) reset() { b.next = 0 }

func (b *backoff) pause(ctx context.Context) {
	wait := max(b.next, storeRetry)
	b.next = min(2*wait, b.most)
	t := time.NewTimer(wait/2 + rand.N(wait))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// work stores chunks as long as there are any, and closes the recording behind the last. The error is why auth does not take it now, and work is to be
// called again; moved: it took something before. Without one there is nothing more to do.
func (x *delivery) work() (moved bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			x.all.log.Error("panic", "in", "delivery of a recording", "value", fmt.Sprint(p), "stack", string(debug.Stack()))
			x.end(errInternal, (*spool.Recording).Close) // the next run of the hub goes on with it
		}
	}()
	ctx := x.all.ctx
	for {
		done, err := x.step(ctx)
		switch {
		case done:
			return moved, nil
		case err == nil:
			moved, x.told = true, false
		case ctx.Err() != nil: // what is left is spooled by close
			x.stopped()
			return moved, nil
		case errors.Is(err, authclient.ErrUnavailable) || errors.Is(err, authclient.ErrStoreFull):
			x.waits(err)
			return moved, err
		default:
			if errors.Is(err, authclient.ErrRecordingRemoved) {
				x.all.log.Info("recording was removed, and nothing of it is kept", "session", recordingName(x.id))
			} else {
				x.all.log.Error("recording cut short", "session", recordingName(x.id), "error", err)
			}
			if w := x.writer.Load(); w != nil {
				w.Refused(err)
			}
			x.giveUp(ctx, err)
			return moved, nil
		}
	}
}

// waits is for when auth does not take anything now.
func (x *delivery) waits(why error) {
	if w := x.writer.Load(); w != nil && errors.Is(why, authclient.ErrStoreFull) {
		w.Refused(why)
	}
	if !x.told {
		x.all.log.Warn("recording waits for auth", "session", recordingName(x.id), "error", why)
		x.told = true
	}
	x.spillAway()
	if x.late { // there may be many of them in the line
		if err := x.file.Close(); err != nil {
			x.all.log.Error("spool", "error", err)
		}
	}
}

// step asks auth where to go on, stores some chunks, or closes the recording. done: there is nothing more to do now.
func (x *delivery) step(ctx context.Context) (done bool, err error) {
	if !x.asked {
		err := x.ask(ctx)
		x.asked = err == nil
		return false, err
	}
	if !x.strict && !x.late && !x.plenty() {
		x.pause(ctx, gather)
	}
	batch, err := x.next()
	switch {
	case err != nil:
		return false, err
	case batch != nil:
		return false, x.send(ctx, batch)
	case x.idle():
		return true, nil
	}
	if err := x.finish(ctx); err != nil {
		return false, err
	}
	x.end(nil, (*spool.Recording).Remove)
	return true, nil
}

// plenty tells whether a whole call's worth waits.
func (x *delivery) plenty() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.plentyLocked()
}

func (x *delivery) plentyLocked() bool {
	return len(x.memory) >= maxBatch || x.bytes >= maxBatchBytes || x.last
}

// pause waits for more chunks, but not for long.
func (x *delivery) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-x.enough:
	case <-t.C:
	case <-ctx.Done():
	}
}

// next takes the oldest chunks.
func (x *delivery) next() ([]spool.Chunk, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.file != nil {
		chunks, err := x.file.Read(x.stored, maxBatchBytes)
		if len(chunks) > 0 {
			return chunks[:min(len(chunks), maxBatch)], nil
		}
		if err != nil {
			return nil, err
		}
	}
	if len(x.memory) == 0 {
		return nil, nil
	}
	var batch []spool.Chunk
	for size := 0; len(batch) < min(len(x.memory), maxBatch) && size < maxBatchBytes; {
		c := x.memory[len(batch)].Chunk
		size += len(c.Data)
		batch = append(batch, c)
	}
	return batch, nil
}

// idle ends the goroutine when there is nothing to do, and will be.
func (x *delivery) idle() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.last || x.unstoredLocked() {
		return false
	}
	x.running = false
	return true
}

func (x *delivery) request(chunks []spool.Chunk) *api.AppendRecordingRequest {
	r := &api.AppendRecordingRequest{RecordingId: x.id[:], Grant: x.grant}
	for _, c := range chunks {
		r.Chunks = append(r.Chunks, &api.Chunk{Seq: c.Seq, Data: c.Data})
	}
	return r
}

// send stores chunks. Where auth says that it stored none, nor wants others, it is as good as away: asked again at once it would say so for ever.
func (x *delivery) send(ctx context.Context, chunks []spool.Chunk) error {
	before := x.stored // which acknowledged alone changes, and work calls that
	next, err := x.all.store.AppendRecording(ctx, x.request(chunks))
	switch {
	case errors.Is(err, authclient.ErrRecordingGap):
		err = x.ask(ctx)
	case err == nil:
		err = x.acknowledged(next)
	}
	if err == nil && x.stored == before {
		err = fmt.Errorf("%w: it does not take chunk %d, which it wants", authclient.ErrUnavailable, before)
	}
	return err
}

// ask learns from auth which chunk is wanted next.
func (x *delivery) ask(ctx context.Context) error {
	next, err := x.all.store.AppendRecording(ctx, x.request(nil))
	if err != nil {
		return err
	}
	return x.acknowledged(next)
}

// acknowledged forgets what is on auth's disk.
func (x *delivery) acknowledged(next uint64) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if next < x.stored {
		return fmt.Errorf("auth wants chunk %d again, which it had: was it restored from a backup?", next)
	}
	x.stored, x.took, x.away = next, time.Now(), false
	n := 0
	for n < len(x.memory) && x.memory[n].Seq < next {
		x.bytes -= len(x.memory[n].Data)
		n++
	}
	x.memory = append([]held(nil), x.memory[n:]...)
	if x.file != nil {
		if err := x.file.Drop(next); err != nil {
			x.all.log.Error("spool", "error", err)
		}
		if first, end := x.file.Range(); first < end && first > next {
			return fmt.Errorf("auth wants chunk %d, the spool begins with %d", next, first)
		}
	}
	if w := x.writer.Load(); w != nil {
		w.Acknowledge(next)
	}
	x.changed.Broadcast()
	return nil
}

// finish closes the recording at auth. Whether it is complete auth sees by its last chunk.
func (x *delivery) finish(ctx context.Context) error {
	x.mu.Lock()
	r := &api.CloseRecordingRequest{RecordingId: x.id[:], Grant: x.grant, Chunks: x.stored}
	if e := x.ending; e != nil {
		r.Ended, r.ExitStatus, r.EndReason = true, e.status, e.reason
	}
	x.mu.Unlock()
	if x.late {
		r.Reason = "the hub was restarted"
	}
	return x.all.store.CloseRecording(ctx, r)
}

// giveUp closes at auth what can be stored no more, so that nobody waits for the rest.
func (x *delivery) giveUp(ctx context.Context, why error) {
	r := &api.CloseRecordingRequest{RecordingId: x.id[:], Grant: x.grant, Chunks: x.stored, Reason: "given up by its hub: " + why.Error()}
	if err := x.all.store.CloseRecording(ctx, r); err != nil && !errors.Is(err, authclient.ErrRecordingRemoved) {
		x.all.log.Warn("recording not closed", "session", recordingName(x.id), "error", err)
	}
	if errors.Is(why, authclient.ErrRecordingRemoved) { // somebody did not want it to be anywhere
		x.end(why, (*spool.Recording).Remove)
		return
	}
	x.spillNow()
	if x.file != nil {
		if first, next := x.file.Range(); first < next {
			x.all.log.Error("what auth does not take of a recording is kept in the spool as .refused", "session", recordingName(x.id), "chunks", next-first)
		}
	}
	x.end(why, (*spool.Recording).Refuse)
}

// end is the end: auth has closed the recording, or it was given up. file is what becomes of what is spooled.
func (x *delivery) end(err error, file func(*spool.Recording) error) {
	if x.file != nil {
		if rerr := file(x.file); rerr != nil {
			x.all.log.Error("spool", "error", rerr)
		}
	}
	d := x.all
	d.mu.Lock()
	delete(d.live, x)
	if d.byID[x.id] == x {
		delete(d.byID, x.id)
	}
	d.mu.Unlock()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.err = err
	x.overLocked()
}

func (x *delivery) stopped() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.running = false
	x.changed.Broadcast()
}
