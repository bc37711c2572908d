package shell

import (
	"cmp"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"
	"github.com/charmbracelet/x/ansi"

	"hawser/tunnel/wire"
)

// Terminal is a person's.
type Terminal struct {
	// Next waits so long for what he types next, and returns nothing when nothing came. io.EOF: no more will come.
	Next func(ctx context.Context, wait time.Duration) ([]byte, error)
	// Unread puts back what was typed for whom comes next.
	Unread func([]byte)
	Out    io.Writer
	Term   string // TERM; a dumb one gets lines instead of a screen
	Plain  bool   // NO_COLOR
	// Columns and Rows at the beginning; 0: not known.
	Columns, Rows uint32
}

// Config of a picker.
type Config struct {
	Hub, User string
	Devices   []Device // becomes the picker's
	Query     string   // what is searched for at the beginning, as it was typed
	Login     string   // for whom the session will be; empty: auth decides
	// Online tells whether a device is there now, and Seen says where and why it was last; it may take its time. Both are for devices of the
	// list.
	Online func(d *Device) bool
	Seen   func(ctx context.Context, d *Device) string
	// Sessions are those that he may join, or was invited to; it may take its time. Nil: there is no such list. Joining: it is shown first.
	Sessions func(ctx context.Context) ([]Session, error)
	Joining  bool
	// Go starts a goroutine under whatever recovers from its panic.
	Go func(func())
}

// Choice is what a person picked, a device or a session to join; neither: nothing, for Why.
type Choice struct {
	Name string
	Join string // id of a session
	Mode string // in which it is joined
	Wait bool   // it is away, and he waits for it
	Why  string // for people; empty: he left
}

// Picker is one. It is used once.
type Picker struct {
	model   *model
	program *tea.Program
	t       Terminal
	spawn   func(func())
	cancel  context.CancelFunc
	ended   context.Context
}

// New makes a picker; it starts nothing and writes nothing.
func New(c Config, t Terminal) *Picker {
	sorted(c.Devices)
	p := &Picker{t: t, spawn: c.Go, model: newModel(c, t.Plain || dumb(t.Term))}
	p.ended, p.cancel = context.WithCancel(context.Background())
	p.model.ctx = p.ended
	p.model.resize(t.Columns, t.Rows)
	if !dumb(t.Term) {
		// Input is decoded here, so that not a byte is taken that is for the device. Without these options the library would look at the hub's
		// own environment, terminal and signals; with this TERM it asks the person's for nothing, whose answer could come when a device reads.
		p.program = tea.NewProgram(p.model, tea.WithContext(p.ended), tea.WithInput(nil), tea.WithOutput(crlf{t.Out}),
			tea.WithEnvironment([]string{"TERM=vt100", "SSH_TTY=none"}), tea.WithColorProfile(colorprofile.ANSI),
			tea.WithWindowSize(p.model.width, p.model.rows), tea.WithoutSignalHandler(), tea.WithoutCatchPanics(), tea.WithFPS(frames))
	}
	return p
}

// crlf writes for a terminal that takes a line's end for a step down: the library thinks of one whose driver does more. It also leaves the
// terminal's keys as they are, which the library would have in other codes, and asks for those: a terminal may be cut off before it is put
// back, and an answer may come when a device reads. Each write of the library's is of whole sequences.
type crlf struct{ w io.Writer }

var toTerminal = strings.NewReplacer("\n", "\r\n", ansi.SetModifyOtherKeys2, "", ansi.ResetModifyOtherKeys, "",
	ansi.KittyKeyboard(0, 1), "", ansi.KittyKeyboard(ansi.KittyDisambiguateEscapeCodes, 1), "", ansi.RequestKittyKeyboard, "")

// Write implements io.Writer.
func (c crlf) Write(p []byte) (int, error) {
	if _, err := io.WriteString(c.w, toTerminal.Replace(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// dumb tells whether a terminal cannot move its cursor, or does not say that it can.
func dumb(term string) bool {
	return term == "" || term == "dumb" || term == "unknown" || term == "network"
}

// Resize tells that the terminal's size has changed. It may wait until Run is ready for it.
func (p *Picker) Resize(columns, rows uint32) {
	if p.program != nil {
		p.program.Send(tea.WindowSizeMsg{Width: int(min(columns, maxWidth)), Height: int(min(rows, maxHeight))})
	}
}

// Run shows the picker until the person picks or leaves, ctx ends, or he presses no key for long, and restores the terminal. A terminal
// that takes nothing holds it up: then its writer must be closed.
func (p *Picker) Run(ctx context.Context) (Choice, error) {
	defer p.cancel()
	defer context.AfterFunc(ctx, p.cancel)()
	if p.program == nil {
		l := &lines{t: p.t, m: p.model, ctx: ctx}
		return l.run()
	}
	fed := make(chan struct{})
	p.spawn(func() {
		defer close(fed)
		defer p.cancel() // and with it the program
		p.feed()
	})
	_, err := p.program.Run()
	p.cancel()
	<-fed
	switch m := p.model; {
	case m.done:
		return m.choice, nil
	case ctx.Err() != nil:
		return Choice{}, context.Cause(ctx)
	default:
		return Choice{}, cmp.Or(err, error(io.ErrClosedPipe))
	}
}

// feed gives the program the keys until it has ended.
func (p *Picker) feed() {
	var b []byte
	pressed := time.Now()
	for {
		wait := tick
		if len(b) > 0 {
			wait = escapeWait
		}
		more, err := p.t.Next(p.ended, wait)
		switch {
		case errors.Is(err, io.EOF):
			p.send(leaveMsg("the input has ended"))
			return
		case err != nil:
			return
		case len(more) > 0:
			pressed = time.Now()
		case time.Since(pressed) > idleAfter:
			p.send(leaveMsg("no key was pressed for " + span(idleAfter)))
			return
		}
		b = append(b, more...)
		for len(b) > 0 {
			k, n := decode(b, len(more) == 0)
			if n == 0 {
				break
			}
			b = b[n:]
			if k.more = len(b) > 0; k.kind != noKey && p.send(k) {
				p.t.Unread(b)
				return
			}
		}
		if len(more) == 0 && p.send(tickMsg{}) {
			return
		}
	}
}

// send gives the model a message and tells whether that was the last.
func (p *Picker) send(msg tea.Msg) (last bool) {
	p.program.Send(msg)
	took := make(chan bool, 1)
	p.program.Send(askMsg{took})
	select {
	case last = <-took:
		return last
	case <-p.ended.Done():
		return true
	}
}

// Messages of a picker's own.
type (
	tickMsg  struct{}
	leaveMsg string
	// askMsg is answered with whether the model is done.
	askMsg  struct{ took chan<- bool }
	seenMsg struct{ name, words string }
)

// model is what is shown. It has no goroutine and no clock.
type model struct {
	c     Config
	ctx   context.Context // ends with the picker
	plain bool
	width int
	rows  int

	query     string
	searching bool // q and j are letters
	stale     bool // the query is ahead of what is shown
	shown     []int32
	near      bool // of what was searched for there is nothing: these are near
	cursor    int  // in shown
	top       int

	asked  string // device that is away, of which the person was told
	status string
	done   bool
	choice Choice

	joining joining
}

func newModel(c Config, plain bool) *model {
	m := &model{c: c, plain: plain, width: 80, rows: 24}
	m.query = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return -1
		}
		return r
	}, c.Query)
	m.query = m.query[:min(len(m.query), maxQuery)]
	m.searching = m.query != ""
	m.search()
	if m.joining.on = c.Joining && c.Sessions != nil; m.joining.on {
		m.search()
	}
	return m
}

func (m *model) resize(columns, rows uint32) {
	m.width, m.rows = 80, 24
	if columns > 0 {
		m.width = int(min(columns, maxWidth))
	}
	if rows > 0 {
		m.rows = int(min(rows, maxHeight))
	}
	m.scroll()
}

// search finds what is to be shown.
func (m *model) search() {
	if m.joining.on {
		m.findSessions()
	} else {
		m.shown, m.near = m.find(m.query)
	}
	m.cursor, m.top, m.asked, m.status, m.stale = 0, 0, "", "", false
	m.scroll()
}

// typed is called when a key has changed the query. Behind it there may be more: a paste costs one search for each read, not for each letter.
func (m *model) typed(k key) {
	if m.stale = k.more; !m.stale {
		m.search()
	}
}

// find returns the devices that have every word of a query in their name or in a label: those named so first, then by how the list is
// sorted. Where there is none it returns those with a near name.
func (m *model) find(query string) (found []int32, near bool) {
	terms := strings.Fields(strings.ToLower(query))
	ranked := [4][]int32{}
	for i := range m.c.Devices {
		d, rank := &m.c.Devices[i], 0
		for _, t := range terms {
			r := 4
			switch {
			case d.Name == t:
				r = 0
			case strings.HasPrefix(d.Name, t):
				r = 1
			case strings.Contains(d.Name, t):
				r = 2
			case slices.ContainsFunc(d.Labels, func(l wire.Label) bool { return holds(l, t) }):
				r = 3
			}
			rank = max(rank, r)
		}
		if rank < 4 {
			ranked[rank] = append(ranked[rank], int32(i))
		}
	}
	if found = slices.Concat(ranked[:]...); len(found) > 0 || len(terms) != 1 {
		return found, false
	}
	for _, name := range Near(terms[0], m.c.Devices) {
		i := slices.IndexFunc(m.c.Devices, func(d Device) bool { return d.Name == name })
		found = append(found, int32(i))
	}
	return found, len(found) > 0
}

// Init implements tea.Model.
func (m *model) Init() tea.Cmd {
	if m.joining.on {
		return m.fetch()
	}
	return nil
}

// Update implements tea.Model.
func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case key:
		if !m.done {
			return m, m.press(msg)
		}
	case tea.WindowSizeMsg:
		m.resize(uint32(msg.Width), uint32(msg.Height))
	case askMsg:
		msg.took <- m.done
	case leaveMsg:
		if !m.done {
			m.done, m.choice = true, Choice{Why: string(msg)}
		}
	case seenMsg:
		if m.asked == msg.name {
			m.status = m.away(msg.words)
		}
	case sessionsMsg:
		if !m.done {
			m.adopt(msg)
		}
	case tickMsg:
		if m.stale {
			m.search()
		}
		if j := &m.joining; j.on {
			if j.ticks++; j.ticks%refresh == 0 {
				return m, m.fetch()
			}
			return m, nil
		}
		for _, i := range m.visible() {
			m.look(i)
		}
	}
	return m, nil
}

// look sees whether a device is there now.
func (m *model) look(i int32) bool {
	d := &m.c.Devices[i]
	if m.c.Online != nil {
		d.Online = m.c.Online(d)
	}
	return d.Online
}

func (m *model) press(k key) tea.Cmd {
	if m.joining.asked != nil {
		m.mode(k)
		return nil
	}
	switch k.kind {
	case letter, erase, eraseWord, eraseAll:
	default: // what it does depends on what is shown
		if m.stale {
			m.search()
		}
	}
	switch k.kind {
	case leave:
		m.done = true
	case enter:
		if m.joining.on {
			m.join()
			break
		}
		return m.connect()
	case tab:
		return m.toggle()
	case up:
		m.move(-1)
	case down:
		m.move(1)
	case pageUp:
		m.move(-max(1, m.listRows()-1))
	case pageDown:
		m.move(max(1, m.listRows()-1))
	case home:
		m.move(-m.entries())
	case end:
		m.move(m.entries())
	case redraw:
		return tea.ClearScreen
	case eraseAll:
		m.query, m.searching = "", false
		m.typed(k)
	case eraseWord:
		m.query = m.query[:strings.LastIndexByte(strings.TrimRight(m.query, " "), ' ')+1]
		m.typed(k)
	case erase:
		if m.query == "" {
			m.searching = false
			break
		}
		r := []rune(m.query)
		m.query = string(r[:len(r)-1])
		m.typed(k)
	case letter:
		switch r := string(k.r); {
		case r == "q" && !m.searching:
			m.done = true
		case r == "j" && !m.searching && m.c.Sessions != nil:
			return m.toggle()
		case r == "/" && !m.searching:
			m.searching = true
		case len(m.query)+len(r) <= maxQuery:
			m.query, m.searching = m.query+r, true
			m.typed(k)
		}
	}
	if m.stale && !k.more {
		m.search()
	}
	return nil
}

func (m *model) move(by int) {
	m.cursor = max(0, min(m.entries()-1, m.cursor+by))
	m.asked, m.status = "", ""
	m.scroll()
}

// connect picks the device under the cursor; one that is away when it was said so.
func (m *model) connect() tea.Cmd {
	if len(m.shown) == 0 {
		return nil
	}
	i := m.shown[m.cursor]
	d := m.c.Devices[i]
	online := m.look(i)
	if online || m.asked == d.Name {
		m.done, m.choice = true, Choice{Name: d.Name, Wait: !online}
		return nil
	}
	m.asked, m.status = d.Name, m.away("")
	if m.c.Seen == nil {
		return nil
	}
	return func() (msg tea.Msg) {
		defer func() {
			if recover() != nil { // what is said of a device is worth nobody's session
				msg = seenMsg{name: d.Name}
			}
		}()
		ctx, cancel := context.WithTimeout(m.ctx, seenWait)
		defer cancel()
		return seenMsg{d.Name, m.c.Seen(ctx, &d)}
	}
}

func (m *model) away(words string) string {
	if words == "" {
		words = "offline"
	}
	return m.asked + " is " + words + ". Enter again waits for it"
}

// listRows is how many rows the list has.
func (m *model) listRows() int {
	switch {
	case m.rows <= 2:
		return 1
	case m.rows <= 5:
		return m.rows - 2 // what is searched for, and the status
	}
	return m.rows - 3
}

// scroll keeps the cursor on the screen.
func (m *model) scroll() {
	rows := m.listRows()
	if m.cursor < m.top {
		m.top = m.cursor
	}
	if m.cursor >= m.top+rows {
		m.top = m.cursor - rows + 1
	}
	m.top = max(0, min(m.top, m.entries()-rows))
}

// entries is how many the list has.
func (m *model) entries() int { return len(m.list()) }

// list is what is shown: indexes of devices, or of sessions.
func (m *model) list() []int32 {
	if m.joining.on {
		return m.joining.shown
	}
	return m.shown
}

func (m *model) visible() []int32 {
	list := m.list()
	return list[m.top:min(len(list), m.top+m.listRows())]
}
