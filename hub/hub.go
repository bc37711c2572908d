package hub

import (
	"context"
	"net/netip"
)

// Hub is one proxy. New makes it, Run runs it once.
type Hub struct {
	config Config
	ready  chan struct{}
}

// New checks the configuration; it starts nothing and touches nothing.
func New(c Config) (*Hub, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	return &Hub{config: c.withDefaults(), ready: make(chan struct{})}, nil
}

// Run serves until ctx ends.
func (h *Hub) Run(ctx context.Context) error { panic("skeleton") }

// Ready is closed when people and devices can connect.
func (h *Hub) Ready() <-chan struct{} { return h.ready }

// SSHAddr is the address people connect to; valid after Ready.
func (h *Hub) SSHAddr() netip.AddrPort { return netip.AddrPort{} }

// TunnelAddr is the address devices connect to, UDP and TCP; valid after Ready.
func (h *Hub) TunnelAddr() netip.AddrPort { return netip.AddrPort{} }
