package wire

// DialMagic is the line by which a hub that has dialled an edge tells that it is one (PROTOCOL.md, section 5.2). The edge is the client of what follows.
const DialMagic = "HAWSER-TUNNEL/1\n"

// Limits fixed by PROTOCOL.md. A decoder refuses what passes them before it allocates; an encoder (Encode) refuses to
// send it. They are bytes unless the name says otherwise.
const (
	// MaxControl bounds one control message, header included: the signed lock list is the largest of them.
	MaxControl = 64 << 10
	// MaxHeartbeat bounds one heartbeat: it must fit one QUIC datagram on a path of 1200-byte packets.
	MaxHeartbeat = 1000
	// MaxAttach bounds the first message of a stream: a grant and a few addresses.
	MaxAttach = 16 << 10

	maxFields    = 512      // fields in one message: the repeated ones have limits of their own
	maxName      = 63       // device names, one DNS label
	maxCluster   = 255      // cluster and hub names, which are host names
	maxHostname  = 255      // gethostname(2) allows 64, DNS 255
	maxVersion   = 64       // version, architecture and system names
	maxLogin     = 255      // login names; useradd allows 32, directories more
	maxTarget    = 512      // "host:port" needs at most 262, a unix path 108
	maxAddress   = 64       // one textual address
	maxText      = 1024     // reasons and refusals, shown to people
	maxCommand   = 4096     // a command as it is audited; the session itself carries all of it
	maxSecret    = 128      // a join token's secret
	maxGrant     = 8 << 10  // a signed grant
	maxCert      = 12 << 10 // one certificate; QUIC carries at most 16 KiB of handshake
	maxBlob      = 48 << 10 // a blob signed by auth: policy, locks, trust, hub list
	maxLogProof  = 128 * 32 // hashes of a consistency proof: two paths of a tree of 2^63 leaves
	maxForwarded = 2 << 10  // a sealed report of a forward
	maxSignature = 128      // an Ed25519 signature has 64

	maxLabels    = 64 // labels of a device
	maxLabelKey  = 63
	maxLabel     = 1 + maxLabelKey + 255
	maxChain     = 4  // certificates in a chain: leaf, CA, and a cross-certificate or two
	maxHubs      = 64 // hub addresses
	maxAddresses = 32 // addresses of a device's interfaces
	maxLogins    = 64 // logins a device tells
	maxEvents    = 32 // events of a History; an edge keeps 20
	maxEvent     = 1024
	maxEventText = 200
)
