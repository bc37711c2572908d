package observe

// Chosen here.
const (
	// maxHead is what is kept of an sftp packet beside its data, in bytes: two paths of the longest kind and attributes. Of what is longer the rest is not looked at.
	maxHead = 10 << 10
	// maxPacket is the longest sftp packet in bytes: four times OpenSSH's, more than any client is allowed by any server.
	maxPacket = 1 << 20
	// maxPending is how many sftp requests are remembered until their answer. OpenSSH keeps 64 in flight, sshfs fewer. What is beyond is not understood: the file's
	// hash is given up.
	maxPending = 1024
	// maxFiles is how many open handles are followed.
	maxFiles = 256
	// maxPath bounds a path in bytes: PATH_MAX.
	maxPath = 4 << 10
	// maxLine bounds a line of scp: a path's last part and numbers.
	maxLine = 4<<10 + 64
	// maxDepth is how many directories scp -r may be in.
	maxDepth = 64
	// maxAgentHead is what is kept of a message to an agent: a key, and the length of what is to be signed.
	maxAgentHead = 16 << 10
	// maxAgentMessage is OpenSSH's bound.
	maxAgentMessage = 256 << 10
	// maxAgentPending is how many requests to an agent wait for their answer. OpenSSH sends one at a time.
	maxAgentPending = 16
)
