package session

import (
	"errors"
	"os"
	"testing"

	"hawser/auth/policy"
	"hawser/recorder"
)

// full is a terminal that takes some bytes, and is paused before it takes more.
type full struct{ room int }

func (f *full) Write(b []byte) (int, error) {
	n := min(f.room, len(b))
	if f.room -= n; n < len(b) {
		return n, os.ErrDeadlineExceeded
	}
	return n, nil
}

func (f *full) Close() error { return nil }

func TestOfWhatAPauseBreaksOnlyThatIsKeptWhichTheProcessGot(t *testing.T) {
	tap := &verdicts{inputs: make(chan string, 10)}
	w, tty, read := NewWitness(recorder.Testimony{Rule: recorder.InputFull}, nil), new(TTY), 0
	tty.Part = func(rest int) { // as the channel does
		w.Acknowledged(uint32(read-rest), tty.Tag())
		read = rest
	}
	s := &session{ptyErr: errors.New("it is a terminal"), params: Params{Tap: tap, TTY: tty, Witness: w, Recorded: policy.RecordBestEffort}}
	r := &running{s: s, stdin: &full{room: 7}}
	s.process.Store(r)
	for _, typed := range []string{"ls\n", "id\nrm\n", "ps\n"} {
		read += len(typed)
		if !r.take([]byte(typed), tap, 0) {
			t.Errorf("%q ended it", typed)
		}
		tty.Part(0)
	}
	for _, want := range []string{"2ls\n", "2id\nr", "4m\n", "4ps\n"} {
		tap.got(t, want)
	}
	var got recorder.Sums
	got.Pass(recorder.Stdin, []byte("ls\nid\nr"))
	if w.sums.Hash(recorder.Stdin) != got.Hash(recorder.Stdin) || w.testimony.Input != 13-1 {
		t.Errorf("the witness counts %d bytes of %d", w.sums.Bytes(recorder.Stdin), w.testimony.Input)
	}
}
