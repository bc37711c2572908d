package session

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync"

	"hawser/edge/relay"
	"hawser/tunnel/channel/payload"
)

// openBack opens a channel to the person's client: of the kind, and for whom, that the payload says.
type openBack = func(ctx context.Context, p payload.Accept) (io.ReadWriteCloser, error)

// back gives each connection to its listeners a channel to the person's client.
type back struct {
	listeners []net.Listener
	cancel    context.CancelFunc
	wg        sync.WaitGroup
}

// serve accepts until stop; single: one connection and no more.
func (b *back) serve(ctx context.Context, most int, single bool, open openBack, what payload.Accept, listeners ...net.Listener) {
	ctx, b.cancel = context.WithCancel(ctx)
	b.listeners = listeners
	room := make(chan struct{}, most)
	var first sync.Once
	for _, l := range listeners {
		b.wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				ours := !single
				if single {
					first.Do(func() { ours = true; b.closeListeners() })
				}
				select {
				case room <- struct{}{}:
				default:
					ours = false
				}
				if !ours {
					c.Close()
					continue
				}
				b.wg.Go(func() {
					defer func() { _ = recover() }() // of one connection's; the agent goes on
					defer func() { <-room }()
					defer c.Close()
					p := what
					if from, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
						p.OriginHost, p.OriginPort = from.Addr().Unmap().String(), uint32(from.Port())
					}
					ch, err := open(ctx, p)
					if err != nil {
						return
					}
					end := context.AfterFunc(ctx, func() { c.Close(); ch.Close() })
					defer end()
					relay.Both(c, ch)
				})
			}
		})
	}
}

func (b *back) closeListeners() {
	for _, l := range b.listeners {
		l.Close()
	}
}

// stop ends the listeners and what came by them; b.wg tells when all has ended.
func (b *back) stop() {
	b.cancel()
	b.closeListeners()
}
