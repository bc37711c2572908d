package front

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/hub/names"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/idle"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// forwardsPlace returns the place for this connection's forwards, asking anew when the last one's grant has little life left.
func (c *conn) forwardsPlace(ctx context.Context) (*Place, error) {
	c.forwardsMu.Lock()
	defer c.forwardsMu.Unlock()
	checks := c.s.checks.Load() // before the question: what changes while it is answered is asked again
	if c.forwards != nil && c.forwardsOf == checks && c.s.c.Now().Add(forwardsMargin).Before(c.forwards.NotAfter) {
		return c.forwards, nil
	}
	ctx, cancel := context.WithTimeout(ctx, admitTimeout)
	defer cancel()
	p, err := c.s.c.Backend.Admit(ctx, Claim{
		Kind: Forwards, Identity: c.identity, ConnectionID: c.id, Device: c.name.Device, Login: c.name.Login, ClientAddr: c.client,
		UserAgent: wire.Quote(string(c.ssh.ClientVersion()), 128),
	})
	if err != nil {
		return nil, err
	}
	c.forwards, c.forwardsOf = p, checks
	return p, nil
}

// forgetForwards drops a place the device did not accept, such as one for an earlier run of its agent.
func (c *conn) forgetForwards(p *Place) {
	c.forwardsMu.Lock()
	defer c.forwardsMu.Unlock()
	if c.forwards == p {
		c.forwards = nil
	}
}

func (c *conn) directTCPIP(nch ssh.NewChannel) {
	p, err := payload.ParseDirectTCPIP(nch.ExtraData())
	if err != nil {
		_ = nch.Reject(ssh.ConnectionFailed, "malformed direct-tcpip")
		return
	}
	device, explicit, ok := names.EndToEnd(p.Host, p.Port)
	if ok && (explicit || c.name.Kind != names.OfDevice || c.s.c.Backend.IsDevice(c.identity, device)) {
		c.endToEnd(nch, device)
		return
	}
	if c.name.Kind != names.OfDevice {
		c.forwardRefused("hub", "local-forward", net.JoinHostPort(p.Host, strconv.FormatUint(uint64(p.Port), 10)))
		_ = nch.Reject(ssh.Prohibited, "this hub forwards to DEVICE:22 only; for a device's network use DEVICE@HUB")
		return
	}
	c.forward(nch, "local-forward", wire.NetworkTCP, net.JoinHostPort(p.Host, strconv.FormatUint(uint64(p.Port), 10)))
}

func (c *conn) directStreamlocal(nch ssh.NewChannel) {
	p, err := payload.ParseDirectStreamlocal(nch.ExtraData())
	if err != nil {
		_ = nch.Reject(ssh.ConnectionFailed, "malformed direct-streamlocal")
		return
	}
	if c.name.Kind != names.OfDevice {
		c.forwardRefused("hub", "socket-forward", p.Path)
		_ = nch.Reject(ssh.Prohibited, "sockets are on devices; use DEVICE@HUB")
		return
	}
	c.forward(nch, "socket-forward", wire.NetworkUnix, p.Path)
}

// forward connects a channel to a target in the device's network. The device resolves names and checks each address.
func (c *conn) forward(nch ssh.NewChannel, kind, network, target string) {
	if why := c.late(); why != "" {
		_ = nch.Reject(ssh.Prohibited, "hawser: "+why)
		return
	}
	for again := true; ; again = false {
		place, err := c.forwardsPlace(c.ctx)
		if err != nil {
			_ = nch.Reject(ssh.Prohibited, "hawser: "+explain(err))
			return
		}
		if !place.Permits(kind) {
			c.forwardRefused("channel", kind, target)
			_ = nch.Reject(ssh.Prohibited, "hawser: your roles do not allow "+kind+" on "+place.DeviceName)
			return
		}
		a := wire.Attach{Kind: wire.KindForward, ID: wire.NewStreamID()}
		a.Open = wire.OpenRequest{
			Grant: place.Grant, ClientAddr: c.client, ServerAddr: c.server, Network: network, Target: target,
		}.Append(nil)
		stream, err := c.attach(place.Device, &a, place.DetachedLife)
		if err != nil {
			c.forgetForwards(place)
			if refused, ok := errors.AsType[*resume.RefusedError](err); again && (!ok || refused.Code == wire.StreamDenied) {
				continue // the device came back with a new incarnation, or on another tunnel
			} else if ok && refused.Code == wire.StreamDenied {
				c.forwardRefused("target", kind, target)
			}
			rejectStream(nch, err)
			return
		}
		c.joinForward(nch, stream, place, kind, target)
		return
	}
}

// endToEnd connects a channel to a device's own SSH server. The hub moves bytes it cannot read; the device asks for the place.
func (c *conn) endToEnd(nch ssh.NewChannel, device string) {
	if why := c.late(); why != "" {
		_ = nch.Reject(ssh.Prohibited, "hawser: "+why)
		return
	}
	id, release, err := c.s.c.Backend.Reach(c.ctx, c.identity, device)
	if err != nil {
		_ = nch.Reject(ssh.Prohibited, "hawser: "+c.explainDevice(c.ctx, err, device, "hawser ssh --wait 1h "+wire.Quote(device, 64)))
		return
	}
	defer release()
	a := wire.Attach{Kind: wire.KindEndToEnd, ID: wire.NewStreamID()}
	a.Open = wire.OpenRequest{ClientAddr: c.client, ServerAddr: c.server}.Append(nil)
	stream, err := c.attach(id, &a, endToEndLife)
	if err != nil {
		rejectStream(nch, err)
		return
	}
	c.s.recent.note(c.identity.User, id, c.s.c.Now())
	c.s.c.Logger.Info("end to end opened", "user", c.identity.User, "device", device, "client", c.client.String())
	c.join(nch, stream, Live{Kind: Pipe, Device: id}, killGrace)
}

// attach opens a stream and waits for the device's answer.
func (c *conn) attach(device wire.UUID, a *wire.Attach, life time.Duration) (*resume.Stream, error) {
	ctx, cancel := context.WithTimeout(c.ctx, openTimeout)
	defer cancel()
	stream, err := c.openStream(ctx, device, a, life, nil)
	if err != nil {
		return nil, err
	}
	if err := stream.WaitAttached(ctx); err != nil {
		stream.Reset(wire.StreamCancelled)
		_ = stream.Close()
		return nil, err
	}
	return stream, nil
}

// joinForward is join for a forward to a target, which is told of.
func (c *conn) joinForward(nch ssh.NewChannel, stream *resume.Stream, place *Place, kind, target string) {
	var from string
	if p, err := payload.ParseDirectTCPIP(nch.ExtraData()); err == nil && kind == "local-forward" {
		from = hostPort(p.OriginHost, p.OriginPort)
	}
	closed := c.forwardOpened(place, kind, target, from)
	in, out := c.join(nch, stream, Live{Kind: Forward, Device: place.Device, Login: place.Login, Channel: kind}, 0)
	closed(in, out)
}

// join splices a channel and a stream until both have ended, or what they are is not allowed any more: then, after so long, the stream is cut.
func (c *conn) join(nch ssh.NewChannel, stream *resume.Stream, what Live, grace time.Duration) (toDevice, fromDevice int64) {
	ch, reqs, err := nch.Accept()
	if err != nil {
		stream.Reset(wire.StreamCancelled)
		_ = stream.Close()
		return 0, 0
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	var m *idle.Meter
	if what.Kind == Pipe {
		m = idle.NewMeter()
		ch = idle.Channel(ch, m)
	}
	defer c.holdMetered(what, m, func() { time.AfterFunc(grace, cancel) })()
	return c.splice(ctx, ch, reqs, stream)
}

// rejectStream says the device's answer in SSH's terms.
func rejectStream(nch ssh.NewChannel, err error) {
	r, ok := errors.AsType[*resume.RefusedError](err)
	if !ok {
		_ = nch.Reject(ssh.ConnectionFailed, "hawser: "+explain(err))
		return
	}
	reason := ssh.ConnectionFailed
	switch r.Code {
	case wire.StreamDenied, wire.StreamRefused:
		reason = ssh.Prohibited
	case wire.StreamResourceShortage:
		reason = ssh.ResourceShortage
	}
	_ = nch.Reject(reason, printable(r.Message))
}

// afterTimeout is a context's end as a time, for waits that have no context of their own.
func afterTimeout(d time.Duration) (<-chan time.Time, func() bool) {
	t := time.NewTimer(d)
	return t.C, t.Stop
}
