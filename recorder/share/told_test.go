package share

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"hawser/recorder/observe"
	"hawser/tunnel/channel/payload"
)

// hub is the Requester of a hub that answers when it is told to.
type hub struct {
	mu      sync.Mutex
	sent    []string
	answers []chan bool
}

func (h *hub) SendRequest(_ string, _ bool, b []byte) (bool, error) {
	g, err := payload.ParseGuest(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sent = append(h.sent, fmt.Sprint(g.What, " ", g.ID, " ", g.Text, " ", g.Bytes))
	return false, err
}

func (h *hub) StartRequest(name string, b []byte) (<-chan bool, error) {
	_, err := h.SendRequest(name, true, b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answers = append(h.answers, make(chan bool, 1))
	return h.answers[len(h.answers)-1], err
}

func TestNothingOfAGuestsInputIsSentThatIsNotToBeKept(t *testing.T) {
	keys := []struct {
		text    string
		verdict byte
	}{{"sudo -i", observe.Keep}, {"\r", observe.Keep}, {"hun", observe.Withhold}, {"ter2", observe.Withhold}, {"\r", observe.Withhold}, {"gone", observe.Dropped}}
	for rule, want := range map[string]string{
		"":         "entered 1 off 0, entered 1 off 0, withheld 1 off 16, withheld 1 paused 4",
		"off":      "entered 1 off 0, entered 1 off 0, withheld 1 off 16, withheld 1 paused 4",
		"redacted": "typed 1 sudo -i 0, typed 1 \r 0, withheld 1 redacted 8, withheld 1 paused 4",
		"full":     "typed 1 sudo -i 0, typed 1 \r 0, typed 1 hun 0, typed 1 ter2 0, typed 1 \r 0, withheld 1 paused 4",
	} {
		h := new(hub)
		told := NewTold(h, true, rule)
		told.Changed(Member{ID: 1, User: "bob", Mode: Peer}, Joined)
		for _, k := range keys {
			told.Typed(1, []byte(k.text), k.verdict)
		}
		told.Changed(Member{ID: 1, User: "bob", Mode: Peer}, Left)
		if got := strings.Join(h.sent, ", "); got != "changed 1 joined 0, "+want+", changed 1 left 0" {
			t.Errorf("under %q the hub is told: %q", rule, got)
		}
	}
	h := new(hub)
	told := NewTold(h, false, "full")
	told.Changed(Member{ID: 1, User: "bob", Mode: Peer}, Joined)
	if !told.Typed(1, []byte("ls\r"), observe.Keep) || len(h.sent) != 1 {
		t.Errorf("of a session that is not recorded the hub is told %q", h.sent)
	}
}

func TestNoMoreIsTakenOfAGuestThanTheHubRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := new(hub)
		told := NewTold(h, true, "full")
		bob, eve := Member{ID: 1, User: "bob", Mode: Peer}, Member{ID: 2, User: "eve", Mode: Peer}
		told.Changed(bob, Joined)
		told.Changed(eve, Joined)
		var ready [3]chan bool
		typing := func(id uint32) {
			ready[id] = make(chan bool, 1)
			go func() { ready[id] <- told.Ready(id) }()
			synctest.Wait()
		}
		for range maxUnrecorded {
			for id := uint32(1); id <= 2; id++ {
				typing(id)
				if len(ready[id]) != 1 {
					t.Fatal("he waits too soon")
				}
				told.Typed(id, []byte("x"), observe.Keep)
			}
		}
		typing(1)
		typing(2)
		if len(ready[1])+len(ready[2]) != 0 {
			t.Fatal("more is taken than is recorded")
		}
		h.answers[0] <- false // bob's first
		synctest.Wait()
		if len(ready[1]) != 1 || len(ready[2]) != 0 {
			t.Error("who is recorded again does not go on, or another does")
		}
		told.Changed(eve, Left)
		if <-ready[2] || told.Ready(2) {
			t.Error("who has gone types")
		}
		if !slices.Contains(h.sent, "changed 2 left 0") {
			t.Error(h.sent)
		}
	})
}
