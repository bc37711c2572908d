package edge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
)

// resolved is one address of a hub.
type resolved struct {
	hub  string // host:port as named
	addr netip.AddrPort
}

// resolver turns hub names into addresses anew at each attempt, and remembers the last good ones for when DNS is away. Safe for concurrent use.
type resolver struct {
	lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

	mu   sync.Mutex
	last map[string][]netip.Addr // by host; at most as many as there are hubs
}

func newResolver() *resolver {
	return &resolver{lookup: net.DefaultResolver.LookupNetIP, last: map[string][]netip.Addr{}}
}

// resolve returns the addresses of all hubs, interleaved so that each hub's first address comes before any hub's second, at
// most maxAddresses. It fails only when there are none at all.
func (r *resolver) resolve(ctx context.Context, hubs []string) ([]resolved, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	lists := make([][]resolved, len(hubs))
	errs := make([]error, len(hubs))
	var wg sync.WaitGroup
	for i, hub := range hubs {
		wg.Go(func() { lists[i], errs[i] = r.one(ctx, hub) })
	}
	wg.Wait()
	var out []resolved
	seen := map[netip.AddrPort]bool{}
	for depth, more := 0, true; more && len(out) < maxAddresses; depth++ {
		more = false
		for _, l := range lists {
			if depth >= len(l) {
				continue
			}
			more = true
			if !seen[l[depth].addr] && len(out) < maxAddresses {
				seen[l[depth].addr] = true
				out = append(out, l[depth])
			}
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(append(errs, errNoAddress)...)
	}
	return out, nil
}

func (r *resolver) one(ctx context.Context, hub string) ([]resolved, error) {
	host, port, err := splitHostPort(hub)
	if err != nil {
		return nil, fmt.Errorf("hub address %q: %w", hub, err)
	}
	var ips []netip.Addr
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = []netip.Addr{ip}
	} else {
		ips, err = r.lookup(ctx, "ip", host)
		r.mu.Lock()
		if err == nil && len(ips) > 0 {
			r.last[host] = ips
		} else if last := r.last[host]; len(last) > 0 {
			ips, err = last, nil
		}
		r.mu.Unlock()
		if err != nil {
			return nil, fmt.Errorf("look up %q: %w", host, err)
		}
	}
	var out []resolved
	for _, ip := range ips {
		out = append(out, resolved{hub, netip.AddrPortFrom(ip.Unmap(), port)})
	}
	return out, nil
}

// splitHostPort splits host:port with a number from 1 to 65535.
func splitHostPort(s string) (host string, port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q is not 1 to 65535", p)
	}
	if host == "" {
		return "", 0, errors.New("no host")
	}
	return host, uint16(n), nil
}
