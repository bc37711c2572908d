package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hawser/auth/store"
	"hawser/tunnel"
)

// migration leads the records from one version to the next.
type migration struct {
	what   string
	prefix string // of the keys it is for
	// step returns the record's value in the next version. It changes nothing else, looks at nothing else, and leaves alone what it made
	// already: a migration that was killed is begun anew.
	step func(value []byte) ([]byte, error)
}

// migrations[i] leads from version i to version i+1. Once released a step is not changed; a new one is added at the end. A field that is
// added and may be absent needs none.
var migrations = []migration{
	{what: "the version is noted"}, // 0: as the first release wrote it, without one
	{what: "users' keys have comments, expiries and restrictions", prefix: userPrefix, step: migrateUserKeys},
}

// schemaKey holds schemaRecord.
const schemaKey = "meta/schema"

type schemaRecord struct {
	Version int       `json:"version"`
	Program string    `json:"program"` // that wrote this
	At      time.Time `json:"at"`
}

// schema is the version of the records that this program writes.
func schema() int { return len(migrations) }

// ErrNewerData means that a newer release has written the data.
var ErrNewerData = errors.New("the data is of a newer release")

// migrate brings the records to this program's version, before anything is served. Each transaction holds its records against what it read,
// and the version is raised when the last record of a step is written.
func migrate(ctx context.Context, state store.State, log *slog.Logger, now time.Time) error {
	var at schemaRecord
	kv, err := state.Get(ctx, schemaKey)
	switch {
	case errors.Is(err, store.ErrNotFound):
		some, _, err := state.Range(ctx, "", "", 1)
		if err != nil {
			return err
		}
		if len(some) == 0 {
			return setSchema(ctx, state, schema(), now)
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(kv.Value, &at); err != nil || at.Version < 1 {
			return fmt.Errorf("record %s is damaged; %s", schemaKey, restoreHint)
		}
	}
	if at.Version > schema() {
		return fmt.Errorf("%w: its records have version %d, this program (%s) knows %d; run %s or newer, or restore a backup that was made before the upgrade with `hawser-auth backup restore`",
			ErrNewerData, at.Version, tunnel.Version(), schema(), at.Program)
	}
	for v := at.Version; v < schema(); v++ {
		m := migrations[v]
		n, err := m.run(ctx, state)
		if err == nil {
			err = setSchema(ctx, state, v+1, now)
		}
		if err != nil {
			return fmt.Errorf("bring the records from version %d to %d (%s): %w", v, v+1, m.what, err)
		}
		log.Info("records migrated", "version", v+1, "what", m.what, "changed", n)
	}
	return nil
}

func setSchema(ctx context.Context, state store.State, version int, now time.Time) error {
	_, err := state.Txn(ctx, nil, []store.Op{put(schemaKey, schemaRecord{version, tunnel.Version(), now.UTC()})})
	return err
}

// run migrates the records page by page.
func (m migration) run(ctx context.Context, state store.State) (changed int, err error) {
	if m.step == nil {
		return 0, nil
	}
	for after := ""; ; {
		page, _, err := state.Range(ctx, m.prefix, after, migratePage)
		if err != nil {
			return changed, err
		}
		for _, kv := range page {
			value, err := m.step(kv.Value)
			if err != nil {
				return changed, fmt.Errorf("record %s: %w; %s", kv.Key, err, restoreHint)
			}
			if bytes.Equal(value, kv.Value) {
				continue
			}
			// One a transaction: records may be as large as transactions. Nobody waits but the operator, once.
			if _, err := state.Txn(ctx, []store.Cond{store.IfModRev(kv.Key, kv.ModRev)}, []store.Op{store.Put(kv.Key, value)}); err != nil {
				return changed, fmt.Errorf("record %s: %w", kv.Key, err)
			}
			changed++
		}
		if len(page) < migratePage {
			return changed, nil
		}
		after = page[len(page)-1].Key
	}
}

const migratePage = 500

// migrateUserKeys makes objects of keys that are the blob alone.
func migrateUserKeys(value []byte) ([]byte, error) {
	var u map[string]json.RawMessage
	if err := json.Unmarshal(value, &u); err != nil {
		return nil, err
	}
	var keys []json.RawMessage
	if raw, ok := u["keys"]; !ok {
		return value, nil
	} else if err := json.Unmarshal(raw, &keys); err != nil {
		return nil, err
	}
	changed := false
	for i, k := range keys {
		if len(k) > 0 && k[0] == '"' {
			keys[i], changed = append(append(json.RawMessage(`{"blob":`), k...), '}'), true
		}
	}
	if !changed {
		return value, nil
	}
	raw, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	u["keys"] = raw
	return json.Marshal(u)
}
