package spool

import "time"

const (
	// maxRecord bounds a record's data in bytes: a stored chunk sealed for auth, or a note with a grant.
	maxRecord = 128 << 10
	// maxEnding bounds what is noted of a session's end, in bytes.
	maxEnding = 1 << 10
	// smallChunk is up to how many bytes a chunk is taken though a bound is reached, and slack for how many bytes in all of one recording:
	// those say that something is missing, and close it. Half of the free space that is wanted they leave in any case.
	smallChunk, slack = 4 << 10, 64 << 10
	// syncEvery is how long what was written may be in the page cache alone: a power cut may lose that much. A kill loses none.
	syncEvery = time.Second
	// freeEvery is how often the free space of the disk is asked for.
	freeEvery = time.Second
	// maxFiles of an earlier run are taken up; beyond, they stay for the next.
	maxFiles = 1 << 16
)
