// Package sshadapt makes a channel.Channel of a channel of golang.org/x/crypto/ssh, so that the session engine serves people who reach an
// edge by SSH itself. Start from SSHChannel.
package sshadapt

import (
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/channel"
)

// SSHChannel makes a Channel of ch and its requests. It starts a goroutine that passes requests on; it ends when ch has ended, as x/crypto closes reqs
// then. Requests that nobody takes after Close are answered with failure, so that the SSH connection under ch is never held up.
func SSHChannel(ch ssh.Channel, reqs <-chan *ssh.Request) channel.Channel {
	c := &sshChannel{Channel: ch, requests: make(chan *channel.Request), closed: make(chan struct{})}
	go c.pass(reqs)
	return c
}

type sshChannel struct {
	ssh.Channel
	requests chan *channel.Request
	closed   chan struct{}
	once     sync.Once
}

func (c *sshChannel) pass(reqs <-chan *ssh.Request) {
	defer close(c.requests)
	for r := range reqs {
		pass := channel.NewRequest(r.Type, r.WantReply, r.Payload, func(ok bool) error { return r.Reply(ok, nil) })
		select {
		case c.requests <- pass:
		case <-c.closed:
			_ = pass.Reply(false)
		}
	}
}

// Stderr implements channel.Channel.
func (c *sshChannel) Stderr() io.Writer { return c.Channel.Stderr() }

// Requests implements channel.Channel.
func (c *sshChannel) Requests() <-chan *channel.Request { return c.requests }

// Close implements channel.Channel.
func (c *sshChannel) Close() error {
	var err error
	c.once.Do(func() {
		close(c.closed)
		err = c.Channel.Close()
	})
	return err
}
