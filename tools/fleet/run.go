package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"hawser/edge"
	"hawser/tunnel"
)

// event is one line of run's output.
type event struct {
	Time    int64  `json:"t"` // ms since 1970
	Device  string `json:"device"`
	Slot    int    `json:"slot"`  // 0: the active tunnel, 1: the standby
	Event   string `json:"event"` // joined, registered, lost, retry, failed
	Hub     string `json:"hub,omitempty"`
	Carrier string `json:"carrier,omitempty"`
	Error   string `json:"error,omitempty"`
}

// fleet is one run.
type fleet struct {
	dir, token, carrier string
	hubs                []string
	devices, joins      int

	mu    sync.Mutex
	out   *bufio.Writer
	debug *slog.Logger // nil: none

	joined, standing atomic.Int64
}

func runCommand() *cobra.Command {
	f := &fleet{}
	c := &cobra.Command{
		Use: "run", Short: "Run the devices until told to stop", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f.out = bufio.NewWriter(os.Stdout)
			var err error
			if f.debug, err = debugLog(); err != nil {
				return err
			}
			return f.run(c.Context())
		},
	}
	c.Flags().StringVar(&f.dir, "dir", "", "where the devices keep their identities; used again, they need not join again")
	c.Flags().StringVar(&f.token, "token", "", "join token with as many uses as there are devices")
	c.Flags().StringSliceVar(&f.hubs, "hub", nil, "hub addresses instead of those the cluster tells")
	c.Flags().StringVar(&f.carrier, "carrier", "any", "any, quic, tls, or mixed: a third of the devices each")
	c.Flags().IntVar(&f.devices, "devices", 100, "how many")
	c.Flags().IntVar(&f.joins, "joins", 32, "how many join at once")
	_ = c.MarkFlagRequired("dir")
	return c
}

// emit writes an event. The reader may be a file or a pipe; a line is whole or absent.
func (f *fleet) emit(e event) {
	if e.Time == 0 {
		e.Time = time.Now().UnixMilli()
	}
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	_, _ = f.out.Write(append(b, '\n'))
}

func (f *fleet) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Flush()
}

func (f *fleet) run(ctx context.Context) error {
	if f.devices < 1 {
		return errors.New("--devices: at least 1")
	}
	if _, err := carriers(f.carrier, 0); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // thousands of agents' memory is looked through each time
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, f.joins)
	errs := make(chan error, 1)
	for i := range f.devices {
		wg.Go(func() {
			if err := f.device(ctx, i, slots); err != nil && ctx.Err() == nil {
				f.emit(event{Device: name(i), Event: "failed", Error: err.Error()})
				select {
				case errs <- err:
				default:
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	start := time.Now()
	for last := ""; ; {
		select {
		case <-done:
			if err := f.flush(); err != nil {
				return err
			}
			select {
			case err := <-errs:
				return fmt.Errorf("the first of the devices that failed: %w", err)
			default:
				return nil
			}
		case <-tick.C:
			if err := f.flush(); err != nil {
				return err
			}
			if now := fmt.Sprintf("%d of %d joined, %d tunnels", f.joined.Load(), f.devices, f.standing.Load()); now != last {
				fmt.Fprintf(os.Stderr, "%4.0f s  %s\n", time.Since(start).Seconds(), now)
				last = now
			}
		}
	}
}

func name(i int) string { return fmt.Sprintf("f-%05d", i) }

func carriers(s string, i int) (edge.Carriers, error) {
	switch s {
	case "any":
		return edge.AnyCarrier, nil
	case "quic":
		return edge.OnlyQUIC, nil
	case "tls":
		return edge.OnlyTLS, nil
	case "mixed":
		return []edge.Carriers{edge.AnyCarrier, edge.OnlyQUIC, edge.OnlyTLS}[i%3], nil
	}
	return 0, fmt.Errorf("--carrier %q: any, quic, tls or mixed", s)
}

// device runs one agent to the end of ctx. Joins take turns: a fleet that is new would else wait for auth's disk in one crowd.
func (f *fleet) device(ctx context.Context, i int, slots chan struct{}) error {
	over, err := carriers(f.carrier, i)
	if err != nil {
		return err
	}
	agent, err := edge.New(edge.Config{
		State: filepath.Join(f.dir, name(i)), Token: f.token, Name: name(i), Hubs: f.hubs, Carriers: over,
		Version: tunnel.Version(), Logger: &watcher{f: f, device: name(i)},
	})
	if err != nil {
		return err
	}
	select {
	case slots <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	err = agent.Join(ctx)
	<-slots
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	f.joined.Add(1)
	f.emit(event{Device: name(i), Event: "joined"})
	return agent.Run(ctx)
}

// watcher is the agent's logger: what the fleet counts is what an agent says of itself.
type watcher struct {
	f      *fleet
	device string
}

// debugLog is where all the agents' own words go: to a file if one is named, else nowhere.
func debugLog() (*slog.Logger, error) {
	path := os.Getenv("FLEET_LOG")
	if path == "" {
		return nil, nil
	}
	w, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return slog.New(slog.NewTextHandler(w, nil)), nil
}

// Log implements tunnel.Logger.
func (w *watcher) Log(level tunnel.Level, msg string, kv ...any) {
	e := event{Device: w.device, Time: time.Now().UnixMilli()} // before the wait for others' lines
	if w.f.debug != nil && level >= tunnel.LevelInfo {
		w.f.debug.Info(msg, append([]any{"device", w.device}, kv...)...)
	}
	switch msg {
	case "registered":
		e.Event = "registered"
		w.f.standing.Add(1)
	case "tunnel lost":
		e.Event = "lost"
		w.f.standing.Add(-1)
	case "no tunnel":
		e.Event = "retry"
	default:
		return
	}
	for i := 0; i+1 < len(kv); i += 2 {
		switch kv[i] {
		case "slot":
			_, _ = fmt.Sscan(fmt.Sprint(kv[i+1]), &e.Slot)
		case "hub":
			e.Hub = fmt.Sprint(kv[i+1])
		case "carrier":
			e.Carrier = fmt.Sprint(kv[i+1])
		case "error":
			e.Error = fmt.Sprint(kv[i+1])
		}
	}
	w.f.emit(e)
}
