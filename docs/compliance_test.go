package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A table for auditors that names a test which is not there promises what nobody shows.
func TestTheTableOfComplianceNamesWhatThereIs(t *testing.T) {
	table, err := os.ReadFile("compliance.md")
	if err != nil {
		t.Fatal(err)
	}
	declared := map[string]bool{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
			declared[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
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
