package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each is a package's tests; the check may forgive only what ran to its own end.
func TestOnlyAFailedTestIsRunAgain(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "gotest"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const once = `func TestOnce(t *testing.T) { if os.Getenv("HAWSER_TEST_ONCE") == "" { return }; if _, err := os.Stat("flag"); err != nil { os.WriteFile("flag", nil, 0o600); t.Error("the first time") } }
`
	for i, c := range []struct {
		name, rest string
		passes     bool
		named      string
	}{
		{"a test that fails once", ``, true, "TestOnce of again\n"},
		{"one that fails always", `func TestTwo(t *testing.T) { t.Error("always") }`, false, ""},
		{"a part of one", `func TestTwo(t *testing.T) { t.Run("a b", func(t *testing.T) { t.Error("always") }) }`, false, ""},
		{"one behind unfinished output", `func TestTwo(t *testing.T) { print("50%"); t.Error("always") }`, false, ""},
		{"a panic", `func TestTwo(t *testing.T) { print("x"); panic("boom") }`, false, ""},
		{"a kill", `func TestTwo(t *testing.T) { p, _ := os.FindProcess(os.Getpid()); p.Kill(); select {} }`, false, ""},
		{"an exit", `func TestTwo(t *testing.T) { os.Exit(1) }`, false, ""},
		{"many", strings.Repeat("func TestI_(t *testing.T) { t.Error() };", maxAgain), false, ""},
		{"what does not build", `func TestTwo(t *testing.T) { x }`, false, ""},
		{"what looks like one", `func TestTwo(t *testing.T) { print("--- FAIL: TestNone (0.00s)\n") }`, true, "TestOnce of again\n"},
	} {
		for n := 0; strings.Contains(c.rest, "I_"); n++ {
			c.rest = strings.Replace(c.rest, "I_", fmt.Sprint(n), 1)
		}
		module := filepath.Join(dir, fmt.Sprint(i))
		if err := os.Mkdir(module, 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"go.mod": "module again\n", "a_test.go": "package again\nimport (\"os\"; \"testing\")\n" + once + c.rest + "\n"} {
			if err := os.WriteFile(filepath.Join(module, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run := func(env ...string) (string, error) {
			os.Remove(filepath.Join(module, "flag"))
			cmd := exec.Command(filepath.Join(dir, "gotest"), "-timeout", "1m", "--", ".")
			cmd.Dir = module
			cmd.Env = append(append(os.Environ(), "HAWSER_LONG=", "HAWSER_TEST_ONCE=1", "HAWSER_AGAIN="+filepath.Join(module, "named"), "GOFLAGS=-mod=mod"), env...)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		out, err := run()
		named, _ := os.ReadFile(filepath.Join(module, "named"))
		if err == nil != c.passes || c.passes && string(named) != c.named || !strings.Contains(out, "FAIL") {
			t.Errorf("%s: %v, named %q\n%s", c.name, err, named, out)
		}
		if out, err := run("HAWSER_LONG=1"); err == nil {
			t.Errorf("%s, in the long check: passed\n%s", c.name, out)
		}
	}
}
