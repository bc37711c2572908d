package edge

import "time"

// Numbers we chose. Those the wire fixes live in tunnel/wire.
const (
	// maxStreams is how many hub-opened streams one agent serves at once; one beyond is refused at once.
	maxStreams = 128
	// maxStreamsSmall is the same where RAM is below smallRAM.
	maxStreamsSmall = 32
	// smallRAM is where an agent halves its appetite.
	smallRAM = 64 << 20
	// noOffloadRAM is below which segmentation offload and ECN are off: they gain nothing there and break on old drivers.
	noOffloadRAM = 256 << 20

	// resolveTimeout bounds the look-up of one hub name: a dead resolver must not hold back the addresses we know.
	resolveTimeout = 5 * time.Second
	// maxAddresses is how many addresses of all hub names one attempt dials.
	maxAddresses = 16
	// tcpDelay is the head start of QUIC in the race (DESIGN.md section 5).
	tcpDelay = 250 * time.Millisecond
	// addressStagger spaces the dials to the addresses of one hub name (RFC 8305's connection attempt delay).
	addressStagger = 250 * time.Millisecond
	// attemptTimeout bounds one whole attempt, from the first dial to the ACK.
	attemptTimeout = 30 * time.Second
	// quicGrace is how long after a TCP win QUIC may still take over, at no cost of a second look.
	quicGrace = 2 * time.Second
	// settleTime is how long a replaced tunnel is kept for the sessions still on it.
	settleTime = 10 * time.Minute

	// defaultWindow is W of the first retry after a working tunnel, until a hub names another.
	defaultWindow = 5 * time.Second
	// backoffFloor and backoffCap bound the decorrelated jitter of failed attempts.
	backoffFloor = time.Second
	backoffCap   = 60 * time.Second
	// refusedFloor and refusedCap bound the wait after an authorisation refusal: it does not mend itself in seconds.
	refusedFloor = time.Minute
	refusedCap   = 15 * time.Minute

	// heartbeatTimeout is how long one try of a heartbeat waits for its answer.
	heartbeatTimeout = 3 * time.Second
	// heartbeatTries is how many unanswered tries end a tunnel.
	heartbeatTries = 3
	// defaultHeartbeat is the interval until a hub names one: below the 30 s after which most NATs forget a UDP mapping.
	defaultHeartbeat = 25 * time.Second
	// minHeartbeat and maxHeartbeat bound what a hub may ask for.
	minHeartbeat, maxHeartbeat = 200 * time.Millisecond, 10 * time.Minute
	// answerEvery is the heartbeat an idle agent wants answered: answers cost as much as heartbeats.
	answerEvery = 10

	// placeTimeout bounds the wait for a place: a person is waiting.
	placeTimeout = 15 * time.Second
	// renewTimeout bounds one renewal.
	renewTimeout = 30 * time.Second
	// ticketLife is how long a back-channel (agent forwarding, -R) waits for the hub to fetch it.
	ticketLife = 30 * time.Second
	// maxTickets is how many wait at once; one beyond is refused to whoever connected.
	maxTickets = 64
	// maxSpent is how many session grants are remembered as spent: more than a device opens in their five minutes.
	maxSpent = 4096
	// maxEvidence bounds the hardware evidence sent at a join.
	maxEvidence = 16
	// maxLabels is how many labels a device may tell; the wire's own limit.
	maxLabels = 64
	// maxLabelKey and maxLabelValue are the bytes of one, the wire's own limits too.
	maxLabelKey   = 63
	maxLabelValue = 255
	// maxInfoAddresses is how many addresses a registration tells; the wire's own limit.
	maxInfoAddresses = 32
	// maxEarly is how many messages may come between the challenge and the answer to REGISTER.
	maxEarly = 16
	// maxWindow bounds W as a hub may say it.
	maxWindow = 10 * time.Minute
	// hubListEvery is the least time between two writes of the hub list.
	hubListEvery = time.Hour
	// streamBuffer is the most a stream keeps for resumption and for a slow reader, in bytes each; it grows to that only when used.
	streamBuffer = 256 << 10
	// uploadBuffer is how many bytes of chunks one recording keeps until they are durable at auth; its session waits for room after that.
	uploadBuffer = 512 << 10
	// uploadsBuffer is the same for all recordings together, beyond one chunk of each: what a 64 MB machine can spare.
	uploadsBuffer = 2 << 20
	// uploadStall is how long it waits before the recording is given up: sessions outlive their recordings where policy says best-effort.
	uploadStall = time.Minute
	// uploadLinger is how long a finished recording waits to be fetched.
	uploadLinger = 10 * time.Minute
	// closeRecordingTimeout bounds the wait for the last chunk of a recording to find room.
	closeRecordingTimeout = 10 * time.Second
	// uploadRetry is when to ask anew for an upload that the hub did not fetch or let go.
	uploadRetry = 5 * time.Second
	// maxQuoted is how much of a peer's text goes into an error or a log line.
	maxQuoted = 300
	// healthyAfter is how long a tunnel must have lived for its loss to be a loss and not one more failure.
	healthyAfter = 10 * time.Second
	// messageTimeout bounds the wait for one control message while a tunnel is set up.
	messageTimeout = 10 * time.Second
	// readyTimeout is how long a stream waits for the policy, locks and time that the ACK announced.
	readyTimeout = 5 * time.Second
	// beaconTrust is how far above a beacon the system clock may be and still be believed: a hub cut off from auth has old beacons.
	beaconTrust = time.Hour

	// shutdownGrace is what sessions and tunnels get to end after SIGTERM; FIELD.md 42 gives the process 2 s.
	shutdownGrace = 1500 * time.Millisecond
	// floorStep is how much the signed time must be above the stored floor to be written: flash is not for clocks.
	floorStep = 30 * 24 * time.Hour
	// floorLeap is the most one beacon raises the stored floor, so that a lying clock cannot brick the device.
	floorLeap = 366 * 24 * time.Hour
)
