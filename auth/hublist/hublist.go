// Package hublist is the list of hubs that auth signs and edges keep: who may be dialled where, and how fast after a loss.
//
// Auth calls Sign; an edge calls Open and then Order, which tells it its own order of the hubs. The package is pure: bytes in,
// decisions out, no I/O.
//
// # Layout
//
// A list is an envelope (auth/internal/signed) under the context "hawser hubs 1" whose payload is these TLV fields; a tag is one
// byte, a length three, integers eight, big endian. Unknown tags are ignored.
//
//	1 cluster   string ≤ 253
//	2 revision  integer; a newer list has a greater one
//	3 window    integer, milliseconds
//	4 hub       fields, repeated ≤ 64: 1 UUID, 16 bytes; 2 name, string ≤ 63; 3 zone, string ≤ 63;
//	            4 tunnel address and 5 SSH address, each string ≤ 300, repeated ≤ 16
package hublist

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const signContext = "hawser hubs 1"

// What we chose. Lengths are in bytes.
const (
	// MaxHubs is how many hubs a list may name.
	MaxHubs = 64
	// MaxBlob bounds a signed list: a device keeps it in RAM and flash. Sixty-four hubs with two addresses each take 12 kB.
	MaxBlob = 32 << 10
	// MaxWindow bounds List.Window: nobody waits longer for a device that could come back.
	MaxWindow = 10 * time.Minute

	maxCluster   = 253 // a DNS name
	maxName      = 63
	maxAddress   = 300 // a DNS name, brackets, a port
	maxAddresses = 16
)

// Errors of Sign and Open.
var (
	ErrMalformed    = errors.New("malformed hub list")
	ErrTooLarge     = errors.New("hub list is too large")
	ErrSignature    = errors.New("hub list is not signed by a trusted grant key")
	ErrWrongCluster = errors.New("hub list is of another cluster")
)

// List is the hubs of a cluster.
type List struct {
	Cluster  string
	Revision uint64
	// Window is how long an edge that lost a working tunnel waits at most, at random, before it dials: the fleet's return is
	// spread over it. Zero: the edge's default.
	Window time.Duration
	Hubs   []Hub
}

// Hub is one of a List.
type Hub struct {
	UUID        [16]byte
	Name        string
	Zone        string   // what fails together; empty: not told
	Tunnel, SSH []string // host:port that edges and people reach
}

// Sign signs l with each of keys, the grant key and, while it is replaced, the next.
func Sign(l List, keys ...ed25519.PrivateKey) ([]byte, error) {
	if err := l.valid(); err != nil {
		return nil, err
	}
	blob := signed.Seal(signContext, l.encode(), keys...)
	if len(blob) > MaxBlob {
		return nil, ErrTooLarge
	}
	return blob, nil
}

// Open returns the list in blob when one of keys signed it for this cluster. The caller compares its Revision with that of
// the list it holds.
func Open(blob []byte, keys []ed25519.PublicKey, cluster string) (List, error) {
	if len(blob) > MaxBlob {
		return List{}, ErrTooLarge
	}
	payload, err := signed.Open(signContext, blob, keys)
	if errors.Is(err, signed.ErrSignature) {
		return List{}, ErrSignature
	}
	var l List
	if err == nil {
		l, err = decode(payload)
	}
	if err == nil {
		err = l.valid()
	}
	if err != nil {
		return List{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if l.Cluster != cluster {
		return List{}, ErrWrongCluster
	}
	return l, nil
}

// Order returns the hubs of l in the order in which this device takes them: rendezvous hashing, that is by descending
// SHA-256(hub UUID || device UUID). Each device has an order of its own, the fleet spreads evenly over the hubs, and a hub
// that comes or goes moves only the devices that it takes or had.
func Order(l List, device [16]byte) []Hub {
	hubs := append([]Hub(nil), l.Hubs...)
	weights := make([][sha256.Size]byte, len(hubs))
	var in [32]byte
	copy(in[16:], device[:])
	// An insertion sort: the lists are short, and a sort of the library's would be another kilobyte on each device.
	for i := range hubs {
		copy(in[:], hubs[i].UUID[:])
		weights[i] = sha256.Sum256(in[:])
		for k := i; k > 0 && bytes.Compare(weights[k][:], weights[k-1][:]) > 0; k-- {
			weights[k], weights[k-1] = weights[k-1], weights[k]
			hubs[k], hubs[k-1] = hubs[k-1], hubs[k]
		}
	}
	return hubs
}

// valid holds for what Sign accepts and what Open returns.
func (l *List) valid() error {
	if l.Cluster == "" || len(l.Cluster) > maxCluster || len(l.Hubs) > MaxHubs || l.Window < 0 || l.Window > MaxWindow {
		return tlv.ErrLength
	}
	for i, h := range l.Hubs {
		if len(h.Name) > maxName || len(h.Zone) > maxName || !within(h.Tunnel) || !within(h.SSH) {
			return tlv.ErrLength
		}
		if h.UUID == [16]byte{} {
			return errNoUUID
		}
		for _, other := range l.Hubs[:i] {
			if other.UUID == h.UUID {
				return errTwice
			}
		}
	}
	return nil
}

var (
	errNoUUID = errors.New("hub without UUID")
	errTwice  = errors.New("hub named twice")
)

func within(addresses []string) bool {
	for _, a := range addresses {
		if len(a) > maxAddress {
			return false
		}
	}
	return len(addresses) <= maxAddresses
}

func (l *List) encode() []byte {
	b := tlv.AppendString(nil, 1, l.Cluster)
	b = tlv.AppendUint(b, 2, l.Revision)
	b = tlv.AppendUint(b, 3, uint64(l.Window.Milliseconds()))
	for _, h := range l.Hubs {
		hub := tlv.AppendBytes(nil, 1, h.UUID[:])
		hub = tlv.AppendString(hub, 2, h.Name)
		hub = tlv.AppendString(hub, 3, h.Zone)
		hub = tlv.AppendStrings(hub, 4, h.Tunnel)
		hub = tlv.AppendStrings(hub, 5, h.SSH)
		b = tlv.AppendBytes(b, 4, hub)
	}
	return b
}

func decode(payload []byte) (List, error) {
	var l List
	err := tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&l.Cluster, v, maxCluster)
		case 2:
			n, err := tlv.Uint(v)
			l.Revision = n
			return err
		case 3:
			n, err := tlv.Uint(v)
			if err == nil && n > uint64(MaxWindow.Milliseconds()) {
				return tlv.ErrLength
			}
			l.Window = time.Duration(n) * time.Millisecond
			return err
		case 4:
			if len(l.Hubs) == MaxHubs {
				return tlv.ErrLength
			}
			var h Hub
			err := tlv.Read(v, h.field)
			l.Hubs = append(l.Hubs, h)
			return err
		}
		return nil
	})
	return l, err
}

func (h *Hub) field(tag uint8, v []byte) error {
	switch tag {
	case 1:
		return tlv.Fixed(h.UUID[:], v)
	case 2:
		return tlv.String(&h.Name, v, maxName)
	case 3:
		return tlv.String(&h.Zone, v, maxName)
	case 4:
		return tlv.Element(&h.Tunnel, v, maxAddress, maxAddresses)
	case 5:
		return tlv.Element(&h.SSH, v, maxAddress, maxAddresses)
	}
	return nil
}
