package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"hawser/auth/store"
)

var quiet = slog.New(slog.DiscardHandler)

// oldState is as the first release left it.
func oldState(t *testing.T) *store.Memory {
	t.Helper()
	s := store.NewMemory()
	t.Cleanup(func() { _ = s.Close() })
	for key, v := range map[string]string{
		"user/ann": `{"name":"ann","roles":["operator"],"keys":["AAAA","BBBB"],"created":"2026-01-01T00:00:00Z"}`,
		"user/bob": `{"name":"bob","roles":[],"created":"2026-01-01T00:00:00Z"}`,
		"role/dev": `{"kind":"role","name":"dev"}`,
		"name/gw":  "1111",
	} {
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(key, []byte(v))}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func dump(t *testing.T, s store.State) map[string]string {
	t.Helper()
	out := map[string]string{}
	if _, err := s.Snapshot(t.Context(), func(kv store.KV) error {
		if kv.Key != schemaKey {
			out[kv.Key] = string(kv.Value)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestRecordsOfTheFirstReleaseMigrate(t *testing.T) {
	s := oldState(t)
	if err := migrate(t.Context(), s, quiet, time.Now()); err != nil {
		t.Fatal(err)
	}
	got := dump(t, s)
	var u userRecord
	if err := json.Unmarshal([]byte(got["user/ann"]), &u); err != nil || len(u.Keys) != 2 || len(u.Keys[1].Blob) != 3 || u.Name != "ann" || strings.Contains(got["user/ann"], `["`+"AAAA") {
		t.Errorf("got %s, %v", got["user/ann"], err)
	}
	if got["name/gw"] != "1111" || !strings.Contains(got["user/bob"], `"bob"`) {
		t.Errorf("got %v", got)
	}
	// Again: nothing changes.
	if err := migrate(t.Context(), s, quiet, time.Now()); err != nil {
		t.Fatal(err)
	}
	if again := dump(t, s); again["user/ann"] != got["user/ann"] {
		t.Errorf("migrated twice: %s", again["user/ann"])
	}
}

// dying fails its nth transaction and all after it, as a process that is killed there.
type dying struct {
	store.State
	left int
}

var errKilled = errors.New("killed")

func (d *dying) Txn(ctx context.Context, conds []store.Cond, ops []store.Op) (uint64, error) {
	if d.left--; d.left < 0 {
		return 0, errKilled
	}
	return d.State.Txn(ctx, conds, ops)
}

func TestMigrationThatIsKilledAnywhereGoesOn(t *testing.T) {
	whole := oldState(t)
	if err := migrate(t.Context(), whole, quiet, time.Now()); err != nil {
		t.Fatal(err)
	}
	want := dump(t, whole)
	for n := 0; ; n++ {
		s := oldState(t)
		err := migrate(t.Context(), &dying{s, n}, quiet, time.Now())
		if err == nil {
			if n == 0 {
				t.Fatal("it wrote nothing")
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if err := migrate(t.Context(), s, quiet, time.Now()); err != nil {
			t.Fatalf("after a kill at write %d: %v", n, err)
		}
		for key, v := range dump(t, s) {
			if want[key] != v {
				t.Errorf("killed at write %d: %s is %s, want %s", n, key, v, want[key])
			}
		}
	}
}

// Every step leaves alone what it made: that is what lets a killed migration begin anew.
func TestMigrationStepsLeaveAloneWhatTheyMade(t *testing.T) {
	for _, in := range []string{`{"keys":["AA==","BB=="]}`, `{"keys":[{"blob":"AA=="},"BB=="]}`, `{"keys":[]}`, `{"keys":null}`, `{}`} {
		for _, m := range migrations {
			if m.step == nil {
				continue
			}
			once, err := m.step([]byte(in))
			if err != nil {
				t.Fatalf("%s: %s: %v", m.what, in, err)
			}
			twice, err := m.step(once)
			if err != nil || !bytes.Equal(once, twice) {
				t.Errorf("%s: %s became %s and then %s, %v", m.what, in, once, twice, err)
			}
		}
	}
}

func FuzzMigrateUserKeys(f *testing.F) {
	f.Add([]byte(`{"name":"ann","keys":["AA==",{"blob":"BB=="}]}`))
	f.Add([]byte(`{"keys":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := migrateUserKeys(b)
		if err != nil {
			return
		}
		if twice, err := migrateUserKeys(once); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%q became %q and then %q, %v", b, once, twice, err)
		}
	})
}

func TestDataOfANewerReleaseIsRefused(t *testing.T) {
	b := start(t)
	if err := setSchema(t.Context(), b.state, schema()+1, time.Now()); err != nil {
		t.Fatal(err)
	}
	b.stop()
	s, err := New(b.cfg)
	if !errors.Is(err, ErrNewerData) || !strings.Contains(err.Error(), "backup restore") {
		t.Errorf("got %v, %v", s, err)
	}
}
