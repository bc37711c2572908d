package channel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func pair(t testing.TB, hubSide, edgeSide Options) (hub, edge *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	hub, edge = New(a, hubSide), New(b, edgeSide)
	t.Cleanup(func() { hub.Close(); edge.Close() })
	return hub, edge
}

func TestExitStatusComesBehindAllOutputAndBeforeClose(t *testing.T) {
	hub, edge := pair(t, Options{}, Options{})
	want := bytes.Repeat([]byte("output "), 100_000)
	errs := make(chan error, 1)
	go func() {
		_, err := edge.Write(want)
		_, err2 := edge.Stderr().Write([]byte("oops"))
		_, err3 := edge.SendRequest("exit-status", false, []byte{0, 0, 0, 7})
		errs <- errors.Join(err, err2, err3, edge.CloseWrite(), edge.Close())
	}()
	out, err := io.ReadAll(hub)
	if err != nil || !bytes.Equal(out, want) {
		t.Errorf("output: %d bytes, %v", len(out), err)
	}
	serr, err := io.ReadAll(hub.StderrReader())
	if err != nil || string(serr) != "oops" {
		t.Errorf("stderr %q, %v", serr, err)
	}
	if r := <-hub.Requests(); r == nil || r.Type != "exit-status" || r.Payload[3] != 7 {
		t.Errorf("request %+v", r)
	}
	if r, open := <-hub.Requests(); open {
		t.Errorf("after CLOSE: %+v", r)
	}
	if err := errors.Join(<-errs, hub.Err(), edge.Err()); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatReadsNoInputBlocksNoRequest(t *testing.T) {
	hub, edge := pair(t, Options{PeerWindow: 1000}, Options{Window: 1000})
	wrote := make(chan error, 1)
	go func() {
		_, err := hub.Write(make([]byte, 5000))
		wrote <- err
	}()
	go func() {
		for r := range edge.Requests() {
			_ = r.Reply(r.Type == "signal")
		}
	}()
	for i := range 100 {
		name := []string{"signal", "window-change"}[i%2]
		ok, err := hub.SendRequest(name, true, nil)
		if err != nil || ok != (i%2 == 0) {
			t.Fatalf("%s: %v, %v", name, ok, err)
		}
	}
	select {
	case err := <-wrote:
		t.Fatalf("5000 bytes passed a window of 1000: %v", err)
	default:
	}
	if _, err := io.ReadFull(edge, make([]byte, 5000)); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestUnreadStderrStopsStderrOnly(t *testing.T) {
	hub, edge := pair(t, Options{Window: 1000}, Options{PeerWindow: 1000})
	go func() { _, _ = edge.Stderr().Write(make([]byte, 5000)) }()
	go func() { _, _ = edge.Write(make([]byte, 100_000)) }()
	if _, err := io.ReadFull(hub, make([]byte, 100_000)); err != nil {
		t.Error(err)
	}
}

func TestRepliesKeepTheOrderOfRequests(t *testing.T) {
	hub, edge := pair(t, Options{}, Options{})
	go func() { // answers each pair in reverse
		for r := range edge.Requests() {
			second := <-edge.Requests()
			_ = second.Reply(second.Type == "yes")
			_ = r.Reply(r.Type == "yes")
		}
	}()
	for range 20 {
		done := make(chan error, 2)
		for _, name := range []string{"yes", "no"} {
			go func() {
				ok, err := hub.SendRequest(name, true, nil)
				if err == nil && ok != (name == "yes") {
					err = fmt.Errorf("%s answered %v", name, ok)
				}
				done <- err
			}()
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartedRequestsTravelInOneFlight(t *testing.T) {
	hub, edge := pair(t, Options{}, Options{})
	names := []string{"pty-req", "env", "shell"}
	var replies []<-chan bool
	for _, name := range names {
		reply, err := hub.StartRequest(name, nil)
		if err != nil {
			t.Fatal(err)
		}
		replies = append(replies, reply)
	}
	for _, name := range names { // all are there before any is answered
		r := <-edge.Requests()
		if r.Type != name {
			t.Fatalf("%s came for %s", r.Type, name)
		}
	}
	_ = edge.Close()
	for i, reply := range replies {
		if _, open := <-reply; open {
			t.Errorf("%s was answered by the end of the channel", names[i])
		}
	}
	if _, err := hub.StartRequest("env", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestHalfCloseLeavesTheOtherDirection(t *testing.T) {
	hub, edge := pair(t, Options{}, Options{})
	if err := errors.Join(hub.CloseWrite(), hub.CloseWrite()); err != nil {
		t.Fatal(err)
	}
	if n, err := edge.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
	if _, err := hub.Write([]byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("write after EOF: %v", err)
	}
	if _, err := edge.Write([]byte("still")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(hub, make([]byte, 5)); err != nil {
		t.Error(err)
	}
}

func TestCloseFreesWhoeverWaits(t *testing.T) {
	hub, edge := pair(t, Options{PeerWindow: 10}, Options{Window: 10})
	errs := make(chan error, 3)
	go func() { _, err := hub.Write(make([]byte, 100)); errs <- err }()
	go func() { _, err := hub.SendRequest("unanswered", true, nil); errs <- err }()
	go func() { _, err := hub.Read(make([]byte, 1)); errs <- err }()
	<-edge.Requests() // the request is on its way
	hub.Close()
	for range 3 {
		if err := <-errs; err == nil {
			t.Error("a call succeeded on a closed channel")
		}
	}
	if err := hub.Close(); err != nil {
		t.Error(err)
	}
}

func TestBrokenStreamIsAnErrorNotEOF(t *testing.T) {
	a, b := net.Pipe()
	c := New(a, Options{})
	b.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
	if c.Err() == nil {
		t.Error("Err is nil")
	}
	c.Close()
}

// A keystroke is acknowledged with the tag that the terminal has for it once it was taken: as the program comes for the next.
func TestTagComesWithAcknowledgedInput(t *testing.T) {
	type ack struct {
		n   uint32
		tag byte
	}
	acks := make(chan ack, 10)
	var tag atomic.Uint32
	hub, edge := pair(t, Options{OnTag: func(n uint32, tag byte) { acks <- ack{n, tag} }},
		Options{Tag: func() byte { return byte(tag.Load()) }})
	reads := make(chan []byte)
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := make([]byte, 10); ; {
			n, err := edge.Read(b)
			if err != nil {
				close(reads)
				return
			}
			reads <- b[:n]
			reads <- nil
		}
	})
	for i := range uint32(2) {
		if _, err := hub.Write([]byte("k")); err != nil {
			t.Fatal(err)
		}
		<-reads
		tag.Store(3 + i) // what became of it
		<-reads
		if got := <-acks; got != (ack{1, byte(3 + i)}) {
			t.Errorf("got %v", got)
		}
	}
	// Of what was read at once, parts may have become different things.
	if _, err := hub.Write([]byte("keys")); err != nil {
		t.Fatal(err)
	}
	<-reads
	tag.Store(5)
	edge.Acknowledge(3)
	tag.Store(6)
	<-reads
	for _, want := range []ack{{1, 5}, {3, 6}} {
		if got := <-acks; got != want {
			t.Errorf("got %v of a part, want %v", got, want)
		}
	}
	if err := errors.Join(hub.CloseWrite(), edge.Close()); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

// statement is a Witness that says all that it was told.
type statement struct {
	mu         sync.Mutex
	out, err   []byte
	sent, came []string
	acked      map[byte]uint32
}

func (s *statement) Sent(stderr bool, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stderr {
		s.err = append(s.err, b...)
	} else {
		s.out = append(s.out, b...)
	}
}

func (s *statement) Requested(sent bool, name string, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent {
		s.sent = append(s.sent, name+string(payload))
	} else {
		s.came = append(s.came, name+string(payload))
	}
}

func (s *statement) Acknowledged(n uint32, tag byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked == nil {
		s.acked = map[byte]uint32{}
	}
	s.acked[tag] += n
}

func (s *statement) Last() (string, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "witness", fmt.Appendf(nil, "%q %q %q %q %v", s.out, s.err, s.sent, s.came, s.acked)
}

// Whoever closes first, and whatever is written at the time, the last request tells just what the peer has seen, and comes though the peer
// has closed before.
func TestTheWitnessSaysWhatPassed(t *testing.T) {
	for _, first := range []string{"edge", "hub"} {
		var acked atomic.Uint32
		w := new(statement)
		hub, edge := pair(t, Options{Drain: true, OnTag: func(n uint32, _ byte) { acked.Add(n) }},
			Options{Tag: func() byte { return 0 }, Witness: w})
		if _, err := hub.Write([]byte("typed")); err != nil {
			t.Fatal(err)
		}
		if _, err := hub.StartRequest("shell", nil); err != nil {
			t.Fatal(err)
		}
		if n, err := io.ReadFull(edge, make([]byte, 5)); err != nil {
			t.Fatal(n, err)
		}
		<-edge.Requests()
		var wg sync.WaitGroup
		wg.Go(func() { // until it is closed
			for {
				if _, err := edge.Write([]byte("output ")); err != nil {
					return
				}
			}
		})
		_, _ = edge.Stderr().Write([]byte("oops"))
		_, _ = edge.SendRequest("exit-status", false, []byte("0"))
		var seen statement
		var readers sync.WaitGroup
		enough := make(chan struct{})
		readers.Go(func() {
			b := make([]byte, 1000)
			for total, open := 0, true; ; {
				n, err := hub.Read(b)
				seen.Sent(false, b[:n])
				if total += n; open && total > 10_000 {
					open = false
					close(enough)
				}
				if err != nil {
					return
				}
			}
		})
		readers.Go(func() { b, _ := io.ReadAll(hub.StderrReader()); seen.Sent(true, b) })
		last := make(chan string, 1)
		readers.Go(func() {
			for r := range hub.Requests() {
				if r.Type == "witness" {
					last <- string(r.Payload)
					continue
				}
				seen.Requested(true, r.Type, r.Payload)
			}
		})
		<-enough
		if first == "edge" {
			edge.Close()
		}
		hub.Close()
		readers.Wait()
		wg.Wait()
		seen.Requested(false, "shell", nil)
		seen.Acknowledged(acked.Load(), 0)
		_, want := seen.Last()
		if got := <-last; got != string(want) || acked.Load() != 5 {
			t.Errorf("%s closes: the witness of %d bytes differs from the %d seen; %d bytes acknowledged", first, len(got), len(want), acked.Load())
		}
	}
}

func TestProtocolErrorsEndTheChannel(t *testing.T) {
	for name, b := range map[string][]byte{
		"unknown type":        {92, 0, 0, 0, 0},
		"huge data":           {94, 255, 255, 255, 255},
		"empty data":          {94, 0, 0, 0, 0},
		"past the window":     {94, 0, 0, 0, 3, 1, 2, 3},
		"data after EOF":      {96, 0, 0, 0, 0, 94, 0, 0, 0, 1, 1},
		"EOF with a body":     {96, 0, 0, 0, 1, 1},
		"huge request":        {98, 255, 255, 255, 255},
		"request name":        {98, 0, 0, 0, 3, 0, 9, 'x'},
		"request no name":     {98, 0, 0, 0, 3, 0, 0, 'x'},
		"request flag":        {98, 0, 0, 0, 3, 2, 1, 'x'},
		"reply to nothing":    {99, 0, 0, 0, 0},
		"short adjust":        {93, 0, 0, 0, 4, 1, 1, 1, 1},
		"window overflow":     {93, 0, 0, 0, 9, 255, 255, 255, 255, 0, 0, 0, 0, 0},
		"truncated header":    {94, 0},
		"truncated in a body": {94, 0, 0, 0, 2, 1},
	} {
		c := feed(b)
		<-c.Done()
		if c.Err() == nil {
			t.Errorf("%s: no error", name)
		}
		c.Close()
	}
}

// fed is a stream that gives bytes and takes all.
type fed struct{ *bytes.Reader }

func (fed) Write(p []byte) (int, error) { return len(p), nil }
func (fed) Close() error                { return nil }

func feed(b []byte) *Conn {
	return New(struct{ io.ReadWriteCloser }{fed{bytes.NewReader(b)}}, Options{Window: 2})
}

func FuzzMessages(f *testing.F) {
	f.Add([]byte{94, 0, 0, 0, 1, 'x', 96, 0, 0, 0, 0, 97, 0, 0, 0, 0})
	f.Add([]byte{98, 0, 0, 0, 4, 1, 1, 'x', 'y'})
	f.Add([]byte{93, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		c := feed(b)
		go func() {
			for r := range c.Requests() {
				_ = r.Reply(true)
			}
		}()
		select {
		case <-c.Done():
		case <-time.After(10 * time.Second):
			t.Error("the reader hangs")
		}
		c.Close()
	})
}
