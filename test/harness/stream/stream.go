// Package stream is a numbered line stream: one end sends lines at a steady rate, the other proves that none was lost, repeated or changed,
// and remembers every pause. Start from [Send] and [Checker]. It runs on both ends of the road under test: in the suites and in cmd/counter.
package stream

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"sync"
	"time"
)

// The words of the protocol. Either end sends lines; the starting end says when it is enough by [End] with the number it sent, the other answers with
// its own [End] and a [ReportWord] with what it saw, and is done.
const (
	Ready      = "ready"
	End        = "end"
	ReportWord = "report"
	// Screen enters the alternate screen, where nothing but the stream may be written to a terminal.
	Screen = "\x1b[?1049h"
)

// minGap is the shortest pause that is remembered as one, and maxGaps how many are. At a low rate every interval is one, and counts as what it is.
const (
	minGap  = 80 * time.Millisecond
	maxGaps = 20000
)

// Gap is a pause between two lines, Unix nanoseconds.
type Gap struct{ Start, End int64 }

// Report is what a receiver saw.
type Report struct {
	Lines, Lost, Repeated, Damaged uint64
	Gaps                           []Gap
}

// Stall is the longest pause that was still going on at since or began after it, counted from since at the earliest.
func (r *Report) Stall(since time.Time) time.Duration {
	var longest int64
	from := since.UnixNano()
	for _, g := range r.Gaps {
		longest = max(longest, g.End-max(g.Start, from))
	}
	return time.Duration(longest)
}

// Checker receives lines. It is safe for concurrent use.
type Checker struct {
	mu     sync.Mutex
	report Report
	next   uint64
	last   time.Time
}

// Line takes one line without its newline.
func (c *Checker) Line(line []byte, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.last.IsZero() && now.Sub(c.last) >= minGap && len(c.report.Gaps) < maxGaps {
		c.report.Gaps = append(c.report.Gaps, Gap{c.last.UnixNano(), now.UnixNano()})
	}
	c.last = now
	n, ok := parse(line)
	switch {
	case !ok:
		c.report.Damaged++
	case n < c.next:
		c.report.Repeated++
	default:
		c.report.Lost += n - c.next
		c.next = n + 1
		c.report.Lines++
	}
}

// Expect says how many lines were sent in all: those that never came are lost.
func (c *Checker) Expect(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > c.next {
		c.report.Lost += n - c.next
		c.next = n
	}
}

// Report returns what was seen until now; Seen also when the last line came.
func (c *Checker) Report() Report {
	r, _ := c.Seen()
	return r
}

// Seen is [Checker.Report] with the time of the last line.
func (c *Checker) Seen() (Report, time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.report
	r.Gaps = append([]Gap(nil), r.Gaps...)
	return r, c.last
}

// AppendLine appends line n: its number, its checksum and padding up to size bytes with the newline.
func AppendLine(b []byte, n uint64, size int) []byte {
	start := len(b)
	b = fmt.Appendf(b, "%010d ", n)
	pad := max(size-len(b)+start-9, 0)
	for i := range pad {
		b = append(b, 'a'+byte((n+uint64(i))%26))
	}
	b = fmt.Appendf(b, "%08x", crc32.ChecksumIEEE(b[start:]))
	return append(b, '\n')
}

func parse(line []byte) (uint64, bool) {
	if len(line) < 19 || line[10] != ' ' {
		return 0, false
	}
	body, sum := line[:len(line)-8], line[len(line)-8:]
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || crc32.ChecksumIEEE(body) != uint32(want) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(line[:10]), 10, 64)
	return n, err == nil
}

// Send writes lines until stop is closed, rate of them a second, and returns how many.
func Send(w io.Writer, rate, size int, stop <-chan struct{}) (uint64, error) {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var b []byte
	for n := uint64(0); ; n++ {
		select {
		case <-stop:
			return n, nil
		case <-tick.C:
		}
		b = AppendLine(b[:0], n, size)
		if _, err := w.Write(b); err != nil {
			return n, err
		}
	}
}

// Answer is the far end of a stream: it says [Ready], counts both ways until the near end says [End], and reports.
func Answer(r io.Reader, w io.Writer, rate, size int) error {
	if _, err := io.WriteString(w, Ready+"\n"); err != nil {
		return err
	}
	stop, sent := make(chan struct{}), make(chan uint64)
	var sendErr error
	go func() {
		n, err := Send(w, rate, size, stop)
		sendErr = err
		sent <- n
	}()
	var c Checker
	err := Receive(r, &c)
	close(stop)
	n := <-sent
	if err = errors.Join(err, sendErr); err != nil {
		return err
	}
	report, err := json.Marshal(c.Report())
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s %d\n%s %s\n", End, n, ReportWord, report)
	return err
}

// Receive feeds the checker until the other end's [End].
func Receive(r io.Reader, c *Checker) error {
	return receive(bufio.NewReaderSize(r, 64<<10), c)
}

func receive(br *bufio.Reader, c *Checker) error {
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return fmt.Errorf("the stream ended after %d lines with %q: %w", c.Report().Lines, line, err)
		}
		line = line[:len(line)-1]
		if rest, ok := bytes.CutPrefix(line, []byte(End+" ")); ok {
			n, err := strconv.ParseUint(string(rest), 10, 64)
			if err != nil {
				return err
			}
			c.Expect(n)
			return nil
		}
		c.Line(line, time.Now())
	}
}

// Near is the starting end.
type Near struct {
	w    io.Writer
	Down Checker // what came from the far end
	done chan struct{}
	stop chan struct{}
	up   Report
	err  error
	once sync.Once
}

// Begin waits for the far end's [Ready] and then counts both ways.
func Begin(r io.Reader, w io.Writer, rate, size int) (*Near, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	var first []byte
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return nil, fmt.Errorf("%q before the stream began: %w", append(first, line...), err)
		}
		// A terminal is given the switch of the screen first.
		if string(bytes.TrimPrefix(line, []byte(Screen))) == Ready+"\n" {
			break
		}
		if first = append(first, line...); len(first) > 4096 {
			return nil, fmt.Errorf("%q is no stream", first)
		}
	}
	n := &Near{w: w, done: make(chan struct{}), stop: make(chan struct{})}
	sent := make(chan error, 1)
	go func() {
		total, err := Send(w, rate, size, n.stop)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s %d\n", End, total)
		}
		sent <- err
	}()
	go func() {
		defer close(n.done)
		err := receive(br, &n.Down)
		n.once.Do(func() { close(n.stop) })
		if err == nil {
			var line []byte
			if line, err = br.ReadBytes('\n'); err == nil {
				err = json.Unmarshal(bytes.TrimPrefix(line, []byte(ReportWord+" ")), &n.up)
			}
		}
		if err != nil {
			n.err = err
			return
		}
		n.err = <-sent
	}()
	return n, nil
}

// Stop asks for the end; [Near.Done] is closed when both ends have reported.
func (n *Near) Stop() { n.once.Do(func() { close(n.stop) }) }

// Done is closed when the stream has ended, well or not.
func (n *Near) Done() <-chan struct{} { return n.done }

// Reports are what both ends received, after [Near.Done].
func (n *Near) Reports() (down, up Report, err error) {
	<-n.done
	return n.Down.Report(), n.up, n.err
}
