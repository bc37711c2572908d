package reader

import (
	"fmt"
	"io"
	"time"

	"hawser/recorder"
)

// Report is what Verify found.
type Report struct {
	Header    recorder.Header
	Head      *Head    // nil: incomplete
	Witness   *Witness // the device's, where there is one that could be read
	Complete  bool     // closed by its recorder
	Signed    bool     // the head's signature was checked and is right
	Witnessed bool     // the witness was checked, and the recording is as it says, byte for byte
	Summed    bool     // the witness was checked against the recorder's own sums: not all that passed is there to be compared
	Sealed    bool     // what is recorded could not be looked at
	Untaken   uint64   // bytes of input at the end that the device does not say it took
	Chunks    uint64
	Events    uint64
	Gaps      uint64
	Missing   uint64 // bytes that gap records say are missing
	Duration  time.Duration
	Exited    bool // what ran ended, by Status or Signal
	Status    uint32
	Signal    string
	Last      [32]byte // hash of the last chunk
}

// Check says whose signatures are believed.
type Check struct {
	// Recorder tells whether signature is the recorder's over message, by a key the caller trusts: Header.SignerKey alone proves nothing, for
	// whoever rewrites a recording writes that too. nil: the signature is not looked at.
	Recorder func(h recorder.Header, message, signature []byte) bool
	// Device tells whether signature is the device's over message. nil: the witness is not looked at.
	Device func(h recorder.Header, message, signature []byte) bool
	// Sealed recordings are checked as far as that goes without what is in them, rather than refused.
	Sealed bool
	// Open opens sealed ones: they are checked as others then. nil: it is not there.
	Open Opener
}

// Verify is VerifyWith for the recorder's signature alone.
func Verify(next func() ([]byte, error), check func(h recorder.Header, message, signature []byte) bool) (Report, error) {
	return VerifyWith(next, Check{Recorder: check})
}

// VerifyWith reads a whole recording and checks its chain, its counts, its head and the device's witness. An incomplete recording is not an
// error: what is there was checked, what is not there cannot be. Nor is a missing witness: Head.Unwitnessed says why, and whether that is so is
// for the caller to judge. The report is of use with an error too.
func VerifyWith(next func() ([]byte, error), check Check) (Report, error) {
	var rep Report
	r := New(next).Unseal(check.Open)
	r.blind = check.Sealed
	var err error
	if rep.Header, err = r.Header(); err != nil {
		return rep, err
	}
	var seen observer
	for {
		e, err := r.Next()
		rep.Chunks, rep.Last, rep.Sealed = r.seq, r.previous, r.sealed
		if err == io.EOF {
			break
		}
		if err != nil {
			return rep, err
		}
		rep.Events++
		rep.Duration = e.Time
		switch e.Type {
		case recorder.RecordGap:
			rep.Gaps++
			rep.Missing += e.Missing
		case recorder.RecordExit:
			rep.Exited, rep.Status, rep.Signal = true, e.Status, e.Signal
		}
		seen.see(&rep.Header, e)
	}
	head := r.Head()
	if head == nil {
		return rep, nil
	}
	rep.Complete, rep.Head = true, head
	rep.Duration = head.Duration
	if check.Recorder != nil {
		if head.Signature == nil || !check.Recorder(rep.Header, head.message, head.Signature) {
			return rep, ErrSignature
		}
		rep.Signed = true
	}
	if check.Device == nil || len(head.Witness) == 0 {
		return rep, nil
	}
	w, err := ParseWitness(head.Witness)
	if err != nil {
		return rep, fmt.Errorf("%w: %w", ErrWitness, err)
	}
	if !check.Device(rep.Header, w.message, w.Signature) {
		return rep, fmt.Errorf("%w: it is not signed by the device", ErrWitness)
	}
	rep.Witness = w
	whole, err := seen.judge(&rep.Header, head, w, r.sealed, rep.Missing)
	if err != nil {
		return rep, err
	}
	rep.Witnessed, rep.Summed = whole, !whole
	if w.Rule != recorder.InputOff && seen.input.n > w.Kept {
		rep.Untaken = seen.input.n - w.Kept
	}
	return rep, nil
}
