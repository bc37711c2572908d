package shell

import (
	"fmt"
	"strconv"
	"time"

	"hawser/tunnel/wire"
)

// WaitVariable is the environment variable by which a person waits for a device that is away: `ssh -o SetEnv=HAWSER_WAIT=1h`.
const WaitVariable = "HAWSER_WAIT"

// ParseWait reads its value: a duration, or a number of seconds; at most MaxWait. Nothing and 0 are no wait.
func ParseWait(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseUint(s, 10, 32); nerr == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d < 0 || d > MaxWait {
		return 0, fmt.Errorf("%s=\"%s\" is not a time such as 10m or 1h, at most 24h", WaitVariable, wire.Quote(s, 64))
	}
	return d, nil
}

// Seen is where and why a device was last.
type Seen struct {
	At                   time.Time // zero: never, as far as is known
	Hub, Carrier, Reason string
	// Through is the device that reaches it, which all this is about; empty: it is about itself.
	Through string
}

// Words are for people: "last seen 3 h ago via hub-2, quic: heartbeats stopped".
func (s Seen) Words(now time.Time) string {
	if s.Through != "" {
		through := wire.Quote(s.Through, 64)
		s.Through = ""
		return "reached through " + through + ", which was " + s.Words(now)
	}
	if s.At.IsZero() {
		return "never seen"
	}
	w := "last seen " + span(now.Sub(s.At)) + " ago"
	if s.Hub != "" {
		w += " via " + wire.Quote(s.Hub, 128)
	}
	if s.Carrier != "" {
		w += ", " + wire.Quote(s.Carrier, 32)
	}
	if s.Reason != "" {
		w += ": " + wire.Quote(s.Reason, 128)
	}
	return w
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}
