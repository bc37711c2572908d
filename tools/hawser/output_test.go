package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
)

// A device says of itself what it likes, and its label drove terminals that know C1 controls, out of -o json.
func TestJSONHoldsNothingThatDrivesATerminal(t *testing.T) {
	const label = "\x1b]0;a\a \u009b31m \x7f \u202e \u2028 \U000e0041 é 😀 \"\\"
	var b bytes.Buffer
	if err := data(&b, formatJSON, map[string]string{"label": label}); err != nil {
		t.Fatal(err)
	}
	if i := strings.IndexFunc(b.String(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }); i >= 0 {
		t.Errorf("%q holds %q", b.String(), b.String()[i:i+1])
	}
	var got map[string]string
	if err := json.Unmarshal(b.Bytes(), &got); err != nil || got["label"] != label {
		t.Errorf("reads as %q, %v; want %q", got["label"], err, label)
	}
}
