package front

import (
	"context"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/wire"
)

// The channel types an edge may ask for when somebody connected on the device.
const (
	agentChannel             = "auth-agent@openssh.com"
	forwardedTCPIP           = "forwarded-tcpip"
	forwardedStreamlocalType = "forwarded-streamlocal@openssh.com"
)

// acceptBack opens a channel to the person for a connection that the device holds under ticket, and splices the two. The device gives up
// the connection when no stream comes for it.
func (c *conn) acceptBack(ctx context.Context, p *Place, parent wire.StreamID, ticket uint64, channelType string, extra []byte) {
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
	a.Open = wire.OpenRequest{Parent: parent, Ticket: ticket, ClientAddr: c.client, ServerAddr: c.server}.Append(nil)
	stream, err := c.openStream(ctx, p.Device, &a, p.DetachedLife, nil)
	if err != nil {
		go ssh.DiscardRequests(reqs) // ends with the channel
		_ = ch.Close()
		return
	}
	c.splice(ctx, ch, reqs, stream)
}
