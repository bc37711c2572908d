package store

import (
	"encoding/json"
	"fmt"
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
	Closed     bool   // no more chunks are taken
	Complete   bool   // closed by its recorder, with a head
	ExitStatus int32
	Signal     string
	Chunks     uint64 // filled in by Manifest and List from what is stored
}

func (m Manifest) encode() ([]byte, error) { return json.Marshal(m) }

func decodeManifest(b []byte) (m Manifest, err error) {
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: manifest: %w", ErrDamaged, err)
	}
	return m, nil
}

// Filter of List. Zero fields match all.
type Filter struct {
	User, Device, DeviceUUID string
	Since, Until             time.Time // of the start: Since <= start < Until
	Limit                    int
}

func (f Filter) match(m Manifest) bool {
	return (f.User == "" || f.User == m.User) && (f.Device == "" || f.Device == m.Device) &&
		(f.DeviceUUID == "" || f.DeviceUUID == m.DeviceUUID) &&
		!m.Start.Before(f.Since) && (f.Until.IsZero() || m.Start.Before(f.Until))
}

// week names the directory of a start time: the ISO week, in UTC. Names sort by time.
func week(start time.Time) string {
	y, w := start.UTC().ISOWeek()
	return fmt.Sprintf("%04d-W%02d", y, w)
}
