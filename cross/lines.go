package cross

import (
	"bufio"
	"context"
	"debug/elf"
	"debug/gosym"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// noLine is where a trace of an agent's has a file and a line in Go's.
const noLine = "\t?:0"

var (
	offset  = regexp.MustCompile(`^\t\?:0 \+0x([0-9a-f]+)`)
	noArgs  = regexp.MustCompile(`\((\.\.\.)?\)$`)
	generic = regexp.MustCompile(`\[.*\]`)
)

// Lines copies text from in to out, and gives the functions in stack traces of
// the agent's for this target their files and lines, which are not in the agent
// (linkEdits). A trace on one line, as logs quote it, is split up. The module
// must be at the commit that the agent was built of, with the same Go release;
// [Target.Build] is done again with Go's own linker to know the lines. Where they
// cannot be known the text stays as it is: of calls that were inlined, and of a
// generic function with several instances. The line of a function that others were
// inlined into may be one of theirs.
func (t Target) Lines(ctx context.Context, module string, in io.Reader, out io.Writer) error {
	table, err := t.table(ctx, module)
	if err != nil {
		return err
	}
	byName := map[string]*gosym.Func{}
	for i := range table.Funcs {
		f := &table.Funcs[i]
		name := generic.ReplaceAllString(f.Name, "[...]")
		if _, twice := byName[name]; twice {
			f = nil
		}
		byName[name] = f
	}
	w := bufio.NewWriter(out)
	before, exact := "", false
	for r := bufio.NewReader(in); ; {
		text, err := r.ReadString('\n')
		if strings.Contains(text, `\n\t?:0`) {
			text = strings.NewReplacer(`\n`, "\n", `\t`, "\t").Replace(text)
		}
		for line := range strings.Lines(text) {
			if m := offset.FindStringSubmatch(line); m != nil {
				name, _, _ := strings.Cut(strings.TrimPrefix(before, "created by "), " in goroutine ")
				name = noArgs.ReplaceAllString(name, "")
				if strings.HasPrefix(name, "panic(") {
					name = "runtime.gopanic"
				}
				if at := where(table, byName[name], m[1], exact); at != "" {
					line = "\t" + at + strings.TrimPrefix(line, noLine)
				}
				exact = name == "runtime.sigpanic"
			}
			if strings.HasPrefix(line, "[signal ") {
				exact = true
			}
			before = strings.TrimRight(line, "\r\n")
			fmt.Fprint(w, line) // an error comes with Flush
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, w.Flush())
		}
	}
}

// where is the file and the line of a call in a function, by the offset of what comes after it, or of what faulted there, by its own; empty: unknown.
func where(table *gosym.Table, f *gosym.Func, hex string, faulted bool) string {
	at, err := strconv.ParseUint(hex, 16, 64)
	if err != nil || f == nil || at > f.End-f.Entry {
		return ""
	}
	if !faulted && at > 0 {
		at--
	}
	file, line, _ := table.PCToLine(f.Entry + at)
	if file == "" {
		return ""
	}
	return file + ":" + strconv.Itoa(line)
}

// table is that of the agent's functions and lines.
func (t Target) table(ctx context.Context, module string) (*gosym.Table, error) {
	dir, err := os.MkdirTemp("", "hawser-cross-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	whole := filepath.Join(dir, "whole")
	if err := t.build(ctx, dir, module, whole); err != nil {
		return nil, err
	}
	f, err := elf.Open(whole)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, lines := f.Section(".text"), f.Section(".gopclntab")
	if text == nil || lines == nil {
		return nil, fmt.Errorf("the agent for %s has no .text or .gopclntab: look again at what this Go release writes, then mend cross/lines.go", t.Name)
	}
	data, err := lines.Data()
	if err != nil {
		return nil, err
	}
	return gosym.NewTable(nil, gosym.NewLineTable(data, text.Addr))
}
