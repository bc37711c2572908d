// Package seal makes the keys of recordings that only auditors can read: one random key for each recording, wrapped once for each recipient as an
// age file (age-encryption.org/v1, X25519) of 232 bytes, which age itself opens too.
//
// Whoever records calls NewKey with the recipients that auth gave it; ParseRecipient reads them as people write them. The package is linked by
// the agent, and so has of age no more than that; opening is in recorder/unseal. Files wrapped now stay readable: the format is age's.
package seal
