package front

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/recorder"
	"hawser/tunnel/wire"
)

// Errors of a Backend.
var (
	// ErrOffline: the device may be reached by this person, but has no tunnel.
	ErrOffline = errors.New("device is not connected")
	// ErrRemoved: the device is no longer in the cluster, and will not come back.
	ErrRemoved = errors.New("device was removed from the cluster")
	// ErrUnavailable: the auth service could not be asked.
	ErrUnavailable = errors.New("auth service cannot be reached")
)

// Refusal is an answer, in words for the person.
type Refusal struct{ Message string }

func (r *Refusal) Error() string { return r.Message }

// Identity is who signed. Exactly one of Key and Certificate is set, in SSH wire form.
type Identity struct {
	User        string
	Roles       []string
	Key         []byte
	Certificate []byte
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
	NotAfter   time.Time // of the opening
	// DetachedLife is how long what was opened waits for the device's return when its tunnel is lost; 0: not at all.
	DetachedLife time.Duration
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

// Listed is a line of `ls`.
type Listed struct {
	Name   string
	Online bool
	Labels []string // key=value, sorted
}

// Recording is what a session is recorded by; *recorder.Writer is most of one. Its methods may block for a slow store.
type Recording interface {
	Output(stream byte, b []byte)
	Resize(width, height uint32)
	Start(kind, command, term string, env []string)
	Exit(status uint32, signal string)
	// Close waits until all is stored.
	Close(ctx context.Context) error
}

// Backend is the rest of the hub. Its methods are safe for concurrent use.
type Backend interface {
	// Identify tells whose key it is; a certificate is checked in full, the source address included. The error is for the log.
	Identify(key ssh.PublicKey, remote net.Addr) (Identity, error)
	// IsDevice tells whether a device of this name exists that the person may reach in some way, to tell a forward's target from a host
	// in a device's network and a person's own name from a device.
	IsDevice(id Identity, name string) bool
	// List is what the person may reach, sorted.
	List(id Identity) []Listed
	// Admit asks for a place. The error is a *Refusal (shown as it is), ErrOffline, ErrUnavailable or another failure.
	Admit(ctx context.Context, c Claim) (*Place, error)
	// Reach is for end to end, where the device asks for the place: it says which device is meant, a *Refusal if the person may not reach
	// it or it does not exist (the two look the same), or ErrOffline. Until release is called the device can ask, and be told to end what is its.
	Reach(id Identity, device string) (to wire.UUID, release func(), err error)
	// Release gives a place back; the id is a session's, or a connection's. It does not wait.
	Release(id [16]byte, exitStatus int32, reason string)
	Routes
	// Record begins the recording of a session that has a place; h lacks cluster and hub.
	Record(p *Place, h recorder.Header) Recording
	// KillOnDevice tells the device to end a session and all its processes.
	KillOnDevice(device wire.UUID, session [16]byte, reason string)
}
