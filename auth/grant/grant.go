// Package grant is auth's signed permission to open one session, or the forwards of one connection, on one device.
//
// Auth (or, under a delegation, a hub) calls Grant.Sign; the edge calls Open, Grant.Check and, for a session, Spent.Spend
// before it starts anything. The package is pure: bytes and times in, decisions out.
//
// # Layout
//
// A grant is an envelope (auth/internal/signed) under the context "hawser grant 1" whose payload is these TLV fields;
// a tag is one byte, a length three, integers eight, big endian, times Unix milliseconds. Unknown tags are ignored
// below 128; from there on they restrict what is granted, and whoever does not know one opens nothing by the grant.
//
//	 1 cluster          string ≤ 255
//	 2 id               16 bytes
//	 3 session id       16 bytes, absent when zero
//	 4 connection id    16 bytes
//	 5 kind             integer: 1 session, 2 forwards, 3 connection
//	 6 user             string ≤ 64
//	 7 method           string ≤ 32: how the user proved it, such as "certificate" or "key"
//	 8 role             string ≤ 63, repeated ≤ 64
//	 9 policy revision  integer
//	10 device           16 bytes, its UUID
//	11 incarnation      16 bytes, the edge process it is for
//	12 login            string ≤ 64
//	13 channel          string ≤ 32, repeated ≤ 16: the channel kinds it opens
//	14 force command    string ≤ 4096, absent when none
//	15 forward to       string ≤ 300, repeated ≤ 64
//	16 client address   string ≤ 64, "192.0.2.1:4711" or "[2001:db8::1]:4711"
//	17 entry hub        16 bytes, its UUID
//	18 record           string ≤ 16: the recording mode
//	19 offline          integer, 1 when a hub signed it with auth away
//	20 not before       integer, Unix milliseconds
//	21 not after        integer, Unix milliseconds
//	22 detached life    integer, milliseconds; absent: 10 minutes
//	23 behind           16 bytes, the UUID of a server behind the device; absent when zero. Of kind 2 alone, with the channel
//	                    local-forward alone and one target: the way to that server, which the device dials by this grant and
//	                    whatever its own policy says of the user's forwards
//	24 seal key         32 bytes, X25519: the edge seals its recording of the session for it; absent: it does not
//	25 record stdin     string ≤ 16: off, redacted or full; absent: off. An edge that knows it redacts in its own recording, and
//	                    tells the hub that records which input is not to be kept (PROTOCOL.md, section 6.2)
//	26 join             16 bytes, the id of the session on the device that this one joins; absent when zero. Its one channel is join
//	27 join mode        string ≤ 16: observer, peer or moderator
//	28 recipient        32 bytes, X25519, repeated ≤ 16: who alone can read the recording; whoever makes it encrypts it to them (recorder/FORMAT.md)
//	29 moderators       a requirement (auth/policy, Moderators.Encode), repeated ≤ 32: who must be there for the channels that it names; of kinds 1 and 2
//	30 presence check   integer, milliseconds: how often each of them presses a key; absent: never
package grant

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
	"hawser/auth/policy"
)

const signContext = "hawser grant 1"

// Kind says what a grant opens.
type Kind uint8

// The kinds of grant.
const (
	Session    Kind = 1 // one session channel; spent by its use
	Forwards   Kind = 2 // any number of forwards of one connection until NotAfter
	Connection Kind = 3 // a connection's place; opens nothing on a device
)

func (k Kind) String() string {
	switch k {
	case Session:
		return "session"
	case Forwards:
		return "forwards"
	case Connection:
		return "connection"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Grant is a permission. NotBefore and NotAfter limit the opening, not the life of what was opened.
type Grant struct {
	Cluster        string
	ID             [16]byte
	SessionID      [16]byte // zero in a Forwards grant
	ConnectionID   [16]byte
	Kind           Kind
	User           string
	Method         string
	Roles          []string
	PolicyRevision uint64
	Device         [16]byte
	Incarnation    [16]byte
	Login          string
	Channels       []string
	ForceCommand   string
	ForwardTo      []string
	ClientAddr     netip.AddrPort
	EntryHub       [16]byte
	Record         string
	RecordStdin    string // empty is off
	Offline        bool
	// DetachedLife is how long what was opened may be without a tunnel to its device before it ends; 0: it ends at once.
	DetachedLife time.Duration
	// Behind is the server behind Device that the one target of a Forwards grant is; zero: it is the person's own forward. The roles were
	// held against that server, not against Device.
	Behind [16]byte
	// SealKey is the X25519 key that an edge seals the session's recording for (auth/seal); zero: it goes as it is.
	SealKey [32]byte
	// Join is the session that this one joins, in the JoinMode of auth/policy; zero: it is a session of its own.
	Join     [16]byte
	JoinMode string
	// Recipients are those that the session's recording is encrypted to; none: it is not.
	Recipients [][32]byte
	// Moderators are all required, for the channels that each names. PresenceCheck is how often each of those who count presses a key; 0: never.
	Moderators    []policy.Moderators
	PresenceCheck time.Duration
	NotBefore     time.Time // millisecond precision on the wire
	NotAfter      time.Time
}

// Errors of Sign, Open and Check. Callers may show the text to an operator, not to a stranger.
var (
	ErrMalformed = errors.New("malformed grant")
	// ErrTooNew: it restricts something in a way that this version does not know.
	ErrTooNew           = errors.New("the grant has a restriction that this agent is too old to know: update it")
	ErrTooLarge         = errors.New("grant is longer than 8 KiB; shorten forward_to of the roles it merges")
	ErrSignature        = errors.New("grant is not signed by a trusted grant key")
	ErrLife             = errors.New("grant lives longer than 5 minutes")
	ErrWrongCluster     = errors.New("grant is for another cluster")
	ErrWrongDevice      = errors.New("grant is for another device")
	ErrWrongIncarnation = errors.New("grant is for another run of this device's agent")
	ErrWrongHub         = errors.New("grant is for another hub")
	ErrWrongKind        = errors.New("grant is of another kind")
	ErrNotYetValid      = errors.New("grant is not valid yet")
	ErrExpired          = errors.New("grant has expired")
)

// Window returns the NotBefore and NotAfter an issuer sets: 2 minutes back for clocks that are behind, and MaxLife in all.
func Window(now time.Time) (notBefore, notAfter time.Time) {
	notBefore = now.Add(-Backdate)
	return notBefore, notBefore.Add(MaxLife)
}

// Sign encodes and signs the grant. It fails when a field passes its limit, the whole passes MaxBlob or the life passes MaxLife.
func (g *Grant) Sign(key ed25519.PrivateKey) ([]byte, error) {
	if err := g.valid(); err != nil {
		return nil, err
	}
	b := signed.Seal(signContext, g.encode(), key)
	if len(b) > MaxBlob {
		return nil, ErrTooLarge
	}
	return b, nil
}

// Open decodes a grant that one of keys signed. What it says is still to be held against the opener by Check.
func Open(blob []byte, keys []ed25519.PublicKey) (*Grant, error) {
	if len(blob) > MaxBlob {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(blob))
	}
	payload, err := signed.Open(signContext, blob, keys)
	if errors.Is(err, signed.ErrSignature) {
		return nil, ErrSignature
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	g, err := decode(payload)
	if err != nil {
		return nil, err
	}
	if err := g.valid(); err != nil {
		return nil, err
	}
	return g, nil
}

// Want is what the edge knows of itself and of the tunnel the grant came through. Every field is checked.
type Want struct {
	Cluster     string
	Device      [16]byte
	Incarnation [16]byte
	Hub         [16]byte // the authenticated peer, or entry hub of the attachment's inner TLS
	Kind        Kind     // what is to be opened
	Now         time.Time
}

// Check holds the grant against w and returns the first mismatch as one of the sentinels.
func (g *Grant) Check(w Want) error {
	switch {
	case g.Cluster != w.Cluster:
		return ErrWrongCluster
	case g.Device != w.Device:
		return ErrWrongDevice
	case g.Incarnation != w.Incarnation:
		return ErrWrongIncarnation
	case g.EntryHub != w.Hub:
		return ErrWrongHub
	case g.Kind != w.Kind:
		return ErrWrongKind
	case w.Now.Before(g.NotBefore):
		return ErrNotYetValid
	case !w.Now.Before(g.NotAfter):
		return ErrExpired
	}
	return nil
}

// Permits reports whether the grant names the channel kind, such as "shell" or "local-forward".
func (g *Grant) Permits(channel string) bool { return slices.Contains(g.Channels, channel) }

func (g *Grant) encode() []byte {
	b := make([]byte, 0, 512)
	b = tlv.AppendString(b, 1, g.Cluster)
	b = tlv.AppendBytes(b, 2, g.ID[:])
	if g.SessionID != [16]byte{} {
		b = tlv.AppendBytes(b, 3, g.SessionID[:])
	}
	b = tlv.AppendBytes(b, 4, g.ConnectionID[:])
	b = tlv.AppendUint(b, 5, uint64(g.Kind))
	b = tlv.AppendString(b, 6, g.User)
	b = tlv.AppendString(b, 7, g.Method)
	b = tlv.AppendStrings(b, 8, g.Roles)
	b = tlv.AppendUint(b, 9, g.PolicyRevision)
	b = tlv.AppendBytes(b, 10, g.Device[:])
	b = tlv.AppendBytes(b, 11, g.Incarnation[:])
	b = tlv.AppendString(b, 12, g.Login)
	b = tlv.AppendStrings(b, 13, g.Channels)
	if g.ForceCommand != "" {
		b = tlv.AppendString(b, 14, g.ForceCommand)
	}
	b = tlv.AppendStrings(b, 15, g.ForwardTo)
	if g.ClientAddr.IsValid() {
		b = tlv.AppendString(b, 16, g.ClientAddr.String())
	}
	b = tlv.AppendBytes(b, 17, g.EntryHub[:])
	b = tlv.AppendString(b, 18, g.Record)
	if g.Offline {
		b = tlv.AppendUint(b, 19, 1)
	}
	b = tlv.AppendUint(b, 20, uint64(g.NotBefore.UnixMilli()))
	b = tlv.AppendUint(b, 21, uint64(g.NotAfter.UnixMilli()))
	b = tlv.AppendUint(b, 22, uint64(g.DetachedLife.Milliseconds()))
	if g.Behind != [16]byte{} {
		b = tlv.AppendBytes(b, 23, g.Behind[:])
	}
	if g.SealKey != [32]byte{} {
		b = tlv.AppendBytes(b, 24, g.SealKey[:])
	}
	if g.RecordStdin != "" {
		b = tlv.AppendString(b, 25, g.RecordStdin)
	}
	if g.Join != [16]byte{} {
		b = tlv.AppendBytes(b, 26, g.Join[:])
		b = tlv.AppendString(b, 27, g.JoinMode)
	}
	for _, r := range g.Recipients {
		b = tlv.AppendBytes(b, 28, r[:])
	}
	for _, m := range g.Moderators {
		b = tlv.AppendBytes(b, 29, m.Encode())
	}
	if g.PresenceCheck > 0 {
		b = tlv.AppendUint(b, 30, uint64(g.PresenceCheck.Milliseconds()))
	}
	return b
}

func decode(payload []byte) (*Grant, error) {
	g := &Grant{DetachedLife: defaultDetachedLife}
	err := tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&g.Cluster, v, maxCluster)
		case 2:
			return tlv.Fixed(g.ID[:], v)
		case 3:
			return tlv.Fixed(g.SessionID[:], v)
		case 4:
			return tlv.Fixed(g.ConnectionID[:], v)
		case 5:
			n, err := tlv.Uint(v)
			if err == nil && n > uint64(Connection) {
				err = ErrWrongKind
			}
			g.Kind = Kind(n)
			return err
		case 6:
			return tlv.String(&g.User, v, maxUser)
		case 7:
			return tlv.String(&g.Method, v, maxMethod)
		case 8:
			return tlv.Element(&g.Roles, v, maxRole, maxRoles)
		case 9:
			n, err := tlv.Uint(v)
			g.PolicyRevision = n
			return err
		case 10:
			return tlv.Fixed(g.Device[:], v)
		case 11:
			return tlv.Fixed(g.Incarnation[:], v)
		case 12:
			return tlv.String(&g.Login, v, maxLogin)
		case 13:
			return tlv.Element(&g.Channels, v, maxChannel, maxChannels)
		case 14:
			return tlv.String(&g.ForceCommand, v, maxForceCommand)
		case 15:
			return tlv.Element(&g.ForwardTo, v, maxForwardTo, maxForwards)
		case 16:
			if len(v) > maxClientAddr {
				return tlv.ErrLength
			}
			addr, err := netip.ParseAddrPort(string(v))
			g.ClientAddr = addr
			return err
		case 17:
			return tlv.Fixed(g.EntryHub[:], v)
		case 18:
			return tlv.String(&g.Record, v, maxRecord)
		case 19:
			n, err := tlv.Uint(v)
			g.Offline = n != 0
			return err
		case 20:
			return readTime(&g.NotBefore, v)
		case 21:
			return readTime(&g.NotAfter, v)
		case 22:
			n, err := tlv.Uint(v)
			if err == nil && n > uint64(MaxDetachedLife.Milliseconds()) {
				return tlv.ErrLength
			}
			g.DetachedLife = time.Duration(n) * time.Millisecond
			return err
		case 23:
			return tlv.Fixed(g.Behind[:], v)
		case 24:
			return tlv.Fixed(g.SealKey[:], v)
		case 25:
			return tlv.String(&g.RecordStdin, v, maxRecord)
		case 26:
			return tlv.Fixed(g.Join[:], v)
		case 27:
			return tlv.String(&g.JoinMode, v, maxRecord)
		case 28:
			if len(g.Recipients) == policy.MaxRecipients {
				return tlv.ErrLength
			}
			g.Recipients = append(g.Recipients, [32]byte{})
			return tlv.Fixed(g.Recipients[len(g.Recipients)-1][:], v)
		case 29:
			m, err := policy.DecodeModerators(v)
			if err == nil && len(g.Moderators) == maxModerators {
				err = tlv.ErrLength
			}
			g.Moderators = append(g.Moderators, m)
			return err
		case 30:
			n, err := tlv.Uint(v)
			if err == nil && n > uint64(maxPresence.Milliseconds()) {
				err = tlv.ErrLength
			}
			g.PresenceCheck = time.Duration(n) * time.Millisecond
			return err
		}
		if tag >= firstCritical {
			return ErrTooNew
		}
		return nil
	})
	switch {
	case errors.Is(err, ErrTooNew):
		return nil, ErrTooNew
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return g, nil
}

func readTime(t *time.Time, v []byte) error {
	n, err := tlv.Uint(v)
	if err == nil && n > maxUnixMilli {
		err = tlv.ErrLength
	}
	*t = time.UnixMilli(int64(n)).UTC()
	return err
}

// valid holds for what Sign accepts and what Open returns.
func (g *Grant) valid() error {
	switch {
	case g.Cluster == "" || len(g.Cluster) > maxCluster:
		return fmt.Errorf("%w: cluster", ErrMalformed)
	case g.ID == [16]byte{}:
		return fmt.Errorf("%w: no id", ErrMalformed)
	case g.Kind < Session || g.Kind > Connection:
		return fmt.Errorf("%w: %v", ErrMalformed, g.Kind)
	case g.User == "" || len(g.User) > maxUser:
		return fmt.Errorf("%w: user", ErrMalformed)
	case g.Device == [16]byte{} && g.Kind != Connection:
		return fmt.Errorf("%w: no device", ErrMalformed)
	case g.SessionID == [16]byte{} && g.Kind == Session:
		return fmt.Errorf("%w: no session id", ErrMalformed)
	case len(g.Method) > maxMethod || len(g.Login) > maxLogin || len(g.Record) > maxRecord || len(g.RecordStdin) > maxRecord:
		return fmt.Errorf("%w: method, login or record too long", ErrMalformed)
	case len(g.ForceCommand) > maxForceCommand:
		return fmt.Errorf("%w: force command too long", ErrMalformed)
	case !within(g.Roles, maxRoles, maxRole):
		return fmt.Errorf("%w: roles", ErrMalformed)
	case !within(g.Channels, maxChannels, maxChannel):
		return fmt.Errorf("%w: channels", ErrMalformed)
	case !within(g.ForwardTo, maxForwards, maxForwardTo):
		return fmt.Errorf("%w: forward to", ErrMalformed)
	case !g.ClientAddr.IsValid() || len(g.ClientAddr.String()) > maxClientAddr:
		return fmt.Errorf("%w: client address", ErrMalformed)
	case g.NotBefore.UnixMilli() < 0 || g.NotAfter.UnixMilli() > maxUnixMilli:
		return fmt.Errorf("%w: time", ErrMalformed)
	case g.DetachedLife < 0 || g.DetachedLife > MaxDetachedLife:
		return fmt.Errorf("%w: detached life", ErrMalformed)
	case g.Behind != [16]byte{} && (g.Kind != Forwards || g.Offline || len(g.ForwardTo) != 1 || len(g.Channels) != 1 || g.Channels[0] != "local-forward"):
		return fmt.Errorf("%w: a way to a server behind is one forward", ErrMalformed)
	case (g.Join != [16]byte{}) != (g.JoinMode != "") || len(g.JoinMode) > maxRecord ||
		g.JoinMode != "" && (g.Kind != Session || g.Offline || len(g.Channels) != 1 || g.Channels[0] != "join"):
		return fmt.Errorf("%w: who joins has a session, a mode and one channel", ErrMalformed)
	case len(g.Recipients) > policy.MaxRecipients:
		return fmt.Errorf("%w: recipients", ErrMalformed)
	case len(g.Moderators) > maxModerators || g.PresenceCheck < 0 || g.PresenceCheck > maxPresence:
		return fmt.Errorf("%w: moderators", ErrMalformed)
	case !g.NotBefore.Before(g.NotAfter):
		return fmt.Errorf("%w: ends before it begins", ErrMalformed)
	case g.NotAfter.Sub(g.NotBefore) > MaxLife:
		return ErrLife
	}
	return nil
}

func within(list []string, count, limit int) bool {
	return len(list) <= count && !slices.ContainsFunc(list, func(s string) bool { return len(s) > limit })
}
