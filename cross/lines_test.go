package cross

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hawser/test/harness"
)

// A trace of the agent as it ships has no lines, and those of its source can be had.
func TestLinesOfATraceAreFound(t *testing.T) {
	target, ok := Find(runtime.GOARCH)
	if !ok {
		t.Skipf("no agent for %s", runtime.GOARCH)
	}
	p := harness.Up(t, 0).Agent(t, "traced", agent(t, target))
	if err := p.Cmd.Process.Signal(syscall.SIGQUIT); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	_, trace, _ := strings.Cut(p.Output(), "SIGQUIT")
	if !strings.Contains(trace, "\nmain.main()\n\t?:0 +0x") {
		t.Fatalf("the agent's trace has lines, or no functions:\n%s", trace)
	}
	var plain, quoted bytes.Buffer
	if err := target.Lines(t.Context(), "..", strings.NewReader(trace), &plain); err != nil {
		t.Fatal(err)
	}
	if err := target.Lines(t.Context(), "..", strings.NewReader("stack="+strconv.Quote(trace)+"\n"), &quoted); err != nil {
		t.Fatal(err)
	}
	main, err := os.ReadFile("../edge/cmd/hawser-edge/main.go")
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(main), "command.Main(")
	want := fmt.Sprintf("\nmain.main()\n\thawser/edge/cmd/hawser-edge/main.go:%d +0x", strings.Count(before, "\n")+1)
	for name, got := range map[string]string{"a trace": plain.String(), "one that a log quotes": quoted.String()} {
		if !strings.Contains(got, want) {
			t.Errorf("%s: want %q in it:\n%s", name, want, got)
		}
		if n := len(regexp.MustCompile(`\?:0 \+0x`).FindAllString(got, -1)); n > 0 {
			t.Errorf("%s: %d functions were not found:\n%s", name, n, got)
		}
	}
}
