package session

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"hawser/edge/login"
	"hawser/tunnel/channel/payload"
)

// agent is the socket through which the session's programs reach the person's SSH agent.
type agent struct {
	account login.Account
	dir     string
	path    string
	back
}

// forwardAgent makes the socket in a new directory of mode 0700, both made by and for the login, and serves it until close.
func forwardAgent(ctx context.Context, a login.Account, open openBack) (*agent, error) {
	f := &agent{account: a}
	err := a.As(func() (err error) {
		f.dir, err = os.MkdirTemp("/tmp", "hawser-agent-") // 0700, and never an existing one
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("forward agent: %w", err)
	}
	f.path = filepath.Join(f.dir, "agent")
	l, err := a.ListenUnix(f.path)
	if err != nil {
		f.removeDir()
		return nil, fmt.Errorf("forward agent: %w", err)
	}
	f.serve(ctx, maxAgents, false, open, payload.Accept{Kind: payload.AgentChannel}, l)
	return f, nil
}

func (f *agent) close() {
	f.stop()
	f.removeDir()
	f.wg.Wait()
}

func (f *agent) removeDir() { _ = f.account.As(func() error { return os.Remove(f.dir) }) }
