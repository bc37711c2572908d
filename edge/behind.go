package edge

import (
	"errors"
	"net/netip"

	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/forward"
	"hawser/tunnel/wire"
)

var errBehind = errors.New("the grant is for another server behind this device")

// behind tells whether a grant is the way to a server behind this device. Auth alone decides who goes it: neither the login nor the roles are
// of this device.
func behind(g *grant.Grant) bool { return g.Behind != [16]byte{} }

// wayBehind is access to the one address that the grant names.
func wayBehind(g *grant.Grant, r wire.OpenRequest) (forward.Access, error) {
	if r.Network != wire.NetworkTCP || len(g.ForwardTo) != 1 || r.Target != g.ForwardTo[0] {
		return nil, errBehind
	}
	t, err := policy.ParseTargets(g.ForwardTo)
	return oneServer{t}, err
}

// oneServer is the server a grant names. A name that turns out to be this device itself, or something on the link alone, is not what an
// administrator registered: for that he gives the address.
type oneServer struct{ granted policy.Targets }

func (o oneServer) Forward(host string, ip netip.Addr, port uint16) bool {
	_, err := netip.ParseAddr(host)
	if err != nil && (ip.IsLoopback() || ip.IsLinkLocalUnicast()) {
		return false
	}
	return !ip.IsMulticast() && o.granted.Forward(host, ip, port)
}

func (oneServer) Socket(string) bool { return false }
