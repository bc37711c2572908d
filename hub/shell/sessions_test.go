package shell

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hawser/tunnel/wire"
)

// live is what auth says may be joined.
func live() []Session {
	return []Session{
		{ID: "0a" + strings.Repeat("0", 30), Owner: "ann", Device: "gw-1", Login: "root", Modes: []string{"observer", "peer"}, InvitedBy: "ann", InvitedAs: "peer", Guests: 2},
		{ID: "0b" + strings.Repeat("0", 30), Owner: "bob", Device: "web", Login: "diag", Modes: []string{"observer"}},
		{ID: "0c" + strings.Repeat("0", 30), Owner: "cyd\x1b[2J", Device: "qa-3", Login: "root", InvitedBy: "cyd", InvitedAs: "peer"},
	}
}

// joinPicker is a picker that has the list.
func joinPicker(t *testing.T, list []Session, err error) *model {
	t.Helper()
	m := picker(Config{Devices: fleet(), Sessions: func(context.Context) ([]Session, error) { return list, err }})
	m.ctx = t.Context()
	cmd := m.press(key{kind: tab})
	if cmd == nil || !strings.Contains(m.text(), "asking which sessions") {
		t.Fatalf("Tab shows\n%s", m.text())
	}
	m.Update(cmd())
	return m
}

func TestTabShowsTheSessionsThatMayBeJoined(t *testing.T) {
	m := joinPicker(t, live(), nil)
	for _, want := range []string{"> 0a0000000000  ann on gw-1 as root  ann invites you as peer, 2 in it", "bob on web as diag", `cyd\x1b[2J on qa-3`, "1/3  Enter joins"} {
		if text := m.text(); !strings.Contains(text, want) {
			t.Errorf("no %q:\n%s", want, text)
		}
	}
	m.types("web")
	if text := m.text(); !strings.Contains(text, "> 0b0000000000") || strings.Contains(text, "gw-1") {
		t.Errorf("searched:\n%s", text)
	}
	// The devices are as they were, and so is what was searched for here.
	if m.types("\t"); len(m.names()) != 4 || !strings.Contains(m.text(), "gw-17") {
		t.Errorf("Tab again:\n%s", m.text())
	}
	m.press(key{kind: tab})
	if text := m.text(); !strings.Contains(text, "sessions to join: web_") {
		t.Errorf("and again:\n%s", text)
	}
	m.types("\r")
	if want := (Choice{Join: live()[1].ID, Mode: "observer"}); !m.done || m.choice != want {
		t.Errorf("picked %+v, want %+v", m.choice, want)
	}
}

func TestJShowsThemWhileNothingIsSearchedFor(t *testing.T) {
	sessions := func(context.Context) ([]Session, error) { return live(), nil }
	for _, c := range []struct {
		keys    string
		none    bool // there is no such list
		joining bool
		want    []string // devices
	}{
		{keys: "j", joining: true},
		{keys: "jj", want: []string{"web", "gw-1", "qa-3", "gw-17", "jump"}},
		{keys: "/j", want: []string{"jump"}},
		{keys: "mj", want: nil},
		{keys: "um", want: []string{"jump"}},
		{keys: "um\x15j", joining: true},
		{keys: "u\x7f\x7fj", joining: true},
		{keys: "j", none: true, want: []string{"jump"}},
	} {
		config := Config{Devices: append(fleet(), Device{UUID: wire.UUID{5}, Name: "jump"}), Sessions: sessions}
		if c.none {
			config.Sessions = nil
		}
		m := picker(config)
		m.ctx = t.Context()
		m.types(c.keys)
		got := m.names()
		slices.Sort(got)
		slices.Sort(c.want)
		if m.done || m.joining.on != c.joining || !c.joining && !slices.Equal(got, c.want) {
			t.Errorf("%q: sessions %v, devices %v, done %v; want %v, %v", c.keys, m.joining.on, got, m.done, c.joining, c.want)
		}
	}
	m := joinPicker(t, live(), nil)
	if text := m.text(); !strings.Contains(text, "j: devices") {
		t.Errorf("the key is not said:\n%s", text)
	}
	if m.types("web"); !strings.Contains(m.text(), "Tab: devices") {
		t.Errorf("nor is the other:\n%s", m.text())
	}
}

func TestTheModeIsAskedForWhereThereAreSeveral(t *testing.T) {
	for keys, want := range map[string]Choice{
		"\rp":          {Join: live()[0].ID, Mode: "peer"},
		"\ro":          {Join: live()[0].ID, Mode: "observer"},
		"\r\r":         {Join: live()[0].ID, Mode: "peer"}, // as he is invited
		"\rm":          {},                                 // which his roles lack
		"\r\x1b":       {},
		"\x1b[B\r":     {Join: live()[1].ID, Mode: "observer"},
		"\x1b[B\x0e\r": {}, // he is invited, and may not
	} {
		m := joinPicker(t, live(), nil)
		m.types(keys)
		if m.choice != want || m.done != (want != Choice{}) {
			t.Errorf("%q: picked %+v (done %v), want %+v", keys, m.choice, m.done, want)
		}
	}
}

func TestTheListKeepsTheCursorOnItsSession(t *testing.T) {
	m := joinPicker(t, live(), nil)
	m.types("\x1b[B")
	list := live()
	slices.Reverse(list)
	m.Update(sessionsMsg{list: list[:2]})
	if s := m.session(); s == nil || s.Owner != "bob" {
		t.Errorf("under the cursor: %+v", s)
	}
	m.Update(sessionsMsg{err: errors.New("auth is away")})
	if text := m.text(); !strings.Contains(text, "auth is away") || !strings.Contains(text, "bob on web") {
		t.Errorf("when it fails:\n%s", text)
	}
	m.Update(sessionsMsg{})
	if m.types("\r"); m.done || !strings.Contains(m.text(), "no live session") {
		t.Errorf("empty: done %v\n%s", m.done, m.text())
	}
}

func TestADumbTerminalJoinsByLines(t *testing.T) {
	for typed, want := range map[string]Choice{
		"0b\r":          {Join: live()[1].ID, Mode: "observer"},
		"0\r0a\rpeer\r": {Join: live()[0].ID, Mode: "peer"},
		"\r":            {},
	} {
		in := []byte(typed)
		var out strings.Builder
		p := New(Config{Sessions: func(context.Context) ([]Session, error) { return live(), nil }, Joining: true}, Terminal{
			Next: func(context.Context, time.Duration) ([]byte, error) { b := in; in = nil; return b, nil }, Unread: func(b []byte) { in = slices.Clone(b) }, Out: &out, Term: "dumb",
		})
		choice, err := p.Run(t.Context())
		if err != nil || choice != want || !strings.Contains(out.String(), "ann invites you as peer") {
			t.Errorf("%q: %+v, %v\n%s", typed, choice, err, out.String())
		}
	}
}
