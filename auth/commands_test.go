package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"hawser/auth/audit"
	"hawser/auth/store"
	"hawser/recorder"
)

// What was run in a session is in the audit log: when, where that is known from, and how sure it is. Of more than one line has room for, there are more lines.
func TestTheAuditLogHasTheCommands(t *testing.T) {
	b := start(t)
	begun := time.Now()
	told := func(id byte, h recorder.Header, do func(w *recorder.Writer)) (events []Event) {
		t.Helper()
		m := store.Manifest{ID: [16]byte{id}, Start: begun, User: "ann"}
		h.ID = m.ID
		var chunks [][]byte
		w := recorder.NewWriter(h, recorder.Options{Sink: func(_ context.Context, _ uint64, c []byte) error {
			chunks = append(chunks, bytes.Clone(c))
			return nil
		}})
		do(w)
		if err := w.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := b.recordings.PutManifest(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if err := b.recordings.Append(t.Context(), m.ID, 0, chunks...); err != nil {
			t.Fatal(err)
		}
		b.tellCommands(t.Context(), m)
		b.settle(t.Context())
		for line := range strings.Lines(b.auditText(t)) {
			var e Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			if e.Type == "session.commands" && e.Session == hexID(m.ID) {
				events = append(events, e)
			}
		}
		return events
	}
	const lines = maxCommandEvents*audit.MaxCommands + 1
	for id, row := range []struct {
		h      recorder.Header
		do     func(w *recorder.Writer)
		events int
		count  uint64 // 0: of one
		want   audit.Command
		sure   [2]uint8
	}{
		{recorder.Header{}, func(w *recorder.Writer) { _ = w.Start("exec", "uname -a", "", nil) }, 1, 1, audit.Command{Text: "uname -a", Source: "exec"}, [2]uint8{100, 100}},
		{recorder.Header{Width: 80, Height: 24, Term: "xterm"}, func(w *recorder.Writer) {
			_ = w.Start("shell", "", "xterm", nil)
			w.Output(recorder.Stdout, []byte("root@gw:~# "))
			w.Input([]byte("id"))
			w.Output(recorder.Stdout, []byte("id"))
			w.Input([]byte("\r"))
			w.Output(recorder.Stdout, []byte("\r\nuid=0(root)\r\nroot@gw:~# "))
		}, 1, 1, audit.Command{Text: "id", Source: "screen"}, [2]uint8{60, 99}},
		{recorder.Header{}, func(w *recorder.Writer) {
			_ = w.Start("shell", "", "", nil)
			for i := range lines {
				w.Input(fmt.Appendf(nil, "echo %d\n", i))
			}
		}, maxCommandEvents, lines, audit.Command{Text: "echo 0", Source: "input"}, [2]uint8{60, 99}},
	} {
		row.h.Start = begun
		events := told(byte(id), row.h, row.do)
		if len(events) != row.events {
			t.Errorf("%s: %d events, want %d", row.want.Source, len(events), row.events)
			continue
		}
		var all []audit.Command
		for _, e := range events {
			if all = append(all, e.Commands...); e.Count != row.count || e.User != "ann" {
				t.Errorf("%s: an event of %q that says %d in all, want %d", row.want.Source, e.User, e.Count, row.count)
			}
		}
		if want := min(int(row.count), maxCommandEvents*audit.MaxCommands); len(all) != want {
			t.Errorf("%s: %d commands, want %d", row.want.Source, len(all), want)
		}
		c, last := all[0], begun
		if c.Text != row.want.Text || c.Source != row.want.Source || c.Confidence < row.sure[0] || c.Confidence > row.sure[1] {
			t.Errorf("%s: the first is %+v", row.want.Source, c)
		}
		for i, c := range all {
			if c.Time.Before(last.Add(-time.Microsecond)) || c.Time.After(time.Now()) || row.want.Source == "input" && c.Text != fmt.Sprint("echo ", i) {
				t.Errorf("%s: number %d is %+v, after %v", row.want.Source, i, c, last)
				break
			}
			last = c.Time
		}
	}
}
