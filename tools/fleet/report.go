package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// spread is how registrations lie in time: the figures of "no second above three times the mean".
type spread struct {
	Devices       int     `json:"devices"`       // that registered
	Registrations int     `json:"registrations"` // a device that registers twice counts twice
	Seconds       float64 `json:"seconds"`       // from the first to the last device that came back
	Mean          float64 `json:"mean"`          // registrations a second between them
	Peak          int     `json:"peak"`          // most in any one second, wherever that second begins
	Ratio         float64 `json:"ratio"`         // Peak / Mean
	Bins          []int   `json:"bins"`          // per second from the first
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
	var times []int64
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
		if e.Event == "registered" && e.Time >= since {
			times = append(times, e.Time)
			devices[e.Device] = true
		}
	}
	if err := lines.Err(); err != nil {
		return spread{}, err
	}
	return spreadOf(times, len(devices)), nil
}

// spreadOf takes times in ms, in order.
func spreadOf(times []int64, devices int) spread {
	s := spread{Devices: devices, Registrations: len(times)}
	if len(times) == 0 {
		return s
	}
	first, last := times[0], times[len(times)-1]
	s.Seconds = float64(last-first) / 1000
	s.Mean = float64(len(times)) / max(s.Seconds, 1)
	s.Bins = make([]int, (last-first)/1000+1)
	from := 0
	for i, t := range times {
		s.Bins[(t-first)/1000]++
		for times[from] <= t-1000 {
			from++
		}
		s.Peak = max(s.Peak, i-from+1)
	}
	s.Ratio = float64(s.Peak) / s.Mean
	return s
}

func (s spread) print(w io.Writer) {
	fmt.Fprintf(w, "%d devices, %d registrations in %s: mean %.0f/s, peak %d/s, ratio %.2f\n",
		s.Devices, s.Registrations, time.Duration(s.Seconds*float64(time.Second)).Round(100*time.Millisecond), s.Mean, s.Peak, s.Ratio)
	for i, n := range s.Bins {
		fmt.Fprintf(w, "%4d s %6d %s\n", i, n, strings.Repeat("#", n*60/max(s.Peak, 1)))
	}
}
