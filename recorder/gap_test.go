package recorder_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder"
	"hawser/recorder/reader"
)

// A device without a clock of its own has the time of its recordings from auth; how long things took its own clock says.
func TestTimesAreOfTheRecordersOwnClock(t *testing.T) {
	for _, off := range []time.Duration{-365 * 24 * time.Hour, time.Hour, 56 * 365 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			h := header
			h.Start = time.Now().Add(off).Round(0) // without the monotonic reading, as a clock that was put right gives it
			chunks := recordAs(t, h, recorder.Options{}, func(w *recorder.Writer) {
				w.Output(recorder.Stdout, []byte("a"))
				time.Sleep(1500 * time.Millisecond)
				w.Output(recorder.Stdout, []byte("b"))
			})
			var times []time.Duration
			r := reader.New(from(chunks))
			for {
				e, err := r.Next()
				if err != nil {
					break
				}
				times = append(times, e.Time)
			}
			if len(times) != 2 || times[0] != 0 || times[1] != 1500*time.Millisecond {
				t.Errorf("a start that is off by %v: events at %v", off, times)
			}
		})
	}
}

// However long nothing finds room, what is remembered of it is bounded and the recording goes on.
func TestARecordingThatLostMuchGoesOn(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h, key, open := forAuditor(t)
			if !encrypted {
				h.Keys, key = nil, nil
			}
			h.Command = strings.Repeat("a long command ", 2000)
			var chunks [][]byte
			full := true
			w := recorder.NewWriter(h, recorder.Options{Key: key, Sink: func(_ context.Context, _ uint64, c []byte) error {
				if full {
					return recorder.ErrNoRoom
				}
				chunks = append(chunks, bytes.Clone(c))
				return nil
			}})
			_ = w.Start("exec", h.Command, "", nil)
			for i := range 10_000 { // of one who only presses Enter, of a guest, and of more than anybody has
				w.Withheld(recorder.Withheld{Bytes: 1, Reason: "off", Enter: true})
				w.Withheld(recorder.Withheld{Participant: 1, Bytes: 2, Reason: "redacted"})
				w.Withheld(recorder.Withheld{Participant: uint32(i), Bytes: 1, Reason: "paused"})
				w.Gap(10, "another")
				w.FileOp(recorder.FileOp{Op: "open", Path: "/etc/passwd"})
			}
			synctest.Wait()
			full = false
			w.Output(recorder.Stdout, []byte("goes on"))
			w.Exit(0, "")
			if err := w.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			rep, err := reader.VerifyWith(from(chunks), reader.Check{Open: open})
			if err != nil || !rep.Complete || rep.Gaps == 0 || rep.Missing < 100_000 || rep.Head.Withheld < 30_000 || rep.Head.Withheld > 40_000 {
				t.Fatalf("encrypted %t: complete %t, %d gaps, %d missing, %d withheld, %v", encrypted, rep.Complete, rep.Gaps, rep.Missing, rep.Head.Withheld, err)
			}
			r := reader.New(from(chunks)).Unseal(open)
			shown, command, by := "", "", map[uint32]uint64{}
			for {
				e, err := r.Next()
				if err != nil {
					break
				}
				switch e.Type {
				case recorder.RecordStdout:
					shown += string(e.Data)
				case recorder.RecordStart:
					command = e.Command
				case recorder.RecordWithheld:
					by[e.Withheld.Participant] += e.Withheld.Bytes
				}
			}
			if shown != "goes on" || command != h.Command || by[0] < 10_000 || by[1] < 20_000 {
				t.Errorf("encrypted %t: shown %q, a command of %d bytes, withheld %d and %d", encrypted, shown, len(command), by[0], by[1])
			}
		})
	}
}
