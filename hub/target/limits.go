package target

import "time"

const (
	// connectTimeout is for the way to a server, the handshake and the login together.
	connectTimeout = 20 * time.Second
	// attachTimeout bounds reading a stream's header, which was written before the stream was opened.
	attachTimeout = 5 * time.Second
	// startWait is how long a person's client may take to say what it wants before it is told why it cannot have it.
	startWait = 10 * time.Second
	// idleLife is how long the connection of somebody's forwards stays without one: browsers come back.
	idleLife = 5 * time.Second
	// maxConnections to servers are open at once, maxUserConnections of them in one user's name; one more is refused.
	maxConnections     = 4096
	maxUserConnections = maxConnections / 4
	// maxForwards share one connection, as many as a person has channels.
	maxForwards = 128
	// buffer is the most bytes kept each way between front and this package, for each stream.
	buffer = 256 << 10
	// signalWait is how long a server has to end a session's processes by HUP, and then by TERM, before what is harder.
	signalWait = time.Second
	// closeWait is how long a server has to close a channel that was closed here. One that does not loses its connection.
	closeWait = time.Second
	// openWait is how long a server may leave the opening of a forward unanswered before it counts as hung: longer than its own connect takes.
	openWait = 150 * time.Second
	// maxPacket bounds a packet of the first key exchange, and maxPreface what a server may say before its version: bytes.
	maxPacket  = 64 << 10
	maxPreface = 8 << 10
)
