package resume

import "time"

// Fixed by the wire format.
const (
	// InitialWindow is how many bytes may be sent before the first ACK: bytes.
	InitialWindow = 64 << 10
	// MaxBody is the longest body of a frame: bytes.
	MaxBody = 32 << 10
	// maxText is the longest text of a RESET, which a person may be shown: bytes.
	maxText = 512

	frameHeader = 4
	ackBody     = 12
)

// Ours to choose.
const (
	// MaxSend is the most payload in one frame we send. With its header, and those of a mux and of the outer frame (12 and 4 bytes),
	// it stays within two TLS records of 16 KiB.
	MaxSend = MaxBody - 32 - frameHeader
	// DefaultBuffer is the size of both buffers when Options names none: the most an edge holds for one stream.
	DefaultBuffer = 256 << 10
	// smallChunk and largeChunk are the sizes of send chunks: a stream that carries keystrokes holds 4 KiB.
	smallChunk = 4 << 10
	largeChunk = MaxSend + frameHeader
	// alignFrom is the shortest write that begins a chunk of its own, so that it leaves in one piece without another copy.
	alignFrom = 8 << 10
	// linger is the least time for which a closed stream goes on to deliver what was written to it.
	linger = 15 * time.Second
	// attachWait bounds the wait for Attached on a resumed attachment, and for Attach on a fresh one.
	attachWait = 20 * time.Second
)

const (
	// resetWait is how long a stream that is over holds its attachment for the last frame to leave.
	resetWait = 2 * time.Second
	// lastWords is how long a stream that is over waits for an attachment by which its peer learns so, where streams outlive attachments.
	lastWords = 30 * time.Second
	// maxServing goroutines of one stream may be at work: two for its attachment, the rest stuck in carriers that are about to fail.
	maxServing = 24
	// readBuffer is that of an attachment's reader: headers and keystrokes; longer frames are read past it.
	readBuffer = 4 << 10
	// coalesce is the size of the memory that a short received frame takes, and shares with those behind it: a peer's one-byte frames cost no
	// more than bytes.
	coalesce = 512
	// sendBuffer is where small frames are put together for one write; idleBuffer is what of it an idle stream may keep.
	sendBuffer = 16 << 10
	idleBuffer = 1 << 10
)
