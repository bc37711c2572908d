package index

import "time"

// Fixed by FORMAT.md.
const (
	// Version of the objects; a reader takes no other.
	Version = 1
	// maxText is the most bytes of text in a block, its lines' ends included.
	maxText = 64 << 10
	// maxLines is the most lines in a block: what is said about each takes at most lineBytes.
	maxLines  = 8 << 10
	lineBytes = 10
	// MaxLine is the longest line in bytes; the rest of a longer one is not found.
	MaxLine = 4 << 10
	// filterBits are the largest and smallest sizes of a filter, as powers of two in bits: 8 KiB and 64 bytes.
	maxFilterBits, minFilterBits = 16, 9
	// maxFrame is the largest state of a terminal that is kept, and maxFrames how many an object holds; maxFrameBytes bounds them together.
	maxFrame, maxFrames = 512 << 10, 16
	maxFrameBytes       = 768 << 10
	frameOverhead       = 30
	// maxTime is the latest time of a line: longer sessions there are none.
	maxTime = 100 * 365 * 24 * time.Hour
)

// Chosen here.
const (
	// MaxObject is larger than any object, for who stores or fetches them.
	MaxObject = 1 << 20
	// maxIndexed is how much text of one recording is indexed: `cat` of a disk must not fill one. A week of a person's work is less.
	maxIndexed = 64 << 20
	// MaxQuery is the longest text that is searched for, in bytes.
	MaxQuery = 256
	// frameEvery and frameBytes: a keyframe is made after so much time or output since the last, so that a seek replays no more than that.
	// After half of keepFrames the time doubles, and so on: the longest recording has some more than keepFrames.
	frameEvery = 30 * time.Second
	frameBytes = 1 << 20
	keepFrames = 4096
	// A line that was there redrawEvery ago or less, among the last rememberLines and some more, is taken to be drawn anew. What is drawn on the alternate
	// screen, as by top, adds redrawn bytes a second to the index at most, after redrawnBurst: 1 MB an hour.
	redrawEvery   = 10 * time.Second
	rememberLines = 1024
	redrawn       = 256
	redrawnBurst  = 64 << 10
)
