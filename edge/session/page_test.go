package session

import (
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/recorder"
	"hawser/recorder/share"
	"hawser/recorder/term"
)

// alone is the host of a room whose owner hears nothing.
type alone struct{ *room }

func (alone) Say(string) {}

// moderated is what a moderator with a terminal of that size sees, row by row, of a session that runs a command without one, after do.
func moderated(t *testing.T, cols, rows int, command string, do func(m *room)) (seen []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{config: Config{Device: func() string { return "web1" }}}
		m := &room{s: &session{engine: e, params: Params{User: "alice", Login: "root"}}, held: share.NewGate()}
		m.Room = share.New(alone{m}, pageCols, pageRows)
		m.openPage("exec", command)
		screen := term.New(cols, rows)
		in, typed := io.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = m.Join(t.Context(), share.Guest{User: "bob", Mode: share.Moderator, Cols: cols, Rows: rows, In: in, Out: screen, Go: wg.Go})
			in.Close()
		})
		synctest.Wait()
		do(m)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, row := range screen.Text() {
			seen = append(seen, strings.TrimRight(row, " "))
		}
		m.Close("over")
		_ = typed.Close()
		wg.Wait()
	})
	return seen
}

// The page's screen wraps as any terminal's: what was printed behind 78 blanks stood at the start of the next row, as a line of the page's does.
func TestWhatAProcessWritesLooksLikeNoLineOfThePages(t *testing.T) {
	const forged = "put /etc/shadow"
	behind := func(filler string, n int) string { return strings.Repeat(filler, n) + forged }
	texts := []string{
		forged + "\n", "a\r" + forged + "\r\n", "\x1b[2J\x1b[H" + forged, "\xc2\x9b2J\xc2\x9bH" + forged, "\x9b2J" + forged, "half", "\u202eb" + forged,
		"\r\r" + forged, "\t\t\t\t\t\t\t\t\t\t" + forged, "\t\t\t\t\t\t\t\t\t\t\r" + forged, behind("e\u0301", 78), behind("\u0301", 78), behind("\u0301", 2000),
		behind("\r", 5000), behind("\n", 30), behind("x\r", 78), behind("\U0001f600", 38), behind(" \u4e16", 26), behind("\u00a7", 77),
	}
	for n := 36; n <= 80; n++ {
		texts = append(texts, behind(" ", n), behind("\u4e16", n), "x"+behind("\u4e16", n), behind("\t", n/8)+strings.Repeat(" ", n%8)+forged)
	}
	for _, cols := range []int{80, 40, 200} {
		for _, text := range texts {
			for _, print := range []func(*page){
				func(p *page) { p.print([]byte(text)) },
				func(p *page) {
					for i := range len(text) {
						p.print([]byte(text[i : i+1]))
					}
				},
			} {
				rows := moderated(t, cols, pageRows, "", func(m *room) {
					print(m.page)
					m.page.print([]byte("!"))
				})
				for _, row := range rows[1:] { // alice: exec on web1 as root
					row = strings.TrimRight(row, " │─┘")
					if row != "" && !strings.HasPrefix(row, beside) && row != strings.TrimRight(beside, " ") {
						t.Fatalf("%d columns, %q looks like ours:\n%s", cols, text, strings.Join(rows, "\n"))
					}
				}
			}
		}
	}
}

func TestALongLineOfThePagesLooksLikeOne(t *testing.T) {
	for n := range 90 {
		for _, filler := range []string{"x", " ", "\u4e16", "e\u0301", "\n"} {
			rows := moderated(t, 80, pageRows, "backup", func(m *room) {
				pageWriter{m}.FileOp(recorder.FileOp{Op: "get", Path: "/tmp/" + strings.Repeat(filler, n) + "put /etc/hosts", Status: 1})
			})
			for i, row := range rows {
				if i > 2 && row != "" && !strings.HasPrefix(row, hanging) || i == 2 && !strings.HasPrefix(row, "get /tmp/") {
					t.Fatalf("%d of %q: the row %q looks like another line:\n%s", n, filler, row, strings.Join(rows, "\n"))
				}
			}
		}
	}
}

func TestThePageShowsWhatIsWrittenAndWhatIsDone(t *testing.T) {
	rows := moderated(t, 80, pageRows, "backup", func(m *room) {
		for _, text := range []string{"one\r\ntw", "o\n", "10%", "\r20%\n", "ta\tb\n", "ä世é\n", "half"} {
			m.page.print([]byte(text))
		}
		m.page.AgentUse(recorder.AgentUse{What: "sign", Fingerprint: "SHA256:x"})
		m.page.print([]byte(strings.Repeat("0123456789", 10)))
	})
	want := []string{
		"alice: exec on web1 as root", "command: backup", "| one", "| two", "| 20%", "| ta    b", "| ä世é", "| half", "agent: sign SHA256:x",
		"| " + strings.Repeat("0123456789", 7) + "0123456", "| 78901234567890123456789",
	}
	if got := rows[:len(want)]; !slices.Equal(got, want) {
		t.Errorf("the page:\n%s", strings.Join(got, "\n"))
	}
}

// Of a command 400 bytes were shown, and what begins behind them is as long as whoever is watched likes.
func TestModeratorsSeeTheWholeCommandOrHowMuchOfItIsHidden(t *testing.T) {
	for _, tt := range []struct{ command, end string }{
		{"true " + strings.Repeat("x", 620) + "; evil", "; evil"},
		{"true " + strings.Repeat("\n", 250) + "; evil", "; evil"},
		{strings.Repeat("x", 70+77*15), "xxxxx"},
		{strings.Repeat("x", 70+77*15+1), "… and 1 bytes that are not shown"},
		{strings.Repeat("\u4e16", 35+38*15+2), "… and 6 bytes that are not shown"},
		{strings.Repeat("x", 70+77*15) + strings.Repeat("y\xff", 100_000), "… and 200000 bytes that are not shown"},
	} {
		rows := moderated(t, pageCols, pageRows, tt.command, func(m *room) {
			for _, text := range []string{"bob joined (moderator, by h1)", "everybody required is here: the session begins"} {
				m.page.line(text)
			}
		})
		got := strings.Join(rows, "\n")
		if before, _, _ := strings.Cut(got, "\nbob joined"); !strings.HasSuffix(before, tt.end) || !strings.Contains(got, "\ncommand: ") {
			t.Errorf("no %q at the end of\n%s", tt.end, got)
		}
	}
}
