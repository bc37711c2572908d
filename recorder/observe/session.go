package observe

import (
	"bytes"
	"encoding/binary"
	"sync"

	"hawser/recorder"
)

// Writer is where facts and bytes go; *recorder.Writer is one. Its methods may block.
type Writer interface {
	Output(stream byte, b []byte) bool
	InputFrom(participant uint32, b []byte) bool
	Passed(stream byte, b []byte) bool
	FileOp(f recorder.FileOp)
	Withheld(a recorder.Withheld)
	Marker(text string)
}

// Verdicts on input, as the device says them: the tty tag of PROTOCOL.md, section 6.2.
const (
	Unjudged = 0 // nothing was to be judged
	Withhold = 1 // it answers a prompt that does not echo it
	Keep     = 2
	Unknown  = 3 // where the terminal is cannot be looked at
	Dropped  = 4 // it was typed before the session began, or while it was paused, and thrown away
)

// Session decides what of one session is recorded as bytes, what as facts, and what not. Safe for concurrent use, one goroutine for each stream.
type Session struct {
	w        Writer
	stdin    string // recorder.InputOff and so on
	terminal bool
	transfer Transfer

	mu     sync.Mutex
	files  files  // nil: bytes
	hello  []byte // of rsync: what came of the device's first word
	passed [2]uint64
	untold map[uint32]untold // by participant; only those who have something untold
	ended  bool
}

// untold is how much input of a participant is not kept, and was not told of yet.
type untold struct {
	gathered uint64 // withheld
	dropped  uint64
}

// files is a parser of what carries files.
type files interface {
	In(b []byte) bool
	Out(b []byte) bool
	End()
}

// NewSession is for what is about to start: kind and command as asked for, with a terminal or without; stdin is what is kept of input, empty is off. Attach gives
// it its Writer, before anything passes.
func NewSession(kind, command string, terminal bool, stdin string) *Session {
	s := &Session{stdin: stdin, terminal: terminal}
	switch {
	case terminal:
	case kind == "sftp":
		s.transfer = Transfer{Program: "sftp"}
		s.files = NewSFTP(s.fileOp)
	case kind == "exec":
		switch s.transfer = ParseTransfer(command); s.transfer.Program {
		case "scp":
			s.files = NewSCP(s.transfer.Target, s.transfer.Sink, s.fileOp)
		case "rsync":
			s.files = (*rsync)(s)
		}
	}
	return s
}

// Kept and Unkept are for the recording's header.
func (s *Session) Kept() string {
	if s.stdin == "" {
		return recorder.InputOff
	}
	return s.stdin
}

// Unkept tells which streams' bytes are not kept: those of a file transfer.
func (s *Session) Unkept() uint8 {
	if s.files == nil {
		return 0
	}
	return recorder.UnkeptInput | recorder.UnkeptStdout
}

// Judged tells whether input waits for the device's verdict: any may have been thrown away there.
func (s *Session) Judged() bool { return s.terminal }

// Attach says where the session is recorded.
func (s *Session) Attach(w Writer) { s.w = w }

func (s *Session) fileOp(f recorder.FileOp) { s.w.FileOp(f) }

// Output takes what the process wrote, before it passes on. False: it must not.
func (s *Session) Output(stream byte, b []byte) bool {
	if stream == recorder.Stdout && s.carries(b, true) {
		return s.w.Passed(stream, b)
	}
	return s.w.Output(stream, b)
}

// Input is InputFrom of the session's owner, whose input may carry files.
func (s *Session) Input(b []byte, verdict byte) bool {
	if s.carries(b, false) {
		return s.w.Passed(recorder.Stdin, b)
	}
	return s.InputFrom(0, b, verdict)
}

// InputFrom takes what a participant sent and the device's verdict on it, and decides what is kept of it. False: it must not pass on. Of a line that is not
// kept nothing is told before its end: keys one by one would tell its length and rhythm.
func (s *Session) InputFrom(participant uint32, b []byte, verdict byte) bool {
	if verdict == Dropped {
		s.tellWithheld(participant, false)
		s.add(participant, untold{dropped: uint64(len(b))})
		return s.w.Passed(recorder.Stdin, nil)
	}
	s.tellDropped(participant)
	switch {
	case s.stdin == recorder.InputFull, s.stdin == recorder.InputRedacted && (verdict == Unjudged && !s.terminal || verdict == Keep):
		s.tellWithheld(participant, false)
		return s.w.InputFrom(participant, b)
	}
	enter := bytes.ContainsAny(b, "\r\n")
	s.add(participant, untold{gathered: uint64(len(b))})
	switch {
	case !enter:
	case s.stdin != recorder.InputRedacted:
		if s.terminal { // of a line that is not kept no length is told
			s.w.Withheld(recorder.Withheld{Participant: participant, Reason: s.reason(), Enter: true})
		}
	case verdict == Withhold:
		s.tellWithheld(participant, false)
	default:
		s.tellWithheld(participant, true)
	}
	return s.w.Passed(recorder.Stdin, nil) // what is not recorded waits for what is
}

func (s *Session) reason() string {
	if s.stdin == recorder.InputRedacted {
		return recorder.InputRedacted
	}
	return recorder.InputOff
}

func (s *Session) add(participant uint32, more untold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.untold == nil {
		s.untold = map[uint32]untold{}
	}
	u := s.untold[participant]
	u.gathered += more.gathered
	u.dropped += more.dropped
	s.untold[participant] = u
}

// take is what is untold of a participant, which then counts as told: what was withheld, or what was dropped.
func (s *Session) take(participant uint32, dropped bool) (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.untold[participant]
	if !ok {
		return 0
	}
	if dropped {
		n, u.dropped = u.dropped, 0
	} else {
		n, u.gathered = u.gathered, 0
	}
	if u == (untold{}) {
		delete(s.untold, participant)
	} else {
		s.untold[participant] = u
	}
	return n
}

// tellWithheld records how much input was not kept since it was last told.
func (s *Session) tellWithheld(participant uint32, enter bool) {
	if n := s.take(participant, false); n > 0 {
		s.w.Withheld(recorder.Withheld{Participant: participant, Bytes: n, Reason: s.reason(), Enter: enter})
	}
}

// tellDropped records how much input was thrown away since it was last told.
func (s *Session) tellDropped(participant uint32) {
	if n := s.take(participant, true); n > 0 {
		s.w.Withheld(recorder.Withheld{Participant: participant, Bytes: n, Reason: recorder.InputPaused})
	}
}

// Left tells what is left to tell of a participant who types nothing more.
func (s *Session) Left(participant uint32) {
	s.tellWithheld(participant, false)
	s.tellDropped(participant)
}

// carries tells whether b was understood as part of a file transfer.
func (s *Session) carries(b []byte, out bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files == nil {
		return false
	}
	i, take := 0, s.files.In
	if out {
		i, take = 1, s.files.Out
	}
	if !take(b) {
		s.files.End()
		s.files = nil
		s.w.Marker("what passes is not " + s.transfer.Program + ": it is recorded as bytes from here on")
		return false
	}
	s.passed[i] += uint64(len(b))
	return true
}

// End tells what is left to tell, before the recording is closed. Idempotent.
func (s *Session) End() {
	for {
		s.mu.Lock()
		first, any := uint32(0), false
		for id := range s.untold {
			if !any || id < first {
				first, any = id, true
			}
		}
		s.mu.Unlock()
		if !any {
			break
		}
		s.Left(first)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.files != nil && !s.ended {
		s.files.End()
	}
	s.ended = true
}

// rsync counts what passes, once both ends have said the version of its protocol.
type rsync Session

func (r *rsync) In([]byte) bool { return true }

func (r *rsync) Out(b []byte) bool {
	if n := 4 - len(r.hello); n > 0 {
		r.hello = append(r.hello, b[:min(n, len(b))]...)
		if len(r.hello) < 4 {
			return true
		}
		v := binary.LittleEndian.Uint32(r.hello)
		return v >= 20 && v <= 64
	}
	return true
}

func (r *rsync) End() {
	r.w.FileOp(recorder.FileOp{Op: "transfer", Path: r.transfer.Target, Read: r.passed[1], Written: r.passed[0], Protocol: "rsync"})
}
