package auth

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryTypeOfEventIsDocumented reads the types from the source: one that is not in the table is one no search finds.
func TestEveryTypeOfEventIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/audit.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(doc), "## The types")
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob("audit/*.go")
	literal := regexp.MustCompile(`(?:Type: *|\.Type = |\.Type, [a-z.A-Z]*, [a-z.A-Z]* = |step\(ctx, |(?:user|forward|device|tunnel|proxy)": )"([a-z]+(?:\.[a-z]+)+)"`)
	found := 0
	for _, file := range append(files, more...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range literal.FindAllStringSubmatch(string(src), -1) {
			found++
			base, refuse := strings.CutSuffix(m[1], ".refuse")
			if !strings.Contains(table, m[1]) && !(refuse && strings.Contains(table, base+",") && strings.Contains(table, ".refuse")) {
				t.Errorf("%s records %q, which docs/audit.md does not list", file, m[1])
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d types were found in the source", found)
	}
}
