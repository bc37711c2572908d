package policy

import "time"

// What the design fixes.
const (
	// MaxCompiled bounds an encoded Compiled in bytes: a device keeps it in RAM and flash.
	MaxCompiled = 16 << 10
	// DefaultDetachedLife is the detached_life of a role that states none.
	DefaultDetachedLife = 10 * time.Minute
	// MaxDetachedLife bounds it.
	MaxDetachedLife = time.Hour
)

// MaxRecipients bounds those of recordings: each is in every grant and every device's policy, and costs a device 232 bytes and two X25519 a session.
const MaxRecipients = 16

// What we chose. Lengths are in bytes.
const (
	maxName     = 63
	maxList     = 64 // elements of any list of a role
	maxElement  = 300
	maxLabels   = 32 // labels one rule may ask for
	maxLabel    = 128
	maxRoles    = 256 // in one compiled policy
	maxCluster  = 253
	maxUUID     = 36
	signedExtra = 2 << 10 // envelope, cluster, device and recipients around a compiled policy

	minPresence   = 10 * time.Second
	maxPresence   = 24 * time.Hour
	maxModerators = 16 // people one requirement may ask for, and requirements that one role may state

	minRetention = 24 * time.Hour // less is surely a slip
	maxRetention = 100 * 365 * 24 * time.Hour
)
