package store

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Manifest says what a recording is.
type Manifest struct {
	ID         [16]byte
	Start      time.Time // decides the week directory; never changes
	End        time.Time // zero while open
	User       string
	Device     string
	DeviceUUID string
	Login      string
	Way        string
	Kind       string
	Command    string
	ClientAddr string
	Hub        string
	Mode       string // recording mode in force
	Recorder   string `json:",omitempty"` // who is to make it, by the session's grant: RecorderHub or RecorderDevice
	Recipients int    `json:",omitempty"` // how many auditors the grant has it encrypted to
	Closed     bool   // no more chunks are taken
	Complete   bool   // closed by its recorder, with a head
	Abandoned  bool   `json:",omitempty"` // closed because nothing more came; it may be opened again
	Exited     bool   `json:",omitempty"` // ExitStatus and Signal are known
	ExitStatus int32
	Signal     string
	Ended      string `json:",omitempty"` // how the session ended, in words, as its recorder says

	// Roles are the person's and Labels the device's as the session began: retention goes by them.
	Roles  []string          `json:",omitempty"`
	Labels map[string]string `json:",omitempty"`

	Sealed   bool   `json:",omitempty"` // the chunks are encrypted to auditors
	Closing  string `json:",omitempty"` // "sha256:HEX" of the last chunk, as the audit log's recording.close has it
	Verified string `json:",omitempty"` // what auth found at the close: empty not checked, else VerifiedOK or VerifiedFault
	Fault    string `json:",omitempty"` // what was wrong
	Witness  string `json:",omitempty"` // the device's word on what passed: WitnessMatch, WitnessSums, WitnessMismatch, or why there is none (recorder.Without...)

	Chunks  uint64   // the store's, as what follows; of a removed recording how many there were
	Bytes   uint64   `json:",omitempty"`
	Hold    *Hold    `json:",omitempty"`
	Removed *Removal `json:",omitempty"`
}

// Values of Manifest.Recorder.
const (
	RecorderHub    = "hub"
	RecorderDevice = "device"
)

// Values of Manifest.Verified and Manifest.Witness.
const (
	VerifiedOK      = "ok"
	VerifiedFault   = "fault"
	WitnessMatch    = "match"
	WitnessSums     = "sums" // its recorder's sums are the device's; not all that passed is there to be compared
	WitnessMismatch = "mismatch"
)

func (m Manifest) encode() ([]byte, error) { return json.Marshal(m) }

func decodeManifest(b []byte) (m Manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	return m, nil
}

// owned returns m with what is the store's taken from old.
func (m Manifest) owned(old Manifest) Manifest {
	m.Chunks, m.Bytes, m.Hold, m.Removed = old.Chunks, old.Bytes, old.Hold, old.Removed
	return m
}

// Filter of List. Zero fields match all.
type Filter struct {
	User, Device, DeviceUUID string
	Since, Until             time.Time // of the start: Since <= start < Until
	Held                     bool      // only those that are held
	Removed                  bool      // those that were removed too
	IDPrefix                 string    // lower-case hex digits that the id begins with
	// Match is asked last, of those that are not for another reason not wanted. What it is given may lack Chunks and Bytes. It must not call the store.
	Match func(Manifest) bool
	Limit int // of those that match; 0: none
}

func (f Filter) match(m Manifest) bool {
	return (f.User == "" || f.User == m.User) && (f.Device == "" || f.Device == m.Device) &&
		(f.DeviceUUID == "" || f.DeviceUUID == m.DeviceUUID) &&
		!m.Start.Before(f.Since) && (f.Until.IsZero() || m.Start.Before(f.Until)) &&
		(!f.Held || m.Hold != nil) && (f.Removed || m.Removed == nil) &&
		(f.IDPrefix == "" || strings.HasPrefix(hex.EncodeToString(m.ID[:]), f.IDPrefix)) && (f.Match == nil || f.Match(m))
}

// idBytes are the whole bytes of IDPrefix; false: no id begins so.
func (f Filter) idBytes() ([]byte, bool) {
	b, err := hex.DecodeString(f.IDPrefix[:len(f.IDPrefix)&^1])
	return b, err == nil && len(b) <= 16
}

// manifestPrefix is what the keys of the manifests begin with that the filter wants.
func (f Filter) manifestPrefix() []byte {
	b, _ := f.idBytes()
	return append([]byte("m/"), b...)
}

// mayHold tells whether one of these recordings can be wanted, of which the first eight bytes of the ids are known, in order.
func (f Filter) mayHold(ids []uint64) bool {
	b, ok := f.idBytes()
	if !ok {
		return false
	}
	low, high := [8]byte{}, [8]byte{}
	for i := range high {
		high[i] = 0xff
	}
	copy(low[:], b)
	copy(high[:], b)
	i, _ := slices.BinarySearch(ids, binary.BigEndian.Uint64(low[:]))
	return i < len(ids) && ids[i] <= binary.BigEndian.Uint64(high[:])
}

// mayMatch tells whether a database of that name can hold what the filter wants.
func (f Filter) mayMatch(name string) bool {
	end, ok := weekEnd(name)
	return !ok || end.After(f.Since) && (f.Until.IsZero() || end.Add(-weekLength).Before(f.Until))
}

const weekLength = 7 * 24 * time.Hour

// Week names the directory of a start time: the ISO week, in UTC. Names sort by time.
func Week(start time.Time) string {
	y, w := start.UTC().ISOWeek()
	return fmt.Sprintf("%04d-W%02d", y, w)
}

// WeekEnd is when the week of a start time ends: what began in it is as old as its last could be.
func WeekEnd(start time.Time) time.Time {
	end, _ := weekEnd(Week(start))
	return end
}

// weekEnd is when the week of that name ends; false when it is no week's name.
func weekEnd(name string) (time.Time, bool) {
	var y, w int
	if n, err := fmt.Sscanf(name, "%4d-W%2d", &y, &w); n != 2 || err != nil || w < 1 || w > 53 {
		return time.Time{}, false
	}
	// January 4th is in the first ISO week, which begins on a Monday.
	first := time.Date(y, time.January, 4, 0, 0, 0, 0, time.UTC)
	monday := first.AddDate(0, 0, -(int(first.Weekday())+6)%7)
	end := monday.AddDate(0, 0, 7*w)
	return end, Week(end.Add(-time.Second)) == name
}
