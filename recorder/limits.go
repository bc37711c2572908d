package recorder

import "time"

// Fixed by FORMAT.md.
const (
	// MaxChunk is the most bytes of records in one chunk, before compression.
	MaxChunk = 64 << 10
	// MaxChunkAge is the longest a record waits in memory before its chunk is cut: what a kill -9 of the
	// recorder can lose, with the time to store it.
	MaxChunkAge = time.Second
)

// MaxKeys is how many recipients one recording may have.
const MaxKeys = 32

// Chosen here.
const (
	// queuedChunks is how many full chunks may wait for the sink before the methods block: 512 KiB, the time
	// of one slow disk sync at 10 MB/s of output.
	queuedChunks = 8
	// maxText bounds each short text, maxCommand a command, maxPath a path (sftp's PATH_MAX), and maxEnv, maxEnvBytes the environment,
	// so that no record of a payload outgrows a chunk. The header's texts are at most 1 KiB: 11 of them, a command and MaxKeys keys of
	// maxKey bytes make 59 KiB.
	maxText       = 2 << 10
	maxHeaderText = 1 << 10
	maxCommand    = 32 << 10
	maxPath       = 4 << 10
	maxReason     = 256 // of withheld input: a word
	maxEnv        = 64
	maxEnvBytes   = 16 << 10
	maxKey        = 512
	// recordOverhead is the most a record adds to its data: type, delta, participant and length.
	recordOverhead = 1 + 10 + 5 + 5
)
