package session

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder/share"
)

// sink is a guest's terminal, which remembers no more than whether it was shown the mark.
type sink struct{ shown bool }

const mark = "Ω"

func (s *sink) Write(b []byte) (int, error) {
	s.shown = s.shown || bytes.Contains(b, []byte(mark))
	return len(b), nil
}

// heap is what is in use when nothing is under way.
func heap() int {
	time.Sleep(time.Minute)
	synctest.Wait()
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // what pools hold goes with the second
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// hostile fills both screens of a terminal with cells that differ from one another and are as large as cells get; at the end is the mark.
func hostile(cols, rows int) []byte {
	var b []byte
	for i, begin := range []string{"\x1b[H", "\x1b[?1049h\x1b[H"} {
		b = append(b, begin...)
		for n := range cols*rows - 1 {
			c := n + i
			b = fmt.Appendf(b, "\x1b[1;3;4:3;38;2;%d;%d;%d;48;2;%[3]d;%[1]d;%[2]d;58:2::%[2]d:%[3]d:%[1]dme\u0301\u0302", c&0xff, c>>8&0xff, 255-c&0xff)
		}
	}
	return append(b, "\x1b[m"+mark...)
}

// A session with one guest took 14 MB, each further guest of sixteen 5 MB, and what was left behind when all had gone 20 MB, if whose session it is had a terminal
// of 1000 columns and rows and a colour for each cell: more than a device of 64 MB has.
func TestAJoinedSessionTakesAMebibyteAtMost(t *testing.T) {
	for _, size := range []struct{ cols, rows, joined, more int }{ // KiB with one guest, and for each further one
		{80, 24, 210, 80}, {160, 48, 580, 140}, {171, 1000, 1024, 200}, {14, 1000, 1024, 200},
	} {
		t.Run(fmt.Sprintf("%dx%d", size.cols, size.rows), func(t *testing.T) {
			out := hostile(size.cols, min(size.rows, max(maxCells/size.cols, 1)))
			synctest.Test(t, func(t *testing.T) {
				m := &room{s: &session{params: Params{User: "alice", Login: "root"}}, held: share.NewGate()}
				m.Room = bounded(alone{m}, maxCells, size.cols, size.rows)
				ctx, leave := context.WithCancel(t.Context())
				var wg sync.WaitGroup
				var guests []*sink
				join := func() {
					in, end := io.Pipe()
					context.AfterFunc(ctx, func() { end.Close() })
					s := new(sink)
					guests = append(guests, s)
					g := share.Guest{User: fmt.Sprint("u", len(guests)), Mode: share.Observer, Cols: size.cols, Rows: size.rows, In: in, Out: s, Go: wg.Go}
					wg.Go(func() { _ = m.Join(ctx, g) })
				}
				begun := heap()
				join()
				synctest.Wait()
				m.output(stdoutStream, out)
				joined := heap() - begun
				for range 2 {
					join()
				}
				more := (heap() - begun - joined) / 2
				leave()
				wg.Wait()
				left := heap() - begun
				for i, s := range guests {
					if !s.shown {
						t.Errorf("guest %d was not shown the end of the screen", i)
					}
				}
				t.Logf("with one guest %d bytes, each further one %d, when all have left %d", joined, more, left)
				if joined > size.joined<<10 || more > size.more<<10 || left > size.joined<<10 {
					t.Errorf("at most %d KiB and %d KiB", size.joined, size.more)
				}
				m.Close("over")
			})
			runtime.KeepAlive(out)
		})
	}
}
