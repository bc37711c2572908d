// Package spool keeps, on a hub's disk, chunks of recordings that the auth service has not stored yet: encrypted, bounded, and still there
// after the hub was killed.
//
// Open gives the spool and what an earlier run of the hub left in it. Begin makes the file of a recording, which stays until Remove: so a hub
// that was killed knows which recordings nobody has closed. Append adds chunks, Read takes the oldest, Drop forgets those that are stored.
//
// A file is for this machine alone; its form may change with a version of the hub, which then refuses old ones. It is
//
//	"HWSPOOL1" | recording id 16 | salt 32 | records
//	record: length of the sealed part u32 | sequence u64 | nonce 12 | AES-256-GCM(kind u8 | data)
//
// with the key HKDF-SHA256(spool key, salt, "hawser spool 1" | id) and, as additional data, the id and the sequence. The first record is the
// owner's note (kind 1, sequence 0); chunks (kind 2) follow in order, and once, anywhere among them, how the session ended (kind 3, sequence
// 2^64-1). A record that is cut off, as by a power cut, ends the file.
package spool
