package yamuxconn

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// readables is one epoll set and its goroutine, for all parked tunnels of the process. A descriptor is in it only while its tunnel is
// parked, and leaves it before it is closed; an event carries a number that is used once, so that one which was under way when its
// tunnel left means nothing, whoever has the descriptor by then.
var readables struct {
	once sync.Once
	err  error
	fd   int

	mu   sync.Mutex
	last uint64
	wait map[uint64]*waitedFD
}

// waitedFD is a descriptor somebody waits for.
type waitedFD struct {
	number uint64
	conn   *net.TCPConn
	ready  func()
}

func canPark(c net.Conn) bool {
	_, ok := c.(*net.TCPConn)
	return ok
}

// waitReadable calls ready, once and in a goroutine of its own, when c can be read or has ended, unless forget is called before.
func waitReadable(c net.Conn, ready func()) (*waitedFD, error) {
	r := &readables
	r.once.Do(func() {
		if r.fd, r.err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); r.err == nil {
			r.wait = make(map[uint64]*waitedFD)
			go watchReadables()
		}
	})
	if r.err != nil {
		return nil, fmt.Errorf("epoll: %w", r.err)
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	r.mu.Lock()
	r.last++
	w := &waitedFD{number: r.last, conn: t, ready: ready}
	r.wait[w.number] = w
	r.mu.Unlock()
	err := w.control(unix.EPOLL_CTL_ADD, &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: int32(uint32(w.number)), Pad: int32(uint32(w.number >> 32)),
	})
	if err != nil {
		w.drop()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return w, nil
}

// control changes the set while the descriptor cannot be closed.
func (w *waitedFD) control(op int, e *unix.EpollEvent) error {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	if err := raw.Control(func(fd uintptr) { set = unix.EpollCtl(readables.fd, op, int(fd), e) }); err != nil {
		return err // closed: then the kernel has taken it out
	}
	return set
}

func (w *waitedFD) drop() {
	readables.mu.Lock()
	defer readables.mu.Unlock()
	delete(readables.wait, w.number)
}

// forget takes the descriptor out. It is called before whoever owns the connection reads it or closes it.
func (w *waitedFD) forget() {
	w.drop()
	_ = w.control(unix.EPOLL_CTL_DEL, &unix.EpollEvent{})
}

func watchReadables() {
	events := make([]unix.EpollEvent, 128)
	for {
		n, err := unix.EpollWait(readables.fd, events, -1)
		if err != nil && err != unix.EINTR {
			panic(fmt.Sprintf("epoll_wait: %v", err)) // the descriptor is ours alone: it cannot fail
		}
		for _, e := range events[:max(n, 0)] {
			number := uint64(uint32(e.Pad))<<32 | uint64(uint32(e.Fd))
			readables.mu.Lock()
			w := readables.wait[number]
			delete(readables.wait, number)
			readables.mu.Unlock()
			if w != nil {
				go w.ready()
			}
		}
	}
}
