package index

import (
	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/recorder/term"
)

// Terminal is what a recording's output is shown on: a model of one of the size that the session's had. What ran without a terminal is shown
// on one of 80 by 24, as `ssh device command` does.
type Terminal struct {
	*term.Screen
	bare bool // nothing on the device added carriage returns
	cr   bool // the last byte was one
	buf  []byte
}

// NewTerminal is the terminal at a recording's start.
func NewTerminal(h recorder.Header) *Terminal {
	cols, rows := int(min(h.Width, term.MaxCols)), int(min(h.Height, term.MaxRows))
	if cols == 0 || rows == 0 {
		cols, rows = 80, 24
	}
	return &Terminal{Screen: term.New(cols, rows), bare: h.Width == 0 && h.Term == ""}
}

// Restore is the terminal as a keyframe has it.
func Restore(h recorder.Header, state []byte) (*Terminal, error) {
	s, err := term.Unmarshal(state)
	if err != nil {
		return nil, err
	}
	return &Terminal{Screen: s, bare: h.Width == 0 && h.Term == ""}, nil
}

// Apply shows an event. It tells whether that may change what is to be seen.
func (t *Terminal) Apply(e reader.Event) bool {
	switch e.Type {
	case recorder.RecordResize:
		if e.Width > 0 && e.Height > 0 {
			t.Resize(int(min(e.Width, term.MaxCols)), int(min(e.Height, term.MaxRows)))
		}
		return true
	case recorder.RecordStdout, recorder.RecordStderr:
		data := e.Data
		if t.bare {
			t.buf = t.buf[:0]
			for _, c := range data {
				if c == '\n' && !t.cr {
					t.buf = append(t.buf, '\r')
				}
				t.cr = c == '\r'
				t.buf = append(t.buf, c)
			}
			data = t.buf
		}
		_, _ = t.Write(data) // to memory
		return len(data) > 0
	}
	return false
}
