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
	maxRequest   = 16 << 20 // one request message; the largest are recording batches and full device reports
	maxCommand   = 4096     // bytes of a command that the lists and the audit log keep
	maxBatch     = 64       // chunks in one AppendRecording
	maxChunk     = 128 << 10
	maxReport    = 4096    // devices in one ReportDevices
	maxSessions  = 1 << 16 // live sessions and connections of one hub in the registry; beyond, Admit refuses
	maxDevicesOp = 500     // entries of one part of a full Watch

	guessBurst = 10          // wrong secrets a source may try at once
	guessEvery = time.Minute // and one more per
	maxSources = 1 << 16     // sources remembered; the oldest is forgotten

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
)
