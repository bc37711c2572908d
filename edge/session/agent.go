package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"hawser/edge/login"
	"hawser/edge/relay"
)

// agent is the socket through which the session's programs reach the person's SSH agent.
type agent struct {
	account login.Account
	dir     string
	path    string
	l       net.Listener
	cancel  context.CancelFunc
	wg      sync.WaitGroup
}

// forwardAgent makes the socket in a new directory of mode 0700, both made by and for the login, and serves it until close.
func forwardAgent(ctx context.Context, a login.Account, open func(context.Context, string) (io.ReadWriteCloser, error)) (*agent, error) {
	f := &agent{account: a}
	err := a.As(func() (err error) {
		f.dir, err = os.MkdirTemp("/tmp", "hawser-agent-") // 0700, and never an existing one
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("forward agent: %w", err)
	}
	f.path = filepath.Join(f.dir, "agent")
	if f.l, err = a.ListenUnix(f.path); err != nil {
		f.removeDir()
		return nil, fmt.Errorf("forward agent: %w", err)
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.wg.Go(func() { f.accept(ctx, open) })
	return f, nil
}

func (f *agent) accept(ctx context.Context, open func(context.Context, string) (io.ReadWriteCloser, error)) {
	room := make(chan struct{}, maxAgents)
	for {
		c, err := f.l.Accept()
		if err != nil {
			return
		}
		select {
		case room <- struct{}{}:
		default:
			c.Close()
			continue
		}
		f.wg.Go(func() {
			defer func() { <-room }()
			defer c.Close()
			back, err := open(ctx, "auth-agent@openssh.com")
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { c.Close(); back.Close() })
			defer stop()
			relay.Both(c, back)
		})
	}
}

func (f *agent) close() {
	f.cancel()
	f.l.Close()
	f.removeDir()
	f.wg.Wait()
}

func (f *agent) removeDir() { _ = f.account.As(func() error { return os.Remove(f.dir) }) }
