package audit

import "time"

// What we chose.
const (
	// WriteWait is how long Record waits at most for the event to reach the kernel: longer than any healthy disk
	// takes, shorter than a person notices.
	WriteWait = 250 * time.Millisecond
	// SyncEvery bounds how long an event is in the kernel only, where nobody waits for it in Settle.
	SyncEvery = 200 * time.Millisecond
	// MaxQueue events, and so many bytes of them, wait for a disk that does not take them; more are dropped and counted.
	MaxQueue      = 1 << 16
	MaxQueueBytes = 32 << 20
	retryEvery    = time.Second // how often a write that failed is tried again
	alarmEvery    = time.Minute // how often the log says that it fails

	// MaxCommands of a session are in its event, each of at most MaxCommandText bytes: all in a line, however they are escaped.
	MaxCommands    = 64
	MaxCommandText = 200
	maxGuest       = 48 // bytes of a guest's name in it

	maxText    = 512  // bytes of a field
	maxLong    = 4096 // bytes of a command or a reason
	maxList    = 64   // elements of a list
	maxLine    = 1 << 17
	blockBytes = 64 << 10 // of a block in the index: what a search reads at least
	bloomBytes = 1 << 10  // of a block: some 160 events with 8 terms each, about 5 % wrong

	saltBytes = 16
)
