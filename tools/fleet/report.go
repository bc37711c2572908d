package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// spread is how registrations lie in time: the figures of "no second above three times the mean".
type spread struct {
	Devices       int     `json:"devices"`       // that are back: they have registered a tunnel, of whatever slot
	Seconds       float64 `json:"seconds"`       // from the first registration until all those are back
	Registrations int     `json:"registrations"` // in that time, of both slots; a device that registers twice counts twice
	Mean          float64 `json:"mean"`          // of them a second
	Peak          int     `json:"peak"`          // most in any one second, wherever that second begins, also afterwards
	Ratio         float64 `json:"ratio"`         // Peak / Mean
	After         int     `json:"after"`         // registrations later than all that: second tunnels
	Retries       int     `json:"retries"`       // rounds that brought no tunnel
	Noticed       float64 `json:"noticed"`       // seconds from the first loss of an active tunnel to the last
	Late          float64 `json:"late"`          // seconds from the last loss until all are back
	Bins          []int   `json:"bins"`          // registrations per second from the first
}

func reportCommand() *cobra.Command {
	var since int64
	var asJSON bool
	c := &cobra.Command{
		Use: "report FILE", Short: "Say how registrations are spread over time", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			in, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			s, err := measure(in, since)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(c.OutOrStdout()).Encode(s)
			}
			s.print(c.OutOrStdout())
			return nil
		},
	}
	c.Flags().Int64Var(&since, "since", 0, "count what happened from this time on, in ms since 1970")
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object")
	return c
}

// measure reads run's events. A last line that is cut, for the writer was killed, is left out.
func measure(in io.Reader, since int64) (spread, error) {
	var times, losses []int64
	var back int64 // when the last device was
	var s spread
	devices := map[string]bool{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			if !lines.Scan() {
				break
			}
			return spread{}, fmt.Errorf("not a line of `fleet run`: %.80q", lines.Text())
		}
		if e.Time < since {
			continue
		}
		switch e.Event {
		case "registered":
			times = append(times, e.Time)
			if !devices[e.Device] {
				devices[e.Device] = true
				back = max(back, e.Time)
			}
		case "lost":
			if e.Slot == 0 {
				losses = append(losses, e.Time)
			}
		case "retry":
			s.Retries++
		}
	}
	if err := lines.Err(); err != nil {
		return spread{}, err
	}
	slices.Sort(times) // lines wait for each other
	slices.Sort(losses)
	if n := len(losses); n > 0 {
		s.Noticed = float64(losses[n-1]-losses[0]) / 1000
		s.Late = float64(max(back-losses[n-1], 0)) / 1000
	}
	s.Devices = len(devices)
	s.lie(times, back)
	return s, nil
}

// lie takes the times of registrations in ms, in order, and that of the last device's return.
func (s *spread) lie(times []int64, back int64) {
	if s.Devices == 0 {
		return
	}
	first := times[0]
	s.Seconds = float64(back-first) / 1000
	s.Bins = make([]int, (times[len(times)-1]-first)/1000+1)
	from := 0
	for i, t := range times {
		if t <= back {
			s.Registrations++
		} else {
			s.After++
		}
		s.Bins[(t-first)/1000]++
		for times[from] <= t-1000 {
			from++
		}
		s.Peak = max(s.Peak, i-from+1)
	}
	s.Mean = float64(s.Registrations) / max(s.Seconds, 1)
	s.Ratio = float64(s.Peak) / s.Mean
}

func (s spread) print(w io.Writer) {
	fmt.Fprintf(w, "%d devices are back, with %d registrations in %s: mean %.0f/s, peak %d/s, ratio %.2f; %d later; %d rounds failed; the loss was noticed within %.1f s\n",
		s.Devices, s.Registrations, time.Duration(s.Seconds*float64(time.Second)).Round(100*time.Millisecond), s.Mean, s.Peak, s.Ratio, s.After, s.Retries, s.Noticed)
	for i, n := range s.Bins {
		fmt.Fprintf(w, "%4d s %6d %s\n", i, n, strings.Repeat("#", n*60/max(s.Peak, 1)))
	}
}
