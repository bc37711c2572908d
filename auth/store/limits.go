package store

import "time"

const (
	// MaxKey and MaxValue bound a record, maxOps and maxTxn a transaction: a group of transactions must fit
	// Badger's 1.25 MB (15 % of the memtable).
	MaxKey   = 512
	MaxValue = 128 << 10
	maxOps   = 512
	maxTxn   = 256 << 10
	// maxGroup and maxGroupOps bound one group commit: a full group and one more transaction still fit.
	maxGroup    = 256 << 10
	maxGroupOps = 2048
	// queuedTxns may wait for the committer; more callers wait to be queued.
	queuedTxns = 256
	// keptRevisions is how far back a watch may begin; compactSlack how many pile up before a compaction.
	keptRevisions = 20_000
	compactSlack  = 256
	// highWaterEvery is how many revisions may pass between two writes of the high-water file, highWaterIdle
	// how long after a commit it is written anyway. A silent loss shorter than that is not noticed.
	highWaterEvery = 64
	highWaterIdle  = time.Second
	// watchBatch is the most revisions delivered in one receive.
	watchBatch = 256
	// restartLease is the least a lease lives after a restart, if its ttl is not shorter.
	restartLease = time.Minute
	// minFree is the free space below which writes are refused: twice two memtables of 8 MiB with their logs,
	// a value-log file of 64 MiB and a compaction's output. Badger dies by SIGBUS on a full disk.
	minFree = 160 << 20
)
