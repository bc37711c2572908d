package reader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"hawser/recorder"
)

const (
	evidenceMagic  = "HWRE"
	evidenceHeader = 12
	maxEvidence    = 64 << 10
)

// ErrNoEvidence is returned where a recording's file has nothing behind its chunks.
var ErrNoEvidence = errors.New("recording: the file holds no certificates to verify it with")

// Evidence is what a recording is verified with, at the end of its file. None of it is to be believed for itself.
type Evidence struct {
	Device []byte // X.509 certificates, DER, the device's first
	Hub    []byte // likewise; empty where the device recorded
	Trust  []byte // the cluster's trust bundle, of auth/ca
	Word   []byte // auth's signed word on the recording, of auth/attest
}

// Append appends e as it stands at the end of a file. What is too long to be read again is left out.
func (e Evidence) Append(b []byte) []byte {
	var p []byte
	for tag, v := range [][]byte{1: e.Device, 2: e.Hub, 3: e.Trust, 4: e.Word} {
		if len(v) > 0 && len(p)+len(v)+8 <= maxEvidence {
			p = binary.AppendUvarint(append(p, byte(tag)), uint64(len(v)))
			p = append(p, v...)
		}
	}
	start := len(b)
	b = append(append(b, evidenceMagic...), 1, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	b = append(b, p...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], crc32.MakeTable(crc32.Castagnoli)))
}

// ParseEvidence decodes what Append made.
func ParseEvidence(b []byte) (Evidence, error) {
	var e Evidence
	if len(b) == 0 {
		return e, ErrNoEvidence
	}
	if len(b) < evidenceHeader+4 || string(b[:4]) != evidenceMagic {
		return e, fmt.Errorf("%w: evidence", ErrFormat)
	}
	n := len(b) - evidenceHeader - 4
	if b[4] != 1 || b[5]|b[6]|b[7] != 0 || uint32(n) != binary.BigEndian.Uint32(b[8:]) || n > maxEvidence {
		return e, fmt.Errorf("%w: evidence", ErrFormat)
	}
	if crc32.Checksum(b[:evidenceHeader+n], crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(b[evidenceHeader+n:]) {
		return e, fmt.Errorf("%w: checksum of the evidence differs", ErrFormat)
	}
	err := fields(b[evidenceHeader:evidenceHeader+n], func(tag byte, v []byte) error {
		switch tag {
		case 1:
			e.Device = v
		case 2:
			e.Hub = v
		case 3:
			e.Trust = v
		case 4:
			e.Word = v
		}
		return nil
	})
	return e, err
}

// FileEvidence is what stands behind the chunks of a file, from its beginning.
func FileEvidence(f io.Reader) (Evidence, error) {
	var h [recorder.ChunkHeaderSize]byte
	for {
		n, err := io.ReadFull(f, h[:evidenceHeader])
		if n < evidenceHeader {
			return Evidence{}, ErrNoEvidence
		}
		if err != nil {
			return Evidence{}, err
		}
		if string(h[:4]) == evidenceMagic {
			length := binary.BigEndian.Uint32(h[8:])
			if length > maxEvidence {
				return Evidence{}, fmt.Errorf("%w: evidence", ErrFormat)
			}
			b, err := io.ReadAll(io.LimitReader(f, int64(length)+5))
			if err != nil {
				return Evidence{}, err
			}
			return ParseEvidence(append(h[:evidenceHeader:evidenceHeader], b...))
		}
		if _, err := io.ReadFull(f, h[evidenceHeader:]); err != nil {
			return Evidence{}, ErrNoEvidence
		}
		c, _, err := recorder.ParseChunk(h[:])
		if err != nil && !errors.Is(err, recorder.ErrTruncated) {
			return Evidence{}, ErrNoEvidence
		}
		if _, err := io.CopyN(io.Discard, f, int64(c.Size()-recorder.ChunkHeaderSize)); err != nil {
			return Evidence{}, ErrNoEvidence
		}
	}
}
