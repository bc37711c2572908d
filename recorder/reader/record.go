package reader

import (
	"crypto/sha256"
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
	default:
		err = e.decodeFact(p)
	}
	return e, err
}

// decodeFact decodes the types that are facts, not bytes.
func (e *Event) decodeFact(p []byte) error {
	switch e.Type {
	case recorder.RecordFileOp:
		f := new(recorder.FileOp)
		e.FileOp = f
		return fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.FileOpName:
				f.Op = string(v)
			case recorder.FilePath:
				f.Path = string(v)
			case recorder.FilePath2:
				f.Path2 = string(v)
			case recorder.FileRead:
				return into(&f.Read, v)
			case recorder.FileWritten:
				return into(&f.Written, v)
			case recorder.FileStatus:
				return into(&f.Status, v)
			case recorder.FileHash:
				f.Hash = make([]byte, 32)
				return exact(f.Hash, v)
			case recorder.FileMode:
				return into(&f.Mode, v)
			case recorder.FileProtocol:
				f.Protocol = string(v)
			}
			return nil
		})
	case recorder.RecordForward:
		f := new(recorder.Forward)
		e.Forward = f
		return fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.ForwardKind:
				f.Kind = string(v)
			case recorder.ForwardTarget:
				f.Target = string(v)
			case recorder.ForwardOrigin:
				f.Origin = string(v)
			case recorder.ForwardState:
				f.State = string(v)
			case recorder.ForwardIn:
				return into(&f.In, v)
			case recorder.ForwardOut:
				return into(&f.Out, v)
			case recorder.ForwardID:
				return into(&f.ID, v)
			}
			return nil
		})
	case recorder.RecordAgentUse:
		a := new(recorder.AgentUse)
		e.AgentUse = a
		return fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.AgentFingerprint:
				a.Fingerprint = string(v)
			case recorder.AgentWhat:
				a.What = string(v)
			case recorder.AgentBytes:
				return into(&a.Bytes, v)
			}
			return nil
		})
	case recorder.RecordParticipant:
		a := new(recorder.Participant)
		e.Joined = a
		err := fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.ParticipantID:
				return into(&a.ID, v)
			case recorder.ParticipantUser:
				a.User = string(v)
			case recorder.ParticipantMode:
				a.Mode = string(v)
			case recorder.ParticipantState:
				a.State = string(v)
			case recorder.ParticipantWay:
				a.Way = string(v)
			}
			return nil
		})
		e.Participant = a.ID
		return err
	case recorder.RecordCommand:
		c := new(recorder.Command)
		e.Ran = c
		return fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.CommandText:
				c.Text = string(v)
			case recorder.CommandSource:
				c.Source = string(v)
			case recorder.CommandConfidence:
				return into(&c.Confidence, v)
			case recorder.CommandStatus:
				c.HasStatus = true
				return into(&c.Status, v)
			}
			return nil
		})
	case recorder.RecordWithheld:
		w := new(recorder.Withheld)
		e.Withheld = w
		err := fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.WithheldBytes:
				return into(&w.Bytes, v)
			case recorder.WithheldReason:
				w.Reason = string(v)
			case recorder.WithheldParticipant:
				return into(&w.Participant, v)
			case recorder.WithheldEnter:
				w.Enter = true
			}
			return nil
		})
		e.Participant = w.Participant
		return err
	case recorder.RecordRequest:
		q := new(recorder.Request)
		e.Request = q
		return fields(p, func(tag byte, v []byte) error {
			switch tag {
			case recorder.RequestName:
				q.Name = string(v)
			case recorder.RequestPayload:
				q.Payload = append([]byte{}, v...)
				q.Hash = sha256.Sum256(v)
			case recorder.RequestDigest:
				return exact(q.Hash[:], v)
			case recorder.RequestFromDevice:
				var n uint64
				err := into(&n, v)
				q.FromDevice = n == 1
				return err
			}
			return nil
		})
	}
	return nil
}

// into decodes a number that fits its field.
func into[T uint8 | uint32 | uint64](dst *T, v []byte) error {
	n, err := number(v)
	if err == nil && uint64(T(n)) != n {
		return fmt.Errorf("%w: number", ErrFormat)
	}
	*dst = T(n)
	return err
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
		case recorder.HeaderKey:
			if len(h.Keys) >= recorder.MaxKeys {
				return fmt.Errorf("%w: too many keys", ErrFormat)
			}
			h.Keys = append(h.Keys, append([]byte(nil), v...))
		case recorder.HeaderInput:
			h.Input = string(v)
		case recorder.HeaderUnkept:
			err = into(&h.Unkept, v)
		}
		return err
	})
	return h, err
}

// decodeHead decodes the closing head.
func decodeHead(p []byte) (*Head, error) {
	var h Head
	digest := func() *Digest {
		if h.Digest == nil {
			h.Digest = new(Digest)
		}
		return h.Digest
	}
	rest := p
	for len(rest) > 0 {
		tag, v, after, err := field(rest)
		if err != nil {
			return nil, err
		}
		if h.Signature != nil {
			return nil, fmt.Errorf("%w: a field after the signature", ErrFormat)
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
		case recorder.HeadWithheld:
			h.Withheld, err = number(v)
		case recorder.HeadInputHash:
			err = exact(digest().Input[:], v)
		case recorder.HeadInputHashed:
			digest().Counted = true
			digest().InputBytes, err = number(v)
		case recorder.HeadStdoutHash:
			err = exact(digest().Stdout[:], v)
		case recorder.HeadStderrHash:
			err = exact(digest().Stderr[:], v)
		case recorder.HeadRequestsHash:
			err = exact(digest().RequestsHash[:], v)
		case recorder.HeadRequests:
			digest().Requests, err = number(v)
		case recorder.HeadAnswersHash:
			err = exact(digest().AnswersHash[:], v)
		case recorder.HeadAnswers:
			digest().Answers, err = number(v)
		case recorder.HeadWitness:
			if len(v) > recorder.MaxWitness {
				err = fmt.Errorf("%w: witness of %d bytes", ErrFormat, len(v))
			}
			h.Witness = append([]byte{}, v...)
		case recorder.HeadUnwitnessed:
			h.Unwitnessed = string(v)
		case recorder.HeadSignature:
			h.Signature = append([]byte{}, v...)
			h.message = recorder.HeadMessage(p[:len(p)-len(rest)])
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
