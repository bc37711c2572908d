// Package term_test compares the model of a terminal in recorder/term with two terminals that others wrote: tmux,
// by its capture-pane, and xterm.js (npm @xterm/headless). The corpus is recordings of programs (corpus, made by
// corpusgen), the recordings with bytes changed, cut out and doubled, and sequences made up at random.
package term_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hawser/recorder/term"
	"hawser/test/harness"
)

// step is one of what a terminal is put through: output, a new size, or a look at it.
type step struct {
	Data   []byte  `json:"data,omitempty"`
	Resize *[2]int `json:"resize,omitempty"`
	Look   bool    `json:"look,omitempty"`
}

type job struct {
	name  string
	Cols  int    `json:"cols"`
	Rows  int    `json:"rows"`
	Steps []step `json:"steps"`
}

// glyph is a cell as both describe it.
type glyph struct {
	text   string
	width  int
	fg, bg string
	attr   int
}

type look struct {
	rows  [][]glyph
	x, y  int
	alt   bool
	modes string
}

// corpus returns the recordings.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("corpus/*.out")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d recordings in corpus: %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".out")] = b
	}
	return out
}

// play puts the model through a job.
func play(j job) (looks []look, redraws [][]byte) {
	s := term.New(j.Cols, j.Rows)
	for _, st := range j.Steps {
		s.Write(st.Data)
		if st.Resize != nil {
			s.Resize(st.Resize[0], st.Resize[1])
		}
		if st.Look {
			looks = append(looks, lookAt(s))
			redraws = append(redraws, s.Redraw())
		}
	}
	return looks, redraws
}

func lookAt(s *term.Screen) look {
	var l look
	_, rows := s.Size()
	for y := range rows {
		var row []glyph
		for _, c := range s.Row(y) {
			g := glyph{text: c.Text, width: int(c.Width), fg: color(c.Style.FG), bg: color(c.Style.BG)}
			if g.text == "" {
				g.text = " "
			}
			for i, a := range []term.Attr{term.Bold, term.Faint, term.Italic, term.Blink, term.Reverse, term.Conceal, term.Strike, term.Overline} {
				if c.Style.Attr&a != 0 {
					g.attr |= 1 << i
				}
			}
			if c.Style.Underline() != term.NoUnderline {
				g.attr |= 1 << 8
			}
			row = append(row, g)
		}
		l.rows = append(l.rows, row)
	}
	l.x, l.y = s.Cursor()
	l.alt = s.AltScreen()
	return l
}

func color(c term.Color) string {
	if i, ok := c.Index(); ok {
		return fmt.Sprintf("p%d", i)
	}
	if r, g, b, ok := c.RGB(); ok {
		return fmt.Sprintf("r%d", int(r)<<16|int(g)<<8|int(b))
	}
	return "d"
}

const blink = 8 // of glyph.attr

// differ says how two looks differ, the first row of it.
func differ(a, b look) string {
	if a.x != b.x || a.y != b.y || a.alt != b.alt || a.modes != b.modes {
		return fmt.Sprintf("cursor %d,%d alternate %v modes %s, not %d,%d %v %s", a.x, a.y, a.alt, a.modes, b.x, b.y, b.alt, b.modes)
	}
	for y := range a.rows {
		for x := range a.rows[y] {
			if x < len(b.rows[y]) && a.rows[y][x].attr&^b.rows[y][x].attr == blink { // xterm.js knows one kind of it, SGR 5, and not 6
				b.rows[y][x].attr |= blink
			}
			if x < len(b.rows[y]) && orphan(b.rows[y], x) && a.rows[y][x].text == " " {
				continue
			}
			if x >= len(b.rows[y]) || a.rows[y][x] != b.rows[y][x] {
				return fmt.Sprintf("row %d column %d: %+v, not %+v\n%s\n%s", y, x, a.rows[y][x], b.rows[y][x], line(a.rows[y]), line(b.rows[y]))
			}
		}
	}
	return ""
}

// orphan tells whether a cell is the second half of a wide character whose first half is gone: xterm.js keeps it, where nothing is to be seen.
func orphan(row []glyph, x int) bool { return row[x].width == 0 && (x == 0 || row[x-1].width != 2) }

func line(row []glyph) string {
	var b strings.Builder
	for _, g := range row {
		if g.width > 0 {
			b.WriteString(g.text)
		}
	}
	return fmt.Sprintf("%q", strings.TrimRight(b.String(), " "))
}

// xterm puts xterm.js through the jobs.
func xterm(t *testing.T, jobs []job) [][]look {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", "screens.js")
	cmd.Dir = installed(t)
	cmd.Stdin = bytes.NewReader(in)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	raw, err := cmd.Output()
	if err != nil {
		t.Fatalf("node screens.js: %v\n%s", err, stderr.Bytes())
	}
	var all [][]struct {
		Rows  []string
		X, Y  int
		Alt   bool
		Modes []any
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	var out [][]look
	for _, looks := range all {
		var of []look
		for _, l := range looks {
			k := look{x: l.X, y: l.Y, alt: l.Alt, modes: fmt.Sprint(l.Modes)}
			for _, row := range l.Rows {
				var r []glyph
				var g glyph
				cells := strings.Split(row, "\x1f")
				for _, c := range cells {
					text, more, changed := strings.Cut(c, "\x1e")
					if g.text = text; changed {
						m := strings.Split(more, ",")
						g.width, _ = strconv.Atoi(m[0])
						g.fg, g.bg = m[1], m[2]
						g.attr, _ = strconv.Atoi(m[3])
					}
					if len(r) == len(cells)-1 && g.width == 2 {
						// Half of a character that a smaller window cut.
						g.text, g.width = " ", 1
					}
					r = append(r, g)
				}
				k.rows = append(k.rows, r)
			}
			of = append(of, k)
		}
		out = append(out, of)
	}
	return out
}

// installed is a directory with screens.js and what it needs, kept between runs.
func installed(t *testing.T) string {
	t.Helper()
	harness.Need(t, "node", "npm")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.New()
	names := []string{"package.json", "package-lock.json", "screens.js"}
	files := map[string][]byte{}
	for _, name := range names {
		if files[name], err = os.ReadFile(filepath.Join("xterm", name)); err != nil {
			t.Fatal(err)
		}
		sum.Write(files[name])
	}
	dir := filepath.Join(cache, "hawser-test", "xterm-"+hex.EncodeToString(sum.Sum(nil))[:16])
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "@xterm", "headless")); err == nil {
		return dir
	}
	// Made beside it and renamed when whole.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(made)
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(made, name), files[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=20000")
	cmd.Dir = made
	if out, err := cmd.CombinedOutput(); err != nil {
		for _, unreachable := range []string{"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "E403"} {
			if bytes.Contains(out, []byte(unreachable)) {
				t.Skipf("npm could not reach its registry, and %s is not there from before: not compared with @xterm/headless", dir)
			}
		}
		t.Fatalf("npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(made, dir); err != nil {
		if _, err := os.Stat(dir); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// cuts plays output in so many parts, with a look after each.
func cuts(name string, cols, rows, parts int, out []byte) job {
	j := job{name: name, Cols: cols, Rows: rows}
	for i := range parts {
		j.Steps = append(j.Steps, step{Data: out[i*len(out)/parts : (i+1)*len(out)/parts], Look: true})
	}
	return j
}

// tokens plays output in its parts, with a look at the end.
func tokens(name string, cols, rows int, parts [][]byte) job {
	j := job{name: name, Cols: cols, Rows: rows}
	for i, p := range parts {
		j.Steps = append(j.Steps, step{Data: p, Look: i == len(parts)-1})
	}
	return j
}

func rounds(short int) int {
	if harness.Long() {
		return 20 * short
	}
	return short
}

// shrink looks for less output that the two do not agree on.
func shrink(t *testing.T, j job) ([]byte, string) {
	t.Helper()
	var parts [][]byte
	for _, s := range j.Steps {
		if s.Resize != nil {
			return nil, "sizes change: not made smaller"
		}
		parts = append(parts, s.Data)
	}
	if len(parts) < 20 {
		parts = bytes.SplitAfter(bytes.Join(parts, nil), nil)
	}
	why := ""
	deadline := time.Now().Add(20 * time.Second)
	for n := max(len(parts)/4, 1); time.Now().Before(deadline); n = max(n/2, 1) {
		var less [][][]byte
		var jobs []job
		for i := 0; i < len(parts); i += n {
			b := append(slices.Clone(parts[:i]), parts[min(i+n, len(parts)):]...)
			less = append(less, b)
			jobs = append(jobs, cuts("", j.Cols, j.Rows, 1, bytes.Join(b, nil)))
			if len(less) == 1000 {
				break
			}
		}
		found := false
		for i, theirs := range xterm(t, jobs) {
			ours, _ := play(jobs[i])
			theirs[0].modes = ""
			if d := differ(ours[0], theirs[0]); d != "" {
				parts, why, found = less[i], d, true
				break
			}
		}
		if !found && n == 1 {
			break
		}
		if found {
			n *= 2
		}
	}
	return bytes.Join(parts, nil), why
}

// compare plays the jobs on both and tells where they differ.
func compare(t *testing.T, jobs []job) {
	t.Helper()
	theirs := xterm(t, jobs)
	var again []job
	var want []look
	wrong := 0
	for i, j := range jobs {
		ours, redraws := play(j)
		for k := range ours {
			want := theirs[i][k]
			want.modes = ""
			if d := differ(ours[k], want); d != "" {
				t.Errorf("%s, look %d: %s", j.name, k, d)
				if wrong++; wrong <= 3 {
					small, d := shrink(t, j)
					t.Logf("the same with less: %q on %dx%d: %s", small, j.Cols, j.Rows, d)
				}
				break
			}
		}
		// And the redraw brings xterm.js to where the output had brought it.
		if len(ours) > 0 {
			n := len(ours) - 1
			again = append(again, job{name: j.name, Cols: len(ours[n].rows[0]), Rows: len(ours[n].rows), Steps: []step{{Data: redraws[n], Look: true}}})
			want = append(want, theirs[i][n])
		}
		if wrong > 5 {
			t.FailNow()
		}
	}
	if wrong > 0 {
		return
	}
	for i, looks := range xterm(t, again) {
		if d := differ(looks[0], want[i]); d != "" {
			t.Errorf("%s, redrawn: %s\n%q", again[i].name, d, again[i].Steps[0].Data)
		}
	}
}

func TestRecordingsOfProgramsLookAsInXtermJS(t *testing.T) {
	t.Parallel()
	var jobs []job
	for name, out := range corpus(t) {
		jobs = append(jobs, cuts(name, 80, 24, 5, out))
		// On a screen they were not made for, and one that changes.
		jobs = append(jobs, cuts(name+" on 61x17", 61, 17, 1, out))
		// The columns only get fewer: xterm.js keeps what was cut off, and shows it when they get more.
		j := cuts(name+" resized", 80, 24, 4, out)
		for i, size := range [][2]int{{70, 20}, {70, 30}, {33, 9}} {
			j.Steps[i].Resize = &size
		}
		jobs = append(jobs, j)
	}
	slices.SortFunc(jobs, func(a, b job) int { return strings.Compare(a.name, b.name) })
	compare(t, jobs)
}

// mutate hurts output: bytes changed, cut out, doubled, moved. What is no UTF-8 then is replaced, because the two
// others do not agree on what to show for it.
func mutate(r *rand.Rand, out []byte) []byte {
	out = slices.Clone(out)
	for range 1 + len(out)/200 {
		if len(out) < 20 {
			break
		}
		i := r.IntN(len(out) - 10)
		n := 1 + r.IntN(9)
		switch r.IntN(4) {
		case 0:
			out[i] = byte(r.IntN(128))
		case 1:
			out = slices.Delete(out, i, i+n)
		case 2:
			out = slices.Insert(out, i, out[i:i+n]...)
		default:
			j := r.IntN(len(out) - 10)
			out[i], out[j] = out[j], out[i]
		}
	}
	out = bytes.ToValidUTF8(out, []byte("\ufffd"))
	// A mark that has lost its character, and an underline of a kind that is not said, look everywhere otherwise.
	return bytes.ReplaceAll(bytes.ReplaceAll(out, []byte("\u0301"), nil), []byte("4:m"), []byte("4m"))
}

func TestHurtRecordingsLookAsInXtermJS(t *testing.T) {
	t.Parallel()
	var jobs []job
	recordings := corpus(t)
	names := slices.Sorted(maps.Keys(recordings))
	for seed := range rounds(2) {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		for _, name := range names {
			out := recordings[name]
			// A part of it: the beginning of the next is hurt another time.
			n := min(len(out), 4000)
			from := r.IntN(len(out) - n + 1)
			jobs = append(jobs, cuts(fmt.Sprintf("%s hurt %d", name, seed), 80, 24, 1, mutate(r, out[from:from+n])))
		}
	}
	compare(t, jobs)
}

// sequences makes output up of what both terminals say they do, in a family: 0 with character sets, 1 with both
// screens and saved cursors, 2 with tab stops and without wrapping. Where xterm.js does otherwise than xterm they do
// not mix: it saves one character set of four, has tab stops and a scroll region for each screen, and does not halve
// a wide character in the last column. Origin mode is left to vttest's recordings: its relative moves are wrong.
// Family 3 is what tmux does as xterm: no move from behind the last column, no insertion or deletion of lines but
// from the first column and without a scroll region, no insertion or deletion of characters, and no overline, which
// capture-pane writes down wrongly.
func sequences(r *rand.Rand, n, family int) [][]byte {
	var out [][]byte
	add := func(format string, args ...any) { out = append(out, fmt.Appendf(nil, format, args...)) }
	words := []string{"x", "word", "a long run of text that wraps", "日本", "e\u0301", "é", "👍", "한", "q", "─", "lqkx"}
	modes := []int{1, 5, 12, 25, 45, 66, 1000, 1002, 1003, 1004, 1006, 1007, 2004}
	finals := "@ABCDEFGIJKLMPSXZ`abdef"
	escapes := []string{"D", "E", "M", "=", ">", "[20l\x1bc", "[?1004l\x1b[!p", "[4h", "[4l", "[20h", "[20l", "]0;title\x07", "]2;t\u2713\x1b\\", "Pq#0\x1b\\", "_app\x1b\\", "[1 2m", "[?1;12;25l", "[>c", "[c", "[6n", "[22;0;0t", "[3 q"}
	switch family {
	case 0:
		escapes = append(escapes, "(0", "(B", ")0", ")B", "n", "o", "*0", "(0", "%G")
	case 1:
		escapes = append(escapes, "7", "8", "[s", "[u", "[r\x1b[?1049h", "[r\x1b[?1049l", "[r\x1b[?1047h", "[r\x1b[?47l", "[?1048h", "[?1048l")
	case 2:
		escapes = append(escapes, "H", "H", "[g", "[3g")
		modes = append(modes, 7, 7, 7)
		words = slices.DeleteFunc(words, func(w string) bool { return strings.ContainsAny(w, "日👍한") })
	}
	if family == 3 {
		finals = "ABCEFGJKd"
		escapes = []string{"D", "E", "M", "]0;title\x07", "Pq#0\x1b\\", "_app\x1b\\", "[1 2m", "[?25l", "[?25h", "[r\x1b[?1049h", "[r\x1b[?1049h\x1b[1mx\x1b[?1049l"}
		modes = []int{1, 12, 25, 66, 1000, 1006, 2004}
		words = []string{"x", "word", "日本", "é", "한", "q", "─", "lqkx", "\r\x1b[L", "\r\x1b[2M", "\x1b[5G\x1b[4X"}
	}
	for range n {
		small := r.IntN(14)
		switch r.IntN(19) {
		case 0, 1, 2, 3, 4, 5:
			add("%s", words[r.IntN(len(words))])
		case 6, 7, 8:
			add("%c", "\r\n\b\t\v\f\x0e\x0f\x07\x00\x7f"[r.IntN(11)])
		case 9, 10:
			add("\x1b[%d;%dH", small, r.IntN(24))
		case 11, 12, 13:
			add("\x1b[%d%c", small, finals[r.IntN(len(finals))])
		case 14, 15:
			styles := []string{"53;9;8", "", "1", "0;7", "31", "38;5;200", "48;2;1;2;3", "4:3", "44", "95;103", "21", "38:2::4:5:6", "22;24", "3;5", "2", "25;27;28;29;55", "39;49"}
			if family == 3 {
				styles = styles[1:]
			}
			add("\x1b[%sm", styles[r.IntN(len(styles))])
		case 16:
			add("\x1b[?%d%c", modes[r.IntN(len(modes))], "hhl"[r.IntN(3)])
		case 17:
			if family != 3 {
				add("\x1b[%d;%dr", small, small+r.IntN(9))
			}
		case 18:
			add("\x1b%s", escapes[r.IntN(len(escapes))])
		}
	}
	return out
}

func TestSequencesLookAsInXtermJS(t *testing.T) {
	t.Parallel()
	var jobs []job
	for seed := range rounds(150) {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		jobs = append(jobs, tokens(fmt.Sprintf("sequences %d", seed), 20, 10, sequences(r, 60, seed%3)))
	}
	compare(t, jobs)
}
