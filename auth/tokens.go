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
	"os"
	"slices"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// CreateToken makes a join token and returns the string to hand over; only its hash is kept.
func (s *Server) CreateToken(ctx context.Context, r *api.CreateTokenRequest) (string, error) {
	res, err := s.createToken(ctx, r, "local")
	return res.GetToken(), err
}

func (s *Server) createToken(ctx context.Context, r *api.CreateTokenRequest, by string) (*api.CreateTokenResponse, error) {
	labels, err := labelMap(r.Labels)
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
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	text, err := ca.Token{Kind: r.Kind, Cluster: s.info.Cluster, Addresses: addresses[:min(len(addresses), 16)], Pin: s.pin, Secret: secret}.Reveal()
	if err != nil {
		return nil, fmt.Errorf("make the token: %w", err)
	}
	id, hash := tokenID(secret)
	t := tokenRecord{ID: id, Hash: hash, Kind: r.Kind, Uses: uses, Left: uses, Expires: s.cfg.Now().Add(ttl), Labels: labels, By: by}
	if err := s.commit(ctx, []store.Cond{store.IfAbsent(tokenPrefix + id)}, put(tokenPrefix+id, t)); err != nil {
		return nil, err
	}
	s.record(Event{Type: "admin.token.create", Actor: by, Kind: r.Kind, Object: id})
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
