package session

import (
	"sync"

	"hawser/recorder"
	"hawser/recorder/observe"
)

// Witness counts and hashes what passes in a session that a hub records, and states it as the channel closes: a recording that says otherwise
// is false. Give it to the session's channel and to Params. A nil Witness takes everything and does nothing.
type Witness struct {
	sign func(message []byte) []byte

	mu        sync.Mutex
	testimony recorder.Testimony
	sums      recorder.Sums
	judged    []byte // input that may be kept once it is acknowledged so; the reader's buffer
}

// NewWitness begins a witness; sign is by the device's key.
func NewWitness(t recorder.Testimony, sign func(message []byte) []byte) *Witness {
	return &Witness{testimony: t, sign: sign}
}

// begin is told what runs. The bytes of a file transfer are in no recording, and hashing them would halve the speed of a small device.
func (w *Witness) begin(kind string) {
	if w == nil || kind != "sftp" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.testimony.Unhashed = recorder.UnkeptInput | recorder.UnkeptStdout | recorder.UnkeptStderr
}

// Took is told of input that the process was given, and the verdict on it. b stays as it is until the channel is read again: what a terminal was
// given counts when the hub has been told the verdict too, so that both go by the same.
func (w *Witness) Took(b []byte, verdict byte) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.testimony.Rule != recorder.InputFull && w.testimony.Rule != recorder.InputRedacted, w.testimony.Unhashed&recorder.UnkeptInput != 0:
	case verdict == observe.Unjudged:
		w.sums.Pass(recorder.Stdin, b)
	case verdict == observe.Keep:
		w.judged = b
	}
}

// Acknowledged implements channel.Witness.
func (w *Witness) Acknowledged(n uint32, tag byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.testimony.Input += uint64(n)
	if tag == observe.Keep {
		w.sums.Pass(recorder.Stdin, w.judged)
	}
	w.judged = nil
}

// Sent implements channel.Witness.
func (w *Witness) Sent(stderr bool, b []byte) {
	stream := recorder.Stdout
	if stderr {
		stream = recorder.Stderr
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.testimony.Unhashed != 0 {
		w.sums.Count(stream, len(b))
	} else {
		w.sums.Pass(stream, b)
	}
}

// Requested implements channel.Witness.
func (w *Witness) Requested(sent bool, name string, payload []byte) {
	h := recorder.PayloadHash(payload)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sums.Request(sent, name, h)
}

// Last implements channel.Witness.
func (w *Witness) Last() (name string, payload []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return recorder.WitnessRequest, w.testimony.Sign(&w.sums, w.sign)
}
