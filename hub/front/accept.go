package front

import (
	"context"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// The channel types an edge may ask for when somebody connected on the device.
const (
	forwardedTCPIP           = "forwarded-tcpip"
	forwardedStreamlocalType = "forwarded-streamlocal@openssh.com"
)

// acceptBack opens a channel to the person for a connection that the device holds under ticket, and splices the two. The device gives up
// the connection when no stream comes for it. x is the session whose it is; nil: a listener's.
func (c *conn) acceptBack(ctx context.Context, p *Place, parent wire.StreamID, from payload.Accept, channelType string,
	extra []byte, x *session) {
	if c.channels.Add(1) > maxChannels {
		c.channels.Add(-1)
		return
	}
	defer c.channels.Add(-1)
	ch, reqs, err := c.ssh.OpenChannel(channelType, extra)
	if err != nil {
		return
	}
	a := wire.Attach{Kind: wire.KindAccepted, ID: wire.NewStreamID()}
	a.Open = wire.OpenRequest{Parent: parent, Ticket: from.Ticket, ClientAddr: c.client, ServerAddr: c.server}.Append(nil)
	stream, err := c.openStream(ctx, p.Device, &a, p.DetachedLife, nil)
	if err != nil {
		go ssh.DiscardRequests(reqs) // ends with the channel
		_ = ch.Close()
		return
	}
	what := Live{Kind: Forward, Device: p.Device, Login: p.Login}
	switch channelType {
	case payload.AgentChannel:
		what.Channel = "agent"
		ch = x.followAgent(ch)
	case payload.X11Channel:
		what.Channel = "x11"
	case forwardedTCPIP:
		what.Channel = "remote-forward"
	case forwardedStreamlocalType:
		what.Channel = "socket-forward"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.hold(what, cancel)()
	closed := func(in, out int64) {}
	if x == nil {
		closed = c.forwardOpened(p, what.Channel, connectedTo(from), origin(from))
	}
	toDevice, fromDevice := c.splice(ctx, ch, reqs, stream)
	closed(fromDevice, toDevice) // the target is at the person's side
}

// connectedTo and origin say where a connection on the device came, and whence.
func connectedTo(a payload.Accept) string { return hostPort(a.ConnectedHost, a.ConnectedPort) }
func origin(a payload.Accept) string      { return hostPort(a.OriginHost, a.OriginPort) }

func hostPort(host string, port uint32) string {
	if port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10))
}
