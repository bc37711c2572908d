// Package vectors holds what is encoded against the test vectors of tunnel/PROTOCOL.md, for tests alone. A test calls [Check];
// with -update it writes the file instead, and what changes in it then breaks the protocol.
package vectors

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the vectors anew; what changes in them breaks the protocol")

// Vector is one line of a file: a name and the bytes in hexadecimal.
type Vector struct {
	Name  string
	Bytes []byte
}

// Check fails t unless the file, a path from the package under test, holds exactly want in this order. Lines that begin
// with # say what the file is.
func Check(t testing.TB, file, about string, want []Vector) {
	t.Helper()
	var b bytes.Buffer
	for line := range strings.Lines(about + "\n") {
		b.WriteString("# " + line)
	}
	for _, v := range want {
		fmt.Fprintf(&b, "%s %x\n", v.Name, v.Bytes)
	}
	path := filepath.FromSlash(file)
	if *update {
		if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, wanted := strings.Split(string(held), "\n"), strings.Split(b.String(), "\n")
	for i := range max(len(got), len(wanted)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(wanted) {
			w = wanted[i]
		}
		if g != w {
			t.Errorf("%s, line %d:\nholds   %s\nencoded %s", file, i+1, g, w)
		}
	}
}
