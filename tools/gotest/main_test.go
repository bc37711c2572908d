package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each is a package's tests; the check may forgive only what ran to its own end. But for those that say always, what is to stop the check happens
// once: it would pass if it were run again.
func TestOnlyAFailedTestIsRunAgain(t *testing.T) {
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "gotest"), ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const head = `package again
import ("os"; "testing"; "time")
var _ = time.Second
func first(t *testing.T) bool {
	if os.Getenv("HAWSER_TEST_ONCE") == "" { return false }
	_, err := os.Stat(t.Name() + ".flag")
	os.WriteFile(t.Name() + ".flag", nil, 0o600)
	return err != nil
}
func TestOnce(t *testing.T) { if first(t) { t.Error("the first time") } }
`
	many := func(n int) (tests, named string) {
		for i := range n {
			tests += fmt.Sprintf("func TestI%d(t *testing.T) { if first(t) { t.Error() } };", i)
			named += fmt.Sprintf("TestI%d of again\n", i)
		}
		return tests, named
	}
	tooMany, _ := many(maxAgain)
	all, allNamed := many(maxAgain - 1)
	for i, c := range []struct {
		name, rest string
		passes     bool
		named      string
		flags      string
		beside     string // another package's tests, which are run after
	}{
		{name: "a test that fails once", passes: true, named: "TestOnce of again\n"},
		{name: "one that fails always", rest: `func TestTwo(t *testing.T) { t.Error("always") }`},
		{name: "a part of one", rest: `func TestTwo(t *testing.T) { t.Run("a b", func(t *testing.T) { t.Error("always") }) }`},
		{name: "one behind unfinished output", rest: `func TestTwo(t *testing.T) { print("50%"); t.Error("always") }`},
		{name: "a panic", rest: `func TestTwo(t *testing.T) { if first(t) { print("x"); panic("boom") } }`},
		{name: "a panic that a test shows of a program", rest: `func TestTwo(t *testing.T) { if first(t) { t.Error("x\npanic: boom\n\ngoroutine 1 [running]:") } }`},
		{name: "what must never be", rest: `func TestTwo(t *testing.T) { is := first(t); t.Run("a b", func(t *testing.T) { if is { t.Error("SAFETY: lost") } }) }`},
		{name: "a race", rest: `func TestTwo(t *testing.T) { if first(t) { n, done := 0, make(chan int); go func() { n++; close(done) }(); n++; <-done } }`, flags: "-race"},
		{name: "a timeout", rest: `func TestTwo(t *testing.T) { if first(t) { time.Sleep(time.Hour) } }`, flags: "-timeout=2s"},
		{name: "a kill", rest: `func TestTwo(t *testing.T) { if first(t) { p, _ := os.FindProcess(os.Getpid()); p.Kill(); select {} } }`},
		{name: "a kill of go test", beside: `func TestTwo(t *testing.T) { if first(t) { p, _ := os.FindProcess(os.Getppid()); p.Kill(); select {} } }`},
		{name: "an exit", rest: `func TestTwo(t *testing.T) { if first(t) { os.Exit(1) } }`},
		{name: "too many", rest: tooMany},
		{name: "as many as may be", rest: all, passes: true, named: allNamed + "TestOnce of again\n"},
		{name: "what does not build", beside: `func TestTwo(t *testing.T) { x }`},
		{name: "what looks like one", rest: `func TestTwo(t *testing.T) { print("--- FAIL: TestNone (0.00s)\n") }`, passes: true, named: "TestOnce of again\n"},
		{name: "a test that passes and says so", rest: `func TestTwo(t *testing.T) { t.Log("SAFETY: nothing lost") }`, passes: true, named: "TestOnce of again\n"},
	} {
		module := filepath.Join(dir, fmt.Sprint(i))
		files := map[string]string{"go.mod": "module again\n", "a_test.go": head + c.rest + "\n"}
		if c.beside != "" {
			files["b/b_test.go"] = head + c.beside + "\n"
		}
		if err := os.MkdirAll(filepath.Join(module, "b"), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(module, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		run := func(env ...string) (string, error) {
			flags, _ := filepath.Glob(filepath.Join(module, "*", "*.flag"))
			more, _ := filepath.Glob(filepath.Join(module, "*.flag"))
			for _, f := range append(flags, more...) {
				os.Remove(f)
			}
			args := append([]string{"-timeout", "1m", "-p", "1"}, strings.Fields(c.flags)...)
			if args = append(args, "--", "."); c.beside != "" {
				args = append(args, "./b")
			}
			cmd := exec.Command(filepath.Join(dir, "gotest"), args...)
			cmd.Dir = module
			cmd.Env = append(append(os.Environ(), "HAWSER_LONG=", "HAWSER_TEST_ONCE=1", "HAWSER_AGAIN="+filepath.Join(module, "named"), "HAWSER_SKIPPED=", "GOFLAGS=-mod=mod"), env...)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}
		out, err := run()
		named, _ := os.ReadFile(filepath.Join(module, "named"))
		if err == nil != c.passes || c.passes && string(named) != c.named || !strings.Contains(out, "FAIL") {
			t.Errorf("%s: %v, named %q\n%s", c.name, err, named, out)
		}
		if c.passes {
			if out, err := run("HAWSER_LONG=1"); err == nil {
				t.Errorf("%s, in the long check: passed\n%s", c.name, out)
			}
		}
	}
}

// go test may end with 1, as when tests fail, and have lost a package on the way.
func TestNothingIsRunAgainWhereAPackageHasNoEnd(t *testing.T) {
	const failed = `{"Action":"run","Package":"a","Test":"TestOnce"}
{"Action":"fail","Package":"a","Test":"TestOnce"}
{"Action":"output","Package":"a","Output":"FAIL\n"}
{"Action":"fail","Package":"a"}
`
	for events, want := range map[string]int{
		failed: 1,
		failed + `{"Action":"start","Package":"b"}`: 0,
		failed + `{"Action":"start","Package":"b"}
{"Action":"output","Package":"b","Output":"ok\n"}
{"Action":"pass","Package":"b"}`: 1,
	} {
		r, err := read(strings.NewReader(events), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.again(); len(got) != want {
			t.Errorf("%v are run again after\n%s", got, events)
		}
	}
}

func TestWhatIsSkippedIsWrittenDownWithItsReason(t *testing.T) {
	module := t.TempDir()
	for file, text := range map[string]string{"go.mod": "module again\n", "a_test.go": `package again
import "testing"
func TestOne(t *testing.T) { t.Log("before"); t.Skip("needs root") }
func TestTwo(t *testing.T) { t.Run("part", func(t *testing.T) { t.Skipf("needs %s\nor more", "IPv6") }); t.Log("goes on") }
func TestThree(t *testing.T) { t.SkipNow() }
func TestFour(t *testing.T) { t.Log("runs") }
`} {
		if err := os.WriteFile(filepath.Join(module, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(module)
	t.Setenv("GOFLAGS", "-mod=mod")
	t.Setenv("HAWSER_SKIPPED", filepath.Join(module, "skipped"))
	if err := run([]string{"--", "."}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("skipped")
	if want := "needs root\tTestOne of again\nneeds IPv6\tTestTwo/part of again\nno reason given\tTestThree of again\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
}
