package front

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// Config of a Server.
type Config struct {
	Backend Backend
	// HostKey is the hub's Ed25519 key, for clients that know no certificates. Certificate, where set, is asked for the current host
	// certificate of the same key at each new connection, so that renewal needs no restart; a live connection keeps what it has.
	HostKey     ssh.Signer
	Certificate func() *ssh.Certificate
	// HandshakeTimeout is from accept to authenticated.
	HandshakeTimeout time.Duration
	// MaxUnauthenticated in all, and per source address.
	MaxUnauthenticated, MaxUnauthenticatedPerSource int
	// HubName is what messages call this hub.
	HubName string
	// NoNotice keeps from people at a terminal that their device's link is lost, and is back.
	NoNotice bool
	// NoticeAfter is how long the link is lost before they are told; 0: 3 s.
	NoticeAfter time.Duration
	// ReplayIdle is how long a player stays whose person presses no key, or takes nothing of a text; 0: an hour.
	ReplayIdle time.Duration
	// Refused, unless nil, is told of what was refused here without asking the Backend. It must not block.
	Refused func(Refused)
	// StatesChanged, unless nil, is called when States has something new. It must not block.
	StatesChanged func()
	// Denied, unless nil, says why something that was admitted may not go on, in words for the person; empty: it may. It is asked when that
	// begins and at each Recheck, and must not block.
	Denied func(Live) string
	// Limits, unless nil, says how long what was admitted may last by the roles as they are now: it is asked when it begins and at each Recheck,
	// and must not block. Where it does not know, what the place said goes on. wanted is the device that a connection is meant for.
	Limits func(what Live, wanted string) (limits policy.SessionLimits, known bool)
	Logger *slog.Logger
	Now    func() time.Time
}

// Server serves people. New starts nothing.
type Server struct {
	c      Config
	gate   gate
	checks atomic.Uint64 // counts Rechecks

	pickers, waits, replays quota
	recent                  recents
	lists                   listing
	settling                chan struct{} // has a token of each session that settles

	mu       sync.Mutex
	closing  bool
	draining bool
	listener net.Listener // nil before Serve
	conns    map[*conn]struct{}
	sessions map[[16]byte]*session
	factors  factorWaits

	wg sync.WaitGroup // connections, added to under mu while not closing, and the drivers of their streams

	stopping context.Context // ends when all connections have been told to
	stop     context.CancelCauseFunc
}

// New makes a Server.
func New(c Config) *Server {
	c.NoticeAfter = cmp.Or(c.NoticeAfter, noticeAfter)
	c.ReplayIdle = cmp.Or(c.ReplayIdle, replayIdle)
	s := &Server{
		c: c, gate: gate{total: c.MaxUnauthenticated, perSource: c.MaxUnauthenticatedPerSource},
		conns: make(map[*conn]struct{}), sessions: make(map[[16]byte]*session), settling: make(chan struct{}, maxSettling),
	}
	s.stopping, s.stop = context.WithCancelCause(context.Background())
	return s
}

var (
	// errStopping is the cause of contexts when the server ends.
	errStopping = errors.New("the hub is stopping")
	errInternal = errors.New("internal error")
)

// Serve accepts connections until ctx ends or the listener fails, then ends every connection and waits for all of it. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s.mu.Lock()
	s.listener = l
	if s.draining {
		_ = l.Close()
	}
	s.mu.Unlock()
	var err error
	for {
		var nc net.Conn
		if nc, err = l.Accept(); err != nil {
			if ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				// Out of descriptors or aborted in the queue: accepting goes on.
				s.c.Logger.Warn("accept failed", "error", err)
				select {
				case <-time.After(50 * time.Millisecond):
				case <-ctx.Done():
				}
				continue
			}
			break
		}
		s.start(ctx, nc)
	}
	_ = l.Close()
	s.mu.Lock()
	draining := s.draining
	s.mu.Unlock()
	if draining {
		<-ctx.Done() // those who are here stay until then
	}
	s.mu.Lock()
	s.closing = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	s.mu.Unlock()
	for _, c := range conns {
		c.end(errStopping)
	}
	s.stop(errStopping)
	s.wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start hands one connection to a goroutine of its own; nothing here waits for the peer.
func (s *Server) start(ctx context.Context, nc net.Conn) {
	t := s.gate.enter(nc, time.Now())
	if t == nil {
		s.c.Logger.Warn("connection refused", "reason", "too many unauthenticated connections", "client", nc.RemoteAddr().String())
		_ = nc.Close()
		return
	}
	// Not ctx itself: a connection ends by end, with the cause that its sessions are told.
	cctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	c := &conn{s: s, nc: nc, ctx: cctx, cancel: cancel, listeners: make(map[string]*listener)}
	s.mu.Lock()
	if s.closing || s.draining {
		s.mu.Unlock()
		s.gate.leave(t)
		cancel(errStopping)
		_ = nc.Close()
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go func() {
		defer s.wg.Done()
		defer func() {
			s.gate.leave(t)
			cancel(nil)
			_ = nc.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
		defer s.recovered(c)
		c.serve(func() { s.gate.leave(t) })
	}()
}

// recovered turns a panic of a connection's goroutine into the end of that connection.
func (s *Server) recovered(c *conn) {
	if p := recover(); p != nil {
		s.panicked(p)
		c.end(errInternal)
	}
}

func (s *Server) panicked(p any) {
	s.c.Logger.Error("panic in a connection", "panic", p, "stack", string(debug.Stack()))
}

// Kill ends a session, or a connection with all of its sessions: the reason is shown to the person, and the device ends every process of it.
// It tells whether there is one of that id.
func (s *Server) Kill(id [16]byte, reason string) bool {
	s.mu.Lock()
	x := s.sessions[id]
	var whole *conn
	for c := range s.conns {
		if c.user.Load() != nil && c.id == id {
			whole = c
		}
	}
	s.mu.Unlock()
	switch {
	case x != nil:
		x.kill(reason)
	case whole != nil:
		whole.endSessions(reason)
	default:
		return false
	}
	return true
}

// DeviceOf is the device of a session that is alive here.
func (s *Server) DeviceOf(id [16]byte) (wire.UUID, bool) {
	s.mu.Lock()
	x := s.sessions[id]
	s.mu.Unlock()
	if x == nil {
		return wire.UUID{}, false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.place == nil {
		return wire.UUID{}, false
	}
	return x.place.Device, true
}

// Sessions returns the ids of the sessions and connections that are alive, for auth to end those it believes in besides.
func (s *Server) Sessions() [][16]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([][16]byte, 0, len(s.sessions))
	for id := range s.sessions {
		ids = append(ids, id)
	}
	for c := range s.conns {
		if c.user.Load() != nil {
			ids = append(ids, c.id)
		}
	}
	return ids
}

// State is a session or connection that is alive.
type State struct {
	ID         [16]byte
	Connection [16]byte // the session's, or its own id
	Kind       Kind     // Connection or Session
	User       string
	Device     wire.UUID // zero: the hub itself
	Login      string
	Client     netip.AddrPort
	Started    time.Time
	Channel    string // what runs: shell, exec or sftp; empty before it does
	Command    string
	Recorded   bool
	// DetachedSince is when the session's device was lost, zero while it is there.
	DetachedSince time.Time
	// Identity is how the person proved himself.
	Identity Identity
	// BytesIn and BytesOut are what has passed, from the person and to him; of a connection by its forwards and pipes.
	BytesIn, BytesOut uint64
	// LastActivity is when something last passed that keeps it from being idle.
	LastActivity time.Time
	// Joins is the id of the session that it joins, and JoinMode how; nil: it is one of its own.
	Joins    []byte
	JoinMode string
}

// States returns all that are alive, with more to say of each than Sessions.
func (s *Server) States() []State {
	s.mu.Lock()
	sessions := make([]*session, 0, len(s.sessions))
	for _, x := range s.sessions {
		sessions = append(sessions, x)
	}
	var states []State
	for c := range s.conns {
		if user, ok := c.user.Load().(string); ok {
			state := State{ID: c.id, Connection: c.id, Kind: Connection, User: user, Client: c.client, Started: c.started, Identity: c.identity}
			counted(&state, c.meter, false)
			states = append(states, state)
		}
	}
	s.mu.Unlock()
	for _, x := range sessions {
		states = append(states, x.state())
	}
	return states
}

func (s *Server) statesChanged() {
	if s.c.StatesChanged != nil {
		s.c.StatesChanged()
	}
}

// EndUser ends every connection of a person whose credentials or user record are gone.
func (s *Server) EndUser(user, reason string) {
	s.mu.Lock()
	var ended []*conn
	for c := range s.conns {
		if u, _ := c.user.Load().(string); u == user {
			ended = append(ended, c)
		}
	}
	s.mu.Unlock()
	for _, c := range ended {
		c.endSessions(reason)
	}
}

func (s *Server) add(id [16]byte, x *session) {
	s.mu.Lock()
	s.sessions[id] = x
	s.mu.Unlock()
	s.statesChanged()
}

func (s *Server) remove(id [16]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, id)
}
