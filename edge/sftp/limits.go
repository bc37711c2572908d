package sftp

// Fixed by the protocol or by what its clients do.
const (
	version = 3
	// maxPacket is the longest packet taken, OpenSSH's own bound.
	maxPacket = 256 << 10
	// perRead is how many names one answer to READDIR has at most, as with OpenSSH.
	perRead = 100
	// maxLinks is how many links a path may lead through, OpenSSH's own bound.
	maxLinks = 20
)

// Ours to choose.
const (
	// maxData is the most a READ is answered with and, as limits@openssh.com tells clients, a WRITE should have: what an agent on a small machine holds.
	maxData = 64 << 10
	// maxHandles is how many files and directories are open at once; one beyond is refused.
	maxHandles = 256
	// maxAccounts is how many bytes of /etc/passwd and /etc/group are read for names.
	maxAccounts = 1 << 20
)
