package play

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hawser/recorder"
	"hawser/recorder/index/indextest"
	"hawser/recorder/reader"
)

func newReader(chunks [][]byte) *reader.Reader { return reader.New(from(chunks)) }

// session has what an export must get right: a character that reads had split, colours, hostile bytes, a resize, the end.
func session() [][]byte {
	c := indextest.NewChunks([16]byte{1}, began, 40, 10)
	c.Record(0, recorder.RecordStdout, []byte("$ caf\xc3"))
	c.Record(time.Second, recorder.RecordStdout, []byte("\xa9 \x1b]0;title\x07\x1b[31m</script><b>red\x1b[m\r\n"))
	c.Record(1500*time.Millisecond, recorder.RecordResize, []byte{50, 12})
	c.Record(2*time.Second, recorder.RecordInput, []byte("\x00ls\r"))
	c.Record(3*time.Second, recorder.RecordMarker, []byte("a remark"))
	c.Record(4*time.Second, recorder.RecordStdout, []byte("日本語 done\r\n"))
	c.Record(5*time.Second, recorder.RecordExit, []byte{recorder.ExitStatus, 1, 3})
	return c.Close()
}

func castOf(t testing.TB, chunks [][]byte, o CastOptions) (head map[string]any, events [][]any) {
	t.Helper()
	var out bytes.Buffer
	if err := Asciicast(newReader(chunks), &out, o); err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var err error
		if i == 0 {
			err = json.Unmarshal([]byte(line), &head)
		} else {
			var e []any
			err = json.Unmarshal([]byte(line), &e)
			events = append(events, e)
		}
		if err != nil {
			t.Fatalf("%v: %s", err, line)
		}
	}
	return head, events
}

func TestAsciicastIsWhatItsVersionsSay(t *testing.T) {
	want := map[int]string{
		2: `[[0 o $ caf] [1 o é ` + "\x1b[31m</script><b>red\x1b[m\r\n" + `] [1.5 r 50x12] [2 i ls` + "\r" + `] [3 m a remark] [4 o 日本語 done` + "\r\n" + `]]`,
		3: `[[0 o $ caf] [1 o é ` + "\x1b[31m</script><b>red\x1b[m\r\n" + `] [0.5 r 50x12] [0.5 i ls` + "\r" + `] [1 m a remark] [1 o 日本語 done` + "\r\n" + `] [1 x 3]]`,
	}
	for version, want := range want {
		head, events := castOf(t, session(), CastOptions{Version: version, Input: true, Title: "a title"})
		if got := fmt.Sprint(events); got != want {
			t.Errorf("version %d: %s, want %s", version, got, want)
		}
		size := fmt.Sprint(head["width"], head["height"])
		if version == 3 {
			size = fmt.Sprint(head["term"].(map[string]any)["cols"], head["term"].(map[string]any)["rows"])
		}
		if head["version"] != float64(version) || size != "40 10" || head["timestamp"] != float64(began.Unix()) || head["title"] != "a title" {
			t.Errorf("version %d begins with %v", version, head)
		}
	}
	if _, events := castOf(t, session(), CastOptions{Version: 3, Raw: true}); !strings.Contains(fmt.Sprint(events), "\x1b]0;title\x07") {
		t.Error("unfiltered output is filtered")
	}
}

// Without a terminal on the device nobody added carriage returns, and there are two streams.
func TestOutputWithoutATerminalIsWholeLines(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 0, 0)
	c.Record(0, recorder.RecordStdout, []byte("one\ntwo \xc3"))
	c.Record(0, recorder.RecordStderr, []byte("err \xe6\x97"))
	c.Record(0, recorder.RecordStdout, []byte("\xa9\n"))
	c.Record(0, recorder.RecordStderr, []byte("\xa5\r\n"))
	head, events := castOf(t, c.Close(), CastOptions{Version: 2})
	if got := fmt.Sprint(head["width"], head["height"], events); got != "80 24 [[0 o one\r\ntwo ] [0 o err ] [0 o é\r\n] [0 o 日\r\n]]" {
		t.Errorf("%q", got)
	}
}

func TestTextIsWhatTheTerminalShowed(t *testing.T) {
	var out bytes.Buffer
	if err := Text(newReader(session()), &out); err != nil {
		t.Fatal(err)
	}
	if want := "$ café </script><b>red\n日本語 done\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// page writes a page of a recording that would like to be part of it.
func pageOf(t testing.TB, chunks [][]byte) string {
	t.Helper()
	var out bytes.Buffer
	if err := HTML(newReader(chunks), &out, "a </title><script>alert(1)</script>"); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestNothingRecordedBecomesPartOfThePage(t *testing.T) {
	c := indextest.NewChunks([16]byte{1}, began, 80, 24)
	for i, h := range hostile {
		c.Record(time.Duration(i)*time.Second, recorder.RecordStdout, []byte(h))
		c.Record(time.Duration(i)*time.Second, recorder.RecordMarker, []byte(h))
	}
	for _, chunks := range [][][]byte{session(), c.Close()} {
		s := pageOf(t, chunks)
		if n := strings.Count(strings.ToLower(s), "<script"); n != 2 {
			t.Errorf("%d scripts", n)
		}
		if n := strings.Count(strings.ToLower(s), "</script"); n != 2 {
			t.Errorf("%d ends of scripts", n)
		}
		_, data, _ := strings.Cut(s, `type="application/json">`)
		data, _, _ = strings.Cut(data, "</script>")
		var v any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Error(err)
		}
		if strings.ContainsAny(data, "<>\x1b") {
			t.Error("the data are not escaped")
		}
		if around := strings.Replace(s, data, "", 1); strings.Contains(around, "<!--") || strings.Contains(around, "<b>") || strings.Contains(around, "http:") || strings.Contains(around, "https:") {
			t.Error("what was recorded is part of the page, or the page asks for something")
		}
	}
}

// A browser shows the page: what was on the screen at a time, and nothing runs but the page's own script.
func TestAPagePlaysInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		t.Skip("no chromium here: the page was not opened in a browser; HAWSER_LONG=1 make test installs it")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "page.html")
	if err := os.WriteFile(file, []byte(pageOf(t, session())), 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]struct{ there, not string }{"2": {"&lt;/script&gt;&lt;b&gt;red", "日本語"}, "5": {"日", "alert(2)"}} {
		cmd := exec.CommandContext(t.Context(), browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--user-data-dir="+filepath.Join(dir, "profile"), "--virtual-time-budget=2000", "--dump-dom", "file://"+file+"#t="+at)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", browser, err)
		}
		_, screen, _ := strings.Cut(string(out), `<pre id="screen"`)
		screen, _, _ = strings.Cut(screen, "</pre>")
		if !strings.Contains(screen, want.there) || strings.Contains(screen, want.not) || !strings.Contains(screen, "café") {
			t.Errorf("at %s s the browser shows %s", at, screen)
		}
	}
}

// asciinema's own player reads what is exported: by the parser of npm's asciinema-player, pinned, with HAWSER_LONG=1.
func TestAsciinemaPlayerReadsTheExports(t *testing.T) {
	if os.Getenv("HAWSER_LONG") == "" {
		t.Skip("asciinema-player is fetched with HAWSER_LONG=1 alone")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not here: the exports were not read by asciinema-player", program)
		}
	}
	dir := t.TempDir()
	sh := func(name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			if name == "npm" {
				t.Skipf("npm could not reach its registry: the exports were not read by asciinema-player (%v)", err)
			}
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	sh("npm", "pack", "--silent", "asciinema-player@3.17.0")
	sh("tar", "xzf", "asciinema-player-3.17.0.tgz")
	for _, v := range []int{2, 3} {
		var out bytes.Buffer
		if err := Asciicast(newReader(session()), &out, CastOptions{Version: v, Input: true}); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("v%d.cast", v)), out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The parser is not exported: the package's file is, with that added, and what it wants of a browser is not called.
	script := `import fs from "node:fs";
const dist = "package/dist/", core = fs.readdirSync(dist).find(f => /^core-.*\.js$/.test(f));
fs.writeFileSync(dist + "parser.mjs", fs.readFileSync(dist + core, "utf8") + "\nexport { parse$2 as parse };\n");
const { parse } = await import(process.cwd() + "/" + dist + "parser.mjs");
for (const v of [2, 3]) {
  const r = await parse(new Response(fs.readFileSync("v" + v + ".cast")));
  console.log(v, r.cols, r.rows, JSON.stringify(Array.from(r.events.toArray ? r.events.toArray() : r.events)));
}`
	if err := os.WriteFile(filepath.Join(dir, "read.mjs"), []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	got := string(sh("node", "read.mjs"))
	events := `[0,"o","$ caf"],[1000,"o","é \u001b[31m</script><b>red\u001b[m\r\n"],[1500,"r",` // and then as the player likes
	for _, want := range []string{"2 40 10 [" + events, "3 40 10 [" + events, `"日本語 done\r\n"]`} {
		if !strings.Contains(got, want) {
			t.Errorf("the player reads %s, not %s", got, want)
		}
	}
}
