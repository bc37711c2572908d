package auth

import "time"

// What we chose.
const (
	// rejoinWindow is how long after its expiry a known key's certificate still renews itself.
	rejoinWindow = 365 * 24 * time.Hour
	maxTTL       = 10 * 365 * 24 * time.Hour // below the life of the CA

	defaultTokenTTL = time.Hour
	maxTokenTTL     = 365 * 24 * time.Hour
	maxTokenUses    = 1 << 20
	secretBytes     = 20 // 160 random bits

	maxLabels    = 64  // per device or token
	maxLabel     = 128 // bytes of a key or value
	maxAddress   = 300 // bytes of host:port: a DNS name, brackets, a port
	maxAddresses = 16
	maxJoinAddrs = 64  // hubs' addresses for a device that joins (PROTOCOL.md section 3)
	maxZone      = 63  // bytes of a zone's name
	maxRoles     = 64  // per user
	maxKeys      = 32  // registered keys per user
	maxText      = 256 // bytes of what a peer says about itself: hostname, version, carrier

	maxYAML      = 1 << 20  // one Apply
	maxResources = 1000     // in one Apply
	maxChanges   = 2048     // bytes of what the audit log says of one resource's change
	maxRequest   = 16 << 20 // one request message; the largest are recording batches and full device reports
	maxCommand   = 4096     // bytes of a command that the lists and the audit log keep
	maxBatch     = 64       // chunks in one AppendRecording
	maxChunk     = 128 << 10
	maxReport    = 4096    // devices in one ReportDevices
	maxKills     = 1 << 10 // kills of a whole user or device wait for a hub that does not take them; beyond, they are not told
	maxSessions  = 1 << 16 // live sessions and connections of one hub in the registry; beyond, Admit refuses
	maxDevicesOp = 500     // entries of one part of a full Watch

	guessBurst = 10          // wrong secrets a source may try at once
	guessEvery = time.Minute // and one more per
	maxSources = 1 << 16     // sources remembered; the oldest is forgotten

	minPassword  = 12   // characters
	maxPassword  = 1024 // bytes
	maxHashes    = 2    // passwords hashed at once: 64 MiB each
	maxHashQueue = 32   // and so many wait; at two a tenth of a second they wait two seconds

	maxHashesFrom = 6 // of both together, of one source

	freeFailures       = 5 // of a source with a user; then 1 s, doubled each time
	maxDelay           = 15 * time.Minute
	failureLife        = time.Hour // after so long without one they are forgotten
	sourceFailures     = 30        // of a source over all users at once
	sourceFailureEvery = 10 * time.Second
	userFailures       = 50 // of a user over all sources at once
	userFailureEvery   = 5 * time.Minute
	refuseBurst        = 30 // refused logins of a source that are audited one by one
	refuseEvery        = 10 * time.Second
	callBurst          = 100 // refused calls of a source that are; a machine that is set up wrongly makes some

	maxGoodSources = 16                  // of a user, from which he logged in
	goodSourceLife = 30 * 24 * time.Hour // and since when

	inviteTTL      = 3 * 24 * time.Hour
	resetTTL       = 24 * time.Hour
	maxInviteTTL   = 30 * 24 * time.Hour
	maxInvites     = 8 // open links of one user; the oldest goes
	enrolTTL       = 15 * time.Minute
	ownKeyTTL      = 90 * 24 * time.Hour // the longest life of a key one registers oneself
	maxUserSources = 32                  // networks of a user or a key
	maxForce       = 1024                // bytes of a key's command
	maxComment     = 128
	maxKeyLine     = 16 << 10

	secondFactorLife = 24 * time.Hour // of a connection
	maxSecondFactors = 1 << 17        // connections remembered; beyond, the oldest eighth is forgotten and must be made anew

	saveUses = time.Minute // how often the last use of keys is stored

	maxReaders   = 64               // recordings that are read at once, by all
	maxReadersOf = 16               // and by one person
	takeTime     = 10 * time.Minute // how long a reader of recordings, of the audit log or of a backup may take nothing; a pager that stands is one

	admitRate  = 2000 // Admits per second and hub, sustained
	admitBurst = 4000

	beaconEvery = time.Minute
	upEvery     = time.Hour // how often it is stored that a hub is up
	ringSize    = 4096      // changes kept for watchers that come back; one further behind gets everything anew

	// maxHistory is how many events of a device's own memory of its connections are kept, in memory alone: a story of
	// what was is not worth a write each time a device flaps.
	maxHistory   = 20
	maxHistories = 512 // in one ReportHistory
	maxSlots     = 2   // tunnels of one device at one hub

	saveEvery  = 5 * time.Second // how often it is looked which devices' last seen is to be stored
	saveDevice = time.Minute     // and at most so often for one device
	saveBatch  = 400             // of them in one transaction

	incidentBurst = 20 // incidents a hub may report at once
	incidentEvery = 6 * time.Second
	maxIncident   = 512 // bytes of its detail

	releasedLife = time.Minute // a report of a session that was released may be this late
	maxReleased  = 1 << 16     // released sessions remembered for it

	orphanLife   = time.Minute     // sessions of a hub that is gone are listed for so long; one that comes back tells them again
	claimGrace   = time.Minute     // a session younger than this is kept though its hub's Watch does not name it
	shutdownTime = 3 * time.Second // for calls in progress when Run ends

	// sameAnswer is how long one who asks again to renew gets the same answer; later a new one, and then who holds the first is a second machine.
	sameAnswer = 10 * time.Minute
	// maxAhead is how far a presented counter is believed to be ahead of the record: it is only ever one up.
	maxAhead   = 1 << 20
	cloneBurst = 3 // tellings of one device's clone at once
	cloneEvery = 10 * time.Minute
	splitLife  = 30 * 24 * time.Hour // of the token of an order to split

	// A device that waits for approval comes back after a quarter of the time it has waited, within these.
	pendingMin   = 5 * time.Second
	pendingMax   = 5 * time.Minute
	rejectedWait = time.Hour
	strangerWait = 5 * time.Minute // of a key that nobody imported

	maxPending   = 20_000              // devices that wait at once
	pendingLife  = 30 * 24 * time.Hour // one that does not come back, or was rejected, is forgotten
	inertLife    = time.Hour           // what an import left that did not complete
	spentLife    = 7 * 24 * time.Hour  // an expired token is listed
	seenEvery    = time.Hour           // how often it is stored that one who waits was here
	maxImport    = 8 << 20             // bytes of a file of keys
	maxImported  = 20_000              // devices in it
	importOps    = 200                 // writes in one transaction of an import,
	importBytes  = 128 << 10           // and their size
	maxProblems  = 20                  // of a file that are told
	maxFormer    = 8                   // names of a device that are kept
	maxSelected  = 1000                // devices one call changes
	maxPattern   = 128                 // bytes of a token's name pattern
	maxNetworks  = 64                  // of a token
	maxEvidenced = 512                 // bytes of one kind of evidence

	maxCommandEvents = 16 // of one session, with audit.MaxCommands each

	settleWait  = 2 * time.Second // that a person's answer waits at most for the audit log to be on disk
	maxRefusals = 256             // in one ReportRefusals
	maxForwards = 256             // in one ReportForwards
	reportBurst = 10              // such reports of one hub at once
	reportEvery = 5 * time.Second
)
