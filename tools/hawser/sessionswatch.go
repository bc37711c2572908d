package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"connectrpc.com/connect"
	"github.com/charmbracelet/x/ansi"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

const (
	defaultInterval = 2 * time.Second // as often as hubs tell what has passed
	minInterval     = 500 * time.Millisecond
	// pollShare: a list that takes long to come is asked for less often, so that no more than one part in so many goes into it.
	pollShare = 10
	maxFilter = 64
	maxDraft  = 300 // bytes of a message: as auth takes them
)

// watched is what is watched, and how.
type watched struct {
	user, device, format string
	interval             time.Duration
	connections          bool
}

func newSessionsWatch() *cobra.Command {
	w := watched{}
	c := &cobra.Command{
		Use:   "watch",
		Short: "The live sessions you may see, as they come, go and idle",
		Long: `The live sessions you may see, as they come, go and idle: at a terminal a screen to sort, filter, kill, join and write in (? lists the keys), else, and
with -o, a line for each that begins, changes its state or ends.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch w.format {
			case "", formatText, formatJSON:
			default:
				return usageError{fmt.Errorf("unknown format %q: text or json", w.format)}
			}
			if w.interval < minInterval {
				return usageError{fmt.Errorf("--interval %v: at least %v", w.interval, minInterval)}
			}
			admin, err := dial()
			if err != nil {
				return err
			}
			defer admin.close()
			width, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err == nil && width > 0 && w.format == "" && term.IsTerminal(int(os.Stdin.Fd())) && os.Getenv("TERM") != "dumb" {
				return w.screen(c.Context(), admin)
			}
			return w.lines(c.Context(), admin, c.OutOrStdout())
		},
	}
	c.Flags().StringVar(&w.user, "user", "", "only those of this user; me: your own")
	c.Flags().StringVar(&w.device, "device", "", "only those on this device")
	c.Flags().StringVarP(&w.format, "output", "o", "", "text or json: lines, at a terminal too")
	c.Flags().DurationVar(&w.interval, "interval", defaultInterval, "how often it is looked")
	c.Flags().BoolVar(&w.connections, "connections", false, "connections too, also those that have sessions")
	_ = c.RegisterFlagCompletionFunc("device", func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return completeDevices(c, nil, word)
	})
	return c
}

// look asks for the list once, and says how long to wait until the next time.
func (w *watched) look(ctx context.Context, admin *client) (*api.ListSessionsResponse, time.Duration, error) {
	begun := time.Now()
	res, err := admin.ListSessions(ctx, connect.NewRequest(&api.ListSessionsRequest{User: w.user, AllCaps: true}))
	wait := max(w.interval, pollShare*time.Since(begun))
	if err != nil {
		return nil, wait, err
	}
	return res.Msg, wait, nil
}

// meant are those that were asked for: a connection is shown for itself where it has no session, as -N, unless all are to be.
func (w *watched) meant(list []*api.Session) []*api.Session {
	busy := make(map[string]bool)
	for _, s := range list {
		if s.Kind == "session" {
			busy[string(s.ConnectionId)] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(s *api.Session) bool {
		return w.device != "" && s.Device != w.device && s.DeviceUuid != w.device || s.Kind != "session" && busy[string(s.ConnectionId)] && !w.connections
	})
}

// change is one that lines tell of.
type change struct {
	Time  string `json:"time"`
	Event string `json:"event"` // open at the beginning, then start, detached, attached, hub-gone, end
	sessionView
}

// changes are what has happened between two lists; before is nil at the beginning.
func changes(before map[string]sessionView, res *api.ListSessionsResponse, now time.Time) (after map[string]sessionView, list []change) {
	after = make(map[string]sessionView, len(res.Sessions))
	at := now.UTC().Format(time.RFC3339Nano)
	for _, s := range res.Sessions {
		v := viewSession(s, res.Caps, now)
		after[v.ID] = v
		switch was, ok := before[v.ID]; {
		case before == nil:
			list = append(list, change{at, "open", v})
		case !ok:
			list = append(list, change{at, "start", v})
		case was.State != v.State:
			list = append(list, change{at, v.State, v})
		case was.Channel == "" && v.Channel != "": // now one knows what runs
			list = append(list, change{at, "runs", v})
		}
	}
	var ended []change
	for id, v := range before {
		if _, ok := after[id]; !ok {
			ended = append(ended, change{at, "end", v})
		}
	}
	slices.SortFunc(ended, func(a, b change) int { return strings.Compare(a.Start, b.Start) })
	return after, append(list, ended...)
}

// tell is a change as a line of words.
func (c change) tell() string {
	words := []string{c.Time, c.Event, c.ID[:min(len(c.ID), 12)], c.User}
	for _, f := range []struct{ name, value string }{
		{"device", c.Device}, {"login", c.Login}, {"way", c.Way}, {"from", c.From}, {"at", c.At}, {"runs", strings.TrimSpace(c.Channel + " " + c.Command)},
	} {
		if f.value != "" {
			words = append(words, f.name+"="+wire.Quote(f.value, maxCell))
		}
	}
	if c.Event == "end" {
		words = append(words, fmt.Sprintf("in=%d out=%d", c.In, c.Out))
	}
	return strings.Join(words, " ") + "\n"
}

// lines tells of changes until ctx ends. While auth is away it tries again: what has happened meanwhile is told after.
func (w *watched) lines(ctx context.Context, admin *client, out io.Writer) error {
	var known map[string]sessionView
	for away := false; ; {
		res, wait, err := w.look(ctx, admin)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (known == nil || connect.CodeOf(err) != connect.CodeUnavailable && connect.CodeOf(err) != connect.CodeDeadlineExceeded):
			return err
		case err != nil && !away:
			away = true
			fmt.Fprintln(os.Stderr, "hawser: auth is away; trying again")
		case err == nil:
			var list []change
			away, res.Sessions = false, w.meant(res.Sessions)
			known, list = changes(known, res, time.Now())
			for _, c := range list {
				line := []byte(c.tell())
				if w.format == formatJSON {
					if line, err = jsonLine(c); err != nil {
						return err
					}
				}
				if _, err := out.Write(line); err != nil {
					return err
				}
			}
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}

// screen shows them until the person leaves.
func (w *watched) screen(ctx context.Context, admin *client) error {
	m := newWatchModel(*w, os.Getenv("NO_COLOR") != "")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.poll = func(after time.Duration) tea.Cmd {
		return func() tea.Msg {
			t := time.NewTimer(after)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return nil
			}
			res, wait, err := w.look(ctx, admin)
			return listMsg{res, wait, err, time.Now()}
		}
	}
	m.kill = func(id string) tea.Cmd {
		return func() tea.Msg {
			_, err := admin.KillSession(ctx, connect.NewRequest(&api.KillSessionRequest{Id: id}))
			return killedMsg{id, err}
		}
	}
	m.join = func(id, mode string) tea.Cmd {
		self, err := os.Executable()
		if err != nil {
			return func() tea.Msg { return doneMsg{"", err} }
		}
		return tea.ExecProcess(exec.CommandContext(ctx, self, "join", id, "--mode", mode), func(err error) tea.Msg {
			if _, ok := errors.AsType[*exec.ExitError](err); ok {
				err = fmt.Errorf("hawser join %s --mode %s: %w", id, mode, err)
			}
			return doneMsg{"", err}
		})
	}
	m.message = func(id, text string) tea.Cmd {
		return func() tea.Msg {
			_, err := admin.conn.Sharing.MessageSession(ctx, connect.NewRequest(&api.MessageSessionRequest{Id: id, Text: text}))
			return doneMsg{"sent", err}
		}
	}
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithoutSignalHandler()).Run()
	if m.fatal != nil {
		return m.fatal
	}
	if errors.Is(err, tea.ErrProgramKilled) { // by a signal to us
		return nil
	}
	return err
}

// Messages of the screen's own.
type (
	listMsg struct {
		res  *api.ListSessionsResponse
		wait time.Duration
		err  error
		at   time.Time
	}
	killedMsg struct {
		id  string
		err error
	}
	// doneMsg is what became of a join or a message.
	doneMsg struct {
		words string
		err   error
	}
)

// watchModel is the screen. It has no goroutine and no clock: times come with the lists.
type watchModel struct {
	w     watched
	plain bool
	poll  func(after time.Duration) tea.Cmd
	kill  func(id string) tea.Cmd
	// join gives the terminal to a join, and message shows a line to all in a session.
	join    func(id, mode string) tea.Cmd
	message func(id, text string) tea.Cmd

	width, rows int
	list, all   []*api.Session // as auth told, and of these those that are meant
	caps        []*api.CapUse
	now         time.Time
	shown       []*api.Session
	sort        int // in columns
	reverse     bool
	filter      string
	typing      bool // the filter
	help        bool
	picked      string // id of the session under the cursor, which stays on it
	top         int
	asked       *api.Session // whose end is asked for
	joins       *api.Session // that is to be joined: in which mode is asked for
	writes      *api.Session // for which a message is typed
	draft       string       // of it
	status      string
	fatal       error
}

func newWatchModel(w watched, plain bool) *watchModel {
	return &watchModel{w: w, plain: plain, width: 80, rows: 24, sort: 5}
}

// column is one of the screen. What of all does not fit goes in the order of need.
type column struct {
	head    string
	width   int
	need    int // the lower the longer it stays
	cell    func(m *watchModel, s *api.Session) string
	compare func(a, b *api.Session) int
}

func textOf(f func(*api.Session) string) (func(*watchModel, *api.Session) string, func(a, b *api.Session) int) {
	return func(_ *watchModel, s *api.Session) string { return f(s) }, func(a, b *api.Session) int { return strings.Compare(f(a), f(b)) }
}

func textColumn(head string, width, need int, f func(*api.Session) string) column {
	cell, compare := textOf(f)
	return column{head, width, need, cell, compare}
}

var columns = []column{
	textColumn("ID", 12, 5, func(s *api.Session) string { return shortID(s.Id) }),
	textColumn("USER", 10, 0, func(s *api.Session) string { return s.User }),
	textColumn("DEVICE", 14, 1, func(s *api.Session) string { return s.Device }),
	textColumn("LOGIN", 8, 6, func(s *api.Session) string { return s.Login }),
	textColumn("WAY", 10, 7, func(s *api.Session) string { return s.Way }),
	{"AGE", 6, 3, func(m *watchModel, s *api.Session) string { return span(m.now.Sub(time.Unix(0, s.StartUnixNano))) },
		func(a, b *api.Session) int { return cmp.Compare(b.StartUnixNano, a.StartUnixNano) }},
	{"IDLE", 6, 2, func(m *watchModel, s *api.Session) string { return idleFor(s, m.now) },
		func(a, b *api.Session) int { return cmp.Compare(b.LastActivityUnixNano, a.LastActivityUnixNano) }},
	{"IN", 7, 8, func(_ *watchModel, s *api.Session) string { return amount(s.BytesIn) },
		func(a, b *api.Session) int { return cmp.Compare(b.BytesIn, a.BytesIn) }},
	{"OUT", 7, 4, func(_ *watchModel, s *api.Session) string { return amount(s.BytesOut) },
		func(a, b *api.Session) int { return cmp.Compare(b.BytesOut, a.BytesOut) }},
	textColumn("FROM", 21, 9, func(s *api.Session) string { return s.ClientAddress }),
	textColumn("AT", 21, 12, func(s *api.Session) string { return s.DeviceAddress }),
	textColumn("ROLES", 12, 10, func(s *api.Session) string { return strings.Join(s.Roles, ",") }),
	{"CAPS", 26, 11, func(m *watchModel, s *api.Session) string { return capsOf(m.caps, s.User) },
		func(a, b *api.Session) int { return strings.Compare(a.User, b.User) }},
	textColumn("RUNS", 18, 13, runs),
}

// runs is what a session does, and first that it does nothing.
func runs(s *api.Session) string {
	what := strings.TrimSpace(s.Channel + " " + s.Command)
	if s.Kind != "session" {
		what = "connection"
	}
	switch {
	case s.HubGoneSinceUnixNano != 0:
		what = "[hub gone] " + what
	case s.DetachedSinceUnixNano != 0:
		what = "[detached] " + what
	}
	return what
}

// fitting are the columns that a width has room for, in their order.
func fitting(width int) []column {
	byNeed := slices.Clone(columns)
	slices.SortFunc(byNeed, func(a, b column) int { return a.need - b.need })
	last, room := -1, width-1
	for _, c := range byNeed {
		if room -= c.width + 1; room < 0 {
			break
		}
		last = c.need
	}
	return slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return c.need > last })
}

// Init implements tea.Model.
func (m *watchModel) Init() tea.Cmd { return m.poll(0) }

// Update implements tea.Model.
func (m *watchModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.rows = max(1, msg.Width), max(1, msg.Height)
	case tea.KeyPressMsg:
		return m, m.press(msg.String(), msg.Text)
	case killedMsg:
		m.status = "session " + msg.id[:min(len(msg.id), 12)] + " ends"
		if msg.err != nil {
			m.status = api.MessageOf(msg.err)
		}
	case doneMsg:
		if m.status = msg.words; msg.err != nil {
			m.status = api.MessageOf(msg.err)
		}
	case listMsg:
		if msg.err != nil {
			if m.now.IsZero() {
				m.fatal = msg.err
				return m, tea.Quit
			}
			m.status = "auth: " + api.MessageOf(msg.err)
			return m, m.poll(msg.wait)
		}
		if strings.HasPrefix(m.status, "auth: ") {
			m.status = ""
		}
		m.now, m.list, m.caps = msg.at, msg.res.Sessions, msg.res.Caps
		m.arrange()
		return m, m.poll(msg.wait)
	}
	m.arrange()
	return m, nil
}

func (m *watchModel) press(key, text string) tea.Cmd {
	if m.asked != nil {
		s := m.asked
		m.asked, m.status = nil, "it goes on"
		if key == "y" {
			m.status = ""
			return m.kill(hex.EncodeToString(s.Id))
		}
		return nil
	}
	if s := m.joins; s != nil {
		m.joins, m.status = nil, ""
		for _, mode := range []string{policy.JoinObserver, policy.JoinPeer, policy.JoinModerator} {
			if key == mode[:1] {
				return m.join(hex.EncodeToString(s.Id), mode)
			}
		}
		return nil
	}
	if m.writes != nil {
		return m.write(key, text)
	}
	if m.status = ""; m.typing {
		switch {
		case key == "ctrl+c":
			return tea.Quit
		case key == "enter":
			m.typing = false
		case key == "esc":
			m.typing, m.filter = false, ""
		case key == "ctrl+u":
			m.filter = ""
		case key == "backspace":
			r := []rune(m.filter)
			m.filter = string(r[:max(0, len(r)-1)])
		case text != "" && len(m.filter)+len(text) <= maxFilter && wire.Quote(text, 0) == text:
			m.filter += text
		}
		m.arrange()
		return nil
	}
	if m.help {
		m.help = false
		return nil
	}
	switch key {
	case "q", "esc", "ctrl+c":
		return tea.Quit
	case "up", "ctrl+p":
		m.move(-1)
	case "down", "ctrl+n":
		m.move(1)
	case "pgup":
		m.move(-m.listRows())
	case "pgdown", "space":
		m.move(m.listRows())
	case "home":
		m.move(-len(m.shown))
	case "end":
		m.move(len(m.shown))
	case "s", "right", ">":
		m.sort = (m.sort + 1) % len(columns)
	case "left", "<":
		m.sort = (m.sort + len(columns) - 1) % len(columns)
	case "r":
		m.reverse = !m.reverse
	case "c":
		m.w.connections = !m.w.connections
	case "/":
		m.typing = true
	case "k", "delete":
		if i := m.cursor(); i >= 0 {
			m.asked = m.shown[i]
		}
	case "j":
		m.joins = m.shared()
	case "m":
		m.writes, m.draft = m.shared(), ""
	case "ctrl+l":
		return tea.ClearScreen
	case "?", "h":
		m.help = true
	}
	m.arrange()
	return nil
}

// shared is the session under the cursor, or that which it joins; nil: it is none, or has nobody in it to see.
func (m *watchModel) shared() *api.Session {
	i := m.cursor()
	if i < 0 {
		return nil
	}
	s := m.shown[i]
	if len(s.Joins) > 0 {
		s = &api.Session{Id: s.Joins, User: "another", Device: s.Device, Login: s.Login, Kind: s.Kind}
	}
	if s.Kind != "session" {
		m.status = "a connection has no screen: pick a session"
		return nil
	}
	return s
}

// write takes a key of the message that is typed.
func (m *watchModel) write(key, text string) tea.Cmd {
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case key == "esc":
		m.writes = nil
	case key == "enter":
		s := m.writes
		if m.writes = nil; strings.TrimSpace(m.draft) != "" {
			return m.message(hex.EncodeToString(s.Id), m.draft)
		}
	case key == "ctrl+u":
		m.draft = ""
	case key == "backspace":
		r := []rune(m.draft)
		m.draft = string(r[:max(0, len(r)-1)])
	case text != "" && len(m.draft)+len(text) <= maxDraft && wire.Quote(text, 0) == text:
		m.draft += text
	}
	return nil
}

// cursor is where in shown the picked session is; -1: nothing is shown.
func (m *watchModel) cursor() int {
	i := slices.IndexFunc(m.shown, func(s *api.Session) bool { return string(s.Id) == m.picked })
	if i < 0 && len(m.shown) > 0 {
		return 0
	}
	return i
}

func (m *watchModel) move(by int) {
	if i := m.cursor(); i >= 0 {
		m.picked = string(m.shown[max(0, min(len(m.shown)-1, i+by))].Id)
	}
}

// arrange filters, sorts, and keeps the cursor on the session it was on; where that has ended, on its place.
func (m *watchModel) arrange() {
	was := m.cursor()
	m.all = m.w.meant(m.list)
	terms := strings.Fields(strings.ToLower(m.filter))
	m.shown = m.shown[:0:0]
	for _, s := range m.all {
		text := strings.ToLower(strings.Join([]string{hex.EncodeToString(s.Id), s.User, s.Device, s.Login, s.Way, s.ClientAddress, s.DeviceAddress, s.Hub,
			strings.Join(s.Roles, ","), runs(s)}, " "))
		if !slices.ContainsFunc(terms, func(t string) bool { return !strings.Contains(text, t) }) {
			m.shown = append(m.shown, s)
		}
	}
	by := columns[m.sort]
	slices.SortStableFunc(m.shown, func(a, b *api.Session) int {
		n := by.compare(a, b)
		if m.reverse {
			n = -n
		}
		return cmp.Or(n, cmp.Compare(a.StartUnixNano, b.StartUnixNano), slices.Compare(a.Id, b.Id))
	})
	if !slices.ContainsFunc(m.shown, func(s *api.Session) bool { return string(s.Id) == m.picked }) && len(m.shown) > 0 {
		m.picked = string(m.shown[max(0, min(was, len(m.shown)-1))].Id)
	}
	at, rows := max(0, m.cursor()), m.listRows()
	m.top = max(0, min(max(min(m.top, at), at-rows+1), len(m.shown)-rows))
}

// listRows is how many sessions the screen has room for: beside them are a title, the heads and a last line.
func (m *watchModel) listRows() int { return max(1, m.rows-3) }

// View implements tea.Model.
func (m *watchModel) View() tea.View {
	v := tea.NewView(m.text())
	v.AltScreen = true
	return v
}

const watchHelp = `up down PgUp PgDn Home End   move
s or right, left             sort by the next column, or the one before
r                            the other way round
/                            filter: words in user, device, login, way, address, role or command
c                            connections that have sessions too, or not
k                            kill the session under the cursor; asks
j                            join it; asks as what
m                            show a line to all who are in it
q                            leave`

// text is the screen, a line for each of its rows. Nothing in it that others wrote drives a terminal.
func (m *watchModel) text() string {
	sessions, users := 0, make(map[string]bool)
	for _, s := range m.all {
		users[s.User] = true
		if s.Kind == "session" {
			sessions++
		}
	}
	title := fmt.Sprintf("%d sessions of %d users", sessions, len(users))
	if len(m.shown) != len(m.all) {
		title += fmt.Sprintf(", %d of %d lines shown", len(m.shown), len(m.all))
	}
	if m.typing || m.filter != "" {
		title += "  filter: " + wire.Quote(m.filter, 0)
		if m.typing {
			title += "_"
		}
	}
	lines := []string{m.style("1", title)}
	if m.help {
		lines = append(lines, strings.Split(watchHelp, "\n")...)
		return m.fit(lines, "any key goes on")
	}
	cols := fitting(m.width)
	var head []string
	for _, c := range cols {
		name := c.head
		if c.head == columns[m.sort].head {
			name += map[bool]string{false: "<", true: ">"}[m.reverse]
		}
		head = append(head, pad(name, c.width))
	}
	lines = append(lines, m.style("7", pad(" "+strings.Join(head, " "), m.width)))
	at := m.cursor()
	for i, s := range m.shown[m.top:min(len(m.shown), m.top+m.listRows())] {
		var cells []string
		for n, c := range cols {
			width := c.width
			if n == len(cols)-1 {
				width = max(width, m.width-1-ansi.StringWidth(strings.Join(cells, " "))-1)
			}
			cells = append(cells, pad(dash(wire.Quote(c.cell(m, s), maxCell)), width))
		}
		mark := " "
		if m.top+i == at {
			mark = ">"
		}
		line := mark + strings.Join(cells, " ")
		if m.top+i == at {
			line = m.style("1", line)
		}
		lines = append(lines, line)
	}
	foot := "s sort  r reverse  / filter  k kill  j join  m message  ? help  q leave"
	switch {
	case m.asked != nil:
		s := m.asked
		on := ""
		if s.Device != "" {
			on = " on " + wire.Quote(s.Device, 64) + " and all its processes"
		}
		foot = m.style("1", fmt.Sprintf("end %s's %s%s? y ends it", wire.Quote(s.User, 32), wire.Quote(s.Kind, 16), on))
	case m.joins != nil:
		foot = m.style("1", fmt.Sprintf("join %s's session on %s: o observer, p peer (types as %s), m moderator; another key goes back",
			wire.Quote(m.joins.User, 32), wire.Quote(m.joins.Device, 64), wire.Quote(m.joins.Login, 32)))
	case m.writes != nil:
		foot = "to all in the session, Enter sends, Esc goes back: " + wire.Quote(m.draft, 0) + "_"
		if w := ansi.StringWidth(foot); w > m.width {
			foot = ansi.TruncateLeft(foot, w-m.width, "")
		}
	case m.status != "":
		foot = m.style("1", wire.Quote(m.status, maxCell))
	case m.now.IsZero():
		foot = "asking auth"
	}
	return m.fit(lines, foot)
}

// fit makes the lines as many and as wide as the screen.
func (m *watchModel) fit(lines []string, foot string) string {
	if m.rows > 1 {
		lines = lines[:min(len(lines), m.rows-1)]
		for len(lines) < m.rows-1 {
			lines = append(lines, "")
		}
		lines = append(lines, foot)
	}
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, "")
	}
	return strings.Join(lines, "\n")
}

func pad(s string, width int) string {
	s = ansi.Truncate(s, width, "~")
	return s + strings.Repeat(" ", max(0, width-ansi.StringWidth(s)))
}

func (m *watchModel) style(sgr, text string) string {
	if m.plain {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
