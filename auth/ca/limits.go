package ca

import "time"

// What the design fixes.
const (
	// CALife is the life of a CA certificate: rotation, not expiry, retires one.
	CALife = 30 * 365 * 24 * time.Hour
	// Backdate is how far back issuers set NotBefore, for verifiers whose clock is behind.
	Backdate = 2 * time.Minute
	// DeviceBackdate is Backdate for devices, whose clocks are worse.
	DeviceBackdate = 24 * time.Hour

	minRSABits = 2048
	maxRSABits = 4096
)

// What we chose. Lengths are in bytes.
const (
	maxCluster = 253 // a DNS name
	maxUser    = 64
	maxLabel   = 63 // device, hub and role names
	maxRoles   = 64

	maxPrincipals = 32 // of a hub: its names and addresses
	maxPrincipal  = 253

	maxChain = 4            // leaf and three cross-certificates, of the rotations that can be slept through in a row; or leaf, cross, root, cross
	maxCross = maxChain - 1 // in a trust bundle

	maxTrustBlob = 32 << 10
	maxTrustKeys = 8 // of a kind: old, new, and room for rotations that overlap
	maxSSHKey    = 2 << 10
	maxDER       = 4 << 10

	maxTimeBlob  = 1 << 10
	maxUnixMilli = 253402300799999 // the end of the year 9999

	maxSet     = 64 << 10
	maxRetired = 8 // authorities of a kind that are remembered

	minTokenSecret  = 16
	maxTokenSecret  = 64
	maxTokenAddress = 262 // a DNS name, a colon, a port, brackets
	maxTokenAddrs   = 16
	maxToken        = 8 << 10
)
