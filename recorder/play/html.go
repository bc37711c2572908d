package play

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"strings"
	"time"

	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
	"hawser/recorder/term"
)

//go:embed player.js
var pageScript string

//go:embed player.css
var pageStyle string

// ErrLong is returned for a recording that is too much for one page.
var ErrLong = errors.New("too much for one page: export it as asciicast, or as text")

const (
	pictureEvery = 50 * time.Millisecond // in a page
	maxPage      = 96 << 20              // bytes of a page's pictures, about
)

// HTML writes a recording as one page that plays it in a browser, needing nothing else and asking nothing of the network. It is made of the
// terminal's cells: of what was recorded only characters are in it, as JSON strings, and the page sets them as text.
func HTML(r *reader.Reader, out io.Writer, title string) error {
	h, err := r.Header()
	if err != nil {
		return err
	}
	p := &page{t: index.NewTerminal(h), styles: map[term.Style]int{{}: 0}, known: map[string]int{"[]": 0}, rows: []json.RawMessage{json.RawMessage("[]")}}
	p.css.WriteString(pageStyle)
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if p.dirty && e.Time-p.since >= pictureEvery {
			if err := p.picture(); err != nil {
				return err
			}
		}
		if p.t.Apply(e) {
			if !p.dirty {
				p.dirty, p.since = true, e.Time
			}
		} else if kind, text := index.Told(e); text != "" && (kind == index.Command || kind == index.Remark) {
			p.marks = append(p.marks, [2]any{e.Time.Milliseconds(), plainWords(text)})
		}
		p.last = e.Time
	}
	if err := p.picture(); err != nil {
		return err
	}
	return p.write(out, h, title)
}

// page collects pictures: rows are kept once.
type page struct {
	t      *index.Terminal
	dirty  bool
	since  time.Duration // of the first change that is in no picture
	last   time.Duration
	styles map[term.Style]int
	css    strings.Builder
	known  map[string]int
	rows   []json.RawMessage
	shown  []int
	cols   int
	frames []json.RawMessage
	marks  [][2]any
	size   int
}

// picture adds one: [milliseconds, [row, content, ...], cursor x, cursor y, columns, rows].
func (p *page) picture() error {
	p.dirty = false
	cols, rows := p.t.Size()
	if cols != p.cols || rows != len(p.shown) {
		p.cols, p.shown = cols, make([]int, rows)
		for y := range p.shown {
			p.shown[y] = -1
		}
	}
	var changed []int
	for y := range rows {
		n, err := p.row(p.t.Row(y))
		if err != nil {
			return err
		}
		if p.shown[y] != n {
			p.shown[y] = n
			changed = append(changed, y, n)
		}
	}
	x, y := p.t.Cursor()
	if !p.t.CursorVisible() {
		x, y = -1, -1
	}
	if changed == nil {
		changed = []int{}
	}
	b, err := json.Marshal([]any{p.since.Milliseconds(), changed, x, y, cols, rows})
	if err != nil {
		return err
	}
	p.frames = append(p.frames, b)
	if p.size += len(b) + 1; p.size > maxPage {
		return ErrLong
	}
	return nil
}

// row returns the number of a row's content: runs of [text, style], and [character, style, 1] for a wide one.
func (p *page) row(cells []term.Cell) (int, error) {
	last := len(cells)
	for last > 0 && cells[last-1] == (term.Cell{Width: 1}) {
		last--
	}
	runs := make([][]any, 0, 4)
	var text strings.Builder
	style := 0
	end := func() {
		if text.Len() > 0 {
			runs = append(runs, []any{text.String(), style})
			text.Reset()
		}
	}
	for _, c := range cells[:last] {
		if c.Width == 0 {
			continue
		}
		if s := p.style(c.Style); s != style {
			end()
			style = s
		}
		s := plainWords(c.Text)
		switch {
		case s == "" || c.Style.Attr&term.Conceal != 0:
			text.WriteString(strings.Repeat(" ", int(c.Width)))
		case c.Width == 2:
			end()
			runs = append(runs, []any{s, style, 1})
		default:
			text.WriteString(s)
		}
	}
	end()
	b, err := json.Marshal(runs)
	if err != nil {
		return 0, err
	}
	n, known := p.known[string(b)]
	if !known {
		n = len(p.rows)
		p.known[string(b)] = n
		p.rows = append(p.rows, b)
		if p.size += 2 * len(b); p.size > maxPage {
			return 0, ErrLong
		}
	}
	return n, nil
}

// maxStyles bounds the rules of a page; what looks otherwise still looks plain.
const maxStyles = 4096

// style is the number of a style's rule.
func (p *page) style(s term.Style) int {
	s.Attr &^= term.Blink
	n, known := p.styles[s]
	if known || len(p.styles) >= maxStyles {
		return n
	}
	n = len(p.styles)
	p.styles[s] = n
	fg, bg := rgb(s.FG, s.Attr&term.Bold != 0), rgb(s.BG, false)
	if s.Attr&term.Reverse != 0 {
		if fg == "" {
			fg = "#d0d0d0"
		}
		if bg == "" {
			bg = "#000"
		}
		fg, bg = bg, fg
	}
	fmt.Fprintf(&p.css, ".s%d{", n)
	if fg != "" {
		fmt.Fprintf(&p.css, "color:%s;", fg)
	}
	if bg != "" {
		fmt.Fprintf(&p.css, "background:%s;", bg)
	}
	var lines []string
	for _, l := range []struct {
		on   bool
		name string
	}{{s.Underline() != term.NoUnderline, "underline"}, {s.Attr&term.Strike != 0, "line-through"}, {s.Attr&term.Overline != 0, "overline"}} {
		if l.on {
			lines = append(lines, l.name)
		}
	}
	if len(lines) > 0 {
		fmt.Fprintf(&p.css, "text-decoration:%s;", strings.Join(lines, " "))
	}
	for _, a := range []struct {
		attr term.Attr
		rule string
	}{{term.Bold, "font-weight:bold"}, {term.Italic, "font-style:italic"}, {term.Faint, "opacity:.6"}} {
		if s.Attr&a.attr != 0 {
			p.css.WriteString(a.rule + ";")
		}
	}
	p.css.WriteString("}\n")
	return n
}

var palette = [16]string{
	"#000000", "#cd3131", "#0dbc79", "#c8b414", "#3b78d8", "#bc3fbc", "#11a8cd", "#d0d0d0",
	"#767676", "#f14c4c", "#23d18b", "#f5f543", "#6aa5ff", "#d670d6", "#29b8db", "#ffffff",
}

// rgb is a colour as CSS has it; empty: the terminal's own.
func rgb(c term.Color, bright bool) string {
	if i, ok := c.Index(); ok {
		switch {
		case i < 8 && bright:
			return palette[i+8]
		case i < 16:
			return palette[i]
		case i < 232:
			i -= 16
			level := func(n uint8) int {
				if n == 0 {
					return 0
				}
				return 55 + 40*int(n)
			}
			return fmt.Sprintf("#%02x%02x%02x", level(i/36), level(i/6%6), level(i%6))
		}
		g := 8 + 10*int(i-232)
		return fmt.Sprintf("#%02x%02x%02x", g, g, g)
	}
	if r, g, b, ok := c.RGB(); ok {
		return fmt.Sprintf("#%02x%02x%02x", r, g, b)
	}
	return ""
}

func (p *page) write(out io.Writer, h recorder.Header, title string) error {
	marks := p.marks
	if marks == nil {
		marks = [][2]any{}
	}
	// encoding/json writes <, > and & as \u003c and so on: no string can end the element that the data is in.
	data, err := json.Marshal(map[string]any{"rows": p.rows, "frames": p.frames, "marks": marks, "duration": p.last.Milliseconds()})
	if err != nil {
		return err
	}
	if bytes.ContainsAny(data, "<>") {
		return errors.New("html: data that is not escaped")
	}
	hash := func(s string) string {
		sum := sha256.Sum256([]byte(s))
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	css := p.css.String()
	facts := fmt.Sprintf("%s on %s as %s, %s, recording %x", h.User, h.Device, h.Login, h.Start.UTC().Format(time.RFC3339), h.ID)
	if h.Command != "" {
		facts += ": " + h.Command
	}
	b := bufio.NewWriter(out)
	fmt.Fprintf(b, `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src %s; style-src %s; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width"><meta name="referrer" content="no-referrer">
<title>%s</title>
<style>%s</style></head>
<body><h1>%s</h1><p id="facts">%s</p>
<pre id="screen" tabindex="0"></pre>
<div id="bar"><button id="play">Play</button><span id="time"></span><input id="seek" type="range" min="0" max="10000" value="0" aria-label="time">
<select id="speed" aria-label="speed"><option>0.5</option><option selected>1</option><option>2</option><option>4</option><option>16</option><option>64</option></select>
<label><input id="idle" type="checkbox" checked> cut pauses</label>
<input id="find" type="search" placeholder="find" aria-label="find"><button id="last">&lt;</button><button id="next">&gt;</button></div>
<ol id="marks"></ol>
<script id="data" type="application/json">%s</script>
<script>%s</script></body></html>
`, hash(pageScript), hash(css), html.EscapeString(plainWords(title)), css, html.EscapeString(plainWords(title)), html.EscapeString(plainWords(facts)), data, pageScript)
	return b.Flush()
}
