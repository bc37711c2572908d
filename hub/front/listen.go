package front

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"hawser/hub/names"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// listener is one -R of a connection: a Listen stream to the device, which accepts there and tells us.
type listener struct {
	c      *conn
	stream *resume.Stream
	dev    *channel.Conn
	place  *Place
	id     wire.StreamID
	// extra makes the payload of the channel to the person from what the device told.
	extra func(p payload.Accept) []byte
	kind  string
	bound chan uint32 // holds the port the device chose
	ctx   context.Context
	stop  context.CancelFunc
	// release takes it out of what is rechecked; nil before it is in.
	release func()
}

func tcpKey(host string, port uint32) string {
	return "tcp " + net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}
func unixKey(path string) string { return "unix " + path }

func (c *conn) tcpipForward(r *ssh.Request) {
	p, err := payload.ParseTCPIPForward(r.Payload)
	if err != nil {
		reply(r, false)
		return
	}
	var chosen atomic.Uint32 // the port as the client will see it
	chosen.Store(p.Port)
	l := c.listen("remote-forward", "tcpip-forward", r.Payload, func(l *listener) {
		l.kind = forwardedTCPIP
		l.extra = func(a payload.Accept) []byte {
			// The client finds its forward by the address it asked for, as it wrote it, and the port it was told.
			return payload.ForwardedTCPIP{Host: p.Host, Port: chosen.Load(), OriginHost: a.OriginHost, OriginPort: a.OriginPort}.Marshal()
		}
	})
	if l == nil {
		reply(r, false)
		return
	}
	c.goRun(l.serve)
	var answer []byte
	if p.Port == 0 {
		expired, stop := afterTimeout(admitTimeout)
		defer stop()
		var port uint32
		select {
		case port = <-l.bound:
		case <-expired:
		case <-c.ctx.Done():
		}
		if port == 0 {
			l.close()
			reply(r, false)
			return
		}
		chosen.Store(port)
		answer = binary.BigEndian.AppendUint32(nil, port)
	}
	if !c.keep(tcpKey(p.Host, chosen.Load()), l) {
		reply(r, false)
		return
	}
	if r.WantReply {
		_ = r.Reply(true, answer)
	}
}

func (c *conn) streamlocalForward(r *ssh.Request) {
	p, err := payload.ParseStreamlocalForward(r.Payload)
	if err != nil {
		reply(r, false)
		return
	}
	l := c.listen("socket-forward", "streamlocal-forward@openssh.com", r.Payload, func(l *listener) {
		l.kind = forwardedStreamlocalType
		l.extra = func(payload.Accept) []byte { return payload.ForwardedStreamlocal{Path: p.Path}.Marshal() }
	})
	if l == nil || !c.keep(unixKey(p.Path), l) {
		reply(r, false)
		return
	}
	reply(r, true)
	c.goRun(l.serve)
}

func (c *conn) cancelTCPIPForward(r *ssh.Request) {
	p, err := payload.ParseTCPIPForward(r.Payload)
	reply(r, err == nil && c.cancelListener(tcpKey(p.Host, p.Port)))
}

func (c *conn) cancelStreamlocalForward(r *ssh.Request) {
	p, err := payload.ParseStreamlocalForward(r.Payload)
	reply(r, err == nil && c.cancelListener(unixKey(p.Path)))
}

// listen makes the device listen; nil: it does not, and the log says why.
func (c *conn) listen(kind, request string, body []byte, set func(*listener)) *listener {
	if c.name.Kind != names.OfDevice {
		return nil
	}
	log := c.s.c.Logger.With("user", c.identity.User, "device", c.name.Device, "channel", kind)
	place, err := c.forwardsPlace(c.ctx)
	if err != nil {
		log.Warn("forward refused", "error", err)
		return nil
	}
	if !place.Permits(kind) {
		c.forwardRefused("channel", kind, "")
		log.Warn("forward refused", "error", "not allowed by the roles")
		return nil
	}
	a := wire.Attach{Kind: wire.KindListen, ID: wire.NewStreamID()}
	network := wire.NetworkTCP
	if kind == "socket-forward" {
		network = wire.NetworkUnix
	}
	a.Open = wire.OpenRequest{
		Grant: place.Grant, ClientAddr: c.client, ServerAddr: c.server, Network: network, Window: channel.DefaultWindow,
	}.Append(nil)
	stream, err := c.attach(place.Device, &a, place.DetachedLife)
	if err != nil {
		c.forgetForwards(place)
		log.Warn("forward refused", "error", err)
		return nil
	}
	l := &listener{c: c, stream: stream, dev: channel.New(leaving{stream}, channel.Options{}), place: place, id: a.ID, bound: make(chan uint32, 1)}
	l.ctx, l.stop = context.WithCancel(c.ctx)
	set(l)
	answer, err := l.dev.StartRequest(request, body)
	if err != nil {
		l.close()
		return nil
	}
	expired, stop := afterTimeout(openTimeout)
	defer stop()
	for {
		// What comes before the answer is the bound port; and the answer is what this waits for.
		select {
		case ok := <-answer:
			if ok {
				l.release = c.hold(Live{Kind: Forward, Device: place.Device, Login: place.Login, Channel: kind}, func() { l.stop() })
				return l
			}
			log.Warn("forward refused", "error", "the device cannot listen there")
			l.close()
			return nil
		case q, open := <-l.dev.Requests():
			if !open {
				l.close()
				return nil
			}
			l.request(q)
		case <-expired:
			l.close()
			return nil
		}
	}
}

// keep enters a listener in the connection's table, or closes it.
func (c *conn) keep(key string, l *listener) bool {
	c.mu.Lock()
	ok := c.listeners != nil && c.listeners[key] == nil && len(c.listeners) < maxListeners
	if ok {
		c.listeners[key] = l
	}
	c.mu.Unlock()
	if !ok {
		l.close()
	}
	return ok
}

func (c *conn) cancelListener(key string) bool {
	c.mu.Lock()
	l := c.listeners[key]
	if l != nil {
		delete(c.listeners, key)
	}
	c.mu.Unlock()
	if l == nil {
		return false
	}
	l.close()
	return true
}

// closeListeners ends all, and lets no new one in.
func (c *conn) closeListeners() {
	c.mu.Lock()
	all := c.listeners
	c.listeners = nil
	c.mu.Unlock()
	for _, l := range all {
		l.stop()
	}
}

// serve takes the device's announcements until the listener ends.
func (l *listener) serve() {
	stop := context.AfterFunc(l.ctx, func() {
		if errors.Is(context.Cause(l.ctx), errStopping) {
			l.stream.Reset(wire.StreamCancelled)
		}
		_ = l.dev.Close()
	})
	defer stop()
	for r := range l.dev.Requests() {
		l.request(r)
	}
	l.close()
}

func (l *listener) request(r *channel.Request) {
	ok := false
	switch r.Type {
	case payload.BoundRequest:
		if p, err := payload.ParseBound(r.Payload); err == nil {
			select {
			case l.bound <- p.Port:
				ok = true
			default:
			}
		}
	case payload.AcceptRequest:
		if p, err := payload.ParseAccept(r.Payload); err == nil && p.Kind == l.kind && len(p.OriginHost) <= 255 {
			// Connections already accepted outlive the listener, as under sshd.
			l.c.goRun(func() { l.c.acceptBack(l.c.ctx, l.place, l.id, p, l.kind, l.extra(p), nil) })
			ok = true
		}
	}
	_ = r.Reply(ok)
}

func (l *listener) close() {
	l.stop()
	_ = l.dev.Close()
	if l.release != nil {
		l.release()
	}
}
