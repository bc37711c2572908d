package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
	"hawser/tunnel/yamuxconn"
)

// Tunnels that hubs dial: PROTOCOL.md, section 5.2. From the hub's first line on all is as if the agent had dialled.

// errNotDialled is a hub that dials an agent which keeps tunnels of its own.
var errNotDialled = errors.New("this agent keeps its own tunnels")

// errTaken is one more hub than there are slots.
var errTaken = errors.New("two other hubs have a tunnel")

// dialled makes a tunnel of what a hub dialled and gives it to its keeper. It returns when that has it, or when it came to nothing.
func (a *Agent) dialled(ctx, serving context.Context, nc net.Conn, registered func()) {
	l, err := a.takeDialled(ctx, serving, nc)
	if err != nil {
		a.port.log.Log(tunnel.LevelWarn, "no tunnel of what dialled", "client", nc.RemoteAddr(), "error", err)
		return
	}
	registered()
	select {
	case l.k.dialled <- l:
		<-l.done // nc is closed when this returns
	case <-ctx.Done():
		l.close(wire.CloseNormal, errShutdown.Error())
	}
}

func (a *Agent) takeDialled(ctx, serving context.Context, nc net.Conn) (*link, error) {
	if !a.cfg.TunnelOff {
		return nil, errNotDialled
	}
	ctx, cancel := context.WithTimeout(ctx, dialledTimeout)
	defer cancel()
	creds, trust := a.state.get(), a.state.anchors()
	conn, err := yamuxconn.Client(ctx, nc, clientTLS(creds.TLSCertificate(), func(cs tls.ConnectionState) error {
		return a.verifyHub(cs, trust)
	}, tunnel.ALPN), yamuxconn.Options{Logger: a.log})
	if err != nil {
		return nil, err
	}
	fail := func(code wire.CloseCode, reason string, err error) (*link, error) {
		_ = conn.CloseWithError(code, reason)
		return nil, err
	}
	challenge, err := receiveAs[*wire.Challenge](ctx, conn, "challenge")
	if err == nil {
		err = a.checkChallenge(conn, challenge, creds.Cluster)
	}
	if err != nil {
		code, reason := closing(err)
		if code == wire.CloseNormal {
			code = wire.CloseProtocol
		}
		return fail(code, reason, err)
	}
	k := a.slotFor(challenge.HubUUID)
	if k == nil {
		return fail(wire.CloseSuperseded, "", errTaken)
	}
	r := &round{k: k, purpose: forTunnel, base: k.winner.Load(), quic: true, cancel: func() {}}
	l := newLink(a, conn, attempt{carrier: tunnel.CarrierTLS, hub: nc.RemoteAddr().String(), target: string(challenge.HubUUID[:])}, r, trust)
	l.challenge, l.dialled = *challenge, true
	if err := l.register(ctx, serving, creds); err != nil {
		a.obey(err)
		if r, ok := errors.AsType[*RefusedError](err); ok && r.Code == wire.CloseExpired {
			nudge(a.keepers[slotActive].expired) // which makes a tunnel of its own, to renew
		}
		return fail(wire.CloseNormal, "", err)
	}
	l.start(serving)
	return l, nil
}

// slotFor is the keeper of the slot that a hub's tunnel takes; nil: both have another hub's.
func (a *Agent) slotFor(hub wire.UUID) *keeper {
	var free *keeper
	for _, k := range a.keepers {
		l := k.current.Load()
		if l != nil && l.dialled && l.challenge.HubUUID == hub {
			return k
		}
		if free == nil && (l == nil || !l.dialled) {
			free = k
		}
	}
	return free
}

// short ends a tunnel of the agent's own making that has done its work: the hubs know where to dial.
func (k *keeper) short(cur *link, now time.Time) (look time.Time) {
	end := cur.since.Add(shortTunnel)
	if now.Before(end) {
		return end
	}
	if k.a.openStreams() > 0 { // somebody sits on it
		return now.Add(shortTunnel)
	}
	tunnel.Warn(k.a.log, "no hub has dialled this device: open the way to its port, or run it with --tunnel on", "listen", k.a.port.told(), "retry", silentTunnel)
	k.current.Store(nil)
	k.next = now.Add(silentTunnel + k.b.upTo(silentTunnel/4))
	k.retiring.Go(func() { cur.close(wire.CloseNormal, "this device keeps no tunnel of its own") })
	return k.next
}
