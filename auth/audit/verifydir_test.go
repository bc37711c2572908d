package audit

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/auth/loghead"
)

// writtenLog makes a log of three days in dir and closes it. It returns a head of the second day, which somebody keeps elsewhere.
func writtenLog(t *testing.T, dir string, change func(*Event)) (kept Head) {
	t.Helper()
	now := time.Date(2026, 11, 19, 10, 0, 0, 0, time.UTC)
	l, err := Open(dir, options(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	for day := range 3 {
		for i := range 70 {
			e := Event{Type: "session.end", User: "ann", Device: "gw", Command: strings.Repeat("x", i), Count: uint64(day*70 + i)}
			if change != nil {
				change(&e)
			}
			if err := l.Record(e); err != nil {
				t.Fatal(err)
			}
		}
		b, err := l.MakeHead(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if day == 1 {
			if kept, err = loghead.Parse(b); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(24 * time.Hour)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return kept
}

func judgeDir(t *testing.T, dir string, kept *Head) Report {
	t.Helper()
	r, err := VerifyDir(dir, []ed25519.PublicKey{public()}, kept, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Whoever changes the log's files by hand is found, without asking anybody, by the head beside them or by one that was kept elsewhere.
func TestALogWhoseFilesWereChangedByHandIsFound(t *testing.T) {
	whole := t.TempDir()
	kept := writtenLog(t, whole, nil)
	if r := judgeDir(t, whole, &kept); len(r.Faults) > 0 || r.Events != 210 || !r.Signed || r.Unsigned != 0 {
		t.Fatalf("a whole log: %+v", r)
	}
	edit := func(t *testing.T, dir, name string, f func([]byte) []byte) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), f(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	const first, second, third = "2026-11-19.jsonl", "2026-11-20.jsonl", "2026-11-21.jsonl"
	for _, x := range []struct {
		name string
		do   func(t *testing.T, dir string)
		want string
	}{
		{"edited event", func(t *testing.T, dir string) {
			edit(t, dir, second, func(b []byte) []byte { return bytes.Replace(b, []byte(`"ann"`), []byte(`"eve"`), 1) })
		}, "event 70 was changed"},
		{"dropped event", func(t *testing.T, dir string) {
			edit(t, dir, second, func(b []byte) []byte { return b[bytes.IndexByte(b, '\n')+1:] })
		}, "events 70 to 70 are missing"},
		{"dropped first day", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, first)); err != nil {
				t.Fatal(err)
			}
		}, "events 0 to 69 are missing, and no event says that they expired"},
		{"dropped last day", func(t *testing.T, dir string) {
			if err := os.Remove(filepath.Join(dir, third)); err != nil {
				t.Fatal(err)
			}
		}, "missing at the end"},
		{"swapped events", func(t *testing.T, dir string) {
			edit(t, dir, second, func(b []byte) []byte {
				lines := bytes.SplitAfter(b, []byte("\n"))
				lines[3], lines[4] = lines[4], lines[3]
				return bytes.Join(lines, nil)
			})
		}, "reordered"},
		{"a line put in", func(t *testing.T, dir string) {
			edit(t, dir, third, func(b []byte) []byte { return append([]byte("{}\n"), b...) })
		}, "line 1 is no event"},
		{"an event and its leaf edited", func(t *testing.T, dir string) {
			var leaf [32]byte
			edit(t, dir, first, func(b []byte) []byte {
				b = bytes.Replace(b, []byte(`"ann"`), []byte(`"eve"`), 1)
				e, err := ParseLine(b[:bytes.IndexByte(b, '\n')])
				if err != nil {
					t.Fatal(err)
				}
				leaf = e.Leaf()
				return b
			})
			edit(t, dir, treeFile, func(b []byte) []byte {
				tr := &tree{}
				tr.append(leaf)
				copy(b, tr.tail)
				return b
			})
		}, "the tree is not that of its own leaves"},
		{"the tree cut", func(t *testing.T, dir string) {
			edit(t, dir, treeFile, func(b []byte) []byte { return b[:len(b)/2] })
		}, "the log was cut off"},
		{"another key's head", func(t *testing.T, dir string) {
			h := judgeDir(t, whole, nil).Head
			other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
			b, err := h.Sign(other.Public().(ed25519.PublicKey), func(b []byte) ([]byte, error) { return ed25519.Sign(other, b), nil })
			if err != nil {
				t.Fatal(err)
			}
			edit(t, dir, headFile, func([]byte) []byte { return b })
		}, "not signed by this cluster's key"},
		{"the whole log written anew by who has the key", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			writtenLog(t, dir, func(e *Event) {
				if e.Count == 3 {
					e.User = "eve"
				}
			})
			if r := judgeDir(t, dir, nil); len(r.Faults) > 0 {
				t.Errorf("it is not whole by itself: %q", r.Faults)
			}
		}, "not those of the head kept: the log was rewritten"},
		{"an older copy brought back", func(t *testing.T, dir string) {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			l := open(t, dir, func() time.Time { return time.Date(2026, 11, 19, 10, 0, 0, 0, time.UTC) })
			fill(t, l, 10)
			head(t, l)
		}, "it was cut off"},
	} {
		t.Run(x.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			x.do(t, dir)
			r := judgeDir(t, dir, &kept)
			if text := strings.Join(r.Faults, "\n"); !strings.Contains(text, x.want) {
				t.Errorf("found %q, want %q", text, x.want)
			}
		})
	}
}

func TestExpiredDaysAreNoFault(t *testing.T) {
	dir := t.TempDir()
	kept := writtenLog(t, dir, nil)
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	l, err := Open(dir, options(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	fill(t, l, 1)
	until, err := l.Expire(48 * time.Hour)
	if err != nil || until != 69 {
		t.Fatalf("until %d, %v", until, err)
	}
	if err := l.Record(Expired(until, 48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if r := judgeDir(t, dir, &kept); len(r.Faults) > 0 || r.First != 70 {
		t.Errorf("%+v", r)
	}
}

func TestARecordingIsHeldAgainstTheLog(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, time.Now)
	for _, e := range []Event{
		{Type: "recording.open", Session: "aa", Object: "2026-W40", User: "ann", Device: "gw"},
		{Type: "recording.open", Session: "bb", Object: "2026-W40"},
		{Type: "recording.open", Session: "cc", Object: "2026-W47", User: "ann", Device: "gw"},
		{Type: "recording.open", Session: "dd", Object: "2026-W47"},
		{Type: "recording.close", Session: "aa", Object: "sha256:1", Count: 4},
		{Type: "recording.hold", Session: "aa"},
		{Type: "recording.close", Session: "cc", Object: "sha256:2", Count: 5},
		{Type: "recording.expire", Object: "2026-W40", Count: 1},
		{Type: "recording.remove", Session: "dd", Actor: "user:lea", Message: "asked"},
		{Type: "recording.open", Session: "ee", Object: "2026-W47"},
		{Type: "recording.remove", Session: "ee", Actor: "user:lea"},
		{Type: "recording.remove.fail", Session: "ee", Actor: "user:lea"},
		{Type: "recording.open", Session: "gg", Object: "2026-W47"},
		{Type: "recording.incomplete", Session: "gg", Object: "sha256:5", Count: 3},
		{Type: "session.end", Session: "ff"},
	} {
		if err := l.Record(e); err != nil {
			t.Fatal(err)
		}
	}
	rep, entries, err := ReadExport(bytes.NewReader(export(t, l, Query{Type: "recording"}, "type recording", 0)), []ed25519.PublicKey{public()}, nil)
	if err != nil || len(rep.Faults) > 0 || !rep.Signed {
		t.Fatalf("%+v, %v", rep, err)
	}
	all, err := RecordingsOf(entries)
	if err != nil || len(all) != 6 {
		t.Fatalf("%d recordings, %v", len(all), err)
	}
	for _, x := range []struct {
		f    Found
		want string
	}{
		{Found{ID: "aa", Closed: true, Chunks: 4, Closing: "sha256:1"}, ""},
		{Found{ID: "aa", Closed: true, Chunks: 4, Closing: "sha256:9"}, "it was rewritten"},
		{Found{ID: "aa", Closed: true, Chunks: 3, Closing: "sha256:1"}, "had 4"},
		{Found{ID: "aa", Absent: true}, "is missing: the log has it end"}, // held: retention let it be
		{Found{ID: "bb", Absent: true}, ""},
		{Found{ID: "cc", Absent: true}, "is missing"},
		{Found{ID: "cc", Removed: true}, "the log has nobody remove it"},
		{Found{ID: "dd", Removed: true}, ""},
		{Found{ID: "dd", Absent: true}, ""},
		{Found{ID: "dd", Closed: true, Chunks: 1}, "the log does not close it"},
		{Found{ID: "ee", Absent: true}, "is missing: the log has it begin"},
		{Found{ID: "ee"}, ""},
		{Found{ID: "gg", Closed: true, Chunks: 3, Closing: "sha256:5"}, ""},
		{Found{ID: "gg", Closed: true, Chunks: 3, Closing: "sha256:6"}, "it was rewritten"},
		{Found{ID: "gg", Chunks: 4, Closing: "sha256:7"}, ""}, // it goes on
		{Found{ID: "gg", Chunks: 2, Closing: "sha256:7"}, "had 3"},
		{Found{ID: "xx", Chunks: 3}, "is not in the log"},
		{Found{ID: "xx", Absent: true}, ""},
	} {
		got := strings.Join(all[x.f.ID].Judge(x.f), "\n")
		if (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("%+v: got %q, want %q", x.f, got, x.want)
		}
	}
}
