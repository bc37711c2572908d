package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// declared are the names of all tests.
func declared(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllSubmatch(b, -1) {
			all[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A table for auditors that names a test which is not there promises what nobody shows.
func TestTheTableOfComplianceNamesWhatThereIs(t *testing.T) {
	table, err := os.ReadFile("compliance.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := declared(t)
	named := regexp.MustCompile("`(Test[^`]*)`").FindAllStringSubmatch(string(table), -1)
	for _, m := range named {
		if !declared[m[1]] {
			t.Errorf("%s is no test", m[1])
		}
	}
	if len(named) < 20 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range regexp.MustCompile(`\b(?:auth|test|tunnel|recorder|docs)/[\w/.-]*\w`).FindAllString(string(table), -1) {
		if _, err := os.Stat(filepath.Join("..", m)); err != nil {
			t.Error(err)
		}
	}
}

// Each row of the threat model says in what holds where that is tested: by a test's name, or a file or a directory of tests.
func TestTheThreatModelNamesATestForEachPromise(t *testing.T) {
	text, err := os.ReadFile("THREAT-MODEL.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := declared(t)
	rows := 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| who attacks") {
			continue
		}
		rows++
		some := false
		for _, cell := range cells {
			for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w*|[a-z][\\w/]*/\\w+_test\\.go|test/\\w+)`").FindAllStringSubmatch(cell, -1) {
				if strings.Contains(m[1], "/") {
					if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
						t.Error(err)
					}
				} else if !declared[m[1]] {
					t.Errorf("%s is no test", m[1])
				}
				some = some || cell == cells[1]
			}
		}
		if !some {
			t.Errorf("no test is named for what holds against %s", strings.TrimPrefix(cells[0], "| "))
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows were read", rows)
	}
}
