package grant

import "time"

// What the design fixes.
const (
	// MaxLife is the longest time from NotBefore to NotAfter: a stolen grant is worth little.
	MaxLife = 5 * time.Minute
	// Backdate is how far back an issuer sets NotBefore, for edges whose clock is behind.
	Backdate = 2 * time.Minute
	// MaxDetachedLife bounds DetachedLife.
	MaxDetachedLife = time.Hour
	// defaultDetachedLife is that of a grant that does not say.
	defaultDetachedLife = 10 * time.Minute
)

// What we chose. Lengths are in bytes.
const (
	// firstCritical is the first tag that nobody may skip.
	firstCritical = 128

	// MaxBlob bounds a signed grant: what the tunnel's messages carry (PROTOCOL.md section 3). Sixty targets of a usual length
	// and a dozen roles fit; not every list at its own limit does, and Sign says so.
	MaxBlob = 8 << 10

	maxCluster      = 255 // a DNS name
	maxUser         = 64
	maxMethod       = 32
	maxRole         = 63
	maxRoles        = 64
	maxLogin        = 64 // Linux accounts end at 32
	maxChannel      = 32
	maxChannels     = 16
	maxForceCommand = 4 << 10
	maxForwardTo    = 300 // a DNS name, a port range, brackets
	maxForwards     = 64
	maxClientAddr   = 64
	maxRecord       = 16
	maxModerators   = 32 // requirements, of all roles together
	maxPresence     = 24 * time.Hour
	maxUnixMilli    = 253402300799999 // the end of the year 9999; above it time.Time cannot be printed

	sweepEvery = time.Minute // how often Spent drops expired ids
)
