package target

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/tunnel"
	"hawser/tunnel/pipe"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// Device is a server without an agent.
type Device struct {
	UUID wire.UUID
	Name string
}

// Auth is what this package asks of the auth service.
type Auth interface {
	// OpenTarget adds to r the run of the agent that reaches the device.
	OpenTarget(ctx context.Context, device wire.UUID, r *api.OpenTargetRequest) (*api.OpenTargetResponse, error)
	PinHostKey(ctx context.Context, r *api.PinHostKeyRequest) (*api.PinHostKeyResponse, error)
	SignForTarget(ctx context.Context, r *api.SignForTargetRequest) (*api.SignForTargetResponse, error)
}

// Config of Targets.
type Config struct {
	Auth Auth
	// Dial makes the connection to a server, through the device or from the hub as l says. g is the person's grant.
	Dial func(ctx context.Context, l *api.OpenTargetResponse, g *grant.Grant) (net.Conn, error)
	// GrantKeys are auth's of now.
	GrantKeys func() []ed25519.PublicKey
	Hub       string // what this hub is called
	Logger    *slog.Logger
}

// Targets serves the streams to servers without an agent. Safe for concurrent use.
type Targets struct {
	c  Config
	wg sync.WaitGroup

	ctx  context.Context // ends with Close
	stop context.CancelCauseFunc

	mu       sync.Mutex
	closing  bool
	open     int            // connections to servers, those under way too
	of       map[string]int // how many of them are whose
	sessions map[[16]byte]*session
	shared   map[sharedKey]*shared
}

var errStopping = errors.New("the hub is stopping")

// New makes Targets; it starts nothing.
func New(c Config) *Targets {
	t := &Targets{c: c, of: make(map[string]int), sessions: make(map[[16]byte]*session), shared: make(map[sharedKey]*shared)}
	t.ctx, t.stop = context.WithCancelCause(context.Background())
	return t
}

// Stopping ends when Close was called.
func (t *Targets) Stopping() context.Context { return t.ctx }

// Close ends everything and waits for it.
func (t *Targets) Close() {
	t.mu.Lock()
	t.closing = true
	t.mu.Unlock()
	t.stop(errStopping)
	t.wg.Wait()
}

// spawn runs f in a goroutine that Close waits for; false: nothing begins any more.
func (t *Targets) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing {
		return false
	}
	t.wg.Go(func() {
		defer t.recovered(nil)
		f()
	})
	return true
}

// recovered is to be deferred by every goroutine: what a server says that we cannot bear costs its stream, which cut ends, and not the hub.
func (t *Targets) recovered(cut func()) {
	if p := recover(); p != nil {
		t.c.Logger.Error("panic in a stream to a server", "panic", p, "stack", string(debug.Stack()))
		if cut != nil {
			cut()
		}
	}
}

// guard is wg.Go for what may panic.
func (t *Targets) guard(wg *sync.WaitGroup, cut, f func()) {
	wg.Go(func() {
		defer t.recovered(cut)
		f()
	})
}

// place takes room for one connection to a server in a user's name, and returns what gives it back.
func (t *Targets) place(user string) (release func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.open >= maxConnections:
		return nil, &failure{message: "this hub has too many connections to servers; try again in a while"}
	case t.of[user] >= maxUserConnections:
		return nil, &failure{message: fmt.Sprintf("this hub has %d connections to servers for you, and makes no more; end some, or come by another hub", maxUserConnections)}
	}
	t.open++
	t.of[user]++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.open--
		if t.of[user]--; t.of[user] == 0 {
			delete(t.of, user)
		}
	}), nil
}

// Open gives a stream to the device, as a tunnel would: the caller writes what opens it.
func (t *Targets) Open(d Device) (tunnel.Stream, error) {
	ours, theirs := pipe.New(nil, nil, nil)
	if !t.spawn(func() {
		defer theirs.Reset(wire.StreamCancelled) // after Close nothing; a panic does not leave the other end waiting
		t.serve(d, theirs)
	}) {
		return nil, errStopping
	}
	return ours, nil
}

// serve answers what opens the stream and serves it to its end.
func (t *Targets) serve(d Device, st tunnel.Stream) {
	ctx, cancel := context.WithTimeout(t.ctx, attachTimeout)
	head, err := resume.ReadAttach(ctx, st)
	cancel()
	if err != nil {
		return
	}
	refuse := func(code wire.StreamCode, message string) {
		resume.Refuse(st, code, message)
	}
	if head.Counter != 0 { // what is in memory is never lost and found again
		refuse(wire.StreamNotFound, "no such stream here, or no longer")
		return
	}
	req, err := wire.DecodeOpenRequest(head.Open)
	if err != nil {
		refuse(wire.StreamProtocol, err.Error())
		return
	}
	kind := grant.Forwards
	switch head.Kind {
	case wire.KindSession:
		kind = grant.Session
	case wire.KindForward:
	case wire.KindListen:
		refuse(wire.StreamRefused, d.Name+" has no agent, so nothing listens on it for you")
		return
	default:
		refuse(wire.StreamRefused, d.Name+" has no agent that could serve this")
		return
	}
	// This hub got the grant itself; what it says decides what is done in its name.
	g, err := grant.Open(req.Grant, t.c.GrantKeys())
	if err == nil && (g.Kind != kind || g.Device != [16]byte(d.UUID)) {
		err = grant.ErrWrongKind
	}
	if err != nil {
		refuse(wire.StreamDenied, err.Error())
		return
	}
	if kind == grant.Session {
		t.serveSession(d, g, req, head, st)
		return
	}
	t.serveForward(d, g, req, head, st)
}

func (t *Targets) accept(st tunnel.Stream, head wire.Attach) (*resume.Stream, error) {
	rs, err := resume.Accept(st, head, resume.Options{SendBuffer: buffer, RecvBuffer: buffer})
	if err != nil {
		resume.Refuse(st, resume.CodeOf(err), err.Error())
	}
	return rs, err
}

// Kill ends a session and, as far as its server lets one, all its processes. It tells whether there is one of that id.
func (t *Targets) Kill(id [16]byte, reason string) bool {
	t.mu.Lock()
	x := t.sessions[id]
	t.mu.Unlock()
	if x != nil {
		x.cancel(&killed{reason})
	}
	return x != nil
}

// killed is the cause when a session was told to end.
type killed struct{ reason string }

func (k *killed) Error() string { return "session ended: " + wire.Quote(k.reason, 512) }

// within waits for c, so long at most, and tells whether it came.
func within(d time.Duration, c <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-c:
		return true
	case <-timer.C:
		return false
	}
}
