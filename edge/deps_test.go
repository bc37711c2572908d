package edge_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// banned is what the agent must not link, and why. Sizes are what each added to a mipsle build when it was measured.
var banned = []struct{ path, reason string }{
	{"net/http", "1.1 MB; the agent enrols, renews and uploads over its tunnel"},
	{"encoding/json", "310 kB and reflection over hostile input; the wire is type-length-value"},
	{"log/slog", "310 kB; tunnel.Logger says what an agent has to say"},
	{"text/template", "2.2 MB: its dynamic MethodByName keeps every exported method of the program alive"},
	{"html/template", "as text/template, and more"},
	{"regexp", "280 kB; the agent matches globs and grammars by hand"},
	{"encoding/gob", "340 kB, and a decoder that allocates as it is told"},
	{"expvar", "1.3 MB: net/http"},
	{"net/http/pprof", "1.7 MB: net/http, and a listener that no device should have"},
	{"runtime/pprof", "300 kB"},
	{"testing", "code for tests must not ship"},
	{"google.golang.org/protobuf", "2.1 MB; hubs speak it to auth, edges to nobody"},
	{"connectrpc.com/connect", "3.9 MB; as protobuf"},
	{"github.com/spf13/cobra", "pflag is enough for six commands; cobra brings templates"},
	{"github.com/dgraph-io/badger", "the agent has six small files"},
	{"github.com/prometheus", "4.2 MB; hubs count, devices do not"},
	{"go.yaml.in/yaml", "580 kB; flags and HAWSER_* configure an agent"},
	{"gopkg.in/yaml", "as go.yaml.in/yaml"},
	{"github.com/klauspost/compress", "340 kB for the encoder; compress/flate costs 55"},
	{"hawser/auth/api", "protobuf and Connect"},
	{"hawser/auth/store", "Badger"},
	{"hawser/hub", "edge, hub and auth never import one another"},
	{"hawser/tools", "a program is no library"},
	{"hawser/recorder/zstdcodec", "klauspost/compress"},
}

// target is the build that is closest to its limits.
func target(c *exec.Cmd) *exec.Cmd {
	c.Env = append(os.Environ(), "GOOS=linux", "GOARCH=mipsle", "GOMIPS=softfloat", "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	return c
}

func deps(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := target(exec.Command("go", "list", "-deps", pkg))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	return strings.Fields(string(out))
}

func TestTheAgentDoesNotLinkWhatItMustNot(t *testing.T) {
	all := deps(t, "hawser/edge/cmd/hawser-edge")
	if len(all) < 50 {
		t.Fatalf("only %d packages: the list is not what it claims to be", len(all))
	}
	for _, dep := range all {
		for _, b := range banned {
			if dep == b.path || strings.HasPrefix(dep, b.path+"/") {
				t.Errorf("the agent links %s: %s (find out why with `go list -deps -f '{{.ImportPath}} {{.Imports}}' ./edge/cmd/hawser-edge`)", dep, b.reason)
			}
		}
		if dep == "hawser/auth" {
			t.Errorf("the agent links %s: edge, hub and auth never import one another", dep)
		}
	}
}

// reflectMethods links a program and returns what in it calls a method by a name known only at run time. One such function makes the linker keep
// every exported method of every reachable type: 1.8 MB of this agent.
func reflectMethods(t *testing.T, dir, pkg string) []string {
	t.Helper()
	cmd := target(exec.Command("go", "build", "-ldflags=-dumpdep", "-o", filepath.Join(t.TempDir(), "program"), pkg))
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go build: %v\n%s", err, tail(out))
	}
	if !bytes.Contains(out, []byte("main.main")) {
		t.Fatalf("the linker named no dependencies:\n%s", tail(out))
	}
	found := map[string]bool{}
	var list []string
	for line := range strings.Lines(string(out)) {
		from, _, _ := strings.Cut(line, " -> ")
		if strings.Contains(from, "<ReflectMethod>") && !found[from] {
			found[from] = true
			list = append(list, from)
		}
	}
	return list
}

func tail(b []byte) []byte { return b[max(0, len(b)-2000):] }

func TestNoDynamicMethodByNameKeepsDeadMethodsAlive(t *testing.T) {
	if list := reflectMethods(t, ".", "hawser/edge/cmd/hawser-edge"); len(list) > 0 {
		t.Errorf("these call methods by a dynamic name:\n%s", strings.Join(list, "\n"))
	}
}

// The check above is worth nothing unless it can fail.
func TestTheMethodByNameCheckFailsWhereItMust(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module control\n\ngo 1.26.0\n",
		"main.go": `package main

import (
	"os"
	"reflect"
)

type thing struct{}

func (thing) Dead() {}

func main() { reflect.ValueOf(thing{}).MethodByName(os.Args[0]).Call(nil) }
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if list := reflectMethods(t, dir, "."); len(list) == 0 {
		t.Fatal("a program that calls a method by a dynamic name was not found out")
	}
}
