// Package observe reads facts out of what passes in a session, without holding it up or changing it: the files that sftp and scp carry, the bytes of
// rsync, the keys that a forwarded agent signs with.
//
// Start from NewSession, the tap of one session channel: it decides what is recorded as bytes and what as facts, and what of the input. SFTP, SCP and Agent
// are the parsers behind it; each takes the two directions in pieces of any length, each piece before it is passed on. They keep a bounded state, whatever comes,
// and never fail loudly: a stream that is not what it was taken for is recorded as bytes from there on.
//
// The package is linked by the agent.
package observe
