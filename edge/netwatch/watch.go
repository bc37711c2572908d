package netwatch

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"hawser/tunnel"
)

// readBuffer holds the largest message the kernel sends unasked: one of an interface with all its attributes.
const readBuffer = 16 << 10

// overrunPause is how long to wait after the kernel dropped messages because we were slow: a storm of them is over when it is over.
const overrunPause = time.Second

// groups are the multicast groups of rtnetlink(7) listened to, as bits.
const groups = 1<<(syscall.RTNLGRP_LINK-1) | 1<<(syscall.RTNLGRP_IPV4_IFADDR-1) | 1<<(syscall.RTNLGRP_IPV6_IFADDR-1) |
	1<<(syscall.RTNLGRP_IPV4_ROUTE-1) | 1<<(syscall.RTNLGRP_IPV6_ROUTE-1)

// Watch returns a channel that gets a token at each change that may matter to a connection: an interface that goes up or down, an address that
// comes or goes, a route. It holds one token, so that many changes are one. Where the kernel does not let us listen that is
// logged and the channel stays silent. Once ctx is over and all that Watch started has ended the channel is closed.
func Watch(ctx context.Context, log tunnel.Logger) <-chan struct{} {
	changed := make(chan struct{}, 1)
	f, err := listen()
	if err != nil {
		tunnel.Info(log, "network changes go unnoticed until a heartbeat is missed: no netlink socket", "error", err)
		context.AfterFunc(ctx, func() { close(changed) })
		return changed
	}
	s := newSeen() // here: what changes once Watch has returned is news
	go func() {
		defer close(changed)
		stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		defer f.Close()
		if err := watch(ctx, f, s, changed); err != nil {
			tunnel.Warn(log, "network changes go unnoticed from now on", "error", err)
		}
		<-ctx.Done()
	}()
	return changed
}

func listen() (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: groups}); err != nil {
		syscall.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	f := os.NewFile(uintptr(fd), "netlink")
	if err := f.SetReadDeadline(time.Time{}); err != nil { // the poller would not take it: a Read could not be ended
		f.Close()
		return nil, err
	}
	return f, nil
}

// watch reads until ctx is over or the socket fails.
func watch(ctx context.Context, f io.Reader, s *seen, changed chan<- struct{}) error {
	buffer := make([]byte, readBuffer)
	for {
		n, err := f.Read(buffer)
		tell := err == nil && s.change(buffer[:n])
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil || errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ENOBUFS):
			// What was dropped may have been anything, and until the queue is empty more is dropped without a word: from here on everything is news. The
			// error comes once, but a machine in such a storm has better things to do than to read on.
			s, tell = blank(), true
			wait := time.NewTimer(overrunPause)
			select {
			case <-wait.C:
			case <-ctx.Done():
				wait.Stop()
			}
		default:
			return err
		}
		if tell {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}
}
