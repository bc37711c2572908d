// Package attest is auth's signed word on a recording: who was to make it, of which session it is, when that was and how the recording ended, as auth knows
// them and not as the recording says. Who verifies a recording's file without auth goes by it, for a forger writes the file's own header himself.
//
// Auth calls Word.Sign, a verifier Open with the grant keys of a trust bundle that he believes. The package is pure.
//
// # Layout
//
// A word is an envelope (auth/internal/signed) under the context "hawser recording word 1" whose payload is these TLV fields; a tag is one byte, a length
// three, integers eight, big endian, times Unix microseconds. Unknown tags are ignored.
//
//	1 cluster   string ≤ 255
//	2 id        16 bytes, the recording's
//	3 user      string ≤ 64
//	4 login     string ≤ 64
//	5 device    string ≤ 36, its UUID
//	6 recorder  string ≤ 16: "hub" or "device"
//	7 way       string ≤ 32
//	8 start     integer
//	9 end       integer; absent: it is not closed
//	10 closing  32 bytes, the hash of its last chunk; absent: it is not closed
//	11 complete integer, 1 when its recorder closed it
//	12 hub      string ≤ 36, UUID of the hub that was to record; absent: a device was
package attest

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const (
	signContext = "hawser recording word 1"
	maxBlob     = 4 << 10
	maxCluster  = 255
	maxName     = 64
	maxUUID     = 36
	maxRecorder = 16
	maxWay      = 32
)

// ErrWord is a word that auth did not give.
var ErrWord = errors.New("auth's word on the recording is not signed by a key that is believed, or cannot be read")

// Word is what auth says.
type Word struct {
	Cluster  string
	ID       [16]byte
	User     string
	Login    string
	Device   string // UUID
	Recorder string // "hub" or "device"
	Way      string
	Start    time.Time // microseconds
	End      time.Time // zero: it is not closed
	Closing  [32]byte  // of its last chunk; zero: it is not closed
	Complete bool
	Hub      string // UUID; empty: a device was to record
}

// Sign encodes and signs w. What is too long is cut, and then agrees with nothing.
func (w *Word) Sign(key ed25519.PrivateKey) []byte {
	text := func(b []byte, tag uint8, s string, limit int) []byte {
		return tlv.AppendString(b, tag, s[:min(len(s), limit)])
	}
	b := text(nil, 1, w.Cluster, maxCluster)
	b = tlv.AppendBytes(b, 2, w.ID[:])
	b = text(b, 3, w.User, maxName)
	b = text(b, 4, w.Login, maxName)
	b = text(b, 5, w.Device, maxUUID)
	b = text(b, 6, w.Recorder, maxRecorder)
	b = text(b, 7, w.Way, maxWay)
	b = tlv.AppendUint(b, 8, uint64(w.Start.UnixMicro()))
	if !w.End.IsZero() {
		b = tlv.AppendUint(b, 9, uint64(w.End.UnixMicro()))
	}
	if w.Closing != [32]byte{} {
		b = tlv.AppendBytes(b, 10, w.Closing[:])
	}
	if w.Complete {
		b = tlv.AppendUint(b, 11, 1)
	}
	if w.Hub != "" {
		b = text(b, 12, w.Hub, maxUUID)
	}
	return signed.Seal(signContext, b, key)
}

// Open decodes a word that one of keys signed.
func Open(blob []byte, keys []ed25519.PublicKey) (*Word, error) {
	if len(blob) > maxBlob {
		return nil, fmt.Errorf("%w: %d bytes", ErrWord, len(blob))
	}
	payload, err := signed.Open(signContext, blob, keys)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWord, err)
	}
	w := new(Word)
	err = tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&w.Cluster, v, maxCluster)
		case 2:
			return tlv.Fixed(w.ID[:], v)
		case 3:
			return tlv.String(&w.User, v, maxName)
		case 4:
			return tlv.String(&w.Login, v, maxName)
		case 5:
			return tlv.String(&w.Device, v, maxUUID)
		case 6:
			return tlv.String(&w.Recorder, v, maxRecorder)
		case 7:
			return tlv.String(&w.Way, v, maxWay)
		case 8:
			return moment(&w.Start, v)
		case 9:
			return moment(&w.End, v)
		case 10:
			return tlv.Fixed(w.Closing[:], v)
		case 11:
			n, err := tlv.Uint(v)
			w.Complete = n == 1
			return err
		case 12:
			return tlv.String(&w.Hub, v, maxUUID)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrWord, err)
	}
	return w, nil
}

func moment(t *time.Time, v []byte) error {
	n, err := tlv.Uint(v)
	*t = time.UnixMicro(int64(n)).UTC()
	return err
}
