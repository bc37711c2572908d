package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// ErrTarget is returned for an element of forward_to that cannot be read.
var ErrTarget = errors.New("not HOST:PORT or an absolute socket path")

// Targets is a parsed forward_to, such as a grant carries. The empty one is the default of the package doc.
type Targets struct{ list []target }

// target is one element: a socket path when path is set, else a host and ports.
type target struct {
	path     string       // glob
	host     string       // glob over names; "*" is any host
	network  netip.Prefix // valid: an address or network, and host is empty
	from, to uint16
}

// ParseTargets reads a forward_to list.
func ParseTargets(list []string) (Targets, error) {
	var ts Targets
	for _, s := range list {
		t, err := parseTarget(s)
		if err != nil {
			return Targets{}, fmt.Errorf("%q: %w", s, err)
		}
		ts.list = append(ts.list, t)
	}
	return ts, nil
}

// Forward reports whether a TCP forward to host, as the person typed it, and port is allowed when ip is what is dialled.
// The zero ip asks whether any address of the host could be allowed: enough for a hub that does not resolve names, never
// for whoever dials.
func (ts Targets) Forward(host string, ip netip.Addr, port uint16) bool {
	host, ip = canonical(host, ip)
	if len(ts.list) == 0 {
		return reachableByDefault(ip)
	}
	for _, t := range ts.list {
		if t.matches(host, ip, port, true) {
			return true
		}
	}
	return false
}

// Socket reports whether a forward to the socket at an absolute, clean path is allowed.
func (ts Targets) Socket(name string) bool {
	if !cleanPath(name) {
		return false
	}
	if len(ts.list) == 0 {
		return true
	}
	return ts.namesSocket(name)
}

func (ts Targets) namesSocket(name string) bool {
	for _, t := range ts.list {
		if t.path != "" && glob(t.path, name) {
			return true
		}
	}
	return false
}

// deniesTCP is Forward for a deny rule: what is not known is not denied yet.
func (ts Targets) deniesTCP(host string, ip netip.Addr, port uint16) bool {
	host, ip = canonical(host, ip)
	for _, t := range ts.list {
		if t.matches(host, ip, port, false) {
			return true
		}
	}
	return false
}

// matches holds one target against a canonical host and address. allows: it is to allow something; then a network matches while the address is
// not known yet, and a name only what a name may stand for.
func (t target) matches(host string, ip netip.Addr, port uint16, allows bool) bool {
	if t.path != "" || port < t.from || port > t.to {
		return false
	}
	if t.network.IsValid() {
		if !ip.IsValid() {
			return allows
		}
		return t.network.Contains(ip)
	}
	if allows && !reachableByName(t.host, ip) {
		return false
	}
	if t.host == "*" {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err != nil && glob(t.host, host) // a name pattern never matches an address, so 10.* cannot pass for a network
}

// reachableByName reports whether a rule with the name may allow the address at all: whoever answers for names in DNS must not choose what of
// the device itself, or of its cloud, is reached. Those take a rule with their address.
func reachableByName(name string, ip netip.Addr) bool {
	return reachableByDefault(ip) && (!ip.IsLoopback() || name == "*" || name == "localhost")
}

// canonical lower-cases the host, drops a final dot, and reduces an address to the one that is really dialled: no zone, no
// IPv4 in IPv6, and the unspecified address, which dials loopback, as loopback. A host that is an address itself stands in
// for an ip that is not known.
func canonical(host string, ip netip.Addr) (string, netip.Addr) {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if literal, err := netip.ParseAddr(host); err == nil && !ip.IsValid() {
		ip = literal
	}
	ip = ip.Unmap().WithZone("")
	switch ip {
	case netip.IPv4Unspecified():
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	}
	return host, ip
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// metadata are addresses at which clouds give their machines credentials and settings: most clouds', and Amazon's, Google's, Alibaba's, Azure's.
var metadata = [...]netip.Addr{
	netip.AddrFrom4([4]byte{169, 254, 169, 254}),
	netip.AddrFrom16([16]byte{0: 0xfd, 2: 0x0e, 3: 0xc2, 14: 2, 15: 0x54}), netip.AddrFrom16([16]byte{0: 0xfd, 1: 0x20, 3: 0xce, 14: 2, 15: 0x54}),
	netip.AddrFrom4([4]byte{100, 100, 100, 200}), netip.AddrFrom4([4]byte{168, 63, 129, 16}),
}

// Metadata reports whether an address, without a zone, is one at which clouds give their machines credentials.
func Metadata(ip netip.Addr) bool { return slices.Contains(metadata[:], Translated(ip)) }

// reachableByDefault is what no rule has to name. The zero ip is not known yet.
func reachableByDefault(ip netip.Addr) bool {
	ip = Translated(ip)
	return !ip.IsLinkLocalUnicast() && !ip.IsMulticast() && ip != broadcast && !Metadata(ip)
}

// OfOneHost tells whether an address can be one server's that people are to reach: not that of many, of none, or of a cloud's credentials.
func OfOneHost(ip netip.Addr) bool {
	ip = Translated(ip)
	return !ip.IsUnspecified() && !ip.IsMulticast() && ip != broadcast && !Metadata(ip)
}

// Translated is the IPv4 address that an IPv6 address reaches in the end; of any other the address itself.
func Translated(ip netip.Addr) netip.Addr {
	if b := ip.As16(); ip.Is6() && [12]byte(b[:12]) == nat64 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return ip.Unmap()
}

// nat64 is the prefix behind which a translator reaches IPv4 addresses.
var nat64 = [12]byte{0, 0x64, 0xff, 0x9b}

func cleanPath(name string) bool {
	return strings.HasPrefix(name, "/") && path.Clean(name) == name && !strings.ContainsRune(name, 0)
}

func parseTarget(s string) (target, error) {
	if strings.HasPrefix(s, "/") {
		if !cleanPath(s) {
			return target{}, ErrTarget
		}
		return target{path: s}, nil
	}
	i := strings.LastIndexByte(s, ':')
	if i < 1 {
		return target{}, ErrTarget
	}
	host, port := s[:i], s[i+1:]
	t := target{}
	var ok bool
	if t.from, t.to, ok = parsePorts(port); !ok {
		return target{}, fmt.Errorf("%w: the port is a number, a range a-b, or *", ErrTarget)
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, ok = strings.CutSuffix(inner, "]"); !ok {
			return target{}, ErrTarget
		}
		host = inner
	}
	if p, err := netip.ParsePrefix(host); err == nil {
		t.network = p.Masked()
	} else if a, err := netip.ParseAddr(host); err == nil && a.Zone() == "" {
		a = a.Unmap()
		t.network = netip.PrefixFrom(a, a.BitLen())
	}
	switch {
	case t.network.IsValid() && t.network.Addr().Is4In6():
		return target{}, fmt.Errorf("%w: write the IPv4 network itself", ErrTarget)
	case t.network.IsValid() && t.network.Addr().Is6() != bracketed:
		return target{}, fmt.Errorf("%w: an IPv6 address stands in brackets, nothing else does", ErrTarget)
	case t.network.IsValid():
		return t, nil
	case bracketed || !hostPattern(host):
		return target{}, ErrTarget
	}
	t.host = strings.TrimSuffix(strings.ToLower(host), ".")
	return t, nil
}

// hostPattern accepts DNS names with *, but nothing made of digits, dots and * alone save the single *: that would be
// taken for a network.
func hostPattern(h string) bool {
	if h == "*" {
		return true
	}
	letters := false
	for i := range len(h) {
		switch c := h[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
			letters = true
		case '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_' || c == '*':
		default:
			return false
		}
	}
	return letters
}

func parsePorts(s string) (from, to uint16, ok bool) {
	if s == "*" {
		return 0, 65535, true
	}
	low, high, isRange := strings.Cut(s, "-")
	a, err := strconv.ParseUint(low, 10, 16)
	if err != nil {
		return 0, 0, false
	}
	b := a
	if isRange {
		if b, err = strconv.ParseUint(high, 10, 16); err != nil {
			return 0, 0, false
		}
	}
	return uint16(a), uint16(b), a <= b
}
