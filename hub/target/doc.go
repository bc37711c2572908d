// Package target logs in to servers that have no agent, for people who come by hub mode: it is to hub/front what an edge is, a device that
// serves streams, and to the server an SSH client.
//
// Start from New; Targets.Open gives a stream as a device's tunnel would. A session has an SSH connection of its own, opened against its own
// grant; the forwards of one person's connection share one. The credentials are auth's: a certificate for a key of this moment, or signatures
// by a key that never leaves auth. No password is ever offered, and no host key accepted but the one that auth has pinned.
package target
