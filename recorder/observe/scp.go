package observe

import (
	"crypto/sha256"
	"hash"
	"strconv"
	"strings"

	"hawser/recorder"
)

// SCP follows one run of scp's legacy protocol on the device: rcp's, as OpenSSH's scp -O speaks it. Not safe for concurrent use.
//
// Who has the files is the source: the device with -f, the client with -t. It sends lines (C file, D directory, E its end, T times), each answered by
// a byte, and after a file's line and the answer to it the content and a byte of its own, which are answered once more.
type SCP struct {
	emit   func(recorder.FileOp)
	target string // as the command names it
	sink   bool   // the device takes the files
	state  int
	line   []byte
	reply  []byte // the sink's last word, as far as it is no plain yes
	dirs   []string
	file   recorder.FileOp
	left   uint64
	hash   hash.Hash
	dead   bool
}

// The states, as the source's bytes go.
const (
	scpLine   = iota // a line is due
	scpAsked         // a file's line was sent; its answer is due
	scpData          // its content
	scpStatus        // the byte after it
	scpError         // the rest of a line that says what went wrong
	scpDone          // the answer to the content is due
)

// NewSCP gives each fact to emit. sink: the device takes what comes (scp -t); target is what the command names.
func NewSCP(target string, sink bool, emit func(recorder.FileOp)) *SCP {
	return &SCP{emit: emit, target: target, sink: sink}
}

// In takes what the client sends, and Out what the device does. False: it is not scp.
func (s *SCP) In(b []byte) bool { return s.take(b, s.sink) }

// Out is In for the other direction.
func (s *SCP) Out(b []byte) bool { return s.take(b, !s.sink) }

func (s *SCP) take(b []byte, source bool) bool {
	if s.dead {
		return false
	}
	if source {
		s.source(b)
	} else {
		s.answers(b)
	}
	return !s.dead
}

// End tells of a file that was cut off.
func (s *SCP) End() {
	if s.state != scpLine && s.file.Op != "" {
		if s.state != scpDone {
			s.file.Hash = nil
		}
		s.tell(4)
	}
}

func (s *SCP) tell(status uint32) {
	s.file.Status = max(s.file.Status, status)
	if s.file.Op != "" {
		s.emit(s.file)
	}
	s.file, s.hash, s.state = recorder.FileOp{}, nil, scpLine
}

// source takes what has the files.
func (s *SCP) source(b []byte) {
	for len(b) > 0 && !s.dead {
		switch s.state {
		case scpAsked: // it does not wait for the answer
			s.begin()
		case scpData:
			n := int(min(uint64(len(b)), s.left))
			s.hash.Write(b[:n])
			if s.sink {
				s.file.Written += uint64(n)
			} else {
				s.file.Read += uint64(n)
			}
			if b, s.left = b[n:], s.left-uint64(n); s.left == 0 {
				s.state = scpStatus
			}
		case scpStatus:
			c := b[0]
			b = b[1:]
			switch c {
			case 0:
				s.file.Hash = s.hash.Sum(nil)
				s.state = scpDone
			case 1, 2: // the source could not read it all, and filled up
				s.file.Status, s.state = 4, scpError
			default:
				s.dead = true
			}
		case scpError:
			if i := strings.IndexByte(string(b), '\n'); i >= 0 {
				b, s.state = b[i+1:], scpDone
			} else {
				b = nil
			}
		case scpDone: // it does not wait for the answer
			s.tell(0)
		default:
			i := strings.IndexByte(string(b), '\n')
			n := i + 1
			if i < 0 {
				n = len(b)
			}
			if len(s.line)+n > maxLine {
				s.dead = true
				return
			}
			s.line = append(s.line, b[:n]...)
			b = b[n:]
			if i >= 0 {
				s.handle(string(s.line[:len(s.line)-1]))
				s.line = s.line[:0]
			} else if len(s.line) > 0 && strings.IndexByte("CDETV\x01\x02", s.line[0]) < 0 {
				s.dead = true
			}
		}
	}
}

// handle takes a line of the source.
func (s *SCP) handle(line string) {
	if line == "" {
		s.dead = true
		return
	}
	kind, rest := line[0], line[1:]
	switch kind {
	case 'C', 'D':
		mode, size, name, ok := s.entry(rest)
		if !ok {
			s.dead = true
			return
		}
		path := strings.Join(append(s.dirs[:len(s.dirs):len(s.dirs)], name), "/")
		op := recorder.FileOp{Path: s.target, Path2: path, Mode: mode, Protocol: "scp"}
		if kind == 'D' {
			if len(s.dirs) == maxDepth {
				s.dead = true
				return
			}
			s.dirs = append(s.dirs, name)
			if op.Op = "list"; s.sink {
				op.Op = "mkdir"
			}
			s.emit(op)
			return
		}
		if op.Op = "read"; s.sink {
			op.Op = "write"
		}
		s.file, s.left, s.state = op, size, scpAsked
	case 'E':
		if rest != "" || len(s.dirs) == 0 {
			s.dead = true
			return
		}
		s.dirs = s.dirs[:len(s.dirs)-1]
	case 'T', 'V':
	case 1, 2: // what the source could not send
		op := "read"
		if s.sink {
			op = "write"
		}
		s.emit(recorder.FileOp{Op: op, Path: s.target, Status: 4, Protocol: "scp"})
	default:
		s.dead = true
	}
}

// entry reads "0644 1234 name".
func (s *SCP) entry(rest string) (mode uint32, size uint64, name string, ok bool) {
	m, rest, one := strings.Cut(rest, " ")
	n, name, two := strings.Cut(rest, " ")
	m64, err := strconv.ParseUint(m, 8, 32)
	size, err2 := strconv.ParseUint(n, 10, 63)
	ok = one && two && err == nil && err2 == nil && name != "" && !strings.Contains(name, "/") && name != ".."
	return uint32(m64), size, name, ok
}

// begin is the content's.
func (s *SCP) begin() {
	s.hash, s.state = sha256.New(), scpData
	if s.left == 0 {
		s.state = scpStatus
	}
}

// answers takes what gets the files: bytes 0, or 1 or 2 and a line that says what is wrong.
func (s *SCP) answers(b []byte) {
	for _, c := range b {
		if len(s.reply) > 0 {
			if c == '\n' {
				s.refused()
				s.reply = s.reply[:0]
			}
			continue // the words are the person's
		}
		switch c {
		case 0:
			switch s.state {
			case scpAsked:
				s.begin()
			case scpDone:
				s.tell(0)
			}
		case 1, 2:
			s.reply = append(s.reply, c)
		default:
			s.dead = true
			return
		}
	}
}

// refused is an answer that is no yes.
func (s *SCP) refused() {
	switch s.state {
	case scpAsked, scpDone:
		s.tell(4)
	case scpData, scpStatus: // it goes on taking, and throws away
		s.file.Status = 4
	}
}
