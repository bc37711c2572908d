package hub

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"hawser/auth/policy"
	"hawser/hub/front"
	"hawser/hub/spool"
	"hawser/recorder"
	"hawser/recorder/seal"
	"hawser/recorder/zstdcodec"
	"hawser/tunnel/identity"
)

// Of a strict recording, as DESIGN.md section 8 has it: what may have passed and not be on auth's disk, in bytes with a terminal and without,
// and for how long; how long things are then held back before the session ends.
const (
	strictTerminal = 64 << 10
	strictBulk     = 8 << 20
	strictAge      = 2 * time.Second
	strictGrace    = 10 * time.Second
	// strictChunkAge and strictChunk cut their chunks early, so that several fit what may be unacknowledged.
	strictChunkAge = 250 * time.Millisecond
	strictChunk    = 16 << 10
)

// recording is a Writer of a session whose device may have no witness.
type recording struct {
	*recorder.Writer
	without string // why there can be no witness; empty: there can
}

// Witness implements front.Recording.
func (r *recording) Witness(blob []byte, without string) {
	if r.without != "" {
		blob, without = nil, r.without
	}
	r.Writer.Witness(blob, without)
}

// strict makes o the options of a strict recording.
func (r *recording) strict(o *recorder.Options, of front.Recorded) {
	w := &recorder.Window{Bytes: strictBulk, Age: strictAge, Grace: strictGrace, Held: of.Away}
	if o.ChunkAge = strictChunkAge; of.Terminal {
		w.Bytes, o.ChunkSize = strictTerminal, strictChunk
	}
	w.Ended = func(why error) {
		of.End(why) // first, for where nothing can be stored the marker waits for room until the recording is closed
		r.Marker("the session ends: " + why.Error())
	}
	o.Window = w
}

// Record implements front.Backend.
func (b *backend) Record(p *front.Place, header recorder.Header, of front.Recorded) front.Recording {
	h := b.h
	creds := h.auth.Credentials()
	header.Cluster, header.Hub = creds.Cluster, creds.Name
	header.SignerKey = creds.Key.Public().(ed25519.PublicKey)
	strict := p.Record == policy.RecordStrict
	d := h.deliveries.begin(header.ID, p.Grant, strict)
	r := &recording{}
	o := recorder.Options{
		Codec: zstdcodec.Codec(), Sink: d.add, Room: d.room, Digest: true,
		Sign: func(m []byte) []byte { return ed25519.Sign(creds.Key, m) },
	}
	if len(p.Recipients) > 0 {
		key, wrapped := seal.NewKey(p.Recipients)
		o.Key, header.Keys = (*[32]byte)(&key), wrapped
	}
	if strict {
		r.strict(&o, of)
	}
	if known := h.auth.Cache.Device(p.Device); known != nil && known.Behind {
		r.without = recorder.WithoutAgent
	}
	r.Writer = recorder.NewWriter(header, o)
	d.writer.Store(r.Writer)
	return r
}

const (
	spoolDir     = "spool"
	spoolKeyFile = "spool.key"
	// spoolFree bytes of the disk are left free, minSpoolEach one recording may take at least: an eighth of the spool, so that one session cannot
	// fill it.
	spoolFree    = 64 << 20
	minSpoolEach = 4 << 20
)

// openSpool opens the spool of recordings that wait for auth. Its key lies beside the hub's identity, as the hub must go on by itself after a
// restart: who has the whole directory can read what is in it.
func openSpool(dir *identity.Dir, c Config) (*spool.Spool, []*spool.Recording, error) {
	key, err := dir.Read(spoolKeyFile)
	if err != nil && !errors.Is(err, identity.ErrNotExist) && !errors.Is(err, identity.ErrDamaged) {
		return nil, nil, fmt.Errorf("read the key of spooled recordings: %w", err)
	}
	if err != nil || len(key) != len(spool.Key{}) {
		if err != nil && !errors.Is(err, identity.ErrNotExist) { // what is spooled is lost, unless the key is put back; the hub is needed all the same
			c.Logger.Error("key of spooled recordings; what is spooled cannot be read without it", "error", err)
		}
		key = make([]byte, len(spool.Key{}))
		_, _ = rand.Read(key) // never fails
		if err := dir.Write(spoolKeyFile, key); err != nil {
			return nil, nil, fmt.Errorf("keep the key of spooled recordings: %w", err)
		}
	}
	s, left, err := spool.Open(spool.Config{
		Dir: filepath.Join(c.Data, spoolDir), Key: spool.Key(key), Total: c.SpoolSize, Each: max(c.SpoolSize/8, minSpoolEach), Free: spoolFree, Logger: c.Logger,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("open the spool of recordings: %w", err)
	}
	return s, left, nil
}

func recordingName(id [16]byte) string { return hex.EncodeToString(id[:]) }
