package front

import (
	"time"

	"hawser/auth/policy"
)

const (
	// maxChannels a connection may have open, of all kinds and both directions.
	maxChannels = 64
	// maxUnclosed channels that ended here and that the client has not closed a connection may have, with those that are open.
	maxUnclosed = 2 * maxChannels
	// nearEvery is how often a person gets near names for a name that does not exist: all devices are held against it.
	nearEvery = time.Second
	// maxNear people are remembered who got some.
	maxNear = 1024
	// maxListeners a connection may ask for (-R).
	maxListeners = 32
	// maxQueued requests of one channel wait while its session is being admitted; further ones are refused.
	maxQueued = 64
	// maxEarly requests may pass before one that starts something, where they are recorded: OpenSSH sends a variable in each, and takes 128.
	maxEarly = 256
	// maxQueuedBytes is their payload in all.
	maxQueuedBytes = 512 << 10
	// maxGlobalQueued global requests wait for their turn; beyond, the connection waits with them.
	maxGlobalQueued = 64
	// admitTimeout bounds a call for a place: auth answers in milliseconds, or it is away.
	admitTimeout = 10 * time.Second
	// openTimeout bounds opening a stream on a tunnel and what the edge does before it answers (dial a target).
	openTimeout = 30 * time.Second
	// startWait is how long a refused session is kept for the request whose answer shows the refusal.
	startWait = 10 * time.Second
	// killGrace is what a device gets to end a killed session itself, so that its reason is shown in order.
	killGrace = 600 * time.Millisecond
	// killWords is what a client then gets to take the reason.
	killWords = time.Second
	// maxSettling sessions that the hub ended give back their places and close their recordings at once; another goes on all the same after settleWait. A lock
	// ends a thousand, and each person is told first.
	maxSettling = 8
	settleWait  = 2 * time.Second
	// recordingWait bounds storing the last chunk of a recording at the end of its session.
	recordingWait = 10 * time.Second
	// evictAge is the least age at which a connection that has not authenticated makes room for a new one.
	evictAge = 2 * time.Second
	// forwardsMargin is the least life left of a forwards grant that is used again.
	forwardsMargin = 20 * time.Second
	// maxTries of authentication on a connection: people's agents hold many keys.
	maxTries = 12
	// factorTime is what a person whose key has signed gets to read a code off his authenticator and type it.
	factorTime = 2 * time.Minute
	// maxCodes are tried on a connection; auth counts them over all of a user's connections besides.
	maxCodes = 3
	// maxCode is the longest that is passed on to auth, in bytes.
	maxCode = 64
	// maxFactorWaits connections wait for a code in all, and maxUserFactorWaits of one person: their keys have signed, so they no longer
	// count as unauthenticated.
	maxFactorWaits     = 256
	maxUserFactorWaits = 8
	// quickReads is on how many reads of a new connection TCP_QUICKACK is set again: key exchange, authentication and channel set-up.
	quickReads = 64
	// minRetry and maxRetry are the waits between two tries for another attachment of a stream, where nothing tells of a better moment.
	minRetry = 250 * time.Millisecond
	maxRetry = 5 * time.Second
	// resumeTimeout bounds one try: the worst round trip, twice.
	resumeTimeout = 15 * time.Second
	// leaveWait is how long the device of a person who has gone is tried for: as long as an edge may keep a session whose hub is gone.
	leaveWait = 30 * time.Second
	// endToEndLife bounds the wait for a device that somebody came to end to end: the longest that a role can say, for there it is the
	// device that ends its own side when the role says so, and the hub that is then told.
	endToEndLife = policy.MaxDetachedLife
	// stopWait is what streams get to end when the hub stops.
	stopWait = time.Second
	// noticeAfter is how long a link is lost before the person is told: most come back before anybody wonders.
	noticeAfter = 3 * time.Second
	// maxPickers are open at once, of one person maxUserPickers: each holds the list of his devices, 64 bytes a device.
	maxPickers, maxUserPickers = 64, 8
	// maxWaits sessions wait for their devices at once, of one person maxUserWaits: Ansible comes for 50 hosts.
	maxWaits, maxUserWaits = 1024, 64
	// minAdmitPause and maxAdmitPause are between two questions for the place on a device that was waited for, and went again.
	minAdmitPause, maxAdmitPause = time.Second, 30 * time.Second
	// waitProgress is how often somebody who waits at a terminal is told so.
	waitProgress = 5 * time.Second
	// maxTypedAhead is what is kept of what he types meanwhile, in bytes.
	maxTypedAhead = 4 << 10
	// seenTimeout bounds the question when a device was last seen.
	seenTimeout = 2 * time.Second
	// maxRecentUsers are remembered, with the last maxRecent devices of each.
	maxRecentUsers, maxRecent = 4096, 32
	// unknownWait is what a connection for a device that is none gets to open something whose refusal can be shown.
	unknownWait = 5 * time.Second
	// maxForwardTarget bounds what is told of a forward's target, in bytes.
	maxForwardTarget = 256
	// resumeBuffer is what the hub holds for one stream in each direction.
	resumeBuffer = 1 << 20
)
