package recorder_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder"
	"hawser/recorder/reader"
)

// store is a sink whose chunks are acknowledged when the test says so.
type store struct {
	w    *recorder.Writer
	full atomic.Bool

	mu     sync.Mutex
	chunks [][]byte
}

// sent is how many chunks came.
func (s *store) sent() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.chunks))
}

func (s *store) sink(_ context.Context, _ uint64, chunk []byte) error {
	if s.full.Load() && len(chunk) > recorder.SmallChunk {
		return recorder.ErrNoRoom
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chunks = append(s.chunks, bytes.Clone(chunk))
	return nil
}

// strict starts a strict recording of a terminal.
func strict(t *testing.T, held func() bool) (s *store, ended *atomic.Pointer[error]) {
	t.Helper()
	s, ended = new(store), new(atomic.Pointer[error])
	s.w = recorder.NewWriter(header, recorder.Options{Sink: s.sink, ChunkSize: 16 << 10, ChunkAge: 250 * time.Millisecond, Window: &recorder.Window{
		Bytes: 64 << 10, Age: 2 * time.Second, Grace: 10 * time.Second, Held: held, Ended: func(err error) {
			if !ended.CompareAndSwap(nil, &err) {
				t.Error("ended twice")
			}
		},
	}})
	started := make(chan error, 1)
	go func() { started <- s.w.Start("shell", "", "xterm", nil) }()
	synctest.Wait()
	select {
	case err := <-started:
		t.Fatalf("it started before anything was stored: %v", err)
	default:
	}
	s.w.Acknowledge(1)
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	return s, ended
}

func TestStrictShowsAtMostTheWindowBeyondWhatIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ended := strict(t, nil)
		var shown atomic.Int64
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			for s.w.Output(recorder.Stdout, noise(4<<10)) {
				shown.Add(4 << 10)
			}
		}()
		synctest.Wait()
		if n := shown.Load(); n != 64<<10 {
			t.Errorf("%d bytes passed without an acknowledgement, want the window's 65536", n)
		}
		time.Sleep(9 * time.Second)
		synctest.Wait()
		s.w.Acknowledge(s.sent()) // all that was sent
		synctest.Wait()
		before := shown.Load()
		if before <= 64<<10 {
			t.Error("nothing passed after the acknowledgement")
		}
		time.Sleep(9 * time.Second)
		if ended.Load() != nil {
			t.Error("it ended though the store had answered 9 s before")
		}
		time.Sleep(2 * time.Second)
		<-gone
		if ended.Load() == nil || !errors.Is(*ended.Load(), recorder.ErrStalled) {
			t.Error("it did not end within 10 s of the first byte that was held back")
		}
		if n := shown.Load(); n != before {
			t.Errorf("%d bytes passed while the window was full", n-before)
		}
		if s.w.Input([]byte("x")) || s.w.Passed(recorder.Stdout, []byte("x")) {
			t.Error("something passes after the end")
		}
		if err := s.w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStrictHoldsBackAfterTwoSecondsWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ended := strict(t, nil)
		s.w.Output(recorder.Stdout, []byte("a"))
		time.Sleep(1900 * time.Millisecond)
		if !s.w.Input([]byte("b")) {
			t.Error("held back too early")
		}
		time.Sleep(200 * time.Millisecond)
		passed := make(chan bool)
		go func() { passed <- s.w.Input([]byte("c")) }()
		time.Sleep(time.Second)
		select {
		case <-passed:
			t.Error("a key passed after 2 s without the store")
		default:
		}
		s.w.Acknowledge(s.sent())
		if !<-passed {
			t.Error("refused after the acknowledgement")
		}
		// Nobody types: what is not stored for 12 s ends the session all the same.
		time.Sleep(13 * time.Second)
		if ended.Load() == nil {
			t.Error("a quiet session went on unrecorded")
		}
		_ = s.w.Close(t.Context())
	})
}

func TestStrictTimerStandsStillWhileDetached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		s, ended := strict(t, away.Load)
		s.w.Output(recorder.Stdout, []byte("a"))
		time.Sleep(6 * time.Second) // 2 of the limit, 4 of the grace
		away.Store(true)
		time.Sleep(10 * time.Minute)
		if ended.Load() != nil {
			t.Error("it ended while it was detached")
		}
		away.Store(false)
		time.Sleep(5 * time.Second)
		if ended.Load() != nil {
			t.Error("the time detached was counted")
		}
		time.Sleep(2 * time.Second)
		if ended.Load() == nil {
			t.Error("the time before was forgotten")
		}
		_ = s.w.Close(t.Context())
	})
}

func TestStrictDoesNotStartWithoutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(store)
		s.w = recorder.NewWriter(header, recorder.Options{Sink: s.sink, Window: &recorder.Window{
			Bytes: 1 << 20, Age: 2 * time.Second, Grace: 10 * time.Second, Ended: func(err error) { t.Error("ended, not refused") },
		}})
		begun := time.Now()
		if err := s.w.Start("exec", "id", "", nil); !errors.Is(err, recorder.ErrStalled) || time.Since(begun) > 6*time.Second {
			t.Errorf("started after %v: %v", time.Since(begun), err)
		}
		_ = s.w.Close(t.Context())

		full := errors.New("the disk is full")
		s = new(store)
		s.w = recorder.NewWriter(header, recorder.Options{Sink: s.sink, Window: &recorder.Window{Bytes: 1 << 20, Age: 2 * time.Second, Grace: 10 * time.Second}})
		time.AfterFunc(time.Second, func() { s.w.Refused(full) })
		begun = time.Now()
		if err := s.w.Start("exec", "id", "", nil); !errors.Is(err, full) || time.Since(begun) != time.Second {
			t.Errorf("started after %v: %v", time.Since(begun), err)
		}
		_ = s.w.Close(t.Context())
	})
}

// What a full sink did not take is told: the recording is whole and signed, with how much is missing where.
func TestWhatFoundNoRoomIsAGapInTheRecording(t *testing.T) {
	for _, from := range []int{0, 1} { // the first chunk, with the header, is lost too; and not
		synctest.Test(t, func(t *testing.T) {
			s := new(store)
			s.full.Store(from == 0)
			s.w = recorder.NewWriter(header, recorder.Options{Sink: s.sink, Room: func() bool { return !s.full.Load() }})
			_ = s.w.Start("exec", "cat", "", nil)
			if from == 1 {
				s.w.Output(recorder.Stdout, []byte("before"))
				time.Sleep(2 * time.Second)
				s.full.Store(true)
			}
			lost := 0
			for range 5 {
				s.w.Output(recorder.Stdout, noise(50<<10))
				s.w.Output(recorder.Stderr, noise(10<<10))
				s.w.Resize(80, 25)
				lost += 60 << 10
			}
			time.Sleep(2 * time.Second)
			s.full.Store(false)
			s.w.Output(recorder.Stdout, []byte("after"))
			s.w.Exit(0, "")
			if err := s.w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := reader.New(reader.Chunks(bytes.NewReader(bytes.Join(s.chunks, nil))))
			var said strings.Builder
			missing, sizes := 0, 0
			for {
				e, err := r.Next()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				switch e.Type {
				case recorder.RecordStdout, recorder.RecordStderr:
					said.Write(e.Data)
				case recorder.RecordGap:
					missing += int(e.Missing)
					said.WriteString("|")
				case recorder.RecordResize:
					sizes++
				}
			}
			if want := []string{"|after", "before|after"}[from]; !r.Complete() || said.String() != want || missing != lost || sizes != 5 {
				t.Errorf("it says %q, missing %d, resized %d times; want %q, %d, 5", said.String()[:min(100, said.Len())], missing, sizes, want, lost)
			}
			if _, err := reader.Verify(reader.Chunks(bytes.NewReader(bytes.Join(s.chunks, nil))), nil); err != nil {
				t.Error(err)
			}
		})
	}
}
