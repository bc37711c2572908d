package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestUnifiedDiffIsWhatDiffPrints(t *testing.T) {
	if _, err := exec.LookPath("diff"); err != nil {
		t.Fatal("diff is missing: apt-get install diffutils")
	}
	for name, tt := range map[string][2]string{
		"one line":      {"a\nb\nc\n", "a\nx\nc\n"},
		"made":          {"", "a\nb\n"},
		"gone":          {"a\nb\n", ""},
		"begin and end": {"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n", "x\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\ny\n"},
		"added last":    {"a\n", "a\nb\n"},
	} {
		dir := t.TempDir()
		var files [2]string
		for i, text := range tt {
			files[i] = filepath.Join(dir, []string{"old", "new"}[i])
			if err := os.WriteFile(files[i], []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, _ := exec.Command("diff", "-U3", "--label", "old", "--label", "new", files[0], files[1]).Output() // exits 1: they differ
		if got := unifiedDiff("old", "new", tt[0], tt[1], false); got != string(want) {
			t.Errorf("%s:\n%swant\n%s", name, got, want)
		}
	}
}

func TestDiffLosesNoLine(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	text := func() []string {
		var lines []string
		for range r.IntN(12) {
			lines = append(lines, string(rune('a'+r.IntN(4))))
		}
		return lines
	}
	for range 500 {
		a, b := text(), text()
		var before, after []string
		for _, l := range diffLines(a, b) {
			if l.kind != '+' {
				before = append(before, l.text)
			}
			if l.kind != '-' {
				after = append(after, l.text)
			}
		}
		if strings.Join(before, "") != strings.Join(a, "") || strings.Join(after, "") != strings.Join(b, "") {
			t.Fatalf("%v to %v: %v, %v", a, b, before, after)
		}
	}
	if unifiedDiff("a", "b", "same\n", "same\n", true) != "" {
		t.Error("what is the same differs")
	}
	if got := unifiedDiff("a", "b", "x\n", "y\n", true); !strings.Contains(got, "\x1b[31m-x\x1b[0m") || !strings.Contains(got, "\x1b[32m+y\x1b[0m") {
		t.Errorf("not coloured: %q", got)
	}
}
