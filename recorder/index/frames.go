package index

import (
	"encoding/binary"
	"fmt"
	"time"
)

// Frame is a keyframe: the terminal's state before the chunk of that number, whose first event is at Time.
type Frame struct {
	Time  time.Duration
	Chunk uint64
	State []byte // for Restore
}

// sealFrames makes an object of frames.
func sealFrames(frames []Frame) []byte {
	raw := appendFrames(nil, frames)
	object := binary.AppendUvarint([]byte{Version}, uint64(len(raw)))
	return encoder().EncodeAll(raw, object)
}

func appendFrames(b []byte, frames []Frame) []byte {
	for _, f := range frames {
		b = binary.AppendUvarint(b, uint64(max(0, f.Time.Microseconds())))
		b = binary.AppendUvarint(b, f.Chunk)
		b = binary.AppendUvarint(b, uint64(len(f.State)))
		b = append(b, f.State...)
	}
	return b
}

// OpenFrames opens an object of keyframes.
func OpenFrames(object []byte) ([]Frame, error) {
	if len(object) == 0 || object[0] != Version {
		return nil, fmt.Errorf("%w: no keyframes of version %d", ErrFormat, Version)
	}
	length, n := binary.Uvarint(object[1:])
	if n <= 0 || length > maxFrameBytes+maxFrames*frameOverhead {
		return nil, fmt.Errorf("%w: length of the keyframes", ErrFormat)
	}
	raw, err := decompress(object[1+n:], nil, int(length))
	if err != nil {
		return nil, err
	}
	return parseFrames(raw)
}

func parseFrames(raw []byte) (frames []Frame, err error) {
	for len(raw) > 0 {
		var v [3]uint64
		for i := range v {
			n, w := binary.Uvarint(raw)
			if w <= 0 {
				return nil, fmt.Errorf("%w: keyframe", ErrFormat)
			}
			v[i], raw = n, raw[w:]
		}
		if v[0] > uint64(1<<63-1)/1000 || v[2] > uint64(len(raw)) || v[2] > maxFrame || len(frames) == maxFrames {
			return nil, fmt.Errorf("%w: keyframe", ErrFormat)
		}
		frames = append(frames, Frame{time.Duration(v[0]) * time.Microsecond, v[1], raw[:v[2]:v[2]]})
		raw = raw[v[2]:]
	}
	return frames, nil
}
