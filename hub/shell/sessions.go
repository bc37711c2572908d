package shell

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "charm.land/bubbletea/v2"

	"hawser/auth/policy"
)

// Session is one that a person may join, or was invited to.
type Session struct {
	ID                              string // in hex
	Owner, Device, Login, Way, Runs string
	Start                           time.Time
	Guests                          int
	Modes                           []string // in which he may join by the hub; empty: he may not, he was only invited
	InvitedBy, InvitedAs            string   // empty: he was not
}

// shortSession is as much of an id as is shown, and enough to join by.
const shortSession = 12

func (s *Session) short() string { return s.ID[:min(len(s.ID), shortSession)] }

// words are what a search looks at.
func (s *Session) words() string {
	return strings.ToLower(strings.Join([]string{s.ID, s.Owner, s.Device, s.Login, s.Way, s.Runs, s.InvitedBy}, " "))
}

// what says which session it is, as one part of a line.
func (s *Session) what() string {
	return quote(s.Owner) + " on " + quote(s.Device) + " as " + quote(s.Login)
}

// note is what there is to say beside it.
func (s *Session) note() string {
	var notes []string
	if s.InvitedBy != "" {
		notes = append(notes, quote(s.InvitedBy)+" invites you as "+quote(s.InvitedAs))
	}
	if len(s.Modes) == 0 {
		notes = append(notes, "your roles do not let you join")
	}
	if s.Guests > 0 {
		notes = append(notes, fmt.Sprintf("%d in it", s.Guests))
	}
	return strings.Join(notes, ", ")
}

// Sessions is what join prints without an id.
func Sessions(list []Session, now time.Time) string {
	if len(list) == 0 {
		return "there is no live session that your roles let you join, and nobody has invited you to one\n"
	}
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tUSER\tDEVICE\tLOGIN\tWAY\tSINCE\tMODES\t")
	for i := range list {
		s := &list[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.short(), quote(s.Owner), quote(s.Device), quote(s.Login), s.Way, span(now.Sub(s.Start))+" ago",
			strings.Join(s.Modes, ","), s.note())
	}
	_ = w.Flush()
	return b.String() + "\nssh -t hawser@HUB join ID [--mode MODE]\n"
}

// joining is the picker's other list: sessions in place of devices.
type joining struct {
	on      bool
	known   bool // list is what the hub said last
	list    []Session
	shown   []int32
	query   string // of the devices, while this list is shown
	asked   *Session
	ticks   int
	problem string
}

// sessionsMsg brings the list.
type sessionsMsg struct {
	list []Session
	err  error
}

var errSessions = errors.New("the list of sessions failed")

// refresh is every how many ticks the list is asked for anew.
const refresh = 5

// toggle goes from devices to sessions, and back.
func (m *model) toggle() tea.Cmd {
	if m.c.Sessions == nil {
		return nil
	}
	j := &m.joining
	j.on = !j.on
	m.query, j.query = j.query, m.query
	m.searching = m.query != ""
	j.asked = nil
	m.search()
	if !j.on {
		return nil
	}
	return m.fetch()
}

// toggles is the key that does, of two the shorter where it is no letter of a search.
func (m *model) toggles() string {
	if m.searching {
		return "Tab"
	}
	return "j"
}

// fetch asks for the list.
func (m *model) fetch() tea.Cmd {
	return func() (msg tea.Msg) {
		defer func() {
			if recover() != nil {
				msg = sessionsMsg{err: errSessions}
			}
		}()
		ctx, cancel := context.WithTimeout(m.ctx, sessionsWait)
		defer cancel()
		list, err := m.c.Sessions(ctx)
		return sessionsMsg{list, err}
	}
}

// adopt takes the list, and keeps the cursor on the session it was on.
func (m *model) adopt(msg sessionsMsg) {
	j := &m.joining
	j.problem = ""
	if msg.err != nil {
		j.problem = quote(msg.err.Error())
		return
	}
	under := ""
	if s := m.session(); s != nil {
		under = s.ID
	}
	j.list, j.known = msg.list, true
	if !j.on {
		return
	}
	m.findSessions()
	if i := slices.IndexFunc(j.shown, func(i int32) bool { return j.list[i].ID == under }); i >= 0 {
		m.cursor = i
	}
	m.cursor = max(0, min(m.cursor, len(j.shown)-1))
	m.scroll()
}

// findSessions finds the sessions that have every word of the query.
func (m *model) findSessions() {
	j := &m.joining
	terms := strings.Fields(strings.ToLower(m.query))
	j.shown = j.shown[:0]
	for i := range j.list {
		text := j.list[i].words()
		if !slices.ContainsFunc(terms, func(t string) bool { return !strings.Contains(text, t) }) {
			j.shown = append(j.shown, int32(i))
		}
	}
}

// session is the one under the cursor; nil: there is none.
func (m *model) session() *Session {
	j := &m.joining
	if !j.on || m.cursor >= len(j.shown) {
		return nil
	}
	return &j.list[j.shown[m.cursor]]
}

// join picks the session under the cursor, where there is one way to; else it asks for the mode.
func (m *model) join() {
	s := m.session()
	switch {
	case s == nil:
	case len(s.Modes) == 0:
		m.status = "your roles do not let you join; ask an admin for a role with allow.join"
	case len(s.Modes) == 1:
		m.done, m.choice = true, Choice{Join: s.ID, Mode: s.Modes[0]}
	default:
		picked := *s // the list may change meanwhile
		m.joining.asked = &picked
		m.status = modesOf(s)
	}
}

// modesOf asks for a mode.
func modesOf(s *Session) string {
	var parts []string
	for _, mode := range s.Modes {
		switch mode {
		case policy.JoinPeer:
			mode += " (types as " + quote(s.Login) + ")"
		case policy.JoinModerator:
			mode += " (may pause and end it)"
		}
		parts = append(parts, mode[:1]+" "+mode)
	}
	return "join as: " + strings.Join(parts, ", ") + "; Esc goes back"
}

// mode takes the answer.
func (m *model) mode(k key) {
	s := m.joining.asked
	m.joining.asked, m.status = nil, ""
	if k.kind == enter && slices.Contains(s.Modes, s.InvitedAs) {
		m.done, m.choice = true, Choice{Join: s.ID, Mode: s.InvitedAs}
		return
	}
	for _, mode := range s.Modes {
		if k.kind == letter && string(k.r) == mode[:1] {
			m.done, m.choice = true, Choice{Join: s.ID, Mode: mode}
		}
	}
}

// sessionRow shows one session.
func (m *model) sessionRow(s *Session, picked bool) string {
	mark := "  "
	if picked {
		mark = "> "
	}
	text := mark + s.what()
	if m.width >= wide {
		text = mark + s.short() + "  " + s.what()
	}
	note := s.note()
	if note != "" {
		note = "  " + m.style(dim, note)
	}
	if picked {
		text = m.style(bold, text)
	}
	return text + note
}

// sessionsFoot is the last line while sessions are shown.
func (m *model) sessionsFoot() string {
	j := &m.joining
	switch {
	case m.status != "":
		return m.style(bold, m.status)
	case j.problem != "":
		return m.style(bold, j.problem)
	case !j.known:
		return m.style(dim, "asking which sessions you may join")
	case len(j.list) == 0:
		return m.style(dim, "no live session that you may join; "+m.toggles()+": devices")
	case len(j.shown) == 0:
		return "none of them; Ctrl-U empties"
	}
	at := fmt.Sprintf("%d/%d", m.cursor+1, len(j.shown))
	if m.width < wide {
		return m.style(dim, at+" Enter "+m.toggles()+" Esc")
	}
	return m.style(dim, at+"  Enter joins, "+m.toggles()+": devices, type to search, Esc leaves")
}
