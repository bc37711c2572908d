package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"time"

	"hawser/auth"
	"hawser/tools/hawser/profile"
)

// serve runs s, and keeps the admin's profile in dir fresh unless dir is empty.
func serve(ctx context.Context, s *auth.Server, dir string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if dir != "" {
		wg.Go(func() {
			if err := keepAdmin(ctx, s, dir); err != nil {
				cancel(fmt.Errorf("admin profile: %w", err))
			}
		})
	}
	err := s.Run(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	if err == nil && !errors.Is(cause, context.Canceled) {
		return cause // nil where Run ended of itself
	}
	return err
}

func keepAdmin(ctx context.Context, s *auth.Server, dir string) error {
	select {
	case <-s.Ready():
	case <-ctx.Done():
		return nil
	}
	p, err := profile.Create(dir)
	if err != nil {
		return err
	}
	defer p.Close()
	key, err := p.Key()
	if err != nil {
		return err
	}
	for {
		cred, err := s.IssueAdmin(ctx, "admin", key.Public().(ed25519.PublicKey))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// The address people's ssh goes to is a hub's, and may come later than we do.
		next := time.Minute
		settings := profile.Settings{Cluster: s.Cluster(), User: "admin", APIAddr: s.PublicAddr(), CAPin: s.Pin()}
		if len(cred.Hubs) > 0 && len(cred.Hubs[0].SshAddresses) > 0 {
			settings.SSHAddr = cred.Hubs[0].SshAddresses[0]
			next = time.Until(time.Unix(cred.NotAfterUnix, 0)) / 2
		}
		if err := p.Save(settings, profile.Credentials{SSHCert: cred.SshCertificate, Chain: cred.Chain, Trust: cred.Trust}); err != nil {
			return err
		}
		t := time.NewTimer(max(next, time.Second))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
	}
}
