package reader

import (
	"io"
	"time"

	"hawser/recorder"
)

// Report is what Verify found.
type Report struct {
	Header   recorder.Header
	Complete bool // closed by its recorder
	Signed   bool // the head's signature was checked and is right
	Chunks   uint64
	Events   uint64
	Gaps     uint64
	Missing  uint64 // bytes that gap records say are missing
	Duration time.Duration
}

// Verify reads a whole recording and checks its chain, its counts and its head. check says whether
// signature is the recorder's over message, by a key the caller trusts: Header.SignerKey alone proves
// nothing, for whoever rewrites a recording writes that too. With check nil the signature is not looked at.
// An incomplete recording is not an error: what is there was checked, what is not there cannot be.
func Verify(next func() ([]byte, error), check func(h recorder.Header, message, signature []byte) bool) (Report, error) {
	var rep Report
	r := New(next)
	var err error
	if rep.Header, err = r.Header(); err != nil {
		return rep, err
	}
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return rep, err
		}
		rep.Events++
		rep.Chunks = r.seq
		rep.Duration = e.Time
		if e.Type == recorder.RecordGap {
			rep.Gaps++
			rep.Missing += e.Missing
		}
	}
	rep.Chunks = r.seq
	head := r.Head()
	if head == nil {
		return rep, nil
	}
	rep.Complete = true
	rep.Duration = head.Duration
	if check == nil {
		return rep, nil
	}
	if head.Signature == nil || !check(rep.Header, head.message, head.Signature) {
		return rep, ErrSignature
	}
	rep.Signed = true
	return rep, nil
}
