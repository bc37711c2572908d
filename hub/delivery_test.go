package hub

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/hub/spool"
	"hawser/recorder"
	"hawser/recorder/reader"
)

// storeTwin is auth's store: it keeps chunks as auth does, and answers what the test says.
type storeTwin struct {
	mu     sync.Mutex
	chunks [][]byte
	closed []*api.CloseRecordingRequest
	calls  int
	fails  error // of every call
	deaf   bool  // calls hang until their end
}

func (s *storeTwin) set(f func(*storeTwin)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *storeTwin) answer(ctx context.Context) error {
	s.mu.Lock()
	deaf, fails := s.deaf, s.fails
	s.calls++
	s.mu.Unlock()
	if deaf {
		t := time.NewTimer(15 * time.Second)
		defer t.Stop()
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		return authclient.ErrUnavailable
	}
	return fails
}

func (s *storeTwin) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (uint64, error) {
	if err := s.answer(ctx); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.Chunks {
		switch next := uint64(len(s.chunks)); {
		case c.Seq > next:
			return 0, authclient.ErrRecordingGap
		case c.Seq < next && !bytes.Equal(s.chunks[c.Seq], c.Data):
			return 0, fmt.Errorf("%w: chunk %d is another", authclient.ErrRecordingRefused, c.Seq)
		case c.Seq == next:
			s.chunks = append(s.chunks, c.Data)
		}
	}
	return uint64(len(s.chunks)), nil
}

func (s *storeTwin) CloseRecording(ctx context.Context, r *api.CloseRecordingRequest) error {
	if err := s.answer(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = append(s.closed, r)
	return nil
}

// said replays what is stored: the output, how much is missing, and whether it is complete.
func (s *storeTwin) said(t *testing.T) (text string, missing uint64, complete bool) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := reader.New(reader.Chunks(bytes.NewReader(bytes.Join(s.chunks, nil))))
	var b bytes.Buffer
	for {
		e, err := r.Next()
		if err == io.EOF {
			return b.String(), missing, r.Complete()
		}
		if err != nil {
			t.Fatal(err)
		}
		switch e.Type {
		case recorder.RecordStdout:
			b.Write(e.Data)
		case recorder.RecordGap:
			missing += e.Missing
		}
	}
}

type spooled struct {
	*deliveries
	dir string
	key spool.Key
}

func newSpooled(t *testing.T, s recordingStore, dir string, key spool.Key, each int64) (*spooled, []*spool.Recording) {
	t.Helper()
	sp, left, err := spool.Open(spool.Config{Dir: dir, Key: key, Total: 1 << 30, Each: each})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sp.Close() })
	return &spooled{newDeliveries(s, sp, slog.New(slog.DiscardHandler)), dir, key}, left
}

// record begins a recording as the backend does.
func (s *spooled) record(strict bool) *recorder.Writer {
	x := s.begin([16]byte{7}, []byte("grant"), strict)
	o := recorder.Options{Sink: x.add, Room: x.room}
	if strict {
		o.Window = &recorder.Window{Bytes: strictBulk, Age: strictAge, Grace: strictGrace}
		o.ChunkAge = strictChunkAge
	}
	w := recorder.NewWriter(recorder.Header{ID: x.id, Start: time.Now()}, o)
	x.writer.Store(w)
	return w
}

func files(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

func TestChunksAreStoredInOrderAndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := new(storeTwin)
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(false)
		want := random(3 << 20)
		_ = w.Start("exec", "cat", "", nil)
		for b := range slices.Chunk(want, 10_000) {
			w.Output(recorder.Stdout, b)
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		said, missing, complete := auth.said(t)
		if said != string(want) || missing != 0 || !complete || len(auth.closed) != 1 || auth.closed[0].Reason != "" {
			t.Errorf("%d bytes, %d missing, complete %t, closed %v", len(said), missing, complete, auth.closed)
		}
		if most := len(auth.chunks)/2 + 4; auth.calls > most {
			t.Errorf("%d calls for %d chunks, want at most %d", auth.calls, len(auth.chunks), most)
		}
		if files(t, s.dir) != 0 {
			t.Error("the spool has a file of a recording that is closed")
		}
		s.close()
	})
}

// However auth is away, what is recorded meanwhile arrives, once, when it is back.
func TestWhatAuthCannotTakeIsSpooledAndArrivesOnce(t *testing.T) {
	for name, away := range map[string]func(*storeTwin){
		"killed":    func(s *storeTwin) { s.fails = authclient.ErrUnavailable },
		"stopped":   func(s *storeTwin) { s.deaf = true },
		"disk full": func(s *storeTwin) { s.fails = authclient.ErrStoreFull },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				auth := new(storeTwin)
				s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 64<<20)
				w := s.record(false)
				_ = w.Start("shell", "", "xterm", nil)
				var want bytes.Buffer
				write := func(b []byte) {
					begun := time.Now()
					want.Write(b)
					w.Output(recorder.Stdout, b)
					if d := time.Since(begun); d > slowStore {
						t.Errorf("held back for %v", d)
					}
				}
				write([]byte("before"))
				time.Sleep(2 * time.Second)
				auth.set(away)
				for range 50 {
					write(random(100_000))
					time.Sleep(time.Second)
				}
				if _, bytes := s.spool.Usage(); bytes < 4<<20 || s.waiting() != 1 {
					t.Errorf("%d bytes spooled, %d recordings waiting", bytes, s.waiting())
				}
				auth.set(func(s *storeTwin) { s.deaf, s.fails = false, nil })
				write([]byte("after"))
				time.Sleep(20 * time.Second)
				if said, _, _ := auth.said(t); said != want.String() {
					t.Errorf("%d bytes stored, want %d", len(said), want.Len())
				}
				if err := w.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if said, missing, complete := auth.said(t); said != want.String() || missing != 0 || !complete || len(auth.closed) != 1 {
					t.Errorf("%d bytes of %d, %d missing, complete %t, closed %d times", len(said), want.Len(), missing, complete, len(auth.closed))
				}
				if files(t, s.dir) != 0 {
					t.Error("a file is left")
				}
				s.close()
			})
		})
	}
}

// A hub that was killed tells how the session had ended, where it had. It uploads what is in its spool, and closes what it can record no more of: its recordings end within 2 s of the kill.
func TestARestartedHubUploadsItsSpoolAndClosesWhatItLeft(t *testing.T) {
	for _, ended := range []bool{false, true} { // the session had ended before the kill
		synctest.Test(t, func(t *testing.T) {
			auth := new(storeTwin)
			dir := t.TempDir()
			s, _ := newSpooled(t, auth, dir, spool.Key{1}, 64<<20)
			w := s.record(false)
			_ = w.Start("shell", "", "xterm", nil)
			w.Output(recorder.Stdout, []byte("one "))
			time.Sleep(2 * time.Second)
			auth.set(func(s *storeTwin) { s.deaf = true })
			w.Output(recorder.Stdout, []byte("two"))
			time.Sleep(2 * time.Second)
			if ended {
				s.sessionEnded([16]byte{7}, ending{3, "exited"})
				s.sessionEnded([16]byte{8}, ending{4, "another's"})
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				begun := time.Now()
				if err := w.Close(ctx); err != nil || time.Since(begun) > time.Second {
					t.Errorf("closed after %v: %v", time.Since(begun), err)
				}
			}
			// It is killed: nothing of it runs on, and nothing is written.
			dead := t.TempDir()
			if err := os.CopyFS(dead, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			s.close()
			if !ended {
				_ = w.Close(t.Context())
			}
			auth.set(func(s *storeTwin) { s.deaf = false })
			again, left := newSpooled(t, auth, dead, spool.Key{1}, 64<<20)
			if len(left) != 1 {
				t.Fatalf("%d recordings left, want 1", len(left))
			}
			again.resume(t.Context(), left)
			synctest.Wait()
			said, _, complete := auth.said(t)
			if said != "one two" || complete != ended || len(auth.closed) != 1 || auth.closed[0].Reason == "" {
				t.Fatalf("it says %q, complete %t, closed %v", said, complete, auth.closed)
			}
			if c := auth.closed[0]; c.Ended != ended || ended && (c.ExitStatus != 3 || c.EndReason != "exited") {
				t.Errorf("the session ended %t, with %d: %s", c.Ended, c.ExitStatus, c.EndReason)
			}
			if files(t, dead) != 0 {
				t.Error("a file is left")
			}
			again.close()
		})
	}
}

func TestAFullSpoolMakesASignedGapAndStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := new(storeTwin)
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(false)
		_ = w.Start("shell", "", "xterm", nil)
		time.Sleep(2 * time.Second)
		auth.set(func(s *storeTwin) { s.fails = authclient.ErrUnavailable })
		total := 0
		for range 60 {
			w.Output(recorder.Stdout, random(100_000))
			total += 100_000
			time.Sleep(100 * time.Millisecond)
		}
		auth.set(func(s *storeTwin) { s.fails = nil })
		time.Sleep(10 * time.Second)
		w.Output(recorder.Stdout, []byte("the end"))
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		said, missing, complete := auth.said(t)
		if missing == 0 || !complete || !strings.HasSuffix(said, "the end") || len(said)-len("the end")+int(missing) != total {
			t.Errorf("%d bytes said, %d missing of %d, complete %t", len(said), missing, total, complete)
		}
		s.close()
	})
}

func TestAStrictSessionDoesNotStartWhereAuthHasNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &storeTwin{fails: authclient.ErrStoreFull}
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(true)
		begun := time.Now()
		if err := w.Start("shell", "", "xterm", nil); !errors.Is(err, authclient.ErrStoreFull) || time.Since(begun) > time.Second {
			t.Errorf("start after %v: %v", time.Since(begun), err)
		}
		auth.set(func(s *storeTwin) { s.fails = nil })
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute) // it may be closed from the spool, after a pause
		if _, _, complete := auth.said(t); !complete {
			t.Error("the recording of what did not start is not closed")
		}
		s.close()
	})
}

// The marker that says why a strict session ends once came before its end. Where the disk of the spool hung it waited for room for ever, and the
// session went on without a recording.
func TestAStrictSessionEndsThoughTheSinkHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, hung, ended := new(recording), false, make(chan error, 1)
		o := recorder.Options{Sink: func(ctx context.Context, seq uint64, _ []byte) error {
			if hung {
				<-ctx.Done()
				return ctx.Err()
			}
			r.Acknowledge(seq + 1)
			return nil
		}}
		r.strict(&o, front.Recorded{End: func(why error) { ended <- why }})
		r.Writer = recorder.NewWriter(recorder.Header{ID: [16]byte{7}, Start: time.Now()}, o)
		if err := r.Start("exec", "cat", "", nil); err != nil {
			t.Fatal(err)
		}
		hung = true
		go func() {
			for range 1 << 20 { // more than there is room for, to the last byte
				r.Marker("")
			}
		}()
		time.Sleep(strictAge + strictGrace + time.Second)
		select {
		case err := <-ended:
			if !errors.Is(err, recorder.ErrStalled) {
				t.Errorf("it ended with %v", err)
			}
		default:
			t.Error("the session goes on")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Close(ctx); err == nil {
			t.Error("the recording is complete")
		}
	})
}

func TestAStrictRecordingGoesOnThroughAShortOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := new(storeTwin)
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 64<<20)
		w := s.record(true)
		if err := w.Start("exec", "cat", "", nil); err != nil {
			t.Fatal(err)
		}
		auth.set(func(s *storeTwin) { s.fails = authclient.ErrUnavailable })
		time.AfterFunc(9*time.Second, func() { auth.set(func(s *storeTwin) { s.fails = nil }) })
		want := random(20 << 20)
		for b := range slices.Chunk(want, 32<<10) {
			if !w.Output(recorder.Stdout, b) {
				t.Fatal("it ended")
			}
		}
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if said, missing, complete := auth.said(t); said != string(want) || missing != 0 || !complete {
			t.Errorf("%d bytes, %d missing, complete %t", len(said), missing, complete)
		}
		s.close()
	})
}

// What auth does not take is nobody's to throw away: auth may have been restored from a backup of before.
func TestOfWhatWasRemovedNothingIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &storeTwin{fails: authclient.ErrRecordingRemoved}
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(false)
		w.Output(recorder.Stdout, []byte("secret"))
		if err := w.Close(t.Context()); !errors.Is(err, authclient.ErrRecordingRemoved) {
			t.Errorf("closed: %v", err)
		}
		if files(t, s.dir) != 0 || len(s.live) != 0 || s.spool.Refused() != 0 {
			t.Errorf("%d files, %d refused, %d deliveries", files(t, s.dir), s.spool.Refused(), len(s.live))
		}
		s.close()
	})
}

// removedTwin is auth of which some recordings were removed: what it says when it is asked for the next chunk of one, and to its closing.
type removedTwin struct {
	*storeTwin
	removed      func(id [16]byte) bool
	asked, ended error
}

func (s removedTwin) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (uint64, error) {
	switch {
	case !s.removed([16]byte(r.RecordingId)):
		return s.storeTwin.AppendRecording(ctx, r)
	case len(r.Chunks) > 0:
		return 0, authclient.ErrRecordingRemoved
	}
	return 2, s.asked
}

func (s removedTwin) CloseRecording(ctx context.Context, r *api.CloseRecordingRequest) error {
	if s.removed([16]byte(r.RecordingId)) {
		return s.ended
	}
	return s.storeTwin.CloseRecording(ctx, r)
}

// leave is what a hub leaves of a recording when it is killed: its file with so many chunks from 0 on.
func (s *spooled) leave(t *testing.T, id [16]byte, chunks uint64) {
	t.Helper()
	x := s.begin(id, []byte("grant"), false)
	for seq := range chunks {
		if err := x.file.Append(spool.Chunk{Seq: seq, Data: []byte("chunk")}); err != nil {
			t.Fatal(err)
		}
	}
}

// A recording was removed while its hub was away. The first answer that says so is enough: the hub once did not look at what auth said when it was
// asked where to go on, and tried to close the recording for ever.
func TestOfWhatWasRemovedMeanwhileARestartedHubKeepsNothing(t *testing.T) {
	for name, auth := range map[string]removedTwin{
		"asked":  {asked: authclient.ErrRecordingRemoved, ended: authclient.ErrUnavailable},
		"closed": {ended: authclient.ErrRecordingRemoved},
	} {
		for _, chunks := range []uint64{0, 3} {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				auth.storeTwin, auth.removed = new(storeTwin), func([16]byte) bool { return true }
				s, _ := newSpooled(t, auth, dir, spool.Key{1}, 1<<20)
				s.leave(t, [16]byte{7}, chunks)
				s.close()
				again, left := newSpooled(t, auth, dir, spool.Key{1}, 1<<20)
				again.resume(t.Context(), left)
				time.Sleep(time.Second)
				synctest.Wait()
				if n := files(t, dir); len(left) != 1 || n != 0 || again.spool.Refused() != 0 || again.waiting() != 0 {
					t.Errorf("%s, %d chunks: of %d recordings %d files are left, %d refused, %d wait", name, chunks, len(left), n, again.spool.Refused(), again.waiting())
				}
				again.close()
			})
		}
	}
}

// Recordings of an earlier run that auth gave no answer for once kept all places that there are, and what the directory happened to list behind them
// was never uploaded.
func TestRecordingsThatWaitForAuthKeepNoPlaceFromOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		auth := removedTwin{storeTwin: new(storeTwin), removed: func(id [16]byte) bool { return id[0] == 1 }, ended: authclient.ErrUnavailable}
		s, _ := newSpooled(t, auth, dir, spool.Key{1}, 64<<20)
		for i := range byte(2 * maxLate) {
			s.leave(t, [16]byte{1, i}, 0)
		}
		s.leave(t, [16]byte{7}, 3)
		s.close()
		again, left := newSpooled(t, auth, dir, spool.Key{1}, 64<<20)
		slices.SortFunc(left, func(a, b *spool.Recording) int { return bytes.Compare(a.ID[:], b.ID[:]) }) // this one is the last
		again.resume(t.Context(), left)
		if n := again.waiting(); n != 2*maxLate+1 {
			t.Errorf("%d wait, want all %d, also those that have no place yet", n, 2*maxLate+1)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(auth.chunks) != 3 || len(auth.closed) != 1 || again.waiting() != 2*maxLate {
			t.Errorf("10 s later auth has %d chunks, %d are closed, %d wait", len(auth.chunks), len(auth.closed), again.waiting())
		}
		begun := time.Now()
		again.close()
		if d := time.Since(begun); d > 0 {
			t.Errorf("closed after %v", d)
		}
		if files(t, dir) != 2*maxLate {
			t.Errorf("%d files", files(t, dir))
		}
	})
}

// However many wait, auth is not asked more often than by maxLate of them, and what waits has no open file.
func TestManyThatWaitForAuthAskNoMoreThanAFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, auth := t.TempDir(), &storeTwin{fails: authclient.ErrUnavailable}
		s, _ := newSpooled(t, auth, dir, spool.Key{1}, 64<<20)
		const many = 200
		for i := range byte(many) {
			s.leave(t, [16]byte{1, i}, 0)
		}
		s.close()
		again, left := newSpooled(t, auth, dir, spool.Key{1}, 64<<20)
		ctx, cancel := context.WithCancel(t.Context())
		again.resume(ctx, left)
		const minutes = 10
		time.Sleep(minutes * time.Minute)
		synctest.Wait()
		if most := maxLate * (minutes*60*1000/int(storeRetryMax.Milliseconds()) + 100); auth.calls > most || again.waiting() != many {
			t.Errorf("%d calls in %d minutes, want at most %d; %d wait", auth.calls, minutes, most, again.waiting())
		}
		auth.set(func(s *storeTwin) { s.fails = nil })
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := again.waiting(); n != 0 || len(auth.closed) != many || files(t, dir) != 0 {
			t.Errorf("auth is back: %d wait, %d closed, %d files", n, len(auth.closed), files(t, dir))
		}
		cancel()
		again.close()
	})
}

// A restarted hub closes a recording with as many chunks as auth has, also where auth does not answer at first: it once said 0 then.
func TestARestartedHubClosesOnlyWhenItKnowsWhatAuthHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth, dir := &storeTwin{chunks: [][]byte{{0}, {1}}}, t.TempDir()
		s, _ := newSpooled(t, auth, dir, spool.Key{1}, 1<<20)
		s.leave(t, [16]byte{7}, 0)
		s.close()
		again, left := newSpooled(t, unanswered{auth}, dir, spool.Key{1}, 1<<20)
		again.resume(t.Context(), left)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(auth.closed) != 1 || auth.closed[0].Chunks != 2 {
			t.Errorf("closed %v", auth.closed)
		}
		again.close()
	})
}

// unanswered is auth that does not answer the first call.
type unanswered struct{ *storeTwin }

func (s unanswered) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (uint64, error) {
	if next, err := s.storeTwin.AppendRecording(ctx, r); s.calls > 1 {
		return next, err
	}
	return 0, authclient.ErrUnavailable
}

func TestWhatAuthRefusesIsClosedAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth := &storeTwin{fails: fmt.Errorf("%w: another hub's", authclient.ErrRecordingRefused)}
		s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(false)
		_ = w.Start("shell", "", "xterm", nil)
		w.Output(recorder.Stdout, []byte("a"))
		if err := w.Close(t.Context()); !errors.Is(err, authclient.ErrRecordingRefused) {
			t.Errorf("close: %v", err)
		}
		if files(t, s.dir) != 1 || len(s.live) != 0 || s.spool.Refused() != 1 {
			t.Errorf("%d files, %d of them refused, %d deliveries", files(t, s.dir), s.spool.Refused(), len(s.live))
		}
		s.close()
		again, left := newSpooled(t, auth, s.dir, s.key, 1<<20)
		if _, size := again.spool.Usage(); len(left) != 0 || again.spool.Refused() != 1 || size == 0 {
			t.Errorf("the next run: %d left, %d refused of %d bytes", len(left), again.spool.Refused(), size)
		}
		again.close()
	})
}

// stuck is auth that wants a chunk which it does not take, and says so in one way or the other, until it is mended.
type stuck struct {
	*storeTwin
	gap    bool
	mended atomic.Bool
}

func (s *stuck) AppendRecording(ctx context.Context, r *api.AppendRecordingRequest) (uint64, error) {
	if s.mended.Load() || len(r.Chunks) == 0 {
		return s.storeTwin.AppendRecording(ctx, r)
	}
	s.set(func(s *storeTwin) { s.calls++ })
	if s.calls > 1000 { // without a pause it would never be later
		time.Sleep(time.Minute)
	}
	if s.gap {
		return 0, authclient.ErrRecordingGap
	}
	return 0, nil
}

// An answer of auth's that leads nowhere was once followed by the same question, without a pause.
func TestAnAuthThatGetsNowhereIsAskedWithPauses(t *testing.T) {
	for _, gap := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			auth := &stuck{storeTwin: new(storeTwin), gap: gap}
			s, _ := newSpooled(t, auth, t.TempDir(), spool.Key{1}, 1<<20)
			w := s.record(false)
			_ = w.Start("shell", "", "xterm", nil)
			w.Output(recorder.Stdout, []byte("a"))
			time.Sleep(2 * time.Minute)
			synctest.Wait()
			if auth.calls > 200 {
				t.Errorf("gap %t: %d calls in 2 minutes", gap, auth.calls)
			}
			auth.mended.Store(true)
			time.Sleep(10 * time.Second)
			if err := w.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if said, _, complete := auth.said(t); said != "a" || !complete {
				t.Errorf("gap %t: it says %q, complete %t", gap, said, complete)
			}
			s.close()
		})
	}
}

// panicking is a store whose calls panic.
type panicking struct{ *storeTwin }

func (panicking) AppendRecording(context.Context, *api.AppendRecordingRequest) (uint64, error) {
	panic("broken")
}

// A bug in a delivery costs no more than a kill of the hub: what is spooled waits for the next run.
func TestAPanicInADeliveryKeepsWhatIsSpooled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		auth, dir := new(storeTwin), t.TempDir()
		s, _ := newSpooled(t, panicking{auth}, dir, spool.Key{1}, 1<<20)
		x := s.begin([16]byte{7}, []byte("grant"), false)
		if err := x.file.Append(spool.Chunk{Seq: 0, Data: []byte("chunk")}); err != nil {
			t.Fatal(err)
		}
		x.mu.Lock()
		x.running = s.goDo(x.run)
		x.mu.Unlock()
		synctest.Wait()
		time.Sleep(time.Second)
		s.close()
		again, left := newSpooled(t, auth, dir, spool.Key{1}, 1<<20)
		if len(left) != 1 || len(s.live) != 0 {
			t.Fatalf("%d recordings left, %d deliveries", len(left), len(s.live))
		}
		if first, next := left[0].Range(); first != 0 || next != 1 {
			t.Errorf("it has chunks %d to %d", first, next)
		}
		again.close()
	})
}

// A panic where chunks go to the spool once left the delivery locked: what came after it to end the delivery, and the session, waited for ever.
func TestAPanicInTheSpoolEndsItsDelivery(t *testing.T) {
	for name, err := range map[string]error{"waits": authclient.ErrUnavailable, "gives up": authclient.ErrRecordingRefused} {
		t.Run(name, func(t *testing.T) {
			s, _ := newSpooled(t, &storeTwin{fails: err}, t.TempDir(), spool.Key{1}, 1<<20)
			x := s.begin([16]byte{7}, []byte("grant"), false)
			x.file = new(spool.Recording) // whose Append panics
			x.memory = []held{{Chunk: spool.Chunk{Data: []byte("chunk")}, came: time.Now()}}
			done := make(chan struct{})
			go func() {
				defer close(done)
				x.run()
			}()
			select {
			case <-done:
			case <-time.After(10 * time.Second):
				t.Fatal("the delivery hangs")
			}
			if !errors.Is(x.err, errInternal) || !x.over || s.waiting() != 0 {
				t.Errorf("over %t: %v", x.over, x.err)
			}
			s.close()
		})
	}
}

// What found no room in the spool when the hub ended once kept the timer that spills it going, for as long as the process lived.
func TestWhatFindsNoRoomAtTheEndIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newSpooled(t, &storeTwin{fails: authclient.ErrUnavailable}, t.TempDir(), spool.Key{1}, 1<<20)
		w := s.record(false)
		x := s.byID[[16]byte{7}]
		x.file = nil // none could be made
		_ = w.Start("shell", "", "xterm", nil)
		time.Sleep(2 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_ = w.Close(ctx)
		s.close()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if x.timer.Stop() || len(x.memory) > 0 {
			t.Errorf("%d chunks are in memory, and may be spilled yet", len(x.memory))
		}
	})
}
