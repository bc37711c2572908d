package front

import (
	"time"

	"hawser/auth/policy"
)

const (
	// maxChannels a connection may have open, of all kinds and both directions.
	maxChannels = 64
	// maxListeners a connection may ask for (-R).
	maxListeners = 32
	// maxQueued requests of one channel wait while its session is being admitted; further ones are refused.
	maxQueued = 64
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
	killGrace = 2 * time.Second
	// recordingWait bounds storing the last chunk of a recording at the end of its session.
	recordingWait = 10 * time.Second
	// evictAge is the least age at which a connection that has not authenticated makes room for a new one.
	evictAge = 2 * time.Second
	// forwardsMargin is the least life left of a forwards grant that is used again.
	forwardsMargin = 20 * time.Second
	// maxTries of authentication on a connection: people's agents hold many keys.
	maxTries = 12
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
	// resumeBuffer is what the hub holds for one stream in each direction.
	resumeBuffer = 1 << 20
)
