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

// Chosen here.
const (
	// queuedChunks is how many full chunks may wait for the sink before the methods block: 512 KiB, the time
	// of one slow disk sync at 10 MB/s of output.
	queuedChunks = 8
	// maxText bounds each text of header, start and marker records; longer ones are cut, so that a
	// record of text always fits a chunk.
	maxText = 4 << 10
	// maxEnv bounds the environment kept in a start record.
	maxEnv = 64
	// recordOverhead is the most a record adds to its data: type, delta, participant and length.
	recordOverhead = 1 + 10 + 5 + 5
)
