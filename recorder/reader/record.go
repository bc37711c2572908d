package reader

import (
	"encoding/binary"
	"fmt"
	"time"

	"hawser/recorder"
)

// decodeRecord fills an event from a record's payload.
func decodeRecord(t recorder.RecordType, p []byte) (Event, error) {
	e := Event{Type: t}
	var err error
	switch t {
	case recorder.RecordStdout, recorder.RecordStderr, recorder.RecordMarker:
		e.Data = p
	case recorder.RecordInput:
		var n int
		e.Participant, n, err = uvarint32(p)
		if err == nil {
			e.Data = p[n:]
		}
	case recorder.RecordResize:
		var n int
		if e.Width, n, err = uvarint32(p); err == nil {
			e.Height, _, err = uvarint32(p[n:])
		}
	case recorder.RecordStart:
		err = fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.StartKind:
				e.Kind = string(v)
			case recorder.StartCommand:
				e.Command = string(v)
			case recorder.StartTerm:
				e.Term = string(v)
			case recorder.StartEnv:
				if len(e.Env) >= maxEnv {
					return fmt.Errorf("%w: too many variables", ErrFormat)
				}
				e.Env = append(e.Env, string(v))
			}
			return nil
		})
	case recorder.RecordExit:
		err = fields(p, func(tag byte, v []byte) (err error) {
			switch tag {
			case recorder.ExitStatus:
				e.Status, _, err = uvarint32(v)
			case recorder.ExitSignal:
				e.Signal = string(v)
			}
			return err
		})
	case recorder.RecordGap:
		err = fields(p, func(tag byte, v []byte) (err error) {
			switch tag {
			case recorder.GapBytes:
				e.Missing, err = number(v)
			case recorder.GapReason:
				e.Reason = string(v)
			}
			return err
		})
	}
	return e, err
}

// decodeHeader decodes the payload of the header record.
func decodeHeader(p []byte) (recorder.Header, error) {
	var h recorder.Header
	err := fields(p, func(tag byte, v []byte) (err error) {
		switch tag {
		case recorder.HeaderID:
			err = exact(h.ID[:], v)
		case recorder.HeaderCluster:
			h.Cluster = string(v)
		case recorder.HeaderUser:
			h.User = string(v)
		case recorder.HeaderDevice:
			h.Device = string(v)
		case recorder.HeaderDeviceUUID:
			h.DeviceUUID = string(v)
		case recorder.HeaderLogin:
			h.Login = string(v)
		case recorder.HeaderWay:
			h.Way = string(v)
		case recorder.HeaderClientAddr:
			h.ClientAddr = string(v)
		case recorder.HeaderHub:
			h.Hub = string(v)
		case recorder.HeaderKind:
			h.Kind = string(v)
		case recorder.HeaderCommand:
			h.Command = string(v)
		case recorder.HeaderTerm:
			h.Term = string(v)
		case recorder.HeaderWidth:
			h.Width, _, err = uvarint32(v)
		case recorder.HeaderHeight:
			h.Height, _, err = uvarint32(v)
		case recorder.HeaderStart:
			var us uint64
			us, err = number(v)
			h.Start = time.UnixMicro(int64(us))
		case recorder.HeaderSigner:
			h.SignerKey = append([]byte(nil), v...)
		}
		return err
	})
	return h, err
}

// decodeHead decodes the closing head.
func decodeHead(p []byte) (*Head, error) {
	var h Head
	rest := p
	for len(rest) > 0 {
		tag, v, after, err := field(rest)
		if err != nil {
			return nil, err
		}
		switch tag {
		case recorder.HeadID:
			err = exact(h.ID[:], v)
		case recorder.HeadChunks:
			h.Chunks, err = number(v)
		case recorder.HeadHash:
			err = exact(h.Hash[:], v)
		case recorder.HeadInput:
			h.Input, err = number(v)
		case recorder.HeadStdout:
			h.Stdout, err = number(v)
		case recorder.HeadStderr:
			h.Stderr, err = number(v)
		case recorder.HeadGaps:
			h.Gaps, err = number(v)
		case recorder.HeadDuration:
			var us uint64
			us, err = number(v)
			h.Duration = microseconds(us)
		case recorder.HeadSignature:
			if h.Signature == nil {
				h.Signature = append([]byte{}, v...)
				h.message = recorder.HeadMessage(p[:len(p)-len(rest)])
			}
		}
		if err != nil {
			return nil, err
		}
		rest = after
	}
	return &h, nil
}

// fields calls f for each field of a TLV payload.
func fields(p []byte, f func(tag byte, v []byte) error) error {
	for len(p) > 0 {
		tag, v, rest, err := field(p)
		if err != nil {
			return err
		}
		if err := f(tag, v); err != nil {
			return err
		}
		p = rest
	}
	return nil
}

func field(p []byte) (tag byte, v, rest []byte, err error) {
	n, w := binary.Uvarint(p[1:])
	if w <= 0 || n > uint64(len(p)-1-w) {
		return 0, nil, nil, fmt.Errorf("%w: field beyond its record", ErrFormat)
	}
	return p[0], p[1+w : 1+w+int(n)], p[1+w+int(n):], nil
}

func number(v []byte) (uint64, error) {
	n, w := binary.Uvarint(v)
	if w <= 0 {
		return 0, fmt.Errorf("%w: number", ErrFormat)
	}
	return n, nil
}

func uvarint32(p []byte) (uint32, int, error) {
	n, w := binary.Uvarint(p)
	if w <= 0 || n > 1<<32-1 {
		return 0, 0, fmt.Errorf("%w: number", ErrFormat)
	}
	return uint32(n), w, nil
}

func exact(dst, v []byte) error {
	if len(v) != len(dst) {
		return fmt.Errorf("%w: field of %d bytes, want %d", ErrFormat, len(v), len(dst))
	}
	copy(dst, v)
	return nil
}

// microseconds makes a duration; what does not fit is cut to the longest.
func microseconds(us uint64) time.Duration {
	return time.Duration(min(us, uint64(1<<63-1)/1000)) * time.Microsecond
}
