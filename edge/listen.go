package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/edge/login"
	"hawser/edge/relay"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// serveListen runs one listener of -R: the stream's first request says on what, and the listener lives as long as the stream.
func (in *incoming) serveListen(ctx context.Context) error {
	a := in.l.a
	g, err := a.checkGrant(in.req.Grant, grant.Forwards, in.from.hub)
	if err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	may := a.tenure(g, policy.WayHub)
	if err := may.begin(ctx); err != nil {
		return in.refuse(wire.StreamDenied, err)
	}
	account, err := login.System{}.Lookup(g.Login)
	if err != nil {
		return in.refuse(wire.StreamNotFound, err)
	}
	st, err := in.accept(detachedLife(g))
	if err != nil {
		return err
	}
	ch := channel.New(st, channel.Options{PeerWindow: in.req.Window})
	defer ch.Close()
	ctx, leave := a.live.add(ctx, in.head.ID, in.from.hub, may)
	defer leave()
	stop := context.AfterFunc(ctx, func() { ch.Close() })
	defer stop()

	var ln net.Listener
	done := func() {}
	defer func() { done() }()
	var accepts sync.WaitGroup
	defer accepts.Wait()
	defer func() {
		if ln != nil {
			ln.Close()
		}
	}()
	for r := range ch.Requests() {
		if ln != nil {
			_ = r.Reply(false)
			continue
		}
		network, address, p, err := parseListen(r)
		if err == nil {
			err = may.allow(g, listenKind(network))
		}
		ctx := ctx
		if err == nil {
			done()
			ctx, done, err = a.engine.Moderated(ctx, g.User, policy.ModeratorsFor(g.Moderators, listenKind(network)), "a listener on "+address)
		}
		if err == nil {
			ln, err = forward.Listen(ctx, account, network, address)
		}
		if err != nil {
			tunnel.Warn(a.log, "no listener", "address", address, "user", g.User, "error", err)
			_ = r.Reply(false)
			continue
		}
		if p.Kind == "forwarded-tcpip" && p.ConnectedPort == 0 {
			p.ConnectedPort = uint32(portOf(ln.Addr()))
			if _, err := ch.SendRequest(payload.BoundRequest, false, payload.Bound{Port: p.ConnectedPort}.Marshal()); err != nil {
				return err
			}
		}
		_ = r.Reply(true)
		context.AfterFunc(ctx, func() { ch.Close() })
		tunnel.Info(a.log, "listening for a person", "address", ln.Addr(), "user", g.User)
		accepts.Go(func() {
			defer a.guard("listener", nil)
			acceptFor(ctx, a.log, ln, func(ctx context.Context, nc net.Conn) (io.ReadWriteCloser, error) {
				p := p
				p.OriginHost, p.OriginPort = origin(nc)
				return a.tickets.open(ctx, ch, in.head.ID, p)
			})
		})
	}
	return ch.Close() // at once, for connections already accepted may live on
}

// acceptFor accepts connections until the listener is closed, and gives each to what fetch returns for it. Then those that wait to be fetched end, and it
// returns when the others have ended by themselves or with serving. At most maxTickets are served at once: one beyond waits in the kernel's queue.
func acceptFor(serving context.Context, log tunnel.Logger, ln net.Listener, fetch func(context.Context, net.Conn) (io.ReadWriteCloser, error)) {
	ctx, cancel := context.WithCancel(serving)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	room := make(chan struct{}, maxTickets)
	for {
		room <- struct{}{}
		nc, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			<-room
			tunnel.Debug(log, "accept", "error", err)
			if sleep(ctx, 100*time.Millisecond) != nil { // out of descriptors passes
				return
			}
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			stop := context.AfterFunc(serving, func() { nc.Close() })
			defer stop()
			defer nc.Close()
			back, err := fetch(ctx, nc)
			if err != nil {
				tunnel.Debug(log, "connection not taken", "error", err)
				return
			}
			relay.Both(back, nc)
		})
	}
}

// parseListen reads the request of a Listen stream.
func parseListen(r *channel.Request) (network, address string, p payload.Accept, err error) {
	switch r.Type {
	case "tcpip-forward":
		m, err := payload.ParseTCPIPForward(r.Payload)
		if err != nil {
			return "", "", p, err
		}
		p = payload.Accept{Kind: "forwarded-tcpip", ConnectedHost: m.Host, ConnectedPort: m.Port}
		return "tcp", net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port))), p, nil
	case "streamlocal-forward@openssh.com":
		m, err := payload.ParseStreamlocalForward(r.Payload)
		if err != nil {
			return "", "", p, err
		}
		return "unix", m.Path, payload.Accept{Kind: "forwarded-streamlocal@openssh.com", ConnectedHost: m.Path}, nil
	}
	return "", "", p, errors.New("not a request to listen: " + wire.Quote(r.Type, 64))
}

func listenKind(network string) string {
	if network == "unix" {
		return policy.SocketForward
	}
	return policy.RemoteForward
}

// origin is who connected: an address and port, or nothing for a socket.
func origin(nc net.Conn) (string, uint32) {
	if ap, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		return ap.Addr().Unmap().String(), uint32(ap.Port())
	}
	return "", 0
}

func portOf(a net.Addr) int {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.Port
	}
	return 0
}
