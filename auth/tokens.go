package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// CreateToken makes a join token and returns the string to hand over; only its hash is kept.
func (s *Server) CreateToken(ctx context.Context, r *api.CreateTokenRequest) (string, error) {
	res, err := s.createToken(ctx, r, Event{Type: "admin.token.create", Actor: "local"})
	return res.GetToken(), err
}

// createToken makes a token for the actor of e, which is recorded with what was made in it.
func (s *Server) createToken(ctx context.Context, r *api.CreateTokenRequest, e Event) (*api.CreateTokenResponse, error) {
	labels, err := givenLabels(r.Labels)
	if err != nil {
		return nil, err
	}
	uses, ttl := max(r.Uses, 1), time.Duration(defaultTokenTTL)
	if r.TtlSeconds > uint64(maxTokenTTL/time.Second) {
		return nil, invalid("the token would live longer than %v", maxTokenTTL)
	}
	if r.TtlSeconds != 0 {
		ttl = time.Duration(r.TtlSeconds) * time.Second
	}
	if uses > maxTokenUses {
		return nil, invalid("more than %d uses", maxTokenUses)
	}
	var addresses []string
	switch r.Kind {
	case "hub":
		addresses = s.publicAddrs()
	case "edge":
		if addresses = s.tunnelAddrs(); len(addresses) == 0 {
			return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "no hub has joined yet, so a device would have nowhere to go; start a hub first")
		}
	default:
		return nil, invalid("token kind %q; give edge or hub", wire.Quote(r.Kind, 32))
	}
	if r.Factory {
		return s.factoryString(r, addresses, e)
	}
	if r.Kind == "hub" && (r.Name != "" || r.Approve) {
		return nil, invalid("a name pattern and approval are for tokens of kind edge")
	}
	if err := checkPattern(r.Name); err != nil {
		return nil, err
	}
	if r.Name != "" && uses > 1 && !isGlob(r.Name) && !strings.Contains(r.Name, "{") {
		return nil, invalid("%d devices cannot all be %q; write a template such as %q", uses, wire.Quote(r.Name, 64), wire.Quote(r.Name, 64)+"-{n:3}")
	}
	sources, err := parseNetworks(r.Sources)
	if err != nil {
		return nil, err
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	pin := s.Pin()
	text, err := ca.Token{Kind: r.Kind, Cluster: s.info.Cluster, Addresses: addresses[:min(len(addresses), 16)], Pin: pin, Secret: secret}.Reveal()
	if err != nil {
		return nil, fmt.Errorf("make the token: %w", err)
	}
	id, hash := tokenID(secret)
	t := tokenRecord{ID: id, Hash: hash, Kind: r.Kind, Uses: uses, Left: uses, Expires: s.cfg.Now().Add(ttl), Labels: labels, By: e.Actor, Pin: pin,
		Name: r.Name, Sources: sources, Approve: r.Approve}
	if err := s.commit(ctx, []store.Cond{store.IfAbsent(tokenPrefix + id)}, put(tokenPrefix+id, t)); err != nil {
		return nil, err
	}
	e.Kind, e.Object, e.Count = r.Kind, id, uint64(uses)
	s.record(e)
	return &api.CreateTokenResponse{Token: text, Id: id, ExpiresUnix: t.Expires.Unix()}, nil
}

// tokenID is the beginning of the secret's hash: it names the token and gives nothing of the secret away.
func tokenID(secret []byte) (string, []byte) {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:8]), sum[:]
}

// useToken finds the token of secret and the writes that take one use of it, to go into one transaction with
// what it is used for. source is charged for a secret that is none of ours.
func (s *Server) useToken(ctx context.Context, secret []byte, kind, source string) (tokenRecord, []store.Cond, []store.Op, error) {
	var t tokenRecord
	now := s.cfg.Now()
	if wait := s.guesses.wait(source, now); wait > 0 {
		return t, nil, nil, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, wait, "too many wrong tokens from %s; wait", source)
	}
	id, hash := tokenID(secret)
	rev, err := s.get(ctx, tokenPrefix+id, &t)
	if errors.Is(err, store.ErrNotFound) || err == nil && subtle.ConstantTimeCompare(hash, t.Hash) != 1 {
		s.guesses.take(source, now)
		return t, nil, nil, api.NewError(connect.CodeUnauthenticated, api.Code_CODE_TOKEN_UNKNOWN, "the cluster does not know this token; make one with `hawser token create --kind %s`", kind)
	}
	if err != nil {
		return t, nil, nil, err
	}
	problem := func(code api.Code, text string) error {
		return api.NewError(connect.CodePermissionDenied, code, "%s; make one with `hawser token create --kind %s`", text, kind)
	}
	switch {
	case t.Kind != kind:
		return t, nil, nil, problem(api.Code_CODE_TOKEN_WRONG_KIND, fmt.Sprintf("the token is for a %s, not for a %s", t.Kind, kind))
	case t.Left == 0:
		return t, nil, nil, problem(api.Code_CODE_TOKEN_SPENT, "the token is spent")
	case !now.Before(t.Expires):
		return t, nil, nil, problem(api.Code_CODE_TOKEN_EXPIRED, "the token has expired")
	case !within(t.Sources, source):
		return t, nil, nil, problem(api.Code_CODE_TOKEN_SOURCE, fmt.Sprintf("the token may not be used from %s", source))
	case t.Pin != "" && !slices.Contains(s.trusted().Pins(), t.Pin):
		// Nobody who checks the pin sends it any more; with a stolen CA key somebody may have it from one who did.
		return t, nil, nil, problem(api.Code_CODE_TOKEN_EXPIRED, "the cluster's CA was rotated since the token was made")
	}
	t.Left--
	// A spent token stays until it expires, so that its second use is told apart from a guess.
	return t, []store.Cond{store.IfModRev(tokenPrefix+id, rev)}, []store.Op{put(tokenPrefix+id, t)}, nil
}

// PublicAddr is the first address under which others reach this service.
func (s *Server) PublicAddr() string { return s.publicAddrs()[0] }

// publicAddrs are where hubs reach this service.
func (s *Server) publicAddrs() []string {
	if len(s.cfg.Public) > 0 {
		return s.cfg.Public
	}
	host, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		return []string{s.Addr()}
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			host = name
		}
	}
	return []string{net.JoinHostPort(host, port)}
}

// tunnelAddrs are where a device begins that holds no hub list, at most as many as a Joined carries: hubs that are up first, and one
// address of each before the second of any.
func (s *Server) tunnelAddrs() []string {
	var lists [2][][]string
	for _, h := range s.view.allHubs() {
		if up, _ := s.hubs.up(h.UUID); up {
			lists[0] = append(lists[0], h.Tunnel)
		} else {
			lists[1] = append(lists[1], h.Tunnel)
		}
	}
	var out []string
	for _, list := range lists {
		for i := range maxAddresses {
			for _, tunnel := range list {
				if i < len(tunnel) && !slices.Contains(out, tunnel[i]) && len(out) < maxJoinAddrs {
					out = append(out, tunnel[i])
				}
			}
		}
	}
	return out
}

// givenLabels are those a person gives. To roles name and uuid are what the device is, so that given ones would say what is not so.
func givenLabels(labels []*api.Label) (map[string]string, error) {
	for _, l := range labels {
		if ownLabel(l.GetKey()) {
			return nil, invalid("label %q: every device has it by itself; `hawser device rename` changes the name", l.GetKey())
		}
	}
	return labelMap(labels)
}

func ownLabel(key string) bool { return key == "name" || key == "uuid" }

func labelMap(labels []*api.Label) (map[string]string, error) {
	if len(labels) > maxLabels {
		return nil, invalid("more than %d labels", maxLabels)
	}
	m := make(map[string]string, len(labels))
	for _, l := range labels {
		if l.GetKey() == "" || len(l.GetKey()) > maxLabel || len(l.GetValue()) > maxLabel {
			return nil, invalid("label %q: key and value have 1 to %d bytes", wire.Quote(l.GetKey(), 64), maxLabel)
		}
		m[l.Key] = l.Value
	}
	return m, nil
}

func labelList(m map[string]string) []*api.Label {
	var out []*api.Label
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, &api.Label{Key: k, Value: m[k]})
	}
	return out
}

// CreateToken makes a join token.
func (s adminService) CreateToken(ctx context.Context, req *connect.Request[api.CreateTokenRequest]) (*connect.Response[api.CreateTokenResponse], error) {
	c := callerOf(ctx)
	// A hub ends people's SSH and says who they are: who makes one needs more than the right to let devices join.
	if req.Msg.Kind == "hub" {
		if err := s.mayAdmin(c, "hub", "create"); err != nil {
			return nil, err
		}
	}
	res, err := s.createToken(ctx, req.Msg, Event{Type: "admin.token.create", Actor: c.String(), Source: c.addr, Via: c.via})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// ListTokens lists tokens, without what they hash.
func (s adminService) ListTokens(ctx context.Context, _ *connect.Request[api.ListTokensRequest]) (*connect.Response[api.ListTokensResponse], error) {
	tokens, err := list[tokenRecord](ctx, s.Server, tokenPrefix)
	if err != nil {
		return nil, err
	}
	res := &api.ListTokensResponse{}
	for _, t := range tokens {
		res.Tokens = append(res.Tokens, &api.Token{Id: t.ID, Kind: t.Kind, Uses: t.Uses, Left: t.Left, ExpiresUnix: t.Expires.Unix(), Labels: labelList(t.Labels), CreatedBy: t.By,
			Name: t.Name, Sources: networkList(t.Sources), Approve: t.Approve})
	}
	return connect.NewResponse(res), nil
}

// RemoveToken makes a token unknown.
func (s adminService) RemoveToken(ctx context.Context, req *connect.Request[api.RemoveTokenRequest]) (*connect.Response[api.RemoveTokenResponse], error) {
	c, key := callerOf(ctx), tokenPrefix+req.Msg.Id
	err := s.commit(ctx, []store.Cond{store.IfExists(key)}, store.Delete(key))
	if errors.Is(err, store.ErrConflict) {
		return nil, notFound("no token %q", wire.Quote(req.Msg.Id, 40))
	}
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.token.remove", Actor: c.String(), Source: c.addr, Via: c.via, Object: req.Msg.Id})
	return connect.NewResponse(&api.RemoveTokenResponse{}), nil
}

// factoryString is a token without a secret: it tells where the cluster is and how to know it, and gives no right. Devices whose keys were
// imported join by their keys alone.
func (s *Server) factoryString(r *api.CreateTokenRequest, addresses []string, e Event) (*api.CreateTokenResponse, error) {
	if r.Kind != "edge" {
		return nil, invalid("a factory string is for kind edge")
	}
	if r.Uses > 1 || r.TtlSeconds != 0 || len(r.Labels) > 0 || r.Name != "" || len(r.Sources) > 0 || r.Approve {
		return nil, invalid("a factory string has no uses, end, labels, names or networks: it is no right; say them in the file of `hawser device import`")
	}
	text, err := ca.Token{Kind: r.Kind, Cluster: s.info.Cluster, Addresses: addresses[:min(len(addresses), 16)], Pin: s.Pin()}.Reveal()
	if err != nil {
		return nil, fmt.Errorf("make the string: %w", err)
	}
	e.Kind = "factory"
	s.record(e)
	return &api.CreateTokenResponse{Token: text}, nil
}

// parseNetworks reads networks and single addresses.
func parseNetworks(list []string) ([]netip.Prefix, error) {
	if len(list) > maxNetworks {
		return nil, invalid("more than %d networks", maxNetworks)
	}
	var out []netip.Prefix
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			a, aerr := netip.ParseAddr(text)
			if aerr != nil || a.Zone() != "" {
				return nil, invalid("%q is neither a network such as 192.0.2.0/24 nor an address", wire.Quote(text, 64))
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if a := p.Addr(); a.Is4In6() {
			if p.Bits() < 96 {
				return nil, invalid("%q mixes IPv4 and IPv6", wire.Quote(text, 64))
			}
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

func networkList(list []netip.Prefix) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}

// within tells whether the address is in one of the networks; no network is everywhere. What is no address is in none.
func within(networks []netip.Prefix, address string) bool {
	if len(networks) == 0 {
		return true
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}
