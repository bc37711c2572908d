package observe

import (
	"fmt"
	"strings"
	"testing"

	"hawser/recorder"
)

// typing keeps what was told of input, in order.
type typing struct {
	facts
	told []string
}

func (w *typing) InputFrom(id uint32, b []byte) bool {
	w.told = append(w.told, fmt.Sprintf("%d:%q", id, b))
	return true
}

func (w *typing) Withheld(a recorder.Withheld) {
	w.told = append(w.told, fmt.Sprintf("%d:%d %s %v", a.Participant, a.Bytes, a.Reason, a.Enter))
}

// Two who type at once are told of each by himself, as the owner alone is.
func TestEachParticipantsInputIsKeptByTheSameRule(t *testing.T) {
	keys := []struct {
		who     uint32
		text    string
		verdict byte
	}{{0, "l", Keep}, {2, "se", Withhold}, {0, "s\r", Keep}, {2, "cret", Withhold}, {2, "\r", Withhold}, {2, "id\r", Keep}, {0, "a", Dropped}, {2, "b", Dropped}, {0, "c\r", Keep}}
	for rule, want := range map[string]string{
		"off":      "0:0 off true, 2:0 off true, 2:0 off true, 0:3 off false, 2:10 off false, 0:1 paused false, 0:0 off true, 0:2 off false, 2:1 paused false",
		"redacted": `0:"l", 0:"s\r", 2:7 redacted false, 2:"id\r", 0:1 paused false, 0:"c\r", 2:1 paused false`,
		"full":     `0:"l", 2:"se", 0:"s\r", 2:"cret", 2:"\r", 2:"id\r", 0:1 paused false, 0:"c\r", 2:1 paused false`,
	} {
		w := new(typing)
		s := NewSession("shell", "", true, rule)
		s.Attach(w)
		for _, k := range keys {
			s.InputFrom(k.who, []byte(k.text), k.verdict)
		}
		s.End()
		if got := strings.Join(w.told, ", "); got != want {
			t.Errorf("%s: %s\nwant %s", rule, got, want)
		}
	}
}
