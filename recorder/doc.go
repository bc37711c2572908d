// Package recorder writes recordings of sessions in the format of FORMAT.md.
//
// Start with NewWriter, feed it with Output, Input, Resize, Start and Exit, and end it with Close. The
// Writer cuts what it is given into chunks of at most 64 KiB or one second, compresses each, links each
// to the one before by its hash, and hands them one at a time, in order, to the Sink. Nothing is dropped:
// when the sink is slow, the methods block.
//
// The package is linked by the agent: it uses compress/flate alone. Hubs pass the codec of
// recorder/zstdcodec. Reading is in recorder/reader, playing in recorder/play. The format keeps its
// meaning: a reader of version 1 reads every version 1 recording, whoever wrote it.
package recorder
