package tunnel

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestTextLoggerWritesOneSafeLinePerEvent(t *testing.T) {
	var b bytes.Buffer
	l := NewTextLogger(&b, LevelInfo)
	Debug(l, "below the level")
	Info(nil, "discarded")
	Warn(l, "device refused", "name", "gw\x1b[2J\n", "err", errors.New("no = yes"), "n", 3, "odd")
	got := b.String()
	if strings.Count(got, "\n") != 1 || strings.ContainsRune(got, 0x1b) {
		t.Errorf("got %q", got)
	}
	for _, want := range []string{`level=warn msg="device refused"`, `name="gw\x1b[2J\x0a"`, `err="no = yes"`, "n=3", "odd="} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}
