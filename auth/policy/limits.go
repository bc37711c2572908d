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
	signedExtra = 1 << 10 // envelope, cluster and device around a compiled policy
)
