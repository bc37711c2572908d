package front

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/hub/shell"
	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/wire"
)

// Errors of a Backend.
var (
	// ErrOffline: the device may be reached by this person, but has no tunnel.
	ErrOffline = errors.New("device is not connected")
	// ErrSilent: the device has a tunnel, but nothing could be opened over it.
	ErrSilent = errors.New("device does not answer")
	// ErrRemoved: the device is no longer in the cluster, and will not come back.
	ErrRemoved = errors.New("device was removed from the cluster")
	// ErrUnavailable: the auth service could not be asked.
	ErrUnavailable = errors.New("auth service cannot be reached")
)

// Refusal is an answer, in words for the person. Reason is one word for the hub, and may be empty.
type Refusal struct{ Reason, Message string }

// RefusedFactor is the reason of a refusal that a code of the person's authenticator turns into a yes.
const RefusedFactor = "mfa"

func (r *Refusal) Error() string { return r.Message }

// Identity is who signed. Exactly one of Key and Certificate is set, in SSH wire form.
type Identity struct {
	User        string
	Roles       []string
	Key         []byte
	Certificate []byte
	Fingerprint string    // of the key that signed, SHA256:...
	Issued      time.Time // of the certificate; zero: it was a key
}

// Kind is what a place is for.
type Kind uint8

// Kinds of places.
const (
	Connection Kind = iota + 1
	Session
	Forwards
)

// Claim asks for a place.
type Claim struct {
	Kind         Kind
	Identity     Identity
	ConnectionID [16]byte
	SessionID    [16]byte // of a Session
	Device       string   // name; empty for a connection to the hub itself
	Login        string   // empty: auth decides
	Joins        Joining  // of a Session that joins another; the device and the login are that one's
	Wanted       string   // of a Connection: the device it is meant for, as far as the user name says
	ClientAddr   netip.AddrPort
	UserAgent    string
}

// Place is what Admit grants.
type Place struct {
	Grant      []byte
	SessionID  [16]byte
	Device     wire.UUID
	DeviceName string
	Login      string
	Channels   []string // channel kinds of auth/policy
	Recorded   bool
	Record     string // the recording mode, as auth/policy names them
	// RecordStdin is what is recorded of input, as auth/policy names it; empty: nothing.
	RecordStdin string
	// Recipients are those that the recording is encrypted to; none: it is not.
	Recipients [][32]byte
	NotAfter   time.Time // of the opening
	// ForceCommand is what the key that signed runs on devices, whatever is asked for; empty: it is for anything.
	ForceCommand string
	// MaxChannels is how many channels a connection may have at once; 0: as many as this package lets through.
	MaxChannels uint32
	// DetachedLife is how long what was opened waits for the device's return when its tunnel is lost; 0: not at all.
	DetachedLife time.Duration
	// Session is how long it may last; Expires when the credential does, zero: never.
	Session policy.SessionLimits
	Expires time.Time
	// Joins is the id of the session that is joined, and JoinMode how; nil: it is one of its own.
	Joins    []byte
	JoinMode string
}

// Permits tells whether the place allows a channel of the kind.
func (p *Place) Permits(channel string) bool {
	for _, c := range p.Channels {
		if c == channel {
			return true
		}
	}
	return false
}

// Listed is a device that a person may reach.
type Listed = shell.Device

// Recording is what a session is recorded by; *recorder.Writer is most of one. Its methods may block for a slow store.
type Recording interface {
	// Output, Input and Passed tell whether it may pass on. When it may not the session is about to be ended.
	observe.Writer
	AgentUse(u recorder.AgentUse)
	Forward(f recorder.Forward)
	Participant(p recorder.Participant)
	Resize(width, height uint32)
	// Start is told what is about to start; after an error it must not.
	Start(kind, command, term string, env []string) error
	Exit(status uint32, signal string)
	// Request is told of each channel request that passes, in each direction in order.
	Request(r recorder.Request)
	// Witness takes what the device says of the session, or why it says nothing.
	Witness(blob []byte, without string)
	// Close waits until all is stored.
	Close(ctx context.Context) error
}

// Recorded is what a Recording needs of its session.
type Recorded struct {
	Terminal bool
	Away     func() bool // its device is lost for now: nothing passes
	// End ends it, because it must be recorded and cannot be. It does not block.
	End func(why error)
}

// Ended is how a session or connection ended.
type Ended struct {
	ExitStatus int32
	Reason     string
	Channel    string // what ran: shell, exec or sftp; empty: nothing
	Command    string // as it was asked for
}

// Backend is the rest of the hub. Its methods are safe for concurrent use.
type Backend interface {
	// Identify tells whose key it is; a certificate is checked in full, the source address included. The error is for the log.
	Identify(key ssh.PublicKey, remote net.Addr) (Identity, error)
	// IsDevice tells whether a device of this name exists that the person may reach in some way, to tell a forward's target from a host
	// in a device's network and a person's own name from a device.
	IsDevice(id Identity, name string) bool
	// List is what the person may reach, in no order, for the caller to keep.
	List(id Identity) []Listed
	// Online tells whether a device has a tunnel that answers.
	Online(device wire.UUID) bool
	// Await returns nil when the person may reach a device of this name by the hub and it is online, and else the end of ctx. It takes as long and
	// costs as much for one that does not exist as for one that is not for him.
	Await(ctx context.Context, id Identity, device string) error
	// LastSeen is where and why a device was last, if the person may reach it.
	LastSeen(ctx context.Context, id Identity, device string) (shell.Seen, error)
	// Joinable is which live sessions whoever makes the claim may join, or was invited to; of Joins only the beginning of an id, if there is one. Errors are as
	// Admit's.
	Joinable(ctx context.Context, c Claim) ([]shell.Session, error)
	// Admit asks for a place. The error is a *Refusal (shown as it is), ErrOffline, ErrUnavailable or another failure.
	Admit(ctx context.Context, c Claim) (*Place, error)
	// SecondFactor holds a code against the authenticator of whoever signed. Where it is not the right one, message says so to the person.
	SecondFactor(ctx context.Context, c Claim, code string) (ok bool, message string, err error)
	// Reach is for end to end, where the device asks for the place: it says which device is meant, a *Refusal if the person may not reach
	// it or it does not exist (the two look the same), or ErrOffline. Until release is called the device can ask, and be told to end what is its.
	Reach(ctx context.Context, id Identity, device string) (to wire.UUID, release func(), err error)
	// Release gives a place back; the id is a session's, or a connection's. It waits for a place that is under a cap to be free, a second at most.
	Release(id [16]byte, end Ended)
	Routes
	// Record begins the recording of a session that has a place; h lacks cluster and hub.
	Record(p *Place, h recorder.Header, of Recorded) Recording
	// Forwarded is told of forwarded connections. It does not block.
	Forwarded(f Forwarded)
	// Replay opens a recording, by an id or the beginning of one, for whoever makes the claim. Errors are as Admit's.
	Replay(ctx context.Context, c Claim, id string) (*Replay, error)
	// KillOnDevice tells the device to end a session and all its processes.
	KillOnDevice(device wire.UUID, session [16]byte, reason string)
}
