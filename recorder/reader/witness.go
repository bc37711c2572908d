package reader

import (
	"fmt"

	"hawser/recorder"
)

// Witness is what a device stated of a session.
type Witness struct {
	recorder.Testimony
	Kept, Stdout, Stderr uint64      // bytes; of input those that are hashed
	Requests, Answers    uint64      // taken and made
	Hashes               [5][32]byte // input, stdout, stderr, requests taken, requests made
	Forced               *[32]byte   // SHA-256 of the command that ran whatever was asked for; nil: what was asked for ran
	Signature            []byte
	message              []byte
}

// ParseWitness decodes a witness. Who signed it is for the caller to check, against Message.
func ParseWitness(b []byte) (*Witness, error) {
	if len(b) > recorder.MaxWitness {
		return nil, fmt.Errorf("%w: witness of %d bytes", ErrFormat, len(b))
	}
	w := new(Witness)
	for rest := b; len(rest) > 0; {
		tag, v, after, err := field(rest)
		if err != nil {
			return nil, err
		}
		if w.Signature != nil {
			return nil, fmt.Errorf("%w: a field after the signature", ErrFormat)
		}
		switch tag {
		case recorder.WitnessSession:
			err = exact(w.Session[:], v)
		case recorder.WitnessUser:
			w.User = string(v)
		case recorder.WitnessLogin:
			w.Login = string(v)
		case recorder.WitnessRule:
			w.Rule = string(v)
		case recorder.WitnessUnhashed:
			err = into(&w.Unhashed, v)
		case recorder.WitnessInput:
			err = into(&w.Input, v)
		case recorder.WitnessKept:
			err = into(&w.Kept, v)
		case recorder.WitnessStdout:
			err = into(&w.Stdout, v)
		case recorder.WitnessStderr:
			err = into(&w.Stderr, v)
		case recorder.WitnessRequests:
			err = into(&w.Requests, v)
		case recorder.WitnessAnswers:
			err = into(&w.Answers, v)
		case recorder.WitnessHashes:
			if len(v) != 5*32 {
				err = fmt.Errorf("%w: witness's hashes", ErrFormat)
				break
			}
			for i := range w.Hashes {
				w.Hashes[i] = [32]byte(v[32*i:])
			}
		case recorder.WitnessForced:
			w.Forced = new([32]byte)
			err = exact(w.Forced[:], v)
		case recorder.WitnessSignature:
			w.Signature = append([]byte{}, v...)
			w.message = recorder.WitnessMessage(b[:len(b)-len(rest)])
		}
		if err != nil {
			return nil, err
		}
		rest = after
	}
	if w.Signature == nil {
		return nil, fmt.Errorf("%w: a witness without a signature", ErrFormat)
	}
	return w, nil
}

// Message is what the device signed.
func (w *Witness) Message() []byte { return w.message }
