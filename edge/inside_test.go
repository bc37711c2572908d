package edge

import (
	"strings"
	"testing"
)

const insideID = "00112233445566778899aabbccddeeff"

func FuzzParseInside(f *testing.F) {
	for _, s := range []string{askRecall, "", "inside\t" + insideID + "\t\t", "inside\t" + insideID + "\tout\tbob", "inside\t" + insideID + "\tsay\thello, all", "inside\tx\tsay\ta\tb"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		id, verb, about, ok := parseInside(line)
		if ok && strings.Join([]string{askInside, id, verb, about}, "\t") != line {
			t.Errorf("%q was read as %q %q %q", line, id, verb, about)
		}
	})
}

func TestWhatIsAskedInsideASessionIsReadStrictly(t *testing.T) {
	for line, want := range map[string]bool{
		"inside\t" + insideID + "\t\t": true, "inside\t" + insideID + "\tout\tbob": true, "inside\t" + insideID + "\tsay\ta b": true,
		"inside\t" + insideID + "\tout\t": false, "inside\t" + insideID + "\t\tbob": false, "inside\t" + insideID + "\tend\tbob": false,
		"inside\t" + insideID[:6] + "\t\t": false, "inside\t" + insideID + "\tsay\t\x1b[2J": false, "inside\t" + insideID + "\tsay\t" + strings.Repeat("x", maxSaid+1): false,
		"inside\t" + strings.ToUpper(insideID) + "\t\t": false,
	} {
		if _, _, _, ok := parseInside(line); ok != want {
			t.Errorf("%q: %v", line, ok)
		}
	}
}

// Who has no session here is not even read.
func TestAStrangerIsToldNothing(t *testing.T) {
	a := &Agent{cfg: Config{State: t.TempDir()}}
	a.engine = a.newEngine()
	if got := a.answer("inside\t"+insideID+"\t\t", 4242); !strings.HasPrefix(got, "error\t") {
		t.Errorf("told %q", got)
	}
	if got := a.answer(askRecall, 4242); got != "" {
		t.Errorf("told %q", got)
	}
}
