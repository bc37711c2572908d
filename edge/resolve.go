package edge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// resolved is one address of a hub, or with the zero addr the way to it through the proxy, which resolves the name itself.
type resolved struct {
	hub  string // host:port as named
	addr netip.AddrPort
	only Carriers // of the two carriers; AnyCarrier: both
}

const (
	// addressFile holds the last good addresses, a line a host: its name and addresses in text.
	addressFile = "addresses"
	// maxHosts and maxHostAddresses bound what of them is remembered: as many as a hub list has hubs, and more than an attempt dials.
	maxHosts, maxHostAddresses = 64, 16
	// maxAddressFile is what those need at most.
	maxAddressFile = maxHosts * (256 + maxHostAddresses*40)
	// addressesEvery is the least time between two writes of them.
	addressesEvery = time.Hour
)

// resolver turns hub names into addresses anew at each attempt, and remembers the last good ones for when DNS is away. Hubs prove who they are by
// certificate and not by name, so an old address is at worst a useless one. (Package net reads /etc/resolv.conf again when it changed, and takes
// 127.0.0.1 where there is none.) Safe for concurrent use.
type resolver struct {
	lookup  func(ctx context.Context, network, host string) ([]netip.Addr, error)
	proxied bool
	failed  func(err error) // told when remembered addresses stand in for DNS; may be nil

	mu     sync.Mutex
	last   map[string][]netip.Addr // by host, sorted for comparison; at most maxHosts
	store  *state                  // where they are kept; nil: in memory alone
	stored []byte                  // what is there
	wrote  time.Time               // when
}

func newResolver(proxied bool) *resolver {
	return &resolver{lookup: net.DefaultResolver.LookupNetIP, proxied: proxied, last: map[string][]netip.Addr{}}
}

// keepIn reads what is remembered from the state directory, and writes it there from now on. A damaged file is an empty one.
func (r *resolver) keepIn(s *state) {
	b, err := s.read(addressFile)
	if err != nil {
		b = nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store, r.stored, r.last = s, b, decodeAddresses(b)
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
	seen := map[resolved]bool{}
	for depth, more := 0, true; more && len(out) < maxAddresses; depth++ {
		more = false
		for _, l := range lists {
			if depth >= len(l) {
				continue
			}
			more = true
			key := l[depth]
			if key.addr.IsValid() {
				key.hub = "" // two names of one address are one
			}
			if !seen[key] && len(out) < maxAddresses {
				seen[key] = true
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
	var out []resolved
	only := AnyCarrier
	if r.proxied {
		only = OnlyQUIC
		out = append(out, resolved{hub: hub, only: OnlyTLS})
	}
	ips, err := r.addresses(ctx, host)
	if err != nil && len(out) == 0 {
		return nil, fmt.Errorf("look up %q: %w", host, err)
	}
	for _, ip := range ips {
		out = append(out, resolved{hub, netip.AddrPortFrom(ip.Unmap(), port), only})
	}
	return out, nil
}

// addresses looks one host up, or remembers.
func (r *resolver) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	ips, err := r.lookup(ctx, "ip", host)
	r.mu.Lock()
	last := r.last[host]
	if err == nil && len(ips) > 0 {
		if last == nil && len(r.last) >= maxHosts {
			for other := range r.last { // any: hub names change once a year
				delete(r.last, other)
				break
			}
		}
		r.last[host] = sortedAddresses(ips)
		r.mu.Unlock()
		return ips, nil
	}
	r.mu.Unlock()
	if len(last) > 0 {
		if r.failed != nil && err != nil {
			r.failed(err)
		}
		return last, nil
	}
	return nil, err
}

// sortedAddresses is a sorted copy, at most maxHostAddresses: DNS rotates them, and another order is no change. (By hand: package slices' sort of this type
// costs 9 kB.)
func sortedAddresses(ips []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips[:min(len(ips), maxHostAddresses)] {
		out = append(out, ip)
		for i := len(out) - 1; i > 0 && out[i].Less(out[i-1]); i-- {
			out[i], out[i-1] = out[i-1], out[i]
		}
	}
	return out
}

// save is called once a tunnel stands, for until then they may be a captive portal's. It writes what is remembered, if it changed and the last write is
// long enough ago: flash is not for addresses that flap.
func (r *resolver) save(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store == nil || !r.wrote.IsZero() && now.Sub(r.wrote) < addressesEvery {
		return
	}
	b := encodeAddresses(r.last)
	if bytes.Equal(b, r.stored) {
		return
	}
	r.wrote, r.stored = now, b // also after an error: a directory that cannot be written is tried hourly
	_ = r.store.write(addressFile, b)
}

func encodeAddresses(m map[string][]netip.Addr) []byte {
	hosts := make([]string, 0, len(m))
	for h := range m {
		hosts = append(hosts, h)
	}
	slices.Sort(hosts)
	var b []byte
	for _, h := range hosts {
		b = append(b, h...)
		for _, ip := range m[h] {
			b = append(append(b, ' '), ip.Unmap().String()...)
		}
		b = append(b, '\n')
	}
	return b
}

// decodeAddresses reads what it can: what it cannot is looked up again.
func decodeAddresses(b []byte) map[string][]netip.Addr {
	m := map[string][]netip.Addr{}
	for line := range bytes.Lines(b[:min(len(b), maxAddressFile)]) {
		f := strings.Fields(string(line))
		if len(f) < 2 || len(f) > 1+maxHostAddresses || len(f[0]) > 255 || len(m) == maxHosts {
			continue
		}
		var ips []netip.Addr
		for _, s := range f[1:] {
			if ip, err := netip.ParseAddr(s); err == nil {
				ips = append(ips, ip)
			}
		}
		if len(ips) > 0 {
			m[f[0]] = ips
		}
	}
	return m
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
