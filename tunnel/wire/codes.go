package wire

import (
	"fmt"
	"time"
)

// CloseCode says why a tunnel was closed, and with that what the edge does next (PROTOCOL.md, "Close codes").
type CloseCode uint16

// Close codes. Their numbers never change.
const (
	CloseNormal        CloseCode = 0  // the sender is done; an edge comes back as usual
	CloseDrain         CloseCode = 1  // the hub goes down for good reasons: take another hub
	CloseRate          CloseCode = 2  // too many at once: come back after RetryAfter
	CloseAuth          CloseCode = 3  // the credential is not accepted
	CloseClone         CloseCode = 4  // two machines use this identity
	CloseUpgrade       CloseCode = 5  // this version is no longer spoken
	CloseBanned        CloseCode = 6  // locked or removed by an operator
	CloseSuperseded    CloseCode = 7  // a newer tunnel of the same device took the slot
	CloseProtocol      CloseCode = 8  // the peer broke PROTOCOL.md
	CloseInternal      CloseCode = 9  // the sender failed
	CloseIdle          CloseCode = 10 // heartbeats stopped
	CloseExpired       CloseCode = 11 // the certificate ended
	CloseNotRegistered CloseCode = 12 // no valid REGISTER, JOIN or RENEW in time
	CloseToken         CloseCode = 13 // the join token is wrong, spent or expired
	CloseUnavailable   CloseCode = 14 // the hub cannot reach what it needs (auth): try again later
	ClosePending       CloseCode = 15 // the device is not in the cluster yet: a person approves it, or imports its key
)

var closeNames = [...]string{"normal", "drain", "rate", "auth", "clone", "upgrade", "banned", "superseded", "protocol",
	"internal", "idle", "expired", "not-registered", "token", "unavailable", "pending"}

// String returns the code's name as PROTOCOL.md has it.
func (c CloseCode) String() string {
	if int(c) < len(closeNames) {
		return closeNames[c]
	}
	return fmt.Sprintf("close-%d", uint16(c))
}

// StreamCode says why a stream was refused or reset.
type StreamCode uint16

// Stream codes. Their numbers never change; 0 in Attached means no error.
const (
	StreamOK               StreamCode = 0
	StreamRefused          StreamCode = 1 // refused for a reason its message tells
	StreamDenied           StreamCode = 2 // the grant or the policy does not allow it
	StreamCancelled        StreamCode = 3 // the other side no longer wants it
	StreamResourceShortage StreamCode = 4 // too many streams, or no memory
	StreamProtocol         StreamCode = 5 // the peer broke PROTOCOL.md
	StreamNotFound         StreamCode = 6 // no such stream, ticket or login
	StreamConnectFailed    StreamCode = 7 // the target could not be reached
	StreamInternal         StreamCode = 8 // the sender failed
)

var streamNames = [...]string{"ok", "refused", "denied", "cancelled", "resource-shortage", "protocol", "not-found",
	"connect-failed", "internal"}

// String returns the code's name as PROTOCOL.md has it.
func (c StreamCode) String() string {
	if int(c) < len(streamNames) {
		return streamNames[c]
	}
	return fmt.Sprintf("stream-%d", uint16(c))
}

// CloseError is why a tunnel ended, when one of its ends said so.
type CloseError struct {
	Code   CloseCode
	Reason string // by the peer, so to be quoted: Error does
	// RetryAfter is the least time before the edge comes back; 0 leaves it to the edge.
	RetryAfter time.Duration
	// Remote is true when the peer closed, false when this side did. It is not sent.
	Remote bool
}

func (e *CloseError) Error() string {
	who := "closed"
	if e.Remote {
		who = "closed by the peer"
	}
	if e.Reason == "" {
		return fmt.Sprintf("tunnel %s: %s", who, e.Code)
	}
	return fmt.Sprintf("tunnel %s: %s: %s", who, e.Code, Quote(e.Reason, maxText))
}
