// Package audit is the audit log: typed events, one JSON object a line, each a leaf of one transparency log
// (RFC 6962, golang.org/x/mod/sumdb/tlog), so that a line that was edited, dropped, reordered or cut off later can be
// proved to have been, by anyone who kept a signed head of the log elsewhere.
//
// Start from Open, then Record. Head signs what the log is now; Search and Export read it; Verify holds an export
// against a head, offline. docs/audit.md is the schema; fields are added to it and never change their meaning.
//
// Layout of the directory:
//
//	2026-11-21.jsonl  the events of a day, in the order they were written
//	2026-11-21.idx    which blocks of it may hold a user, device, session or type; made anew from it where it is missing
//	tree              the stored hashes of the tree (tlog.StoredHashes), 32 bytes each
//	head              the newest signed head; everything it covers is on disk
//
// A line is the event and, as its last member, a salt: {"seq":7,"time":…,"salt":"…"}. The leaf is
// SHA-256(salt || event), where the event is the line's bytes without the member "salt". The salt keeps the tree from
// telling what was in an event that has expired.
//
// What survives: Record returns when the event has been handed to the kernel, so that it outlives a kill -9 of the
// process; within SyncEvery it is on disk, and Settle waits for that. Neither waits for a disk that hangs or is full:
// after WriteWait Record returns all the same, up to MaxQueue events wait in memory, and what does not fit there is
// counted in an event "audit.gap" as soon as there is room.
package audit
