package auth

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/lock"
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

	apiconnect.LoginServiceLoginProcedure:            {who: roleJoiner},
	apiconnect.LoginServiceOpenInvitationProcedure:   {who: roleJoiner},
	apiconnect.LoginServiceAcceptInvitationProcedure: {who: roleJoiner},

	apiconnect.HubServiceCheckSecondFactorProcedure: {who: ca.RoleHub},
	apiconnect.HubServiceJoinDeviceProcedure:        {who: ca.RoleHub},
	apiconnect.HubServiceRenewDeviceProcedure:       {who: ca.RoleHub},
	apiconnect.HubServiceAdmitProcedure:             {who: ca.RoleHub},
	apiconnect.HubServiceReleaseProcedure:           {who: ca.RoleHub},
	apiconnect.HubServiceWatchProcedure:             {who: ca.RoleHub},
	apiconnect.HubServiceReportDevicesProcedure:     {who: ca.RoleHub},
	apiconnect.HubServiceReportSessionsProcedure:    {who: ca.RoleHub},
	apiconnect.HubServiceReportHistoryProcedure:     {who: ca.RoleHub},
	apiconnect.HubServiceReportIncidentProcedure:    {who: ca.RoleHub},
	apiconnect.HubServiceReportRefusalsProcedure:    {who: ca.RoleHub},
	apiconnect.HubServiceProveLogProcedure:          {who: ca.RoleHub},
	apiconnect.HubServiceReportCloneProcedure:       {who: ca.RoleHub},
	apiconnect.HubServiceReportRevisionsProcedure:   {who: ca.RoleHub},
	apiconnect.HubServiceSignTimeProcedure:          {who: ca.RoleHub},
	apiconnect.HubServiceAppendRecordingProcedure:   {who: ca.RoleHub},
	apiconnect.HubServiceCloseRecordingProcedure:    {who: ca.RoleHub},

	// Against a grant for the device, of a session or connection that this hub has.
	apiconnect.TargetServiceOpenTargetProcedure:    {who: ca.RoleHub},
	apiconnect.TargetServicePinHostKeyProcedure:    {who: ca.RoleHub},
	apiconnect.TargetServiceSignForTargetProcedure: {who: ca.RoleHub},

	apiconnect.PlaceServiceRenewPlacesProcedure: {who: ca.RoleHub},

	apiconnect.PresenceServiceLastSeenProcedure: {who: ca.RoleHub},

	apiconnect.ReplayServiceReplayRecordingProcedure: {who: ca.RoleHub},

	apiconnect.ForwardServiceReportForwardsProcedure: {who: ca.RoleHub},

	apiconnect.AdminServiceWhoamiProcedure:         {who: ca.RoleUser},
	apiconnect.AdminServiceRenewMyselfProcedure:    {who: ca.RoleUser},
	apiconnect.AdminServiceListDevicesProcedure:    {who: ca.RoleUser}, // those his roles reach
	apiconnect.AdminServiceGetDeviceProcedure:      {who: ca.RoleUser},
	apiconnect.AdminServiceListRecordingsProcedure: {who: ca.RoleUser}, // own or all, by his roles
	apiconnect.AdminServiceGetRecordingProcedure:   {who: ca.RoleUser},
	apiconnect.AdminServiceListSessionsProcedure:   {who: ca.RoleUser},

	// Of a user himself, or with the verb over users that user.proto states.
	apiconnect.UserServiceGetUserProcedure:              {who: ca.RoleUser},
	apiconnect.UserServiceAddUserKeyProcedure:           {who: ca.RoleUser},
	apiconnect.UserServiceRemoveUserKeyProcedure:        {who: ca.RoleUser},
	apiconnect.UserServiceChangePasswordProcedure:       {who: ca.RoleUser},
	apiconnect.UserServiceEnrolAuthenticatorProcedure:   {who: ca.RoleUser},
	apiconnect.UserServiceConfirmAuthenticatorProcedure: {who: ca.RoleUser},
	apiconnect.UserServiceLogoutProcedure:               {who: ca.RoleUser},
	apiconnect.UserServiceInviteUserProcedure:           {ca.RoleUser, "user", "create"},
	apiconnect.UserServiceResetUserProcedure:            {ca.RoleUser, "user", "update"},
	apiconnect.UserServiceSetUserRolesProcedure:         {ca.RoleUser, "user", "update"},
	apiconnect.UserServiceSetUserSourcesProcedure:       {ca.RoleUser, "user", "update"},
	apiconnect.UserServiceUnlockUserProcedure:           {ca.RoleUser, "user", "update"},

	apiconnect.LockServiceAddLockProcedure:    {ca.RoleUser, "lock", "create"},
	apiconnect.LockServiceListLocksProcedure:  {ca.RoleUser, "lock", "list"},
	apiconnect.LockServiceRemoveLockProcedure: {ca.RoleUser, "lock", "delete"},

	apiconnect.AdminServiceCreateTokenProcedure:     {ca.RoleUser, "token", "create"},
	apiconnect.AdminServiceListTokensProcedure:      {ca.RoleUser, "token", "list"},
	apiconnect.AdminServiceRemoveTokenProcedure:     {ca.RoleUser, "token", "delete"},
	apiconnect.AdminServiceRemoveDeviceProcedure:    {ca.RoleUser, "device", "delete"},
	apiconnect.DeviceServiceListPendingProcedure:    {ca.RoleUser, "device", "list"},
	apiconnect.DeviceServiceApproveDevicesProcedure: {ca.RoleUser, "device", "create"},
	apiconnect.DeviceServiceRejectDevicesProcedure:  {ca.RoleUser, "device", "create"},
	apiconnect.DeviceServiceImportDevicesProcedure:  {ca.RoleUser, "device", "create"},
	apiconnect.DeviceServiceRenameDeviceProcedure:   {ca.RoleUser, "device", "update"},
	apiconnect.DeviceServiceLabelDevicesProcedure:   {ca.RoleUser, "device", "update"},
	apiconnect.DeviceServiceRecoverDeviceProcedure:  {ca.RoleUser, "device", "update"},

	apiconnect.TargetServiceAddTargetsProcedure:      {ca.RoleUser, "device", "create"},
	apiconnect.TargetServiceSetTargetProcedure:       {ca.RoleUser, "device", "update"},
	apiconnect.TargetServiceAcceptHostKeyProcedure:   {ca.RoleUser, "device", "update"},
	apiconnect.TargetServiceAddTargetKeyProcedure:    {ca.RoleUser, "device", "create"},
	apiconnect.TargetServiceListTargetKeysProcedure:  {ca.RoleUser, "device", "list"},
	apiconnect.TargetServiceRemoveTargetKeyProcedure: {ca.RoleUser, "device", "delete"},

	apiconnect.AdminServiceListHubsProcedure:   {ca.RoleUser, "hub", "list"},
	apiconnect.AdminServiceRemoveHubProcedure:  {ca.RoleUser, "hub", "delete"},
	apiconnect.AdminServiceAddUserProcedure:    {ca.RoleUser, "user", "create"},
	apiconnect.AdminServiceListUsersProcedure:  {ca.RoleUser, "user", "list"},
	apiconnect.AdminServiceRemoveUserProcedure: {ca.RoleUser, "user", "delete"},
	apiconnect.AdminServiceApplyProcedure:      {ca.RoleUser, "role", "update"},
	apiconnect.AdminServiceGetProcedure:        {ca.RoleUser, "role", "list"},

	// About himself everyone may ask; about others, and for a cluster, the handlers want verbs of their own.
	apiconnect.PolicyServiceExplainAccessProcedure: {who: ca.RoleUser},
	apiconnect.PolicyServiceReviewAccessProcedure:  {who: ca.RoleUser},
	apiconnect.PolicyServiceListRolesProcedure:     {ca.RoleUser, "role", "list"},
	apiconnect.PolicyServiceRemoveRoleProcedure:    {ca.RoleUser, "role", "delete"},

	// His own everybody may; those of others, and all on a device, who may delete sessions.
	apiconnect.AdminServiceKillSessionProcedure: {who: ca.RoleUser},

	// What his roles let him join; of his own sessions, those he is in, and those of others who may delete sessions.
	apiconnect.SharingServiceListJoinableProcedure:    {who: ca.RoleUser},
	apiconnect.SharingServiceListJoinableOfProcedure:  {who: ca.RoleHub},
	apiconnect.SharingServiceInviteToSessionProcedure: {who: ca.RoleUser},
	apiconnect.SharingServiceMessageSessionProcedure:  {who: ca.RoleUser},
	apiconnect.SharingServicePutOutOfSessionProcedure: {who: ca.RoleUser},

	// Own or all, by his roles.
	apiconnect.AuditServiceSearchAuditProcedure: {who: ca.RoleUser},
	apiconnect.AuditServiceExportAuditProcedure: {who: ca.RoleUser},
	apiconnect.AuditServiceGetLogHeadProcedure:  {who: ca.RoleUser},
	apiconnect.AuditServiceProveLogProcedure:    {who: ca.RoleUser},

	apiconnect.BackupServiceCreateBackupProcedure: {ca.RoleUser, "backup", "create"},

	// Of the recordings that his roles let him see.
	apiconnect.SearchServiceSearchRecordingsProcedure:     {who: ca.RoleUser},
	apiconnect.SearchServiceGetRecordingIndexProcedure:    {who: ca.RoleUser},
	apiconnect.RecordingServiceHoldRecordingProcedure:     {ca.RoleUser, "recording", "hold"},
	apiconnect.RecordingServiceReleaseRecordingProcedure:  {ca.RoleUser, "recording", "hold"},
	apiconnect.RecordingServiceRemoveRecordingProcedure:   {ca.RoleUser, "recording", "delete"},
	apiconnect.RecordingServiceGetRecordingStoreProcedure: {ca.RoleUser, "recording", "list"},

	apiconnect.CAServiceCAStatusProcedure:   {ca.RoleUser, "ca", "list"},
	apiconnect.CAServiceRotateCAProcedure:   {ca.RoleUser, "ca", "update"},
	apiconnect.CAServiceAdvanceCAProcedure:  {ca.RoleUser, "ca", "update"},
	apiconnect.CAServiceRollBackCAProcedure: {ca.RoleUser, "ca", "update"},
}

// caller is who calls, as its certificate proved it.
type caller struct {
	id    ca.Identity
	key   any // its public key
	roles []policy.Role
	// issued is when the certificate of a user was.
	issued time.Time
	login  ca.Login // what it rests on
	addr   string   // host:port of the connection
	via    string   // the hub that passed it, so that addr is that hub's claim; empty: it came to auth itself
}

func (c caller) String() string { return string(c.id.Role) + ":" + c.id.Name }

// judged is the caller of one call, and what he was judged by. One goroutine changes it, before the handler has the message.
type judged struct {
	caller caller
	peer   peer
	rev    uint64 // of the view
	at     time.Time
}

type judgedKey struct{}

// judgedLife is how long a judgement holds where nothing changed: certificates end by themselves.
const judgedLife = time.Second

type peer struct {
	chain []*x509.Certificate
	addr  string
	via   hubRef // zero: it came to auth itself

	verified *verified // of its connection
}

// guard holds every call against the table before a byte of its message is read: a stranger costs no more than his headers.
func (s *Server) guard(h http.Handler, opts ...connect.HandlerOption) http.Handler {
	g := &gate{s}
	refusals := connect.NewErrorWriter(opts...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := peer{addr: r.RemoteAddr}
		if r.TLS != nil {
			p.chain = r.TLS.PeerCertificates
		}
		p.via, _ = r.Context().Value(viaKey{}).(hubRef)
		p.verified, _ = r.Context().Value(verifiedKey{}).(*verified)
		j, err := g.admit(p, r.URL.Path)
		switch {
		case err == nil:
			if readsStore[r.URL.Path] {
				w = newPatient(w)
			}
			h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), judgedKey{}, j)))
		case refusals.IsSupported(r):
			_ = refusals.Write(w, r, err) // he may be gone already
		default:
			http.Error(w, "refused", http.StatusForbidden)
		}
	})
}

func callerOf(ctx context.Context) caller {
	if j, ok := ctx.Value(judgedKey{}).(*judged); ok {
		return j.caller
	}
	return caller{}
}

// gate judges callers, and as an interceptor gives what handlers return the form callers act on.
type gate struct{ s *Server }

func (g *gate) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		procedure := req.Spec().Procedure
		if err := g.again(ctx, procedure); err != nil {
			return nil, err
		}
		acts := callerOf(ctx).id.Role != ca.RoleHub && changes(procedure)
		if acts {
			// What a person has begun is done and told to the audit log to its end: he must not leave half of it, or leave it untold, by hanging up.
			ctx = context.WithoutCancel(ctx)
		}
		res, err := next(ctx, req)
		if acts {
			g.s.settle(ctx)
		}
		return res, g.s.toConnect(err)
	}
}

// changes tells whether a call may change something, by its name.
func changes(procedure string) bool {
	method := path.Base(procedure)
	return !slices.ContainsFunc([]string{"List", "Get", "Search", "Explain", "Review", "Whoami", "Prove"}, func(p string) bool { return strings.HasPrefix(method, p) })
}

func (g *gate) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		err := next(ctx, &judgedConn{conn, ctx, g})
		if callerOf(ctx).id.Role != ca.RoleHub && changes(conn.Spec().Procedure) {
			g.s.settle(ctx)
		}
		return g.s.toConnect(err)
	}
}

func (g *gate) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// judgedConn judges the caller again as his messages come.
type judgedConn struct {
	connect.StreamingHandlerConn
	ctx context.Context // of the call; this lives as long
	g   *gate
}

// Receive implements connect.StreamingHandlerConn.
func (c *judgedConn) Receive(m any) error {
	if err := c.StreamingHandlerConn.Receive(m); err != nil {
		return err
	}
	return c.g.again(c.ctx, c.Spec().Procedure)
}

// again judges the caller by what is so now that his message is there. It is he who decides when that is, and he may have been removed or locked,
// or lost a role, since his headers were judged.
func (g *gate) again(ctx context.Context, procedure string) error {
	j, ok := ctx.Value(judgedKey{}).(*judged)
	if !ok {
		return g.refuse(peer{}, procedure, "", errors.New("nobody judged the caller"))
	}
	if g.s.view.revision() == j.rev && g.s.cfg.Now().Sub(j.at).Abs() < judgedLife {
		return nil
	}
	now, err := g.admit(j.peer, procedure)
	if err == nil {
		*j = *now
	}
	return err
}

// admit judges the caller anew at every call: a connection may outlive its certificate, its user, its hub.
func (g *gate) admit(p peer, procedure string) (*judged, error) {
	j := &judged{peer: p, rev: g.s.view.revision(), at: g.s.cfg.Now()} // before anything is looked up: what changes meanwhile is looked at again
	need, ok := access[procedure]
	if !ok {
		return nil, g.refuse(p, clip(procedure), "", errors.New("method is not in the access table"))
	}
	c, err := g.identify(p, need.who)
	if err != nil {
		return nil, g.refuse(p, procedure, c.id.Name, err)
	}
	if need.resource != "" && !policy.MayAdmin(c.roles, need.resource, need.verb).Allowed {
		g.s.record(Event{Type: "admin.refuse", Actor: c.String(), Source: c.addr, Via: c.via, Object: procedure, Reason: "roles"})
		return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED,
			"your roles do not allow to %s a %s; an admin can add the rule {resources: [%s], verbs: [%s]} to one of them", need.verb, need.resource, need.resource, need.verb)
	}
	j.caller = c
	return j, nil
}

func (g *gate) identify(p peer, who ca.Role) (caller, error) {
	c := caller{addr: p.addr, via: p.via.name}
	if p.via.uuid != "" && g.s.view.hub(p.via.uuid) == nil {
		return c, errGone // the hub that passes this was removed, and what it says of the client with it
	}
	if len(p.chain) == 0 {
		return c, ca.ErrNoCertificate
	}
	c.key = p.chain[0].PublicKey
	if who == roleJoiner {
		// The handshake proved the key; the certificate says nothing else. One of
		// this cluster's is no joiner's: whoever has one renews.
		// With a device's files one can do nothing here, expired ones neither.
		id, err := ca.VerifyPeer(p.chain, g.s.trusted(), g.s.cfg.Now())
		if err == nil || errors.Is(err, ca.ErrExpired) && id.Role == ca.RoleDevice {
			return c, ca.ErrWrongRole
		}
		if _, ok := c.key.(ed25519.PublicKey); !ok {
			return c, ca.ErrKeyType
		}
		c.id = ca.Identity{Role: roleJoiner}
		return c, nil
	}
	now := g.s.cfg.Now()
	id, err := p.verified.peer(p.chain, g.s.trusted(), now)
	if errors.Is(err, ca.ErrUnknownCA) {
		// A hub that slept through a rotation; what counts below is that its key is the one on record.
		old, oldErr := ca.VerifyPeer(p.chain, g.s.set.RetiredTrust(), now)
		switch retired := oldErr == nil || errors.Is(oldErr, ca.ErrExpired); {
		case retired && who == roleOldHub:
			id, err = old, oldErr
		case retired:
			err = errRetired
		}
	}
	if who == roleOldHub && errors.Is(err, ca.ErrExpired) && now.Before(id.NotAfter.Add(g.s.view.cluster().RejoinWindow)) {
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
		c.roles, c.issued = roles, p.chain[0].NotBefore.Add(ca.Backdate)
		if d := g.s.lockedOut(callerSubject(c)); d != nil {
			return c, d
		}
		c.login = ca.LoginOf(p.chain[0])
		if !fromAddr(u.Sources, c.addr) {
			return c, errSource
		}
		if policy.MFA(roles) != policy.MFANone && !c.login.MFA {
			return c, errNoMFA
		}
	}
	return c, nil
}

// errRetired is a certificate by a CA that was rotated away.
var errRetired = errors.New("certificate is signed by a CA of this cluster that was rotated away")

var (
	errSource = errors.New("source address is none of the user's")
	errNoMFA  = errors.New("no second factor was shown at the login, and the roles ask for one")
)

var errGone = errors.New("identity is no longer known to the cluster")

// refuse says to the log which check failed, and to the stranger no more than what
// his own certificate tells him.
func (g *gate) refuse(p peer, procedure, name string, err error) error {
	g.s.recordStranger(p.addr, Event{Type: "api.refuse", Actor: name, Source: p.addr, Via: p.via.name, Object: procedure, Reason: reasonOf(err), Message: err.Error()})
	code, text := connect.CodePermissionDenied, "this certificate may not call this method"
	if d, ok := errors.AsType[*lock.Denied](err); ok {
		return lockError(d)
	}
	switch {
	case errors.Is(err, errSource):
		text = "you may not come from this address; an admin names the networks you may come from with `hawser user sources`"
	case errors.Is(err, errNoMFA):
		code, text = connect.CodeUnauthenticated, "your roles ask for a second factor; log in again with `hawser login` and a code of your authenticator"
	case errors.Is(err, ca.ErrNoCertificate):
		code, text = connect.CodeUnauthenticated, "no client certificate; log in, or join with a token"
	case errors.Is(err, ca.ErrExpired):
		code, text = connect.CodeUnauthenticated, "the client certificate has expired; log in again, or let the machine renew"
	case errors.Is(err, errRetired):
		code, text = connect.CodeUnauthenticated, "the client certificate is by a CA that was rotated away; log in again, or let the machine renew"
	case errors.Is(err, ca.ErrUnknownCA), errors.Is(err, ca.ErrWrongCluster):
		code, text = connect.CodeUnauthenticated, "the client certificate is not of this cluster"
	case errors.Is(err, errGone):
		code, text = connect.CodeUnauthenticated, "the client certificate names someone this cluster no longer knows"
	}
	return api.NewError(code, api.Code_CODE_BAD_CERTIFICATE, "%s", text)
}

// reasonOf is the word for why a caller was refused; docs/audit.md lists them.
func reasonOf(err error) string {
	if word := ca.Reason(err); word != "" {
		return word
	}
	switch _, locked := errors.AsType[*lock.Denied](err); {
	case locked:
		return "locked"
	case errors.Is(err, errGone):
		return "gone"
	case errors.Is(err, errRetired):
		return "retired-ca"
	case errors.Is(err, errSource):
		return "source"
	case errors.Is(err, errNoMFA):
		return "no-mfa"
	}
	return "no-method"
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
