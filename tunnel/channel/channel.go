package channel

import (
	"errors"
	"io"
	"sync"
)

// Errors of a channel.
var (
	ErrClosed   = errors.New("channel closed")
	ErrProtocol = errors.New("channel protocol error")
	ErrReplied  = errors.New("request already replied to")
)

// Channel is one channel of RFC 4254, section 5, seen from either end.
//
// Read gives the peer's data, Write sends data; Stderr writes extended data of type stderr. Read returns io.EOF once the peer sent EOF or
// CLOSE and all data before it was read. All methods are safe for concurrent use, but two concurrent Reads share the data.
type Channel interface {
	io.Reader
	io.Writer
	// Stderr is the writer of extended data.
	Stderr() io.Writer
	// CloseWrite sends EOF: no more data in this direction, requests still pass.
	CloseWrite() error
	// Close ends the channel in both directions. Idempotent.
	Close() error
	// SendRequest sends a channel request and, with wantReply, waits for the answer.
	SendRequest(name string, wantReply bool, payload []byte) (bool, error)
	// Requests delivers the peer's requests in order. It is closed when the channel ends. It holds few; whoever holds the channel must
	// go on receiving, for data waits behind requests that nobody takes.
	Requests() <-chan *Request
}

// Request is one channel request from the peer (RFC 4254, section 5.4).
type Request struct {
	Type      string
	WantReply bool
	Payload   []byte

	mu      sync.Mutex
	reply   func(ok bool) error
	replied bool
}

// NewRequest makes a Request whose Reply calls reply; for those who implement Channel.
func NewRequest(name string, wantReply bool, payload []byte, reply func(ok bool) error) *Request {
	return &Request{Type: name, WantReply: wantReply, Payload: payload, reply: reply}
}

// Reply answers the request; without WantReply it does nothing. A second call returns ErrReplied. Replies may be given in any order:
// they are sent in the order of the requests.
func (r *Request) Reply(ok bool) error {
	if !r.WantReply {
		return nil
	}
	r.mu.Lock()
	done := r.replied
	r.replied = true
	r.mu.Unlock()
	if done {
		return ErrReplied
	}
	return r.reply(ok)
}
