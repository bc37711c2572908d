package play

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
)

// CastOptions are of Asciicast.
type CastOptions struct {
	Version int    // 2 or 3
	Title   string // shown by players; may be empty
	Input   bool   // what was typed too
	Raw     bool   // output as it was, bytes that drive the viewer's terminal with it; what is no UTF-8 becomes U+FFFD all the same
}

// Asciicast writes a recording as asciicast, for asciinema and its players. Standard error becomes output, for asciicast has no code for it;
// commands and remarks become markers. Output goes through a Filter, for players write it to a terminal as it is.
func Asciicast(r *reader.Reader, out io.Writer, o CastOptions) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	b := bufio.NewWriter(out)
	c := &cast{b: b, version: o.Version, output: NewOutput(h, o.Raw)}
	if err := c.header(h, o); err != nil {
		return err
	}
	var input text8
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		switch e.Type {
		case recorder.RecordStdout, recorder.RecordStderr:
			err = c.event(e.Time, "o", string(c.output.Add(e)))
		case recorder.RecordInput:
			if o.Input {
				err = c.event(e.Time, "i", string(input.add(nil, e.Data)))
			}
		case recorder.RecordResize:
			if e.Width > 0 && e.Height > 0 {
				err = c.event(e.Time, "r", fmt.Sprintf("%dx%d", min(e.Width, maxSide), min(e.Height, maxSide)))
			}
		case recorder.RecordExit:
			if o.Version == 3 {
				err = c.event(e.Time, "x", strconv.FormatUint(uint64(e.Status), 10))
			}
		default:
			if label := Remark(e); label != "" {
				err = c.event(e.Time, "m", label)
			}
		}
		if err != nil {
			return err
		}
	}
	return b.Flush()
}

// cast writes the lines.
type cast struct {
	b       *bufio.Writer
	version int
	output  *Output
	last    time.Duration
}

// castTerm is `term` of version 3.
type castTerm struct {
	Cols int    `json:"cols"`
	Rows int    `json:"rows"`
	Type string `json:"type,omitempty"`
}

func (c *cast) header(h recorder.Header, o CastOptions) error {
	cols, rows := size(h)
	type common struct {
		Timestamp int64             `json:"timestamp"`
		Command   string            `json:"command,omitempty"`
		Title     string            `json:"title,omitempty"`
		Env       map[string]string `json:"env,omitempty"`
	}
	words := common{Timestamp: h.Start.Unix(), Command: h.Command, Title: o.Title}
	switch o.Version {
	case 2:
		if h.Term != "" {
			words.Env = map[string]string{"TERM": h.Term}
		}
		return c.line(struct {
			Version int `json:"version"`
			Width   int `json:"width"`
			Height  int `json:"height"`
			common
		}{2, cols, rows, words})
	case 3:
		return c.line(struct {
			Version int      `json:"version"`
			Term    castTerm `json:"term"`
			common
		}{3, castTerm{cols, rows, h.Term}, words})
	}
	return fmt.Errorf("asciicast version %d: 2 or 3", o.Version)
}

func (c *cast) line(v any) error {
	b, err := json.Marshal(v)
	if err == nil {
		_, err = c.b.Write(append(b, '\n'))
	}
	return err
}

// event writes one: in version 2 its time counts from the start, in version 3 from the event before.
func (c *cast) event(at time.Duration, code, data string) error {
	if data == "" {
		return nil
	}
	us := at.Microseconds()
	if c.version == 3 {
		us -= c.last.Microseconds()
		c.last = at
	}
	text, err := json.Marshal(data)
	if err == nil {
		_, err = fmt.Fprintf(c.b, "[%d.%06d, %q, %s]\n", us/1e6, us%1e6, code, text)
	}
	return err
}

// maxSide bounds the sizes that a player is told: it makes room for them.
const maxSide = 1000

// size is that of the terminal at a recording's start, in characters; 80 by 24 where it had none.
func size(h recorder.Header) (cols, rows int) {
	if h.Width == 0 || h.Height == 0 {
		return 80, 24
	}
	return int(min(h.Width, maxSide)), int(min(h.Height, maxSide))
}

// Output makes what a terminal is to be sent of a recording's output, standard output and standard error together: filtered, UTF-8 that is
// whole where reads had split it, and with carriage returns where no terminal on the device added them.
type Output struct {
	raw     bool
	noTerm  bool
	streams [2]outputStream
}

type outputStream struct {
	filter *Filter
	buf    bytes.Buffer
	whole  text8
	cr     bool // the last byte was a carriage return
}

// NewOutput begins with a recording's header. raw: it is not filtered.
func NewOutput(h recorder.Header, raw bool) *Output {
	o := &Output{raw: raw, noTerm: h.Width == 0 && h.Term == ""}
	for i := range o.streams {
		o.streams[i].filter = NewFilter(&o.streams[i].buf)
	}
	return o
}

// Add takes an event of output and returns what it adds for the terminal, valid until the next call. It is UTF-8, but where it is raw.
func (o *Output) Add(e reader.Event) []byte {
	s := &o.streams[0]
	if e.Type == recorder.RecordStderr {
		s = &o.streams[1]
	}
	data := e.Data
	if o.noTerm {
		data = s.returns(data)
	}
	s.buf.Reset()
	if o.raw {
		s.buf.Write(s.whole.add(nil, data))
	} else {
		_, _ = s.filter.Write(data) // to a buffer
	}
	return s.buf.Bytes()
}

// returns puts a carriage return before each newline that has none.
func (s *outputStream) returns(b []byte) []byte {
	out := make([]byte, 0, len(b)+len(b)/32+1)
	for _, c := range b {
		if c == '\n' && !s.cr {
			out = append(out, '\r')
		}
		s.cr = c == '\r'
		out = append(out, c)
	}
	return out
}

// text8 joins UTF-8 that was split.
type text8 struct{ rest []byte }

// add appends b to dst, with what was left of the last call before it and without the beginning of a character at its end.
func (t *text8) add(dst, b []byte) []byte {
	all := append(t.rest, b...)
	for len(all) > 0 {
		r, n := utf8.DecodeRune(all)
		if r == utf8.RuneError && n <= 1 && !utf8.FullRune(all) {
			break
		}
		dst = utf8.AppendRune(dst, r)
		all = all[n:]
	}
	t.rest = append(t.rest[:0:0], all...)
	return dst
}

// Remark is what an event that is no output tells people, in one line; empty: nothing.
func Remark(e reader.Event) string {
	_, text := index.Told(e)
	return plainWords(text)
}
