package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"hawser/hub/registry"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// maxOpening streams of a peer may be without their head, or on the way to the device, at once.
	maxOpening = 512
	// openRate and openBurst bound a peer's new streams: above what its people can cause (DESIGN: 200 sessions a second and hub), below
	// what costs this hub much.
	openRate, openBurst = 2000, 4000
	// maxHead bounds the messages at the head of a stream: an Attach with inner TLS says nothing that is long.
	maxHead = 512
)

var errHead = errors.New("not the head of a stream")

// streams serves the other hub's streams until the link ends.
func (l *link) streams(ctx context.Context) error {
	opening := make(chan struct{}, maxOpening)
	rate := bucket{rate: openRate, burst: openBurst}
	for {
		s, err := l.conn.AcceptStream(ctx)
		if err != nil {
			return err
		}
		full := !rate.take(l.m.c.Now())
		if !full {
			select {
			case opening <- struct{}{}:
			default:
				full = true
			}
		}
		if full {
			l.p.incident(StreamFlood, wire.UUID{}, "more streams at once than a hub's people cause")
			s.Reset(wire.StreamResourceShortage)
			continue
		}
		l.used.Store(true)
		l.m.relays.Go(func() {
			code := wire.StreamInternal
			defer func() { s.Reset(code) }() // nothing after a Close
			l.m.guard("stream", func() { code = l.relay(ctx, s, func() { <-opening }) })
		})
	}
}

// relay serves one stream: a device here is opened for it, and bytes are copied both ways until both ends have ended. opened is called once.
// It returns what to reset the stream with, unless it closed it.
func (l *link) relay(ctx context.Context, s tunnel.Stream, opened func()) wire.StreamCode {
	once := sync.OnceFunc(opened)
	defer once()
	_ = s.SetReadDeadline(time.Now().Add(l.m.c.Timing.Handshake))
	open, attach, raw, err := readHead(s)
	if err != nil {
		if l.conn.Context().Err() == nil {
			l.p.incident(BadOpen, wire.UUID{}, err.Error())
		}
		return wire.StreamProtocol
	}
	_ = s.SetReadDeadline(time.Time{})
	switch {
	case attach.EntryHub != l.p.id || attach.EntryHubIncarnation != l.incarnation:
		l.p.incident(WrongEntryHub, open.Device, "opened a stream in the name of hub "+attach.EntryHub.String())
		return wire.StreamDenied
	case !attach.InnerTLS || attach.Counter != 0 || attach.Sent != 0 || attach.Received != 0 || len(attach.Open) > 0:
		l.p.incident(BadOpen, open.Device, "opened a stream that is not inner TLS")
		return wire.StreamDenied
	}
	d, code := l.openDevice(ctx, open)
	if d == nil {
		return code
	}
	if _, err := d.Write(raw); err != nil {
		d.Reset(wire.StreamCancelled)
		return wire.StreamCancelled
	}
	once()
	l.p.relayed.Add(1)
	return l.splice(s, d)
}

// readHead reads PeerOpen and Attach, and returns the latter's bytes as well.
func readHead(s io.Reader) (open wire.PeerOpen, attach wire.Attach, raw []byte, err error) {
	raw, err = readMessage(s)
	if err != nil {
		return open, attach, nil, err
	}
	m, err := wire.Decode(raw)
	p, ok := m.(*wire.PeerOpen)
	if err != nil || !ok {
		return open, attach, nil, errHead
	}
	if raw, err = readMessage(s); err != nil {
		return open, attach, nil, err
	}
	attach, err = wire.DecodeAttach(raw)
	return *p, attach, raw, err
}

func readMessage(r io.Reader) ([]byte, error) {
	b, err := tunnel.ReadMessage(r, maxHead)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errHead, err)
	}
	return b, nil
}

// openDevice opens a stream on a tunnel of this hub, the wished slot's if it can be. Devices at other hubs are none of it: there is no
// second hop.
func (l *link) openDevice(ctx context.Context, open wire.PeerOpen) (tunnel.Stream, wire.StreamCode) {
	ctx, cancel := context.WithTimeout(ctx, l.m.c.Timing.Handshake)
	defer cancel()
	tunnels := l.m.c.Registry.Tunnels(open.Device)
	if len(tunnels) == 2 && tunnels[0].Slot != open.Slot {
		tunnels = []*registry.Tunnel{tunnels[1], tunnels[0]}
	}
	code := wire.StreamNotFound
	for _, t := range tunnels {
		d, err := l.m.c.OpenLocal(ctx, t)
		switch {
		case err == nil:
			return d, 0
		case errors.Is(err, tunnel.ErrTooManyStreams):
			code = wire.StreamResourceShortage
		default:
			code = wire.StreamNotFound
		}
	}
	return nil, code
}

// splice copies both ways until both have ended, and closes both streams; it returns the code a failed one was reset with.
func (l *link) splice(peer, device tunnel.Stream) wire.StreamCode {
	var mu sync.Mutex
	code, failed := wire.StreamOK, false
	end := func(err error) {
		if err == nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if failed {
			return
		}
		failed, code = true, wire.StreamCancelled
		if e, ok := errors.AsType[*tunnel.StreamError](err); ok && e.Code != wire.StreamOK {
			code = e.Code
		}
		// At once, so that the other direction ends as well.
		peer.Reset(code)
		device.Reset(code)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			if p := recover(); p != nil {
				end(fmt.Errorf("panic: %v", p))
			}
		}()
		end(copyHalf(peer, device, nil))
	})
	end(copyHalf(device, peer, l.touch))
	wg.Wait()
	if !failed {
		_ = peer.Close()
		_ = device.Close()
	}
	return code
}

const (
	idleBuffer = 1 << 10  // bytes a direction holds while nothing much comes
	fullBuffer = 32 << 10 // and while much does
)

var fullBuffers = sync.Pool{New: func() any { return new([fullBuffer]byte) }}

// copyHalf copies until the end of from, which becomes that of to. A peer that reads no more is no error: what comes is then for nobody.
func copyHalf(to, from tunnel.Stream, heard func()) error {
	var small [idleBuffer]byte
	var full *[fullBuffer]byte
	defer func() {
		if full != nil {
			fullBuffers.Put(full)
		}
	}()
	for {
		b := small[:]
		if full != nil {
			b = full[:]
		}
		n, err := from.Read(b)
		if heard != nil && n > 0 {
			heard()
		}
		if n > 0 {
			if _, werr := to.Write(b[:n]); werr != nil {
				if e, ok := errors.AsType[*tunnel.StreamError](werr); ok && e.Remote && e.Code == wire.StreamOK {
					return nil
				}
				return werr
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return to.CloseWrite()
		case err != nil:
			return err
		case full == nil && n == len(small):
			full = fullBuffers.Get().(*[fullBuffer]byte)
		case full != nil && n < idleBuffer:
			fullBuffers.Put(full)
			full = nil
		}
	}
}
