package session

import (
	"context"
	"fmt"
	"io"
	"os"

	"hawser/edge/login"
	"hawser/edge/sftp"
)

// helperArgument makes a program that serves sessions be the sftp server instead: rights can only be given up by a process of its own.
const helperArgument = "hawser-sftp-server"

// RunHelper is for the first line of main: where args ask for the sftp server it serves that on standard input and output, and says so with
// the exit code to use. The process already runs as the login.
func RunHelper(args []string) (code int, ok bool) {
	if len(args) != 2 || args[1] != helperArgument {
		return 0, false
	}
	wd, err := os.Getwd()
	if err != nil {
		wd = "/"
	}
	if err := sftp.Serve(context.Background(), stdio{}, wd); err != nil {
		fmt.Fprintln(os.Stderr, "hawser sftp:", err)
		return 1, true
	}
	return 0, true
}

type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }

// serveFiles is the file server of a login that is the agent's own account: it has no rights to give up, so it needs no process.
func (s *session) serveFiles(ctx context.Context) {
	done := make(chan error, 1)
	files, stop := context.WithCancel(ctx) // ends the server in the middle of what it does; s.wg waits for it
	defer stop()
	s.wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				done <- fmt.Errorf("file server: %v", p)
			}
		}()
		var rw io.ReadWriter = s.ch
		if s.params.Tap != nil {
			rw = tappedFiles{s.ch, s.params.Tap}
		}
		done <- sftp.Serve(files, rw, s.account.Home)
	})
	for {
		select {
		case q, ok := <-s.ch.Requests():
			if !ok {
				s.result.Err = errGone
				return
			}
			_ = q.Reply(s.during(q, 0))
		case err := <-done:
			s.result.Status = 0
			if err != nil {
				s.result.Status = 1
			}
			s.report()
			return
		case <-ctx.Done():
			s.result.Err = context.Cause(ctx)
			s.over()
			s.say(s.result.Err)
			s.report()
			return
		}
	}
}

// helperPath is our own program as the account can start it: by its path, else by the kernel's link, which needs no way to the file but fails
// under an emulator that does not follow it.
func helperPath(a login.Account) string {
	path, err := os.Executable()
	if err == nil {
		err = a.As(func() error {
			f, err := os.Open(path)
			if err == nil {
				f.Close()
			}
			return err
		})
	}
	if err != nil {
		return "/proc/self/exe"
	}
	return path
}
