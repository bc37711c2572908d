package recorder

// FileOp is one thing done to a file by sftp, scp or rsync, as the recorder understood it from what passed.
type FileOp struct {
	Op       string // open, close, read, write, remove, rename, mkdir, rmdir, setstat, symlink, link, list
	Path     string // as the client named it
	Path2    string // of rename, symlink and link
	Read     uint64 // bytes
	Written  uint64 // bytes
	Status   uint32 // the answer, as SSH_FXP_STATUS numbers it; 0 is success
	Hash     []byte // SHA-256 of the whole content, where it was carried in order from 0 to the end; else nil
	Mode     uint32 // permissions, where the operation sets them
	Protocol string // sftp, scp, rsync
}

// Forward is the beginning or end of one forwarded connection, or its refusal.
type Forward struct {
	Kind    string // local, remote, socket
	Target  string // host:port or path
	Origin  string // who connected
	State   string // open, close, refused
	In, Out uint64 // bytes to the target and from it; at the close
	ID      uint64 // the same at open and close; unique in the recording
}

// AgentUse is one use of the person's forwarded agent.
type AgentUse struct {
	Fingerprint string // of the key, SHA256:...
	What        string // sign, list
	Bytes       uint64 // signed
}

// Participant is somebody who joined or left a shared session. Input carries the same id.
type Participant struct {
	ID    uint32 // 0 is the session's owner
	User  string
	Mode  string // observer, peer, moderator
	State string // joined, left, put-out
	Way   string // hub, end-to-end, direct, behind
}

// Command is a command that was run.
type Command struct {
	Text       string
	Source     string // exec: asked for by a request; screen: read off the screen; input: a line sent to a shell without a terminal
	Confidence uint8  // 0..100
	Status     uint32 // exit status, where HasStatus
	HasStatus  bool
}

// Withheld says that input came here that is not in the recording.
type Withheld struct {
	Participant uint32
	Bytes       uint64
	Reason      string // redacted: it answered a prompt that does not echo; off: policy keeps no input; paused: it was thrown away
	Enter       bool   // a line ended here
}

// Request is a channel request that passed between person and device (RFC 4254, section 5.4).
type Request struct {
	Name       string
	Payload    []byte // nil where only its hash is kept
	Hash       [32]byte
	FromDevice bool
}

// FileOp records what was done to a file.
func (w *Writer) FileOp(f FileOp) {
	p := appendText(nil, FileOpName, f.Op, maxText)
	p = appendText(p, FilePath, f.Path, maxPath)
	p = appendText(p, FilePath2, f.Path2, maxPath)
	p = appendSome(p, FileRead, f.Read)
	p = appendSome(p, FileWritten, f.Written)
	p = appendSome(p, FileStatus, uint64(f.Status))
	if len(f.Hash) > 0 {
		p = appendBytes(p, FileHash, f.Hash)
	}
	p = appendSome(p, FileMode, uint64(f.Mode))
	w.record(RecordFileOp, appendText(p, FileProtocol, f.Protocol, maxText))
}

// Forward records a forwarded connection.
func (w *Writer) Forward(f Forward) {
	p := appendText(nil, ForwardKind, f.Kind, maxText)
	p = appendText(p, ForwardTarget, f.Target, maxText)
	p = appendText(p, ForwardOrigin, f.Origin, maxText)
	p = appendText(p, ForwardState, f.State, maxText)
	p = appendSome(p, ForwardIn, f.In)
	p = appendSome(p, ForwardOut, f.Out)
	w.record(RecordForward, appendSome(p, ForwardID, f.ID))
}

// AgentUse records a use of the person's agent.
func (w *Writer) AgentUse(a AgentUse) {
	p := appendText(nil, AgentFingerprint, a.Fingerprint, maxText)
	p = appendText(p, AgentWhat, a.What, maxText)
	w.record(RecordAgentUse, appendSome(p, AgentBytes, a.Bytes))
}

// Participant records that somebody joined or left.
func (w *Writer) Participant(a Participant) {
	p := appendSome(nil, ParticipantID, uint64(a.ID))
	p = appendText(p, ParticipantUser, a.User, maxText)
	p = appendText(p, ParticipantMode, a.Mode, maxText)
	p = appendText(p, ParticipantState, a.State, maxText)
	w.record(RecordParticipant, appendText(p, ParticipantWay, a.Way, maxText))
}

// Command records a command that was run.
func (w *Writer) Command(c Command) {
	p := appendText(nil, CommandText, c.Text, maxCommand)
	p = appendText(p, CommandSource, c.Source, maxText)
	p = appendSome(p, CommandConfidence, uint64(c.Confidence))
	if c.HasStatus {
		p = appendUint(p, CommandStatus, uint64(c.Status))
	}
	w.record(RecordCommand, p)
}

// Withheld records that input came and is not kept. The caller gathers: one record for each key typed would tell a password's rhythm.
func (w *Writer) Withheld(a Withheld) {
	p := appendWithheld(a)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reserveLocked(recordOverhead + len(p)) {
		w.putLocked(RecordWithheld, p)
		w.sums.withheld += a.Bytes
	}
}

// appendWithheld is the payload of a withheld record.
func appendWithheld(a Withheld) []byte {
	p := appendUint(nil, WithheldBytes, a.Bytes)
	p = appendText(p, WithheldReason, a.Reason, maxReason)
	p = appendSome(p, WithheldParticipant, uint64(a.Participant))
	if a.Enter {
		p = appendUint(p, WithheldEnter, 1)
	}
	return p
}

// appendSome appends a number unless it is 0, which an absent one is.
func appendSome(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return appendUint(b, tag, v)
}
