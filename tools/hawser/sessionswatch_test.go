package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	tea "charm.land/bubbletea/v2"
	"connectrpc.com/connect"
	"github.com/charmbracelet/x/ansi"

	"hawser/auth/api"
)

func live(id byte, user, device string, age, idle time.Duration, out uint64) *api.Session {
	return &api.Session{
		Id: []byte{id, 1, 2, 3, 4, 5, 6, 7}, ConnectionId: []byte{id, 9}, Kind: "session", User: user, Device: device, Login: "root", Way: "hub", Channel: "shell",
		ClientAddress: "192.0.2.1:4711", DeviceAddress: "198.51.100.7:1024", Roles: []string{"operator"}, StartUnixNano: noon.Add(-age).UnixNano(),
		LastActivityUnixNano: noon.Add(-idle).UnixNano(), BytesOut: out,
	}
}

// watching is a screen with three sessions; what it asks to be killed is in the list.
func watching(t *testing.T) (m *watchModel, killed *[]string) {
	t.Helper()
	m, killed = newWatchModel(watched{}, true), new([]string)
	m.poll = func(time.Duration) tea.Cmd { return nil }
	m.kill = func(id string) tea.Cmd { *killed = append(*killed, id); return nil }
	m.Update(tea.WindowSizeMsg{Width: 200, Height: 12})
	m.Update(listMsg{res: &api.ListSessionsResponse{
		Sessions: []*api.Session{
			live(1, "ann", "gw-1", time.Hour, time.Minute, 5), live(2, "bob", "gw-2", time.Minute, time.Second, 3_400_000), live(3, "cyd", "gw-3", 2*time.Hour, 0, 70),
			{Id: []byte{4}, ConnectionId: []byte{1, 9}, Kind: "connection", User: "ann"}, {Id: []byte{5}, ConnectionId: []byte{5}, Kind: "connection", User: "dan"},
		},
		Caps: []*api.CapUse{{Cap: "max_sessions", Of: "ann", Held: 1, Max: 4}},
	}, at: noon})
	return m, killed
}

func (m *watchModel) types(keys ...string) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k}
		if code, ok := map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "down": tea.KeyDown, "up": tea.KeyUp, "backspace": tea.KeyBackspace}[k]; ok {
			msg = tea.KeyPressMsg{Code: code}
		}
		m.Update(msg)
	}
}

func (m *watchModel) users() (users []string) {
	for _, s := range m.shown {
		users = append(users, s.User)
	}
	return users
}

func TestTheScreenSortsAndFilters(t *testing.T) {
	m, _ := watching(t)
	for _, step := range []struct{ keys, want string }{
		{"", "bob ann cyd dan"},      // the newest first
		{"s", "cyd bob ann dan"},     // idle
		{"r", "dan ann bob cyd"},     // the longest idle first
		{"r s s", "bob cyd ann dan"}, // bytes out
		{"/ a n n enter", "ann"},     // of a connection that has a session that session alone
		{"c", "ann ann"},             // and that too
		{"/ backspace backspace backspace g w - 2 esc", "bob cyd ann ann dan"}, // leaving the filter empties it
		{"c / O P E R A", "bob cyd ann"},
		{"enter / x y", ""},
	} {
		m.types(strings.Fields(step.keys)...)
		got := m.users()
		want := strings.Fields(step.want)
		slices.Sort(got[min(len(got), 3):]) // what has never been active has no order of its own
		slices.Sort(want[min(len(want), 3):])
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", step.keys, got, want)
		}
	}
}

func TestKillIsAskedForAndStaysOnItsSession(t *testing.T) {
	m, killed := watching(t)
	m.types("down", "k") // ann's, the second
	if text := m.text(); !strings.Contains(text, "end ann's session on gw-1 and all its processes? y ends it") {
		t.Errorf("not asked:\n%s", text)
	}
	// Another list comes meanwhile, in another order.
	m.Update(listMsg{res: &api.ListSessionsResponse{Sessions: []*api.Session{live(9, "eve", "gw-9", 0, 0, 0), live(1, "ann", "gw-1", time.Hour, 0, 9)}}, at: noon})
	if m.types("n"); len(*killed) != 0 {
		t.Errorf("killed %v", *killed)
	}
	if m.types("k", "y"); !slices.Equal(*killed, []string{"0101020304050607"}) {
		t.Errorf("killed %v", *killed)
	}
	m.Update(killedMsg{"0101020304050607", connect.NewError(connect.CodePermissionDenied, errors.New("not yours"))})
	if !strings.Contains(m.text(), "not yours") {
		t.Errorf("the refusal is not shown:\n%s", m.text())
	}
}

func TestTheScreenFitsEverySizeAndHostileTextDrivesNothing(t *testing.T) {
	m, _ := watching(t)
	evil := "\x1b]0;x\a\u202e\n\x9b31m"
	s := live(7, evil, evil, 0, 0, 0)
	s.Command, s.Login, s.ClientAddress, s.Roles, s.DeviceAddress, s.Way, s.Kind = evil, evil, evil, []string{evil}, evil, evil, "session"
	m.Update(listMsg{res: &api.ListSessionsResponse{Sessions: []*api.Session{s}, Caps: []*api.CapUse{{Of: evil, Cap: evil}}}, at: noon})
	for width := 1; width < 260; width += 7 {
		for rows := 1; rows < 20; rows++ {
			for _, keys := range []string{"", "k", "n", "?", "x"} {
				m.types(strings.Fields(keys)...)
				m.Update(tea.WindowSizeMsg{Width: width, Height: rows})
				lines := strings.Split(m.text(), "\n")
				if len(lines) > rows && rows > 1 {
					t.Fatalf("%dx%d: %d lines", width, rows, len(lines))
				}
				for _, l := range lines {
					if ansi.StringWidth(l) > width {
						t.Fatalf("%dx%d: %q is wider", width, rows, l)
					}
					if strings.ContainsFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }) {
						t.Fatalf("%dx%d: %q", width, rows, l)
					}
				}
			}
		}
	}
}

func TestWhatChangesIsToldOnceAndTheEndWithWhatPassed(t *testing.T) {
	ann, bob := live(1, "ann", "gw-1", time.Hour, 0, 5), live(2, "bob", "gw-2", time.Minute, 0, 7)
	events := func(list []change) string {
		var all []string
		for _, c := range list {
			all = append(all, c.Event+" "+c.User)
		}
		return strings.Join(all, ", ")
	}
	known, list := changes(nil, &api.ListSessionsResponse{Sessions: []*api.Session{ann}}, noon)
	if got := events(list); got != "open ann" {
		t.Errorf("at the beginning: %s", got)
	}
	known, list = changes(known, &api.ListSessionsResponse{Sessions: []*api.Session{ann, bob}}, noon)
	if got := events(list); got != "start bob" {
		t.Errorf("one more: %s", got)
	}
	bob.DetachedSinceUnixNano, bob.BytesOut, bob.Command = noon.UnixNano(), 99, "x\n\x1b[2J"
	known, list = changes(known, &api.ListSessionsResponse{Sessions: []*api.Session{bob}}, noon)
	if got := events(list); got != "detached bob, end ann" {
		t.Errorf("detached, and gone: %s", got)
	}
	if line := list[0].tell(); !regexp.MustCompile(`^\S+ detached 020102030405 bob device=gw-2 .* runs=shell x\\x0a\\x1b\[2J\n$`).MatchString(line) {
		t.Errorf("%q", line)
	}
	if line := list[1].tell(); !strings.HasSuffix(line, " in=0 out=5\n") {
		t.Errorf("%q", line)
	}
	if known, list = changes(known, &api.ListSessionsResponse{}, noon); len(known) != 0 || events(list) != "end bob" {
		t.Errorf("none is left: %s", events(list))
	}
	if _, list = changes(known, &api.ListSessionsResponse{Sessions: []*api.Session{ann}}, noon); events(list) != "start ann" {
		t.Errorf("after none: %s", events(list))
	}
}

func TestAmountsArePrintedShort(t *testing.T) {
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 9_949: "9.9 kB", 99_999: "100 kB", 999_999: "1.0 MB", 3_400_000_000: "3.4 GB",
		1<<64 - 1: "18 EB"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestWideListHasWhatPassedAndCaps(t *testing.T) {
	var out strings.Builder
	caps := []*api.CapUse{{Cap: "max_connections", Of: "ann", Held: 1, Max: 2}, {Cap: "max_sessions", Of: "ann", Held: 1, Max: 4}, {Cap: "max_sessions", Of: "bob"}}
	if err := printSessions(&out, formatWide, []*api.Session{live(1, "ann", "gw-1", time.Hour, 90*time.Second, 3_400_000)}, caps, noon); err != nil {
		t.Fatal(err)
	}
	if want := "operator  198.51.100.7:1024  1 min  0 B  3.4 MB  connections 1/2 sessions 1/4"; !strings.Contains(out.String(), want) {
		t.Errorf("lacks %q:\n%s", want, fmt.Sprint(out.String()))
	}
}

func TestJoinAsksForTheModeAndGoesToTheSessionThatIsShared(t *testing.T) {
	m, _ := watching(t)
	var asked []string
	m.join = func(id, mode string) tea.Cmd { asked = append(asked, id+" "+mode); return nil }
	m.types("down", "j") // ann's
	if text := m.text(); !strings.Contains(text, "join ann's session on gw-1: o observer, p peer (types as root), m moderator") {
		t.Errorf("not asked:\n%s", text)
	}
	if m.types("x"); len(asked) != 0 {
		t.Errorf("joined %v", asked)
	}
	m.types("j", "p")
	// A guest's row stands for the session that he is in.
	guest := live(7, "lou", "gw-1", 0, 0, 0)
	guest.Joins, guest.JoinMode = []byte{1, 1, 2, 3, 4, 5, 6, 7}, "observer"
	m.Update(listMsg{res: &api.ListSessionsResponse{Sessions: []*api.Session{guest}}, at: noon})
	m.types("j", "o")
	if want := []string{"0101020304050607 peer", "0101020304050607 observer"}; !slices.Equal(asked, want) {
		t.Errorf("joined %v, want %v", asked, want)
	}
	m.Update(listMsg{res: &api.ListSessionsResponse{Sessions: []*api.Session{{Id: []byte{5}, ConnectionId: []byte{5}, Kind: "connection", User: "dan"}}}, at: noon})
	if m.types("j", "o"); len(asked) != 2 || m.joins != nil {
		t.Errorf("joined a connection: %v", asked)
	}
}

func TestAMessageIsTypedAndSent(t *testing.T) {
	m, _ := watching(t)
	var sent []string
	m.message = func(id, text string) tea.Cmd { sent = append(sent, id+" "+text); return nil }
	m.types(append([]string{"down", "m"}, strings.Split("q is k backspace", "")...)...)
	if text := m.text(); !strings.Contains(text, "to all in the session, Enter sends, Esc goes back: q is k backspace_") {
		t.Errorf("not shown:\n%s", text)
	}
	m.types("enter", "m", "x", "esc", "m", " ", "enter")
	if want := []string{"0101020304050607 q is k backspace"}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if m.Update(doneMsg{"sent", nil}); !strings.Contains(m.text(), "sent") {
		t.Errorf("not said:\n%s", m.text())
	}
	m.Update(doneMsg{"sent", connect.NewError(connect.CodeNotFound, errors.New("no live session"))})
	if !strings.Contains(m.text(), "no live session") {
		t.Errorf("not said:\n%s", m.text())
	}
}
