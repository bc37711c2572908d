package login

import (
	"net"
	"os"
	"sync"
)

// ListenUnix makes a listening socket at path as the account: judged by its rights, owned by it, mode 0600. Close removes it, again as the
// account: removed with the agent's rights, a directory swapped for a link in between would name another file.
func (a Account) ListenUnix(path string) (net.Listener, error) {
	l := &listener{account: a, path: path}
	err := a.As(func() (err error) {
		l.UnixListener, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		if l.UnixListener != nil {
			l.Close()
		}
		return nil, err
	}
	return l, nil
}

type listener struct {
	*net.UnixListener
	account Account
	path    string
	once    sync.Once
	err     error
}

// Close is idempotent.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.err = l.UnixListener.Close()
		_ = l.account.As(func() error { return os.Remove(l.path) }) // who removed it before us did our work
	})
	return l.err
}
