package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"net/http"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/policy"
)

// need is what a method asks of its caller.
type need struct {
	// who: roleJoiner (a certificate nobody signed but its own key), roleOldHub (a
	// hub's, perhaps expired), or a ca.Role.
	who ca.Role
	// resource and verb must be among what a user's roles administer; both empty:
	// every user, and what he gets is what his roles let him see.
	resource, verb string
}

const (
	roleJoiner ca.Role = "joiner"
	roleOldHub ca.Role = "hub, perhaps expired"
)

// access is the one table of who may call what. A method that is not here is
// refused to everyone.
var access = map[string]need{
	apiconnect.JoinServiceJoinHubProcedure:  {who: roleJoiner},
	apiconnect.JoinServiceRenewHubProcedure: {who: roleOldHub},

	apiconnect.HubServiceJoinDeviceProcedure:      {who: ca.RoleHub},
	apiconnect.HubServiceRenewDeviceProcedure:     {who: ca.RoleHub},
	apiconnect.HubServiceAdmitProcedure:           {who: ca.RoleHub},
	apiconnect.HubServiceReleaseProcedure:         {who: ca.RoleHub},
	apiconnect.HubServiceWatchProcedure:           {who: ca.RoleHub},
	apiconnect.HubServiceReportDevicesProcedure:   {who: ca.RoleHub},
	apiconnect.HubServiceReportSessionsProcedure:  {who: ca.RoleHub},
	apiconnect.HubServiceReportHistoryProcedure:   {who: ca.RoleHub},
	apiconnect.HubServiceReportIncidentProcedure:  {who: ca.RoleHub},
	apiconnect.HubServiceSignTimeProcedure:        {who: ca.RoleHub},
	apiconnect.HubServiceAppendRecordingProcedure: {who: ca.RoleHub},
	apiconnect.HubServiceCloseRecordingProcedure:  {who: ca.RoleHub},

	apiconnect.AdminServiceWhoamiProcedure:         {who: ca.RoleUser},
	apiconnect.AdminServiceRenewMyselfProcedure:    {who: ca.RoleUser},
	apiconnect.AdminServiceListDevicesProcedure:    {who: ca.RoleUser}, // those his roles reach
	apiconnect.AdminServiceGetDeviceProcedure:      {who: ca.RoleUser},
	apiconnect.AdminServiceListRecordingsProcedure: {who: ca.RoleUser}, // own or all, by his roles
	apiconnect.AdminServiceGetRecordingProcedure:   {who: ca.RoleUser},
	apiconnect.AdminServiceListSessionsProcedure:   {who: ca.RoleUser},

	apiconnect.AdminServiceCreateTokenProcedure:  {ca.RoleUser, "token", "create"},
	apiconnect.AdminServiceListTokensProcedure:   {ca.RoleUser, "token", "list"},
	apiconnect.AdminServiceRemoveTokenProcedure:  {ca.RoleUser, "token", "delete"},
	apiconnect.AdminServiceRemoveDeviceProcedure: {ca.RoleUser, "device", "delete"},
	apiconnect.AdminServiceListHubsProcedure:     {ca.RoleUser, "hub", "list"},
	apiconnect.AdminServiceRemoveHubProcedure:    {ca.RoleUser, "hub", "delete"},
	apiconnect.AdminServiceAddUserProcedure:      {ca.RoleUser, "user", "create"},
	apiconnect.AdminServiceListUsersProcedure:    {ca.RoleUser, "user", "list"},
	apiconnect.AdminServiceRemoveUserProcedure:   {ca.RoleUser, "user", "delete"},
	apiconnect.AdminServiceApplyProcedure:        {ca.RoleUser, "role", "update"},
	apiconnect.AdminServiceGetProcedure:          {ca.RoleUser, "role", "list"},
	apiconnect.AdminServiceKillSessionProcedure:  {ca.RoleUser, "session", "delete"},
}

// caller is who calls, as its certificate proved it.
type caller struct {
	id    ca.Identity
	key   any // its public key
	roles []policy.Role
	addr  string // host:port of the connection
}

func (c caller) String() string { return string(c.id.Role) + ":" + c.id.Name }

type (
	peerKey   struct{}
	callerKey struct{}
)

type peer struct {
	chain []*x509.Certificate
	addr  string
}

// withPeer hands the TLS peer to the gate, which sees no http.Request.
func withPeer(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peer{addr: r.RemoteAddr}
		if r.TLS != nil {
			p.chain = r.TLS.PeerCertificates
		}
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), peerKey{}, p)))
	})
}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// gate is the interceptor that holds every call against the table.
type gate struct{ s *Server }

func (g *gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		ctx, err := g.admit(ctx, req.Spec().Procedure)
		if err != nil {
			return nil, err
		}
		res, err := next(ctx, req)
		return res, g.s.toConnect(err)
	}
}

func (g *gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		ctx, err := g.admit(ctx, conn.Spec().Procedure)
		if err != nil {
			return err
		}
		return g.s.toConnect(next(ctx, conn))
	}
}

func (g *gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// admit judges the caller anew at every call: a connection may outlive its certificate, its user, its hub.
func (g *gate) admit(ctx context.Context, procedure string) (context.Context, error) {
	p, _ := ctx.Value(peerKey{}).(peer)
	need, ok := access[procedure]
	if !ok {
		return nil, g.refuse(p, procedure, "", errors.New("method is not in the access table"))
	}
	c, err := g.identify(p, need.who)
	if err != nil {
		return nil, g.refuse(p, procedure, c.id.Name, err)
	}
	if need.resource != "" && !policy.MayAdmin(c.roles, need.resource, need.verb).Allowed {
		g.s.record(Event{Type: "admin.refuse", Actor: c.String(), Source: c.addr, Object: procedure, Reason: "roles"})
		return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED,
			"your roles do not allow to %s a %s; an admin can add the rule {resources: [%s], verbs: [%s]} to one of them", need.verb, need.resource, need.resource, need.verb)
	}
	return context.WithValue(ctx, callerKey{}, c), nil
}

func (g *gate) identify(p peer, who ca.Role) (caller, error) {
	c := caller{addr: p.addr}
	if len(p.chain) == 0 {
		return c, ca.ErrNoCertificate
	}
	c.key = p.chain[0].PublicKey
	if who == roleJoiner {
		// The handshake proved the key; the certificate says nothing else. One of
		// this cluster's is no joiner's: whoever has one renews.
		if _, err := ca.VerifyPeer(p.chain, &g.s.trust, g.s.cfg.Now()); err == nil {
			return c, ca.ErrWrongRole
		}
		if _, ok := c.key.(ed25519.PublicKey); !ok {
			return c, ca.ErrKeyType
		}
		c.id = ca.Identity{Role: roleJoiner}
		return c, nil
	}
	now := g.s.cfg.Now()
	id, err := ca.VerifyPeer(p.chain, &g.s.trust, now)
	if who == roleOldHub && errors.Is(err, ca.ErrExpired) && now.Before(id.NotAfter.Add(rejoinWindow)) {
		err = nil
	}
	if err != nil {
		return c, err
	}
	c.id = id
	role := who
	if who == roleOldHub {
		role = ca.RoleHub
	}
	if err := id.Require(role); err != nil {
		return c, err
	}
	switch role {
	case ca.RoleHub:
		h := g.s.view.hub(id.UUID)
		if key, ok := c.key.(ed25519.PublicKey); h == nil || !ok || !key.Equal(ed25519.PublicKey(h.Key)) {
			return c, errGone
		}
		c.id.Name = h.Name
	case ca.RoleUser:
		u, roles := g.s.view.user(id.Name)
		if u == nil {
			return c, errGone
		}
		c.roles = roles
	}
	return c, nil
}

var errGone = errors.New("identity is no longer known to the cluster")

// refuse says to the log which check failed, and to the stranger no more than what
// his own certificate tells him.
func (g *gate) refuse(p peer, procedure, name string, err error) error {
	g.s.record(Event{Type: "api.refuse", Actor: name, Source: p.addr, Object: procedure, Reason: err.Error()})
	code, text := connect.CodePermissionDenied, "this certificate may not call this method"
	switch {
	case errors.Is(err, ca.ErrNoCertificate):
		code, text = connect.CodeUnauthenticated, "no client certificate; log in, or join with a token"
	case errors.Is(err, ca.ErrExpired):
		code, text = connect.CodeUnauthenticated, "the client certificate has expired; log in again, or let the machine renew"
	case errors.Is(err, ca.ErrUnknownCA), errors.Is(err, ca.ErrWrongCluster):
		code, text = connect.CodeUnauthenticated, "the client certificate is not of this cluster"
	case errors.Is(err, errGone):
		code, text = connect.CodeUnauthenticated, "the client certificate names someone this cluster no longer knows"
	}
	return api.NewError(code, api.Code_CODE_BAD_CERTIFICATE, "%s", text)
}

// toConnect gives errors of the stores the code a caller can act on, and keeps what
// they say from those who cannot.
func (s *Server) toConnect(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*connect.Error](err); ok {
		return err
	}
	return s.storeError(err)
}

// tlsKey is the caller's Ed25519 key; the gate let nobody through to where it is needed without one.
func (c caller) tlsKey() ed25519.PublicKey {
	key, _ := c.key.(ed25519.PublicKey)
	return key
}
