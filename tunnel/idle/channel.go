package idle

import (
	"io"

	"golang.org/x/crypto/ssh"
)

// Channel is a person's channel whose bytes are counted.
func Channel(ch ssh.Channel, m *Meter) ssh.Channel { return metered{ch, m} }

type metered struct {
	ssh.Channel
	m *Meter
}

func (c metered) Read(p []byte) (int, error) {
	n, err := c.Channel.Read(p)
	if n > 0 {
		c.m.In(n)
	}
	return n, err
}

func (c metered) Write(p []byte) (int, error) {
	n, err := c.Channel.Write(p)
	if n > 0 {
		c.m.Out(n)
	}
	return n, err
}

func (c metered) Stderr() io.ReadWriter { return meteredErr{c.Channel.Stderr(), c.m} }

type meteredErr struct {
	io.ReadWriter
	m *Meter
}

func (c meteredErr) Write(p []byte) (int, error) {
	n, err := c.ReadWriter.Write(p)
	if n > 0 {
		c.m.Out(n)
	}
	return n, err
}
