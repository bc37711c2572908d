// Command gotest is go test, but for two things. Where a few tests
// failed, each is run once more by itself. What passes then is written down in
// the file $HAWSER_AGAIN, for the end of the whole check to name: on a machine
// shared with strangers a test can be late, and whoever looks for the cause
// needs its name, not a stopped check. Nothing is run again where HAWSER_LONG is
// set, and of a package only what it ran to its own end: no race, panic, timeout,
// kill, early exit or program that does not build; and nothing where a test that
// failed says "SAFETY:": it saw what must never be (a cap passed, a byte lost),
// and once is too often.
//
// And what is skipped is written down in the file $HAWSER_SKIPPED, a line each:
// the reason, a tab, and the test or the part of one.
//
//	gotest FLAGS -- PACKAGES
package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// maxAgain tests are late at once on a busy machine; where more fail something is broken.
const maxAgain = 6

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	dashes := slices.Index(args, "--")
	if dashes < 0 {
		return fmt.Errorf("usage: gotest FLAGS -- PACKAGES")
	}
	flags, packages := args[:dashes], args[dashes+1:]
	r, err := test(slices.Concat(flags, packages))
	if r == nil {
		return err
	}
	if err := note("HAWSER_SKIPPED", r.skipped...); err != nil {
		return err
	}
	if err == nil {
		return nil
	}
	failed := r.again()
	if os.Getenv("HAWSER_LONG") != "" || len(failed) == 0 {
		return err
	}
	for _, f := range failed {
		fmt.Printf("== %s of %s failed; once more, by itself\n", f.name, f.pkg)
		r, err := test(slices.Concat(flags, []string{"-count=1", "-run=^" + f.name + "$", f.pkg}))
		if err != nil {
			return err
		}
		if !r.packages[f.pkg].passed[f.name] {
			return fmt.Errorf("%s of %s did not run", f.name, f.pkg)
		}
		if err := note("HAWSER_AGAIN", f.name+" of "+f.pkg); err != nil {
			return err
		}
	}
	return nil
}

// note writes lines down in the file that a variable names.
func note(variable string, lines ...string) error {
	name := os.Getenv(variable)
	if name == "" || len(lines) == 0 {
		return nil
	}
	w, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.Join(lines, "\n"))
	return errors.Join(err, w.Close())
}

// test runs go test -json, and prints what go test prints.
func test(args []string) (*results, error) {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r, readErr := read(out, os.Stdout)
	if err := cmd.Wait(); err != nil {
		// With 1 it tells that something failed. Else it died itself, and what it had not run is nowhere.
		if x, ok := errors.AsType[*exec.ExitError](err); !ok || x.ExitCode() != 1 || readErr != nil {
			r.broken = true
		}
		return r, fmt.Errorf("go test: %w", err)
	}
	return r, readErr
}

type failure struct{ pkg, name string }

// results are those of one go test.
type results struct {
	packages map[string]*pkg
	broken   bool     // something failed that is no test of a package
	skipped  []string // tests and parts: the reason, a tab, and which
}

// pkg is one package's.
type pkg struct {
	running, passed, failed map[string]bool // its tests, without their parts
	ended                   bool            // all that it had to run was run
	lost                    bool            // something else than a test failed, or what must never be was seen
	over                    string          // the action of its end: pass, fail or skip
}

// event is one of test2json's.
type event struct{ Action, Package, ImportPath, Test, Output string }

// read takes the events of go test -json, and writes to w what a person reads: the output of packages, and of tests that failed.
func read(in io.Reader, w io.Writer) (*results, error) {
	r := &results{packages: map[string]*pkg{}}
	held := map[string]*bytes.Buffer{} // of tests that have not ended
	logged := map[string]string{}      // what they, and their parts, logged last
	s := bufio.NewReader(in)
	for {
		line, err := s.ReadBytes('\n')
		if len(line) == 0 && err != nil {
			if err == io.EOF {
				err = nil
			}
			return r, err
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Fprintf(w, "%s", line)
			r.broken = true
			continue
		}
		if e.Package == "" {
			fmt.Fprint(w, e.Output)
			r.broken = r.broken || strings.HasSuffix(e.Action, "fail")
			continue
		}
		p := r.packages[e.Package]
		if p == nil {
			p = &pkg{running: map[string]bool{}, passed: map[string]bool{}, failed: map[string]bool{}}
			r.packages[e.Package] = p
		}
		name, _, part := strings.Cut(e.Test, "/")
		key, whole := e.Package+" "+name, e.Test+" of "+e.Package
		if at := place.FindString(e.Output); at != "" {
			logged[whole] = strings.TrimSpace(e.Output[len(at):])
		}
		if e.Action == "skip" && name != "" {
			r.skipped = append(r.skipped, cmp.Or(logged[whole], "no reason given")+"\t"+whole)
		}
		switch {
		case e.Action == "output":
			p.saw(e)
			switch {
			case e.Output == "PASS\n", strings.HasPrefix(e.Output, "=== "): // as go test without -v
				continue
			case name == "":
				fmt.Fprint(w, e.Output)
				continue
			}
			if held[key] == nil {
				held[key] = new(bytes.Buffer)
			}
			held[key].WriteString(e.Output)
		case name == "" && (e.Action == "pass" || e.Action == "skip" || e.Action == "fail"):
			p.over = e.Action
		case name == "" || part:
		case e.Action == "run":
			p.running[name] = true
		case e.Action == "pass", e.Action == "skip", e.Action == "fail":
			delete(p.running, name)
			if b := held[key]; b != nil && e.Action == "fail" {
				_, _ = w.Write(b.Bytes())
				p.lost = p.lost || bytes.Contains(b.Bytes(), []byte("SAFETY:"))
			}
			delete(held, key)
			p.passed[name], p.failed[name] = e.Action == "pass", e.Action == "fail"
		}
	}
}

// place is where in its file a test logs what follows.
var place = regexp.MustCompile(`^ +\S+\.go:\d+: `)

// saw looks for what is more than a test that failed. The framework's last word is FAIL, on a line of its own, where it came to its end.
func (p *pkg) saw(e event) {
	for _, what := range []string{"DATA RACE", "race detected during", "panic: ", "fatal error: ", "[build failed]", "[setup failed]", "panicked"} {
		// Tests log what daemons say, indented: of theirs a panic counts where it begins a line.
		if strings.HasPrefix(strings.TrimLeft(e.Output, " \t"), what) || strings.Contains(e.Output, what) && (e.Test == "" || !strings.HasPrefix(what, "panic")) {
			p.lost = true
		}
	}
	if e.Test == "" && e.Output == "FAIL\n" {
		p.ended = true
	}
}

// again are the tests to be run once more; none where that would hide something.
func (r *results) again() (list []failure) {
	if r.broken {
		return nil
	}
	for path, p := range r.packages {
		switch p.over {
		case "":
			return nil // it was cut off
		case "pass", "skip":
			continue
		}
		n := len(list)
		for name, failed := range p.failed {
			if failed {
				list = append(list, failure{path, name})
			}
		}
		if p.lost || !p.ended || len(p.running) > 0 || len(list) == n {
			return nil
		}
	}
	if len(list) > maxAgain {
		return nil
	}
	slices.SortFunc(list, func(a, b failure) int { return strings.Compare(a.pkg+" "+a.name, b.pkg+" "+b.name) })
	return list
}
