package reader

import (
	"fmt"

	"hawser/recorder"
)

// judge compares what was seen with the witness. unseen: nothing of the recording but its ends could be looked at. whole: all that passed is in it to
// be compared; where it is not, the recorder's digest is taken. missing is how much its gaps say.
func (o *observer) judge(h *recorder.Header, head *Head, w *Witness, unseen bool, missing uint64) (whole bool, err error) {
	d := head.Digest
	part := unseen || head.Gaps > 0
	switch {
	case w.Session != h.ID:
		return false, fmt.Errorf("%w: its witness is of the session %x", ErrWitness, w.Session)
	case w.User != h.User || w.Login != h.Login:
		return false, fmt.Errorf("%w: the header says %q as %q, the device served %q as %q", ErrWitness, h.User, h.Login, w.User, w.Login)
	case w.Rule != inputRule(h):
		return false, fmt.Errorf("%w: of input the recorder keeps %q, and the grant said %q", ErrWitness, inputRule(h), w.Rule)
	case d == nil:
		return false, fmt.Errorf("%w: it has a witness and no digest", ErrWitness)
	}
	if err := o.judgeRequests(d, w, part); err != nil {
		return false, err
	}
	if !unseen {
		if err := o.facts(h, w); err != nil {
			return false, fmt.Errorf("%w: %w", ErrWitness, err)
		}
	}
	lost := uint64(0)
	for _, s := range []struct {
		name   string
		stream byte
		bit    uint8
		said   uint64 // by the device
		passed uint64 // by the recorder's count
		digest [32]byte
	}{
		{"output", recorder.Stdout, recorder.UnkeptStdout, w.Stdout, head.Stdout, d.Stdout},
		{"error output", recorder.Stderr, recorder.UnkeptStderr, w.Stderr, head.Stderr, d.Stderr},
	} {
		n, sum := s.passed, s.digest
		if !part && h.Unkept&s.bit == 0 {
			n, sum = o.sums.Bytes(s.stream), o.sums.Hash(s.stream)
		}
		switch {
		case n > s.said, head.Gaps == 0 && n != s.said:
			return false, fmt.Errorf("%w: the device sent %d bytes of %s, the recording has %d", ErrWitness, s.said, s.name, n)
		case w.Unhashed&s.bit == 0 && sum != w.Hashes[s.stream]:
			return false, fmt.Errorf("%w: its %s is not what the device sent", ErrWitness, s.name)
		}
		lost += s.said - n
	}
	short, err := o.judgeInput(h, head, w, part)
	if err != nil {
		return false, err
	}
	if lost += short; head.Gaps > 0 && !unseen && lost > missing {
		return false, fmt.Errorf("%w: it has %d bytes less than passed, and says that %d are missing", ErrWitness, lost, missing)
	}
	return !part && h.Unkept == 0 && !o.untold(), nil
}

// judgeInput also tells how much input is missing that the device took.
func (o *observer) judgeInput(h *recorder.Header, head *Head, w *Witness, part bool) (short uint64, err error) {
	d := head.Digest
	switch {
	case w.Rule == recorder.InputOff || w.Unhashed&recorder.UnkeptInput != 0:
		return 0, nil
	case part || h.Unkept&recorder.UnkeptInput != 0:
		if head.Input < w.Kept {
			short = w.Kept - head.Input
		}
		if head.Gaps > 0 {
			return short, nil
		}
		n := head.Input
		if d.Counted {
			n = d.InputBytes
		}
		// What guests typed passed on no channel of the owner's: where it is in n and cannot be seen, nothing says how much more n may be.
		guests := !d.Counted && part
		if n < w.Kept || n-w.Kept > maxUntaken && !guests || n == w.Kept && d.Input != w.Hashes[recorder.Stdin] {
			return 0, fmt.Errorf("%w: its input is not what the device took", ErrWitness)
		}
	default:
		if o.input.n < w.Kept {
			return 0, fmt.Errorf("%w: the device took %d bytes of input that are to be kept, the recording has %d", ErrWitness, w.Kept, o.input.n)
		}
		if sum, ok := o.input.at(w.Kept); !ok || sum != w.Hashes[recorder.Stdin] {
			return 0, fmt.Errorf("%w: its input is not what the device took", ErrWitness)
		}
	}
	return short, nil
}

// judgeRequests holds the requests that were seen against the witness, or with part what the recorder says of them.
func (o *observer) judgeRequests(d *Digest, w *Witness, part bool) error {
	toN, to := d.Requests, d.RequestsHash
	byN, by := d.Answers, d.AnswersHash
	if !part {
		toN, to = o.sums.Requests(false)
		byN, by = o.sums.Requests(true)
	}
	if more := toN - w.Requests; toN > w.Requests && !part {
		if w.Requests == 0 {
			to = [32]byte{}
		} else if more < uint64(len(o.requests)) {
			to = o.requests[len(o.requests)-1-int(more)]
		}
	} else if toN > w.Requests && more <= maxUnread {
		to = w.Hashes[3] // there is no telling
	}
	if toN < w.Requests || to != w.Hashes[3] {
		return fmt.Errorf("%w: the requests in it are not those that the device took", ErrWitness)
	}
	if byN != w.Answers || by != w.Hashes[4] {
		return fmt.Errorf("%w: what it says that the device asked for and answered, the exit status too, is not what the device sent", ErrWitness)
	}
	return nil
}

func inputRule(h *recorder.Header) string {
	if h.Input == "" {
		return recorder.InputFull
	}
	return h.Input
}
