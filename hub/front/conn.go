package front

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/hub/names"
	"hawser/tunnel/idle"
	"hawser/tunnel/wire"
)

// conn is one SSH transport of a person.
type conn struct {
	s      *Server
	nc     net.Conn
	ctx    context.Context // ends with the connection; its goroutines run under it
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // its goroutines; serve waits

	started time.Time
	id      [16]byte
	faults  faults
	sshUser string       // as the client said before it authenticated
	placed  bool         // the place was granted; written by the handshake's goroutine, read after it
	forced  bool         // Place.ForceCommand is set; likewise
	most    int32        // Place.MaxChannels; likewise
	factor  factorWait   // likewise
	known   func()       // the gate may forget the connection; idempotent
	user    atomic.Value // string, once authenticated

	ssh      *ssh.ServerConn
	identity Identity
	name     names.Name
	client   netip.AddrPort
	server   netip.AddrPort

	noMore   atomic.Bool  // no-more-sessions@openssh.com was said
	channels atomic.Int32 // open, of all kinds
	unclosed atomic.Int32 // ended here, and not closed by the client
	opened   atomic.Bool  // a channel was
	meter    *idle.Meter  // what its forwards and pipes carry
	granted  idle.Limits  // by its place; written like placed

	forwardsMu sync.Mutex // one Admit at a time; held across it on purpose: others want its answer
	forwards   *Place
	forwardsOf uint64 // Server.checks when it was asked for

	mu        sync.Mutex
	listeners map[string]*listener
	sessions  map[*session]struct{}
	held      map[*live]struct{} // what is live beside them
	watch     *idle.Watch
	endReason string
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// end cuts the connection; idempotent and quick.
func (c *conn) end(cause error) {
	c.cancel(cause)
	_ = c.nc.Close()
}

// serve runs the connection to its end. authenticated is called when the gate may forget it.
func (c *conn) serve(authenticated func()) {
	log := c.s.c.Logger
	c.id, c.started, c.meter = wire.NewStreamID(), c.s.c.Now(), idle.NewMeter()
	c.client, c.server = addrPort(c.nc.RemoteAddr()), addrPort(c.nc.LocalAddr())
	_ = c.nc.SetDeadline(time.Now().Add(c.s.c.HandshakeTimeout))
	c.known = authenticated
	defer c.factor.end(c.s)
	sc, chans, reqs, err := ssh.NewServerConn(quick(c.nc), c.serverConfig())
	if err != nil {
		c.handshakeFailed(err)
		return
	}
	_ = c.nc.SetDeadline(time.Time{})
	authenticated()
	c.factor.end(c.s)
	c.ssh = sc
	c.identity, _ = sc.Permissions.ExtraData[identityKey{}].(Identity)
	c.user.Store(c.identity.User)
	c.s.statesChanged()
	c.recheck() // locks may have come since the place was taken
	c.name = names.Resolve(sc.User(), c.identity.User, func(device string) bool {
		return c.s.c.Backend.IsDevice(c.identity, device)
	})
	alg := "?"
	if m, ok := sc.Conn.(ssh.AlgorithmsConnMetadata); ok {
		a := m.Algorithms()
		alg = a.KeyExchange + " " + a.Write.Cipher
	}
	log.Info("connection opened", "user", c.identity.User, "client", c.client.String(), "name", wire.Quote(sc.User(), 128),
		"software", wire.Quote(string(sc.ClientVersion()), 128), "algorithms", alg)

	c.watchIdle()
	defer c.watching().Stop()
	defer c.watchUnknown()()
	stop := context.AfterFunc(c.ctx, func() { _ = c.nc.Close() })
	defer stop()
	c.goRun(func() { c.globalRequests(reqs) })
	for nch := range chans {
		c.open(nch)
	}
	c.cancel(errors.New("the client closed the connection"))
	c.closeListeners()
	c.wg.Wait()
	c.s.c.Backend.Release(c.id, Ended{Reason: c.ended()})
	log.Info("connection closed", "user", c.identity.User, "client", c.client.String())
}

// handshakeFailed logs what happened and gives back a place taken just before.
func (c *conn) handshakeFailed(err error) {
	if c.placed {
		c.s.c.Backend.Release(c.id, Ended{Reason: "handshake failed"})
	}
	c.neverKnown() // also where the library had no list of errors: a signature that does not verify ends the handshake at once
	attrs := []any{"client", c.client.String(), "error", wire.Quote(err.Error(), 300)}
	if auth, ok := errors.AsType[*ssh.ServerAuthError](err); ok && len(auth.Errors) > 0 {
		c.s.c.Logger.Info("authentication failed", attrs...)
		return
	}
	c.s.c.Logger.Debug("handshake failed", attrs...)
}

// goRun starts a goroutine of the connection. Called from goroutines the connection waits for, or from serve.
func (c *conn) goRun(f func()) {
	c.wg.Go(func() {
		defer c.s.recovered(c)
		f()
	})
}

// open decides on a channel the client opens. It never waits: the next open must not stand behind this one.
func (c *conn) open(nch ssh.NewChannel) {
	c.opened.Store(true)
	open := c.channels.Add(1)
	if open > maxChannels || open+c.unclosed.Load() > maxUnclosed {
		c.channels.Add(-1)
		_ = nch.Reject(ssh.ResourceShortage, "too many channels on this connection")
		return
	}
	over := c.overCap(open)
	if over != "" && nch.ChannelType() != "session" {
		c.channels.Add(-1)
		_ = nch.Reject(ssh.ResourceShortage, "hawser: "+over)
		return
	}
	var serve func(ssh.NewChannel)
	switch nch.ChannelType() {
	case "session":
		if c.noMore.Load() {
			c.channels.Add(-1)
			_ = nch.Reject(ssh.Prohibited, "no more sessions were promised")
			return
		}
		serve = c.session
		if over != "" {
			serve = c.refuseSession(over)
		}
	case "direct-tcpip":
		serve = c.directTCPIP
	case "direct-streamlocal@openssh.com":
		serve = c.directStreamlocal
	default:
		c.channels.Add(-1)
		_ = nch.Reject(ssh.UnknownChannelType, "unknown channel type")
		return
	}
	c.goRun(func() {
		defer c.channels.Add(-1)
		serve(nch)
	})
}

// endSessions ends the connection, showing each session the reason.
func (c *conn) endSessions(reason string) {
	c.mu.Lock()
	var all []*session
	for x := range c.sessions {
		all = append(all, x)
	}
	c.mu.Unlock()
	for _, x := range all {
		x.kill(reason)
	}
	if len(all) == 0 && !c.piped() { // a device says the reason to those who are on end to end
		c.end(errors.New(reason))
		return
	}
	time.AfterFunc(killGrace+killWords, func() { c.end(errors.New(reason)) })
}

// globalRequests answers in order; a slow one (a listener on the device) holds back the later ones, whose replies must follow its own,
// but not the connection.
func (c *conn) globalRequests(reqs <-chan *ssh.Request) {
	queue := make(chan *ssh.Request, maxGlobalQueued)
	c.goRun(func() {
		for r := range queue {
			c.globalRequest(r)
		}
	})
	defer close(queue)
	for r := range reqs {
		select {
		case queue <- r:
		case <-c.ctx.Done():
		}
	}
}

func (c *conn) globalRequest(r *ssh.Request) {
	switch r.Type {
	case "tcpip-forward":
		c.tcpipForward(r)
	case "cancel-tcpip-forward":
		c.cancelTCPIPForward(r)
	case "streamlocal-forward@openssh.com":
		c.streamlocalForward(r)
	case "cancel-streamlocal-forward@openssh.com":
		c.cancelStreamlocalForward(r)
	case "no-more-sessions@openssh.com":
		c.noMore.Store(true)
		reply(r, true)
	case "keepalive@openssh.com":
		reply(r, true)
	default:
		reply(r, false)
	}
}

func reply(r *ssh.Request, ok bool) {
	if r.WantReply {
		_ = r.Reply(ok, nil)
	}
}
