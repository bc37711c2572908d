package channel

import (
	"time"

	"hawser/tunnel/resume"
)

// Fixed by the wire format.
const (
	// MaxMessageData is the most payload bytes in one DATA or EXTENDED_DATA message: RFC 4253, section 6.1 makes every SSH
	// implementation take 32 KiB, and no peer of ours needs more.
	MaxMessageData = 32 << 10
	// MaxRequest is the most bytes of a request's payload: what OpenSSH and x/crypto let into one packet, so that a long command passes.
	MaxRequest = 256 << 10
	// maxName is the longest request name, RFC 4251, section 6.
	maxName = 64
)

// Ours to choose.
const (
	// MaxData is the payload we put into one DATA message, and the best size for a buffer that is copied into a Conn: with its headers it
	// fills one frame of package resume and stays within two TLS records.
	MaxData = resume.MaxSend - messageHeader
	// DefaultWindow is the receive window, and that taken for the peer's, when Options names none: 5 MB/s at 50 ms.
	DefaultWindow = 256 << 10
	// requestQueue is the depth of Requests.
	requestQueue = 16
	// maxUnanswered bounds the requests taken from the peer and not yet replied to, which are kept for the order of replies.
	maxUnanswered = 128
	// closeWait is how long Close waits for the peer's CLOSE before it closes the stream all the same.
	closeWait = 5 * time.Second
)
