// Package lock is the list of standing refusals that auth signs and that hubs and edges enforce: locks, and the dates before which
// users' certificates are void.
//
// Auth calls [Sign]; hubs and edges call [Open] and then [List.Match] at every authentication, every channel, and against what is live
// when a list changes. The package is pure: bytes and times in, decisions out, no I/O.
//
// # Layout
//
// A list is an envelope (auth/internal/signed) under the context "hawser locks 1" whose payload is these TLV fields; a tag is one byte,
// a length three, integers eight, big endian, times milliseconds since 1970. Unknown tags are ignored.
//
//	1 cluster   string ≤ 253
//	2 revision  integer; a newer list has a greater one
//	3 lock      fields, repeated ≤ 1024, each at most once: 1 id, string ≤ 32; what must match, where it is there: 2 user, 3 role,
//	            4 login, each string ≤ 64, 5 device, UUID in text ≤ 36, 6 key, fingerprint as `SHA256:...` ≤ 64, 7 source, CIDR
//	            prefix ≤ 64; 8 message, string ≤ 256; 9 expires, time, absent: it stands until it is removed
//	4 void      fields, repeated ≤ 512: 1 user, string ≤ 64, "*" is everybody; 2 before, time; 3 until, time
package lock

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const signContext = "hawser locks 1"

// What we chose. Lengths are in bytes.
const (
	// MaxBlob bounds a signed list: a device keeps it in RAM and flash. Some 300 locks with a message each.
	MaxBlob = 32 << 10
	// MaxLocks and MaxVoids bound what a reader allocates.
	MaxLocks = 1024
	MaxVoids = 512
	// MaxMessage is what a person is shown.
	MaxMessage = 256
	// StrictAfter is how old the newest sign of auth may be where the lock mode is strict. Auth gives one each minute.
	StrictAfter = 5 * time.Minute

	maxCluster = 253 // a DNS name
	maxName    = 64
	maxID      = 32
)

// Everybody is the user of a Void that is about all of them.
const Everybody = "*"

// Errors of Sign and Open.
var (
	ErrMalformed    = errors.New("malformed list of locks")
	ErrTooLarge     = errors.New("list of locks is too large")
	ErrSignature    = errors.New("locks are not signed by a trusted grant key")
	ErrWrongCluster = errors.New("locks are of another cluster")
)

// List is all that is refused in a cluster.
type List struct {
	Cluster  string
	Revision uint64
	Locks    []Lock
	Voids    []Void
}

// Lock refuses whom and what it names: all of the fields from User to Source that are set must match. By and Created are for people who
// look at locks; they are not part of a signed list.
type Lock struct {
	ID      string
	User    string
	Role    string
	Login   string       // the account on a device
	Device  string       // UUID in text
	Key     string       // fingerprint of a person's or device's key, SHA256:...
	Source  netip.Prefix // of the person's address, masked
	Message string       // shown to whom it refuses
	Expires time.Time    // zero: never

	By      string
	Created time.Time
}

// Void refuses the certificates of a user that were issued before a time, until the last of them has expired anyway.
type Void struct {
	User          string // Everybody: of all
	Before, Until time.Time
}

// Subject is who wants something, as far as it is known where it is decided; what is not known matches no lock that names it.
type Subject struct {
	User     string
	Roles    []string
	Login    string
	Device   string // UUID in text
	Key      string // fingerprint, SHA256:...
	Source   netip.Addr
	IssuedAt time.Time // of the certificate that proves the user; zero: none does
}

// Denied says which lock or void refuses a Subject. Its text is for the person.
type Denied struct {
	Lock *Lock // nil: a void
	Void *Void
}

func (d *Denied) Error() string {
	if d.Lock == nil {
		return "this certificate was issued before " + stamp(d.Void.Before) + " and is void since; log in again with `hawser login`"
	}
	text := "locked"
	if !d.Lock.Expires.IsZero() {
		text += " until " + stamp(d.Lock.Expires)
	}
	if d.Lock.Message != "" {
		return text + ": " + d.Lock.Message
	}
	return text + " by an administrator"
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// Reason is one word for logs: "lock" or "void".
func (d *Denied) Reason() string {
	if d.Lock == nil {
		return "void"
	}
	return "lock"
}

// Rule says for logs which it is.
func (d *Denied) Rule() string {
	if d.Lock == nil {
		return "certificates of " + d.Void.User + " before " + stamp(d.Void.Before)
	}
	return "lock " + d.Lock.ID
}

// Match returns what refuses s at now, nil if nothing does. Of several the one that lasts longest is named.
func (l *List) Match(now time.Time, s Subject) *Denied {
	var found *Lock
	for i := range l.Locks {
		if k := &l.Locks[i]; k.matches(now, &s) && (found == nil || !found.Expires.IsZero() && (k.Expires.IsZero() || k.Expires.After(found.Expires))) {
			found = k
		}
	}
	if found != nil {
		return &Denied{Lock: found}
	}
	if s.User == "" || s.IssuedAt.IsZero() {
		return nil
	}
	for i := range l.Voids {
		if v := &l.Voids[i]; (v.User == s.User || v.User == Everybody) && s.IssuedAt.Before(v.Before) && now.Before(v.Until) {
			return &Denied{Void: v}
		}
	}
	return nil
}

// matches tells whether k refuses s. One that names nothing this reader knows refuses everybody: it is narrower than that in words of a
// later version.
func (k *Lock) matches(now time.Time, s *Subject) bool {
	is := func(want, got string) bool { return want == "" || want == got }
	return (k.Expires.IsZero() || now.Before(k.Expires)) &&
		is(k.User, s.User) && is(k.Login, s.Login) && is(k.Device, s.Device) && is(k.Key, s.Key) &&
		(k.Role == "" || slices.Contains(s.Roles, k.Role)) &&
		(!k.Source.IsValid() || s.Source.IsValid() && k.Source.Contains(s.Source.Unmap().WithZone("")))
}

// Bare tells whether k names nothing.
func (k *Lock) Bare() bool {
	return k.User == "" && k.Role == "" && k.Login == "" && k.Device == "" && k.Key == "" && !k.Source.IsValid()
}

// Sign signs l with each of keys, the grant key and, while it is replaced, the next. A list that is too large fails with ErrTooLarge; see
// Compact.
func Sign(l List, keys ...ed25519.PrivateKey) ([]byte, error) {
	for i := range l.Locks {
		if l.Locks[i].Bare() {
			return nil, fmt.Errorf("%w: lock %s names nothing", ErrMalformed, l.Locks[i].ID)
		}
	}
	payload := l.encode()
	if _, err := decode(payload); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	blob := signed.Seal(signContext, payload, keys...)
	if len(blob) > MaxBlob {
		return nil, ErrTooLarge
	}
	return blob, nil
}

// Open returns the list in blob when one of keys signed it for this cluster. The caller compares its Revision with that of the list it
// holds.
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
	if err != nil {
		return List{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if l.Cluster != cluster {
		return List{}, ErrWrongCluster
	}
	return l, nil
}

func (l *List) encode() []byte {
	b := tlv.AppendString(nil, 1, l.Cluster)
	b = tlv.AppendUint(b, 2, l.Revision)
	for i := range l.Locks {
		b = tlv.AppendBytes(b, 3, l.Locks[i].encode())
	}
	for _, v := range l.Voids {
		f := tlv.AppendString(nil, 1, v.User)
		f = appendTime(f, 2, v.Before)
		f = appendTime(f, 3, v.Until)
		b = tlv.AppendBytes(b, 4, f)
	}
	return b
}

func (k *Lock) encode() []byte {
	var b []byte
	source := ""
	if k.Source.IsValid() {
		source = k.Source.String()
	}
	for tag, v := range [...]string{1: k.ID, 2: k.User, 3: k.Role, 4: k.Login, 5: k.Device, 6: k.Key, 7: source, 8: k.Message} {
		if v != "" {
			b = tlv.AppendString(b, uint8(tag), v)
		}
	}
	return appendTime(b, 9, k.Expires)
}

func appendTime(b []byte, tag uint8, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return tlv.AppendUint(b, tag, uint64(t.UnixMilli()))
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
			if len(l.Locks) == MaxLocks {
				return tlv.ErrLength
			}
			l.Locks = append(l.Locks, Lock{})
			return tlv.Read(v, l.Locks[len(l.Locks)-1].field)
		case 4:
			if len(l.Voids) == MaxVoids {
				return tlv.ErrLength
			}
			l.Voids = append(l.Voids, Void{})
			return tlv.Read(v, l.Voids[len(l.Voids)-1].field)
		}
		return nil
	})
	if err == nil && l.Cluster == "" {
		err = tlv.ErrLength
	}
	return l, err
}

func (k *Lock) field(tag uint8, v []byte) (err error) {
	switch tag {
	case 1:
		return tlv.String(&k.ID, v, maxID)
	case 2:
		return tlv.String(&k.User, v, maxName)
	case 3:
		return tlv.String(&k.Role, v, maxName)
	case 4:
		return tlv.String(&k.Login, v, maxName)
	case 5:
		return tlv.String(&k.Device, v, maxName)
	case 6:
		return tlv.String(&k.Key, v, maxName)
	case 7:
		if len(v) > maxName {
			return tlv.ErrLength
		}
		if k.Source, err = netip.ParsePrefix(string(v)); err == nil && k.Source != k.Source.Masked() {
			err = tlv.ErrLength
		}
	case 8:
		return tlv.String(&k.Message, v, MaxMessage)
	case 9:
		return readTime(&k.Expires, v)
	}
	return err
}

func (d *Void) field(tag uint8, v []byte) error {
	switch tag {
	case 1:
		return tlv.String(&d.User, v, maxName)
	case 2:
		return readTime(&d.Before, v)
	case 3:
		return readTime(&d.Until, v)
	}
	return nil
}

// readTime reads what appendTime wrote. What is beyond the year 9999 means no time that could be shown.
func readTime(t *time.Time, v []byte) error {
	const last = 253402300799999
	n, err := tlv.Uint(v)
	if err == nil && (n > last || n == 0) {
		err = tlv.ErrLength
	}
	if err == nil {
		*t = time.UnixMilli(int64(n)).UTC()
	}
	return err
}
