package auth

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// secondFactors remembers which connections of which hubs showed a second factor, for secondFactorLife: a hub can ask for a
// code and pass it on, but cannot say that one was shown. In memory, bounded; after a restart of this service a connection
// that is still there is asked to begin anew when it opens something. Safe for concurrent use.
type secondFactors struct {
	mu   sync.Mutex
	of   map[connectionKey]shown
	from map[fromKey]connectionKey // the newest of them
}

// fromKey finds the connection that carries one end to end, which has an id of its own: both are from one port of the client.
type fromKey struct{ hub, client, user string }

type connectionKey struct {
	hub  string
	id   [16]byte
	user string
}

type shown struct {
	method string // the key or certificate that signed
	client string // host:port
	at     time.Time
}

func newSecondFactors() *secondFactors {
	return &secondFactors{of: make(map[connectionKey]shown), from: make(map[fromKey]connectionKey)}
}

func (f *secondFactors) add(k connectionKey, method, client string, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.of) >= maxSecondFactors {
		f.forgetLocked(now)
	}
	f.deleteLocked(k)
	f.of[k] = shown{method, client, now}
	f.from[fromKey{k.hub, client, k.user}] = k
}

func (f *secondFactors) deleteLocked(k connectionKey) {
	s, ok := f.of[k]
	if !ok {
		return
	}
	delete(f.of, k)
	if by := (fromKey{k.hub, s.client, k.user}); f.from[by] == k {
		delete(f.from, by)
	}
}

// carries tells whether a connection that showed a second factor is from that port of the client.
func (f *secondFactors) carries(hub, client, user string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	k, ok := f.from[fromKey{hub, client, user}]
	return ok && now.Sub(f.of[k].at) < secondFactorLife
}

func (f *secondFactors) has(k connectionKey, method string, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.of[k]
	return ok && s.method == method && now.Sub(s.at) < secondFactorLife
}

// release forgets a connection that has ended.
func (f *secondFactors) release(hub string, id [16]byte, user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deleteLocked(connectionKey{hub, id, user})
}

func (f *secondFactors) forgetUser(user string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.of {
		if k.user == user {
			f.deleteLocked(k)
		}
	}
}

func (f *secondFactors) forgetLocked(now time.Time) {
	type aged struct {
		connectionKey
		at time.Time
	}
	var all []aged
	for k, s := range f.of {
		if now.Sub(s.at) >= secondFactorLife {
			f.deleteLocked(k)
		} else {
			all = append(all, aged{k, s.at})
		}
	}
	if len(all) < maxSecondFactors {
		return
	}
	slices.SortFunc(all, func(a, b aged) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	for _, a := range all[:maxSecondFactors/8] {
		f.deleteLocked(a.connectionKey)
	}
}

// checkMFA refuses a claim for want of a second factor.
func (s *Server) checkMFA(r *api.AdmitRequest, hub string, w who) error {
	// Of a connection that does not say for which device it is, what the strictest role asks: nothing can be asked later.
	wanted := policy.MFA(w.roles)
	if access, ok := s.wantedAccess(r, w.roles); ok {
		wanted = access.MFA()
	}
	if wanted == policy.MFANone || wanted == policy.MFALogin && w.mfa {
		return nil
	}
	now := s.cfg.Now()
	if s.second.has(connectionKey{hub, [16]byte(r.ConnectionId), w.user.Name}, w.method, now) ||
		r.Way == policy.WayEndToEnd && s.second.carries(hub, r.ClientAddress, w.user.Name, now) {
		return nil
	}
	switch {
	case len(w.user.TOTP) == 0:
		return &refusal{reason: "enrol", rule: "mfa " + wanted, message: fmt.Sprintf("your roles ask for a second factor and you have no authenticator; an admin gives you a link with `hawser user reset %s`", w.user.Name)}
	case r.Kind != api.Kind_KIND_CONNECTION:
		return &refusal{reason: "mfa", rule: "mfa " + wanted, message: "your roles ask for a code of your authenticator here, and this connection was not asked for one; connect anew, with the device as user name or with -J"}
	case w.key != nil && wanted == policy.MFALogin:
		return &refusal{reason: "mfa", rule: "mfa " + wanted, message: "your roles ask for a code of your authenticator; `hawser login` gets a certificate for which none is asked"}
	}
	return &refusal{reason: "mfa", rule: "mfa " + wanted, message: "your roles ask for a code of your authenticator at each connection"}
}

// CheckSecondFactor holds a person's code against his authenticator.
func (s hubService) CheckSecondFactor(ctx context.Context, req *connect.Request[api.CheckSecondFactorRequest]) (*connect.Response[api.CheckSecondFactorResponse], error) {
	c, r := callerOf(ctx), req.Msg
	client, err := netip.ParseAddrPort(r.ClientAddress)
	if err != nil {
		return nil, invalid("client address %q is not ip:port", wire.Quote(r.ClientAddress, 64))
	}
	if len(r.ConnectionId) != 16 {
		return nil, invalid("ids have 16 bytes")
	}
	now := s.cfg.Now()
	no := func(message string, wait time.Duration) (*connect.Response[api.CheckSecondFactorResponse], error) {
		return connect.NewResponse(&api.CheckSecondFactorResponse{Message: message, RetryAfterSeconds: uint32((wait + time.Second - 1) / time.Second)}), nil
	}
	if !s.admits.take(c.id.UUID, now) {
		return no("this hub asks too much; try again in a second", time.Second)
	}
	w, err := s.authenticate(&api.AdmitRequest{PublicKey: r.PublicKey, Certificate: r.Certificate}, client)
	if ref, ok := err.(*refusal); ok {
		return no(ref.message, 0)
	} else if err != nil {
		return nil, err
	}
	source, name := sourceOf(r.ClientAddress), w.user.Name
	e := Event{
		Type: "user.mfa", Actor: c.String(), Hub: c.id.Name, User: name, Method: w.method, Client: r.ClientAddress, Connection: hex.EncodeToString(r.ConnectionId),
	}
	var l loginRecord
	if _, err := s.get(ctx, loginPrefix+name, &l); err != nil && !isNotFound(err) {
		return nil, err
	}
	if wait, what := s.lockout.wait(source, name, l.knows(source, now), now); wait > 0 {
		if s.refusals.take(source, now) {
			e.Type, e.Reason = "user.mfa.refuse", "too many failures of the "+what
			s.record(e)
		}
		return no(fmt.Sprintf("too many wrong codes; wait %v, or ask an admin for `hawser user unlock %s`", wait.Round(time.Second), name), wait)
	}
	reason := "the user has no authenticator"
	if len(w.user.TOTP) > 0 {
		if reason, err = s.spendCode(ctx, w.user, r.Code, func(*loginRecord) {}); err != nil {
			return nil, err
		}
	}
	if reason != "" {
		e.Type, e.Reason = "user.mfa.refuse", reason
		s.loginFailed(source, name, e)
		return no("wrong code; each is good once", 0)
	}
	s.lockout.good(source, name)
	s.second.add(connectionKey{c.id.UUID, [16]byte(r.ConnectionId), name}, w.method, r.ClientAddress, now)
	s.record(e)
	return connect.NewResponse(&api.CheckSecondFactorResponse{Ok: true}), nil
}
