// Package store keeps the auth service's state and recordings on disk.
//
// State (OpenState, NewMemory) is a small key-value store with etcd's contract: one revision, compare-and-swap
// transactions, watches from a revision, leases. Recordings (OpenRecordings) keeps the chunks and manifests of
// recordings in one directory per week. What either has acknowledged survives kill -9, a power cut and a full
// disk. Only this package imports Badger.
package store
