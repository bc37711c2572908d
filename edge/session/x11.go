package session

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hawser/tunnel/channel/payload"
)

// x11 is the display through which the session's programs reach the person's X server: as sshd's, on the loopback alone.
type x11 struct {
	back
	number int
	req    payload.X11Request
}

// xauths are where the program is that writes the cookie down for the login's programs. Without it none of them is let in.
var xauths = []string{"/usr/bin/xauth", "/usr/X11R6/bin/xauth", "/usr/local/bin/xauth"}

func xauth() string {
	for _, path := range xauths {
		if unix.Access(path, unix.X_OK) == nil {
			return path
		}
	}
	return ""
}

func forwardX11(ctx context.Context, req payload.X11Request, open openBack) (*x11, error) {
	if xauth() == "" {
		return nil, errors.New("no xauth")
	}
	for n := firstDisplay; n < firstDisplay+maxDisplays; n++ {
		port := strconv.Itoa(x11Port + n)
		l, err := net.Listen("tcp4", "127.0.0.1:"+port)
		if err != nil {
			continue
		}
		listeners := []net.Listener{l}
		// "localhost" may be either address: who held the other one would be given the cookie.
		switch l6, err := net.Listen("tcp6", "[::1]:"+port); {
		case err == nil:
			listeners = append(listeners, l6)
		case errors.Is(err, unix.EADDRINUSE):
			l.Close()
			continue
		}
		x := &x11{number: n, req: req}
		x.serve(ctx, maxX11, req.Single, open, payload.Accept{Kind: payload.X11Channel}, listeners...)
		return x, nil
	}
	return nil, errors.New("no display is free")
}

// name is the display, as seen from host.
func (x *x11) name(host string) string {
	return host + ":" + strconv.Itoa(x.number) + "." + strconv.FormatUint(uint64(x.req.Screen), 10)
}

// authorize has xauth write the cookie into the login's file; what becomes of it the programs will say.
func (s *session) authorize(ctx context.Context, env []string) {
	cmd := s.command("exec", "", env)
	cmd.Path, cmd.Args = xauth(), []string{"xauth", "-q", "-"}
	cmd.SysProcAttr.Setctty = false
	in, out, err := os.Pipe()
	if err != nil {
		return
	}
	defer in.Close()
	cmd.Stdin = in
	name := s.x11.name("unix")
	// Fits a pipe's buffer: nobody is waited for.
	_, _ = out.WriteString(strings.Join([]string{"remove", name, "\nadd", name, s.x11.req.Protocol, s.x11.req.Cookie, "\n"}, " "))
	out.Close()
	child, err := s.engine.reaper.start(cmd)
	if err != nil {
		return
	}
	resetOOM(child.pid)
	timeout := time.NewTimer(xauthWait)
	defer timeout.Stop()
	select {
	case <-child.exited:
		_ = cmd.Wait()
		return
	case <-timeout.C:
	case <-ctx.Done():
	}
	_ = unix.Kill(-child.pid, unix.SIGKILL)
	s.engine.reaper.abandon(child)
}

func (x *x11) close() {
	x.stop()
	x.wg.Wait()
}
