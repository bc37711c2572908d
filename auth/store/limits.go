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
	// The high-water file is written at each commit and synced every highWaterEvery revisions, or highWaterIdle after a commit. A
	// silent loss shorter than that is not noticed where the power was cut as well.
	highWaterEvery = 64
	highWaterIdle  = time.Second
	// maxCollections is how many files of the value log one Maintain rewrites at most.
	maxCollections = 16
	// watchBatch is the most revisions delivered in one receive.
	watchBatch = 256
	// restartLease is the least a lease lives after a restart, if its ttl is not shorter.
	restartLease = time.Minute
	// minFree is the free space below which writes are refused: twice two memtables of 8 MiB with their logs,
	// a value-log file of 64 MiB and a compaction's output. Badger dies by SIGBUS on a full disk.
	minFree = 160 << 20
	// minFreeRecordings is that for recordings: they end before the state and the audit log do.
	minFreeRecordings = 256 << 20
	// slackListed manifests more than twice those that are wanted of a week are held before the oldest of them are let go.
	slackListed = 64
	// minOpenWeeks are this week, the one that just ended, and one that is read.
	minOpenWeeks = 3
	maxOpenWeeks = 64
)
