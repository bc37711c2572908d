package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"hawser/tunnel/identity"
)

// edgeProgram is the agent's name, on disk and as argv[0].
const edgeProgram = "hawser-edge"

// Local agents are started again after a second when they end by themselves,
// and are given stopGrace after SIGTERM.
const (
	restartDelay = time.Second
	stopGrace    = 2500 * time.Millisecond
)

// startDevice starts one local agent and keeps it running. Its first process
// is there when startDevice returns.
func (c *cluster) startDevice(ctx context.Context, name string) error {
	dir := filepath.Join(c.cfg.Dir, "devices", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	started := make(chan int, 1)
	c.group.run(name, func(ctx context.Context) error {
		for ctx.Err() == nil {
			err := c.runDevice(ctx, name, dir, started)
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, errNotStarted) {
				return err
			}
			c.cfg.Log.Warn("a local agent ended; starting it again", "device", name, "log", filepath.Join(dir, "log"), "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(restartDelay):
			}
		}
		return nil
	})
	select {
	case pid := <-started:
		c.ready.Devices = append(c.ready.Devices, readyDevice{Name: name, PID: pid})
		c.states = append(c.states, filepath.Join(dir, "state"))
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

var errNotStarted = errors.New("the agent's program could not be started")

// runDevice runs an agent's process to its end.
func (c *cluster) runDevice(ctx context.Context, name, dir string, started chan<- int) error {
	state := filepath.Join(dir, "state")
	joined, err := identity.Joined(state)
	if err != nil {
		return err
	}
	program, argv0, err := agentProgram()
	if err != nil {
		return errors.Join(errNotStarted, err)
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	args := []string{"run", "--state", state, "--name", name}
	// Where there are several hubs an agent spreads over them by the signed list, which it cannot while it is told addresses.
	if len(c.ready.Hubs) == 1 || c.moved {
		for _, h := range c.ready.Hubs {
			args = append(args, "--hub", h.TunnelAddr)
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Args[0] = argv0
	cmd.Env = os.Environ()
	if !joined {
		token, err := c.edgeToken(ctx)
		if err != nil {
			return err
		}
		cmd.Env = append(cmd.Env, "HAWSER_TOKEN="+token) // not in argv, which everybody can read
	}
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopGrace
	// Its own process group, so that Ctrl-C reaches it once, from here; and an
	// end with this process even when that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	// The kernel sends Pdeathsig when the *thread* that forked ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return errors.Join(errNotStarted, err)
	}
	select {
	case started <- cmd.Process.Pid:
	default: // not the first time
	}
	return cmd.Wait()
}

// agentProgram is the hawser-edge beside this program, else this program under
// that name.
func agentProgram() (path, argv0 string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", fmt.Errorf("find this program: %w", err)
	}
	sibling := filepath.Join(filepath.Dir(self), edgeProgram)
	switch _, err := os.Stat(sibling); {
	case err == nil:
		return sibling, edgeProgram, nil
	case errors.Is(err, fs.ErrNotExist):
		return self, edgeProgram, nil
	default:
		return "", "", err
	}
}

// localLogin is the login that end-to-end connections to local agents use: the
// account that runs them.
func localLogin() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username
}

// free reports whether both a TCP and a UDP socket can be bound there.
func free(a netip.AddrPort) bool {
	l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(a))
	if err != nil {
		return false
	}
	l.Close()
	u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(a))
	if err != nil {
		return false
	}
	u.Close()
	return true
}
