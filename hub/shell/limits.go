package shell

import "time"

const (
	// MaxWait is the longest that a person may wait for a device.
	MaxWait = 24 * time.Hour
	// PickedWait is how long a device that is away is waited for when it was picked.
	PickedWait = time.Hour
	// maxQuery is what is searched for, in bytes.
	maxQuery = 64
	// maxSequence is the longest control sequence of a key, in bytes; of a longer one the rest is read as keys.
	maxSequence = 32
	// escapeWait is how long after ESC the rest of a key's sequence may come: links are slow, people are slower.
	escapeWait = 80 * time.Millisecond
	// tick is how often the states of the devices on the screen are looked at.
	tick = time.Second
	// idleAfter is how long a picker is kept for somebody who presses no key.
	idleAfter = 10 * time.Minute
	// seenWait bounds the question when a device was last seen.
	seenWait = 2 * time.Second
	// sessionsWait bounds the question which sessions may be joined.
	sessionsWait = 5 * time.Second
	// frames a second, at most, go to the terminal.
	frames = 30
	// maxWidth and maxHeight are the largest terminal that is drawn on, in characters; a larger one has room left. The library holds some 500
	// bytes for each.
	maxWidth, maxHeight = 160, 60
	// maxLabels is what is shown of a device's labels, in bytes.
	maxLabels = 256
	// maxNear names are suggested, and no more than maxCompared are compared.
	maxNear, maxCompared = 3, 20_000
	// page is how many devices a terminal without a cursor is shown at once.
	page = 20
)
