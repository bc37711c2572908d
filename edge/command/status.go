package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"hawser/edge"
	"hawser/tunnel/wire"
)

// status prints the session one is in, if one is, and the identity of the device, if this user may read it.
func status(o *options, stdout, _ io.Writer) error {
	id := os.Getenv("HAWSER_SESSION")
	if id != "" {
		fmt.Fprintf(stdout, "session: %s\nuser: %s\ndevice: %s\n", wire.Quote(id, 80), wire.Quote(os.Getenv("HAWSER_USER"), 80),
			wire.Quote(os.Getenv("HAWSER_DEVICE"), 80))
	}
	s, err := edge.ReadStatus(o.state)
	if err != nil {
		if id != "" {
			return nil // the person's login need not be able to read the agent's directory
		}
		return err
	}
	if s.UUID == "" {
		return fmt.Errorf("%w: %s holds a key but no identity; run `hawser-edge join --state %s --token TOKEN`", edge.ErrNoIdentity, o.state, o.state)
	}
	fmt.Fprintf(stdout, "name: %s\nuuid: %s\ncluster: %s\ncertificate: %s to %s, generation %d\n", s.Name, s.UUID, s.Cluster,
		s.NotBefore.UTC().Format(time.RFC3339), s.NotAfter.UTC().Format(time.RFC3339), s.Generation)
	for _, h := range s.Hubs {
		fmt.Fprintf(stdout, "hub: %s\n", wire.Quote(h, 300))
	}
	running := "no"
	if s.Running {
		running = "yes"
	}
	fmt.Fprintf(stdout, "running: %s\n", running)
	edge.Recall(o.state, func(c edge.Check) { fmt.Fprintf(stdout, "%s: %s\n", c.Name, wire.Quote(c.Text, 600)) })
	return nil
}

// leave forgets the identity.
func leave(o *options, stdout, _ io.Writer) error {
	s, err := edge.ReadStatus(o.state)
	if err != nil && !errors.Is(err, edge.ErrNoIdentity) {
		return err
	}
	if err := edge.Leave(o.state); err != nil {
		return err
	}
	if s.Name != "" {
		fmt.Fprintf(stdout, "forgot %s; remove it from the cluster with `hawser device rm %s`\n", s.Name, s.Name)
	}
	return nil
}
