package store

import (
	"context"
	"log/slog"
	"time"
)

// Options of OpenState and OpenRecordings.
type Options struct {
	Logger *slog.Logger // nil discards
}

type BadgerState struct{ State }

func OpenState(dir string, o Options) (*BadgerState, error) { panic("soon") }

type Memory struct{ State }

func NewMemory() *Memory { panic("soon") }

type Recordings struct{}

func OpenRecordings(dir string, o Options) (*Recordings, error) { panic("soon") }

// Manifest says what a recording is. Fields that are facts at its start never change.
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
	Chunks     uint64 // filled in by List and Manifest from what is stored
}

// Filter of List. Zero fields match all.
type Filter struct {
	User, Device, DeviceUUID string
	Since, Until             time.Time
	Limit                    int
}

func (r *Recordings) PutManifest(ctx context.Context, m Manifest) error { panic("soon") }
func (r *Recordings) Manifest(ctx context.Context, id [16]byte) (Manifest, error) {
	panic("soon")
}
func (r *Recordings) List(ctx context.Context, f Filter) ([]Manifest, error) { panic("soon") }
func (r *Recordings) Append(ctx context.Context, id [16]byte, seq uint64, chunk []byte) error {
	panic("soon")
}
func (r *Recordings) Chunks(ctx context.Context, id [16]byte, from uint64, fn func(seq uint64, chunk []byte) error) error {
	panic("soon")
}
func (r *Recordings) Next(ctx context.Context, id [16]byte) (uint64, error) { panic("soon") }
func (r *Recordings) Close() error                                          { panic("soon") }
