package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

// What a hub that logs in to a server without an agent gets, and against what.

const (
	// sessionLogins and forwardsLogins are how often one grant is used: two or three times for a login, for it, for a signature with a stored key and
	// for a host key that is new. A session connects once and may meet a server that takes no key of its first algorithm; a connection's forwards
	// share one login for as long as it is used, and a page that asks every 6 s for the five minutes of a grant logs in each time.
	sessionLogins  = 4
	forwardsLogins = 192
	// maxTargetGrants are counted at once; beyond, who asks is refused until some expire.
	maxTargetGrants = 1 << 16
	maxSignData     = 8 << 10 // bytes of a userauth request
	maxSignature    = 4 << 10
)

// targetLogins counts how often a grant was used, until it expires. The zero value is ready; safe for concurrent use.
type targetLogins struct {
	mu    sync.Mutex
	used  map[[16]byte]targetUse
	swept time.Time
}

type targetUse struct {
	n     int
	until time.Time
}

// take counts one use of a grant; false: it has had its uses.
func (l *targetLogins) take(g *grant.Grant, now time.Time) bool {
	limit := sessionLogins
	if g.Kind == grant.Forwards {
		limit = forwardsLogins
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used == nil {
		l.used = make(map[[16]byte]targetUse)
	}
	if now.Sub(l.swept) > time.Minute || len(l.used) >= maxTargetGrants {
		l.swept = now
		for id, u := range l.used {
			if now.After(u.until) {
				delete(l.used, id)
			}
		}
	}
	u, known := l.used[g.ID]
	if u.n >= limit || !known && len(l.used) >= maxTargetGrants {
		return false
	}
	l.used[g.ID] = targetUse{u.n + 1, g.NotAfter}
	return true
}

// targetLogin is a grant that was held against everything: whose login it is, and to what.
type targetLogin struct {
	*grant.Grant
	device *deviceRecord
	c      caller
}

func (l *targetLogin) event(typ string) Event {
	return Event{
		Type: typ, Actor: l.c.String(), Hub: l.c.id.Name, User: l.User, Device: l.device.Name, DeviceUUID: l.device.UUID, Login: l.Login,
		Client: l.ClientAddr.String(), Connection: hex.EncodeToString(l.ConnectionID[:]), Session: sessionOf(l.Grant),
	}
}

func sessionOf(g *grant.Grant) string {
	if g.SessionID == [16]byte{} {
		return ""
	}
	return hex.EncodeToString(g.SessionID[:])
}

// targetLogin checks a grant that a hub shows: it is this service's, for that hub, for a server without an agent, of a session or connection
// that the hub has, and what it rests on still stands. Each use is counted.
func (s *Server) targetLogin(c caller, blob []byte) (*targetLogin, error) {
	denied := func(reason string, err error) error {
		s.record(Event{Type: "target.refuse", Actor: c.String(), Hub: c.id.Name, Reason: reason, Message: clip(err.Error())})
		return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "%w", err)
	}
	now := s.cfg.Now()
	if !s.admits.take(c.id.UUID, now) {
		return nil, api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, time.Second, "too many logins to servers at once")
	}
	g, err := grant.Open(blob, s.trusted().GrantKeys)
	if err != nil {
		return nil, denied("grant", err)
	}
	hub, err := wire.ParseUUID(c.id.UUID)
	if err != nil {
		return nil, err
	}
	if err := g.Check(grant.Want{Cluster: s.info.Cluster, Device: g.Device, Incarnation: g.Incarnation, Hub: hub, Kind: g.Kind, Now: now}); err != nil {
		return nil, denied("grant", err)
	}
	if g.Kind != grant.Session && g.Kind != grant.Forwards || g.Offline || g.Behind != [16]byte{} || g.JoinMode != "" { // who joins logs in to nothing
		return nil, denied("grant", grant.ErrWrongKind)
	}
	d := s.view.device(wire.UUID(g.Device).String())
	if d == nil || d.Target == nil {
		return nil, denied("device", errors.New("the grant is for no server without an agent"))
	}
	id := g.SessionID
	if g.Kind == grant.Forwards {
		id = g.ConnectionID
	}
	sess := s.hubs.of(id)
	if sess == nil || sess.hub != c.id.UUID || sess.user != g.User {
		return nil, denied("session", errors.New("this hub has no such session or connection"))
	}
	// As it would be judged now: the connection of forwards names no device.
	judged := *sess
	judged.device, judged.login, judged.way = d, g.Login, policy.WayHub
	if why := s.judgeAgain(&judged); why != nil {
		return nil, denied("policy", why)
	}
	if ref := d.refuseBehind(policy.WayHub, g.Login); ref != nil {
		return nil, denied("login", errors.New(ref.message))
	}
	if !s.logins.take(g, now) {
		return nil, denied("rate", errors.New("the grant has been used for as many logins as it is good for"))
	}
	return &targetLogin{g, d, c}, nil
}

// OpenTarget gives a hub the way to a server and, unless a stored key logs in, a certificate.
func (s targetService) OpenTarget(ctx context.Context, req *connect.Request[api.OpenTargetRequest]) (*connect.Response[api.OpenTargetResponse], error) {
	c, r := callerOf(ctx), req.Msg
	l, err := s.targetLogin(c, r.Grant)
	if err != nil {
		return nil, err
	}
	t := l.device.Target
	res := &api.OpenTargetResponse{Address: t.Address, Via: t.Via, ViaName: s.viaName(t), Local: t.Local, HostKey: t.HostKey}
	e := l.event("target.open")
	e.Object = res.ViaName + " " + t.Address
	if t.Via != viaHub {
		if res.Forwards, err = s.forwardsTo(l, r.Incarnation); err != nil {
			return nil, err
		}
	}
	if t.Key != "" {
		k, err := s.targetKey(ctx, t.Key)
		if err != nil {
			return nil, err
		}
		res.StoredKey, e.Method = k.Public, "key "+printOfBlob(k.Public)
	} else {
		key, err := ssh.ParsePublicKey(r.PublicKey)
		if err != nil {
			return nil, invalid("the key to certify cannot be read")
		}
		now := s.cfg.Now()
		cert, err := s.set.IssueTarget(ca.TargetRequest{
			KeyID: fmt.Sprintf("hawser %s session=%x device=%s", l.User, s.idOf(l.Grant), l.device.Name), Login: l.Login, Device: l.device.Name, Key: key,
			TTL: min(ca.MaxTargetTTL, l.NotAfter.Sub(now)), Now: now, Forwards: l.Kind == grant.Forwards, ForceCommand: l.ForceCommand,
		})
		if err != nil {
			return nil, invalid("%w", err)
		}
		res.Certificate, e.Method = cert.Marshal(), fmt.Sprintf("certificate %d", cert.Serial)
	}
	s.record(e)
	return connect.NewResponse(res), nil
}

// idOf is what the server's log shows of a login: the session, or the connection of forwards.
func (s *Server) idOf(g *grant.Grant) [16]byte {
	if g.Kind == grant.Forwards {
		return g.ConnectionID
	}
	return g.SessionID
}

// forwardsTo grants the way to a server to the run of the agent that is to dial it: that address, and nothing else.
func (s *Server) forwardsTo(l *targetLogin, incarnation []byte) ([]byte, error) {
	t := l.device.Target
	gw := s.view.device(t.Via)
	switch {
	case gw == nil:
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
			"the device that reached %s was removed; `hawser device set %s --via DEVICE` names another", l.device.Name, l.device.Name)
	case gw.Quarantine != nil:
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_QUARANTINED, "%s, which reaches %s, is in quarantine", gw.Name, l.device.Name)
	case len(incarnation) != 16:
		return nil, invalid("an incarnation has 16 bytes")
	}
	uuid, err := wire.ParseUUID(gw.UUID)
	if err != nil {
		return nil, err
	}
	g := grant.Grant{
		Cluster: l.Cluster, ConnectionID: l.ConnectionID, Kind: grant.Forwards, User: l.User, Method: l.Method, Roles: l.Roles, PolicyRevision: l.PolicyRevision,
		Device: uuid, Incarnation: [16]byte(incarnation), Login: l.Login, Channels: []string{policy.LocalForward}, ForwardTo: []string{t.Address},
		ClientAddr: l.ClientAddr, EntryHub: l.EntryHub, DetachedLife: l.DetachedLife, Behind: l.Device,
	}
	rand.Read(g.ID[:])
	g.NotBefore, g.NotAfter = grant.Window(s.cfg.Now())
	return g.Sign(s.set.GrantKey())
}

// PinHostKey pins the first host key of a server, and refuses any other than the pinned one.
func (s targetService) PinHostKey(ctx context.Context, req *connect.Request[api.PinHostKeyRequest]) (*connect.Response[api.PinHostKeyResponse], error) {
	c, r := callerOf(ctx), req.Msg
	l, err := s.targetLogin(c, r.Grant)
	if err != nil {
		return nil, err
	}
	if err := checkHostKey(r.HostKey); err != nil {
		return connect.NewResponse(&api.PinHostKeyResponse{Message: "its host key is not accepted: " + err.Error()}), nil
	}
	first, told := false, false
	now, err := s.changeTarget(ctx, l.device, func(t *targetRecord) error {
		first, told = len(t.HostKey) == 0, false
		switch at := s.cfg.Now(); {
		case first:
			t.HostKey, t.Pinned = r.HostKey, at
		case bytes.Equal(t.HostKey, r.HostKey):
		case !bytes.Equal(t.Offered, r.HostKey):
			t.Offered, t.OfferedAt, told = r.HostKey, at, true
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	e := l.event("target.hostkey")
	e.Method = "key " + printOfBlob(r.HostKey)
	switch {
	case first:
		e.Reason = "first"
		s.record(e)
	case !bytes.Equal(now.Target.HostKey, r.HostKey):
		e.Type, e.Reason, e.Object = "target.refuse", "host-key", printOfBlob(now.Target.HostKey)
		if told {
			s.record(e)
		}
		return connect.NewResponse(&api.PinHostKeyResponse{Message: fmt.Sprintf(
			"the host key of %s is not the one it had: somebody may be in its place, or it was installed anew. It was %s and is %s now; "+
				"who knows the new one to be right accepts it with `hawser device accept-key %s %s`", now.Name, printOfBlob(now.Target.HostKey), printOfBlob(r.HostKey),
			now.Name, printOfBlob(r.HostKey))}), nil
	}
	return connect.NewResponse(&api.PinHostKeyResponse{Ok: true}), nil
}

// SignForTarget signs one login with the stored key.
//
// A hub could otherwise have anything signed by it, and log in to any server that takes the key. So the data has to be the userauth request
// (RFC 4252, section 7) of the grant's login by that very key, and the session identifier it begins with has to be signed by the host key that
// is pinned for the grant's device: that signature is made by a server in a key exchange, and by nobody else. OpenSSH binds the use of an
// agent's keys to a host in the same way (session-bind@openssh.com).
func (s targetService) SignForTarget(ctx context.Context, req *connect.Request[api.SignForTargetRequest]) (*connect.Response[api.SignForTargetResponse], error) {
	c, r := callerOf(ctx), req.Msg
	l, err := s.targetLogin(c, r.Grant)
	if err != nil {
		return nil, err
	}
	refuse := func(why string) error {
		e := l.event("target.refuse")
		e.Reason, e.Message = "sign", why
		s.record(e)
		return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "not signed: %s", why)
	}
	if len(r.Data) > maxSignData || len(r.HostSignature) > maxSignature {
		return nil, invalid("the request has too many bytes")
	}
	d := s.view.device(l.device.UUID) // with the key that was pinned a moment ago
	if d == nil || d.Target == nil || d.Target.Key == "" {
		return nil, refuse("no stored key logs in to this device")
	}
	k, err := s.targetKey(ctx, d.Target.Key)
	if err != nil {
		return nil, err
	}
	u, err := parseUserauth(r.Data)
	switch {
	case err != nil:
		return nil, refuse(err.Error())
	case u.user != l.Login:
		return nil, refuse("the request is for another login than the grant")
	case !bytes.Equal(u.key, k.Public):
		return nil, refuse("the request is by another key than the device's")
	case u.algorithm != r.Algorithm || !mayUse(k.Public, u.algorithm):
		return nil, refuse("the request is by an algorithm that the key does not have")
	case len(d.Target.HostKey) == 0 || !bytes.Equal(d.Target.HostKey, r.HostKey):
		return nil, refuse("the connection is to another host key than the pinned one")
	}
	if err := verifyBinding(r.HostKey, u.session, r.HostSignature); err != nil {
		return nil, refuse(err.Error())
	}
	signer, err := s.targetSigner(k)
	if err != nil {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%w", err)
	}
	multi, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, refuse("the key cannot sign by a named algorithm")
	}
	sig, err := multi.SignWithAlgorithm(rand.Reader, r.Data, u.algorithm)
	if err != nil {
		return nil, refuse("the key does not sign by " + u.algorithm)
	}
	e := l.event("target.sign")
	e.Object, e.Method = k.Name, "key "+printOfBlob(k.Public)
	s.record(e)
	return connect.NewResponse(&api.SignForTargetResponse{Signature: ssh.Marshal(sig)}), nil
}

// mayUse tells whether a key signs by an algorithm here: SHA-1 never.
func mayUse(blob []byte, algorithm string) bool {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return false
	}
	if key.Type() == ssh.KeyAlgoRSA {
		return algorithm == ssh.KeyAlgoRSASHA256 || algorithm == ssh.KeyAlgoRSASHA512
	}
	return algorithm == key.Type()
}

// verifyBinding holds a host's signature of a key exchange against the session identifier that came of it.
func verifyBinding(hostKey, session, signature []byte) error {
	key, err := ssh.ParsePublicKey(hostKey)
	if err != nil {
		return errors.New("the host key cannot be read")
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(signature, &sig); err != nil || len(sig.Rest) > 0 {
		return errors.New("the host's signature cannot be read")
	}
	if !mayUse(hostKey, sig.Format) || key.Verify(session, &sig) != nil {
		return errors.New("the host key has not signed this connection")
	}
	return nil
}

// userauth is what is signed to log in with a key: RFC 4252, section 7.
type userauth struct {
	session         []byte
	user, algorithm string
	key             []byte
}

const msgUserauthRequest = 50

// parseUserauth reads it, to the last byte.
func parseUserauth(b []byte) (u userauth, err error) {
	bad := errors.New("the data is no request to log in with a key")
	next := func() []byte {
		if err != nil || len(b) < 4 {
			err = bad
			return nil
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			err = bad
			return nil
		}
		v := b[:n]
		b = b[n:]
		return v
	}
	octet := func(want byte) {
		if err != nil || len(b) < 1 || b[0] != want {
			err = bad
			return
		}
		b = b[1:]
	}
	u.session = next()
	octet(msgUserauthRequest)
	u.user = string(next())
	if service, method := next(), next(); string(service) != "ssh-connection" || string(method) != "publickey" {
		err = bad
	}
	octet(1)
	u.algorithm, u.key = string(next()), next()
	// A session identifier is a hash: 20 bytes at the least, 64 at the most.
	if len(b) > 0 || len(u.session) < 20 || len(u.session) > 64 {
		err = bad
	}
	return u, err
}
