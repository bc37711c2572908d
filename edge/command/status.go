package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"hawser/edge"
	"hawser/edge/session"
	"hawser/tunnel/wire"
)

// status prints the session one is in, if one is, and the identity of the device, if this user may read it.
func status(o *options, stdout, _ io.Writer) error {
	id := os.Getenv("HAWSER_SESSION")
	if o.out != "" || o.say != "" {
		if id == "" || o.out != "" && o.say != "" {
			return fmt.Errorf("%w: --out and --say are for inside a session, one at a time", errUsage)
		}
		if err := inside(o, id, io.Discard); err != nil {
			return fmt.Errorf("this session: %w", err)
		}
		return nil
	}
	if id != "" {
		fmt.Fprintf(stdout, "session: %s\nuser: %s\ndevice: %s\n", wire.Quote(id, 80), wire.Quote(os.Getenv("HAWSER_USER"), 80),
			wire.Quote(os.Getenv("HAWSER_DEVICE"), 80))
		if err := inside(o, id, stdout); err != nil {
			fmt.Fprintf(stdout, "to join it: %v\n", err)
		}
	}
	s, err := edge.ReadStatus(o.state)
	if err != nil {
		if id != "" {
			return nil // the person's login need not be able to read the agent's directory
		}
		return err
	}
	if s.UUID == "" && s.Running {
		fmt.Fprintf(stdout, "key: %s\nrunning: yes, not joined yet\n", s.Key)
		recall(o, stdout)
		return nil
	}
	if s.UUID == "" {
		return fmt.Errorf("%w: %s holds a key but no identity; run `hawser-edge join --state %s --token TOKEN`", edge.ErrNoIdentity, o.state, o.state)
	}
	fmt.Fprintf(stdout, "name: %s\nuuid: %s\nkey: %s\ncluster: %s\ncertificate: %s to %s, generation %d\n", s.Name, s.UUID, s.Key, s.Cluster,
		s.NotBefore.UTC().Format(time.RFC3339), s.NotAfter.UTC().Format(time.RFC3339), s.Generation)
	for _, h := range s.Hubs {
		fmt.Fprintf(stdout, "hub: %s\n", wire.Quote(h, 300))
	}
	running := "no"
	if s.Running {
		running = "yes"
	}
	fmt.Fprintf(stdout, "running: %s\n", running)
	recall(o, stdout)
	return nil
}

// inside asks the agent about the session, or has it do what the flags say.
func inside(o *options, id string, stdout io.Writer) error {
	return edge.AskInside(os.Getenv(session.AgentVariable), o.state, id, o.out, o.say, func(c edge.Check) {
		fmt.Fprintf(stdout, "%s: %s\n", c.Name, wire.Quote(c.Text, 400))
	})
}

func recall(o *options, stdout io.Writer) {
	edge.Recall(o.state, func(c edge.Check) { fmt.Fprintf(stdout, "%s: %s\n", c.Name, wire.Quote(c.Text, 600)) })
}

// key prints the fingerprint of the device's key, for `hawser device import`; it makes the key if there is none.
func key(o *options, stdout, _ io.Writer) error {
	print, err := edge.Fingerprint(o.state)
	if err == nil {
		fmt.Fprintln(stdout, print)
	}
	return err
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
