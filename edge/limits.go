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
	// largeScreen is how many cells of a shared session's screen are followed where RAM is not below noOffloadRAM: a window of 400 by 100, 3 MiB.
	largeScreen = 40_000
	// noOffloadRAM is below which segmentation offload and ECN are off: they gain nothing there and break on old drivers.
	noOffloadRAM = 256 << 20

	// resolveTimeout bounds the look-up of one hub name: a dead resolver must not hold back the addresses we know.
	resolveTimeout = 5 * time.Second
	// maxAddresses is how many addresses of all hub names one attempt dials.
	maxAddresses = 16
	// tcpDelay is the head start of QUIC in the race.
	tcpDelay = 250 * time.Millisecond
	// addressStagger spaces the dials to the addresses of one hub name (RFC 8305's connection attempt delay).
	addressStagger = 250 * time.Millisecond
	// attemptTimeout bounds one whole attempt, from the first dial to the ACK.
	attemptTimeout = 30 * time.Second
	// quicGrace is how long after a TCP win QUIC may still take over, at no cost of a second look.
	quicGrace = 2 * time.Second
	// answerGrace is how long the answer to a REGISTER is waited for when the attempt is not wanted any more.
	answerGrace = 2 * time.Second
	// lateCarrier is how much later the carrier starts that is there only in case the other is blocked.
	lateCarrier = 3 * time.Second
	// hubStagger is how long a hub has to answer before the next is tried beside it; one that refuses has no time at all.
	hubStagger = 2 * time.Second
	// retireTime is how long a replaced tunnel waits for the hub to move its streams: a second on a bad link, and as much again.
	retireTime = 5 * time.Second

	// urgentEvery is how often another path and another tunnel are tried while people wait, and calmEvery is that after urgentFor.
	urgentEvery = time.Second
	calmEvery   = 5 * time.Second
	urgentFor   = 5 * time.Minute
	// freshAgain is when a second round follows the one at a change of the network: the first packets on a path that has just come up are often
	// lost, and a lost SYN is sent again after a second.
	freshAgain = 250 * time.Millisecond
	// moveFirst is the start that another path of the same tunnel has before another tunnel.
	moveFirst = 250 * time.Millisecond
	// urgentTimeout bounds one urgent round: four run beside each other, and QUIC's handshake on a link of 600 ms takes half of it.
	urgentTimeout = 6 * time.Second
	// maxRounds is how many rounds of one slot run at once; when another is due the oldest ends.
	maxRounds = 4
	// urgentHubs and urgentAddresses are how many hubs, and addresses of each, one urgent round dials: bytes cost money on a link that only sends.
	urgentHubs, urgentAddresses = 3, 2
	// lookAgain is how often a keeper looks at what is to be done without being told.
	lookAgain = time.Minute
	// nudgeEvery is the time between two acts on changes of the network in the long run, nudgeGrain the least.
	nudgeEvery = 5 * time.Second
	nudgeGrain = 100 * time.Millisecond
	// sameHubRetry is when to look again for a second hub where there was only one.
	sameHubRetry = 10 * time.Minute

	// reprobe is when QUIC is tried first while the tunnel is on TLS.
	reprobe = 5 * time.Minute
	// returnEvery is the least time between two returns to QUIC: a network that lets it begin and then drops it must not move sessions for ever.
	returnEvery = 10 * time.Minute
	// maxNetworks is of how many networks it is remembered that they block UDP.
	maxNetworks = 16
	// restMin and restMax bound how long a hub that refused or goes away is tried last, and drainRest is that when it did not say.
	restMin, restMax = time.Second, 10 * time.Minute
	drainRest        = time.Minute
	// stormLasts is how long a hub's word that it is flooded or goes away keeps the TLS racer back.
	stormLasts = time.Minute
	// bootSmear spreads the first registration after a boot, where the machine runs for less than bootTime.
	bootSmear = 30 * time.Second
	bootTime  = 2 * time.Minute
	// meteredKeepAlive is TCP's keepalive of a metered device: 15 kB a day.
	meteredKeepAlive = 590 * time.Second
	// meteredLinger is how long a metered device stays on QUIC after its last stream.
	meteredLinger = time.Minute

	// defaultWindow is W of the first retry after a working tunnel, until a hub names another.
	defaultWindow = 5 * time.Second
	// calmWindows is in how many W a tunnel returns while the other slot's stands, if that is no more than calmMost.
	calmWindows = 4
	calmMost    = 30 * time.Second
	// backoffFloor and backoffCap bound the decorrelated jitter of failed attempts.
	backoffFloor = time.Second
	backoffCap   = 60 * time.Second
	// standbyCap is the same cap for a standby tunnel while the other stands: what is sent to a hub that is away for days is paid for.
	standbyCap = 15 * time.Minute
	// refusedFloor and refusedCap bound the wait after an authorisation refusal: it does not mend itself in seconds.
	refusedFloor = time.Minute
	refusedCap   = 15 * time.Minute

	// livelyHeartbeat is the interval while bytes move on a stream, or did within livelyFor; calmHeartbeat that of a quiet one.
	livelyHeartbeat = time.Second
	calmHeartbeat   = 5 * time.Second
	livelyFor       = 5 * time.Minute
	// heartbeatRetry is when an unanswered heartbeat is sent again.
	heartbeatRetry = time.Second
	// suspectAfter is how long a heartbeat may go unanswered with a stream open, idleSuspectAfter without; idleMoves is what an idle tunnel then
	// gets to find another path before it is given up.
	suspectAfter     = 2 * time.Second
	idleSuspectAfter = 4 * time.Second
	idleMoves        = 3 * time.Second
	// maxPatience bounds what slow answers make of these.
	maxPatience = 16 * time.Second
	// moveTimeout is what one try of another path gets, or three round trips.
	moveTimeout = 900 * time.Millisecond
	// heartbeatGrain keeps a rounding error from spinning.
	heartbeatGrain = 5 * time.Millisecond
	// defaultHeartbeat is the interval until a hub names one: below the 30 s after which the worst NATs forget a UDP mapping, by what a busy
	// machine is late. Each second less costs 15 kB a day.
	defaultHeartbeat = 27 * time.Second
	// minHeartbeat and maxHeartbeat bound what a hub may ask for.
	minHeartbeat, maxHeartbeat = 200 * time.Millisecond, 10 * time.Minute
	// answerEvery is the heartbeat an idle agent wants answered: answers cost as much as heartbeats.
	answerEvery = 10

	// maxStrangers is how many connections to the agent's own port have not authenticated, maxPerSource of one address (IPv6: /64), and
	// strangersSmall and perSourceSmall are the same where RAM is below noOffloadRAM: each holds some 60 kB. Beyond it the oldest goes that is as old as evictAge.
	maxStrangers, strangersSmall = 64, 16
	maxPerSource, perSourceSmall = 16, 8
	evictAge                     = 3 * time.Second
	// strangerLines is how many lines a minute strangers get in the log.
	strangerLines = 20
	// denialEvery is how often a stranger makes a quiet device speak to its hub, and busyDenialEvery that while it has a control stream anyway.
	denialEvery, busyDenialEvery = 10 * time.Minute, time.Minute
	// sniffTimeout is how long whoever connects may be silent before he is taken for a client of SSH that waits to be greeted.
	sniffTimeout = 200 * time.Millisecond
	// dialledTimeout bounds the set-up of a tunnel that a hub dialled.
	dialledTimeout = 20 * time.Second
	// bindAgain is when a port that could not be had is tried again: its address may not be there yet.
	bindAgain = 5 * time.Second
	// maxPolicyAge is how old policy and locks may be for people who come directly.
	maxPolicyAge = 24 * time.Hour
	// followEvery is how often it is looked whether the hubs still hold the places of those who came directly.
	followEvery = 2 * time.Second
	// leaseEvery is how often a hub is asked how long its lease lasts, on which direct places under an exact cap hang, and leaseTimeout how long that may take:
	// of the 13 s of a lease a hub renews each 5.
	leaseEvery, leaseTimeout = 2 * time.Second, time.Second
	// maxOver is how many places of people who came while no hub could be asked are told of afterwards, and how many recordings that have ended are kept
	// while no hub knows of them or fetches them, within uploadsBuffer; the oldest go first. A session and its connection are two places, of some 3 kB.
	maxOver = 256
	// shortTunnel is how long hubs have to dial an agent that has said where it listens, over a tunnel it made for that; awayTunnel is how long
	// it waits for them before it makes another, and silentTunnel that when they did not dial the last time.
	shortTunnel, awayTunnel = 30 * time.Second, time.Minute
	silentTunnel            = 30 * time.Minute

	// placeTimeout bounds the wait for a place: a person is waiting.
	placeTimeout = 15 * time.Second
	// rotationSpread is over what devices spread their renewals where auth names no moment, or one that has passed: 10,000 devices then come at 1000/s.
	rotationSpread = 10 * time.Second
	// retryRenewal is the shortest time between two attempts.
	retryRenewal = 10 * time.Second
	// renewTimeout bounds one renewal.
	renewTimeout = 30 * time.Second
	// ticketLife is how long a back-channel (agent forwarding, -R) waits for the hub to fetch it.
	ticketLife = 30 * time.Second
	// maxTickets is how many wait at once; one beyond is refused to whoever connected.
	maxTickets = 64
	// controlSlots is how many control streams are served beside sessions: one for each hub that people come by.
	controlSlots = 8
	// maxOwed is how many places given back wait for a hub that takes nothing: as many sessions as end meanwhile, for it is asked for none. Each is some 50
	// bytes, at most 600.
	maxOwed = 256
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
	// maxExtra is how many bytes of small chunks a recording adds to that while it has no room, to say so.
	maxExtra = 16 << 10
	// uploadStall is how long it waits before what finds no room is left out, and the recording says so: best-effort sessions go on.
	uploadStall = 5 * time.Second
	// askAgain is how soon a hub is asked again to fetch a recording after a stream that ended early; it doubles while nothing of it is stored, up to
	// askLive while the session goes on, and up to askSlowly then: auth may never take it.
	askAgain, askLive, askSlowly = 250 * time.Millisecond, 30 * time.Second, 5 * time.Minute
	// fetchWait is how long a finished recording is kept for a hub to fetch it, whatever others need.
	fetchWait = 15 * time.Second
	// uploadLinger is how long a finished recording waits to be fetched once a hub knows of it.
	uploadLinger = 24 * time.Hour
	// Of a strict recording: what may have passed and not be on auth's disk, in bytes with a terminal and without (8 MiB at a hub; here it is memory),
	// and for how long; how long things are then held back before the session ends; and how its chunks are cut, so that several fit.
	strictTerminal, strictBulk  = 64 << 10, 256 << 10
	strictAge, strictGrace      = 2 * time.Second, 10 * time.Second
	strictChunkAge, strictChunk = 250 * time.Millisecond, 16 << 10
	// closeRecordingTimeout bounds the wait for the last chunk of a recording to find room.
	closeRecordingTimeout = 10 * time.Second
	// maxQuoted is how much of a peer's text goes into an error or a log line.
	maxQuoted = 300
	// healthyAfter is how long a tunnel must have lived for its loss to be a loss and not one more failure.
	healthyAfter = 10 * time.Second
	// messageTimeout bounds the wait for one control message while a tunnel is set up.
	messageTimeout = 10 * time.Second
	// staleWait is how long strict roles wait for a newer signed time, and who comes directly for a tunnel by which a hub answers.
	staleWait = 2 * time.Second
	// readyTimeout is how long a stream waits for the policy, locks and time that the ACK announced.
	readyTimeout = 5 * time.Second
	// beaconTrust is how far above a beacon the system clock may be and still be believed: a hub cut off from auth has old beacons, and one that
	// lies plays one, to let in a certificate that is over. A clock that is further ahead is broken.
	beaconTrust = 400 * 24 * time.Hour

	// shutdownGrace is what sessions and tunnels get to end after SIGTERM; what stops a device gives a process 2 s or so.
	shutdownGrace = 1500 * time.Millisecond
	// floorStep is how much the signed time must be above the stored floor to be written: flash is not for clocks.
	floorStep = 30 * 24 * time.Hour
	// floorLeap is the most one beacon raises the stored floor, so that a lying clock cannot brick the device.
	floorLeap = 366 * 24 * time.Hour
)
