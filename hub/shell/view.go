package shell

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"hawser/tunnel/wire"
)

// View implements tea.Model.
func (m *model) View() tea.View {
	v := tea.NewView(m.text())
	v.AltScreen, v.DisableBracketedPasteMode = true, true
	return v
}

// text is the screen, a line for each of its rows.
func (m *model) text() string {
	if m.done {
		return ""
	}
	var lines []string
	if m.rows > 5 {
		title := "Hawser " + wire.Quote(m.c.Hub, 64) + ", " + wire.Quote(m.c.User, 64)
		if m.c.Login != "" {
			title += ", login " + wire.Quote(m.c.Login, 64)
		}
		lines = append(lines, m.style(dim, title))
	}
	if m.rows > 2 {
		what := "search: "
		if m.joining.on {
			what = "sessions to join: "
		}
		lines = append(lines, m.tail(what+wire.Quote(m.query, 0)+"_"))
	}
	lines = append(lines, m.listed()...)
	for len(lines) < m.rows-1 {
		lines = append(lines, "")
	}
	if m.rows > 1 {
		lines = append(lines, m.foot())
	}
	for i, l := range lines {
		lines[i] = ansi.Truncate(l, m.width, "")
	}
	return strings.Join(lines, "\n")
}

// listed are the rows of the list.
func (m *model) listed() (lines []string) {
	if m.joining.on {
		for n, i := range m.visible() {
			lines = append(lines, m.sessionRow(&m.joining.list[i], m.top+n == m.cursor))
		}
		return lines
	}
	name := 0
	for _, i := range m.visible() {
		name = max(name, len(m.c.Devices[i].Name))
	}
	for n, i := range m.visible() {
		lines = append(lines, m.row(&m.c.Devices[i], m.top+n == m.cursor, name))
	}
	return lines
}

// wide is from how many columns on a row has words, and narrow below how many it has no labels.
const wide, narrow = 60, 40

// row shows one device: that it is picked, whether it is there, its name, what it is for, its labels.
func (m *model) row(d *Device, picked bool, names int) string {
	mark := "  "
	if picked {
		mark = "> "
	}
	sign := "- "
	if d.Online {
		sign = "+ "
	}
	text := mark + sign + d.Name
	if m.width >= wide {
		names = min(names, m.width/2)
		text = fmt.Sprintf("%s%-*s  %-7s", mark, names, d.Name, state(d.Online))
	}
	env, careful := d.environment()
	tag := ""
	switch {
	case careful:
		tag = " " + m.style(alarm, "[!"+wire.Quote(env, 16)+"]")
	case env != "":
		tag = " [" + wire.Quote(env, 16) + "]"
	}
	if m.width < narrow && careful && ansi.StringWidth(text)+4 > m.width { // it must be seen
		text = ansi.Truncate(text, max(4, m.width-4), "")
		tag = m.style(alarm, "[!]")
	}
	labels := ""
	if m.width >= narrow {
		if labels = words(d.Labels, environments...); labels != "" {
			labels = "  " + m.style(dim, labels)
		}
	}
	switch {
	case picked:
		text = m.style(bold, text)
	case !d.Online:
		text = m.style(dim, text)
	}
	return text + tag + labels
}

// foot is the last line: what was to be told, or the keys.
func (m *model) foot() string {
	switch {
	case m.joining.on:
		return m.sessionsFoot()
	case m.status != "":
		return m.style(bold, m.status)
	case len(m.c.Devices) == 0:
		if m.c.Sessions != nil {
			return "your roles reach no device; " + m.toggles() + ": sessions, q leaves"
		}
		return "your roles reach no device; q leaves"
	case len(m.shown) == 0:
		return "none of them; Ctrl-U empties"
	case m.near:
		return "nothing is called so; these are near"
	}
	at := fmt.Sprintf("%d/%d", m.cursor+1, len(m.shown))
	if m.width < wide {
		return m.style(dim, at+" Enter Esc")
	}
	tab := ""
	if m.c.Sessions != nil {
		tab = m.toggles() + ": sessions, "
	}
	return m.style(dim, at+"  Enter connects, arrows move, "+tab+"type to search, Esc leaves")
}

// tail cuts a line that is too long in front, for its end is where one types.
func (m *model) tail(s string) string {
	if w := ansi.StringWidth(s); w > m.width {
		return ansi.TruncateLeft(s, w-m.width, "")
	}
	return s
}

// Styles, as SGR has them.
const (
	dim   = "2"
	bold  = "1"
	alarm = "1;37;41"
)

func (m *model) style(sgr, text string) string {
	if m.plain || text == "" {
		return text
	}
	return "\x1b[" + sgr + "m" + text + "\x1b[0m"
}
