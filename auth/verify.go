package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"hawser/auth/audit"
	"hawser/auth/store"
	"hawser/recorder"
)

// DataReport is what VerifyData found.
type DataReport struct {
	Audit audit.Report
	// Recordings that were read, and those that the log says were removed by hand or by retention.
	Recordings, Incomplete, Removed, Expired int
	// Faults of recordings, one sentence each.
	Faults []string
}

// VerifyData holds the data directory of a service that does not run, or a copy of one, against itself and against a head of the audit log that
// was kept elsewhere: every event, that every recording the log knows is there or was removed by somebody, and that each is the one that was
// recorded. It wants no key of the cluster. keys sign heads of the log; with none nothing is known of who wrote it.
func VerifyData(ctx context.Context, c Config, keys []ed25519.PublicKey, kept *audit.Head) (rep DataReport, err error) {
	c = c.withDefaults()
	var entries []audit.Entry
	rep.Audit, err = audit.VerifyDir(filepath.Join(c.Data, auditDir), keys, kept, func(e audit.Entry) error {
		if ev, err := e.Event(); err == nil && strings.HasPrefix(ev.Type, "recording.") {
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return rep, err
	}
	logged, err := audit.RecordingsOf(entries)
	if err != nil {
		return rep, err
	}
	recordings, err := store.OpenRecordings(filepath.Join(c.Data, recordingsDir), store.Options{Logger: c.Logger})
	if errors.Is(err, store.ErrInUse) {
		return rep, fmt.Errorf("%s: a service runs here; stop it or verify a copy, or ask it with `hawser recordings verify`", c.Data)
	}
	if err != nil {
		return rep, err
	}
	defer func() { err = errors.Join(err, recordings.Close()) }()
	all, err := recordings.List(ctx, store.Filter{Removed: true})
	if err != nil {
		return rep, err
	}
	there := map[string]bool{}
	for _, m := range all {
		id := hex.EncodeToString(m.ID[:])
		there[id] = true
		f := audit.Found{ID: id, Removed: m.Removed != nil, Closed: m.Closed}
		if !f.Removed {
			rep.Recordings++
			if !m.Complete {
				rep.Incomplete++
			}
			if f.Chunks, f.Closing, err = chain(ctx, recordings, m); err != nil {
				rep.Faults = append(rep.Faults, fmt.Sprintf("recording %s: %v", id, err))
				f.Closing = ""
			}
		}
		rep.Faults = append(rep.Faults, logged[id].Judge(f)...)
	}
	for _, id := range slices.Sorted(maps.Keys(logged)) {
		l := logged[id]
		switch {
		case l.Removed != nil && !l.Failed:
			rep.Removed++
		case !l.Expired.IsZero():
			rep.Expired++
		}
		if !there[id] {
			rep.Faults = append(rep.Faults, l.Judge(audit.Found{ID: id, Absent: true})...)
		}
	}
	return rep, nil
}

// chain reads a recording's chunks and checks that each follows the one before, as the hash in it says. It returns how many there are and the
// hash of the last. It needs no key: the chain is over what is stored, encrypted or not.
func chain(ctx context.Context, r store.Recordings, m store.Manifest) (n uint64, last string, err error) {
	previous := recorder.Genesis(m.ID)
	ended := false
	err = r.Chunks(ctx, m.ID, 0, func(seq uint64, chunk []byte) error {
		h, _, err := recorder.ParseChunk(chunk)
		switch {
		case err != nil:
			return fmt.Errorf("chunk %d: %w", seq, err)
		case ended:
			return fmt.Errorf("chunk %d follows the closing one", seq)
		case h.Seq != seq:
			return fmt.Errorf("chunk %d says that it is chunk %d", seq, h.Seq)
		case h.Previous != previous:
			return fmt.Errorf("chunk %d does not follow the one before it: one of them was changed or exchanged", seq)
		}
		previous = recorder.Hash(chunk)
		ended = h.Flags&recorder.FlagLast != 0
		last = fmt.Sprintf("sha256:%x", sha256.Sum256(chunk))
		n++
		return nil
	})
	if err == nil && m.Complete && !ended {
		err = errors.New("it was closed by its recorder, and its closing chunk is missing")
	}
	return n, last, err
}
