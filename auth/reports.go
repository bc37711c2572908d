package auth

import (
	"context"
	"encoding/hex"
	"net/netip"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/place"
	"hawser/tunnel/wire"
)

func errNoWatch() error {
	return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "open a Watch before reporting")
}

// hubOf is the calling hub; its zone may have changed since its certificate was made.
func (s hubService) hubOf(ctx context.Context) hubRef {
	c := callerOf(ctx)
	if h := s.view.hub(c.id.UUID); h != nil {
		return h.ref()
	}
	return hubRef{uuid: c.id.UUID, name: c.id.Name}
}

// ReportDevices takes over which devices have tunnels at the hub.
func (s hubService) ReportDevices(ctx context.Context, req *connect.Request[api.ReportDevicesRequest]) (*connect.Response[api.ReportDevicesResponse], error) {
	r := req.Msg
	if len(r.Devices) > maxReport && !r.Full {
		return nil, invalid("more than %d tunnels in one report", maxReport)
	}
	var known []*api.DeviceState
	for _, st := range r.Devices {
		if d := s.view.device(st.GetUuid()); d == nil || d.UUID != st.Uuid {
			continue // removed since; the hub hears of it by its Watch
		}
		st.Carrier, st.Observed, st.Hostname = clip(st.Carrier), clip(st.Observed), clip(st.Hostname)
		st.AgentVersion, st.Arch, st.Os, st.Reason = clip(st.AgentVersion), clip(st.Arch), clip(st.Os), wire.Quote(st.Reason, maxText)
		st.Addresses = st.Addresses[:min(len(st.Addresses), maxAddresses)]
		for i, a := range st.Addresses {
			st.Addresses[i] = clip(a)
		}
		known = append(known, st)
	}
	if !s.hubs.report(s.hubOf(ctx), r.Full, known, s.cfg.Now()) {
		return nil, errNoWatch()
	}
	s.noteListen(ctx, known)
	return connect.NewResponse(&api.ReportDevicesResponse{}), nil
}

// ReportSessions takes over what the hub serves. For a session this run of the service did not admit the hub's word is taken,
// as it is at Admit for who has authenticated to it; the audit log says that it is the hub's.
func (s hubService) ReportSessions(ctx context.Context, req *connect.Request[api.ReportSessionsRequest]) (*connect.Response[api.ReportSessionsResponse], error) {
	c, r, now := callerOf(ctx), req.Msg, s.cfg.Now()
	if len(r.Sessions) > maxSessions {
		return nil, invalid("more than %d sessions in one report", maxSessions)
	}
	list := make([]*session, 0, len(r.Sessions))
	for _, st := range r.Sessions {
		if sess := s.sessionOf(c, st, now); sess != nil {
			list = append(list, sess)
		}
	}
	var held []place.Place
	for _, sess := range list {
		if client, err := netip.ParseAddrPort(sess.client); err == nil {
			held = append(held, sess.place(client))
		}
	}
	begun, started, ended, ok := s.hubs.reportSessions(c.id.UUID, r.Full, list, now)
	if !ok {
		return nil, errNoWatch()
	}
	s.places.adopt(held)
	for _, sess := range begun {
		e := Event{
			Type: "session.claim", Actor: c.String(), Hub: sess.hubName, User: sess.user, Login: sess.login, Way: sess.way, Kind: sess.kind,
			Channel: sess.channel, Command: sess.command, Client: sess.client, Session: hex.EncodeToString(sess.id[:]),
			Connection: hex.EncodeToString(sess.connection[:]),
		}
		if sess.device != nil {
			e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
		}
		s.record(e)
		// What changed was held against the live sessions when this one was not known.
		if why := s.judgeAgain(sess); why != nil {
			s.hubs.killOnce(sess, why.message)
		}
	}
	for _, sess := range started {
		e := Event{
			Type: "session.start", Actor: c.String(), Hub: sess.hubName, User: sess.user, Login: sess.login, Way: sess.way, Kind: sess.kind, Client: sess.client,
			Session: hex.EncodeToString(sess.id[:]), Connection: hex.EncodeToString(sess.connection[:]),
		}
		sess.ran(&e)
		if sess.device != nil {
			e.Device, e.DeviceUUID = sess.device.Name, sess.device.UUID
		}
		s.record(e)
	}
	for _, sess := range ended {
		s.recordEnd(sess, "the hub has it no longer", nil)
	}
	return connect.NewResponse(&api.ReportSessionsResponse{}), nil
}

// sessionOf is nil for what cannot be a session of this cluster: its device was removed, or the report is malformed.
func (s *Server) sessionOf(c caller, st *api.SessionState, now time.Time) *session {
	if len(st.GetId()) != 16 || len(st.ConnectionId) != 16 || [16]byte(st.Id) == [16]byte{} {
		return nil
	}
	sess := &session{
		id: [16]byte(st.Id), connection: [16]byte(st.ConnectionId), user: clip(st.User), login: clip(st.Login), way: clip(st.Way),
		channel: clip(st.Channel), command: strings.ToValidUTF8(st.Command[:min(len(st.Command), maxCommand)], "?"), client: clip(st.ClientAddress),
		hub: c.id.UUID, hubName: c.id.Name, start: now, recorded: st.Recorded, admitted: now,
	}
	sess.proof = s.proofOf(st)
	if len(st.Joins) == 16 {
		sess.joins, sess.joinMode = [16]byte(st.Joins), clip(st.JoinMode)
	}
	switch st.Kind {
	case api.Kind_KIND_SESSION:
		sess.kind = grant.Session.String()
	case api.Kind_KIND_CONNECTION:
		sess.kind = grant.Connection.String()
	default:
		return nil
	}
	if t := time.Unix(0, st.StartUnixNano); st.StartUnixNano > 0 && t.Before(now) {
		sess.start = t
	}
	if t := time.Unix(0, st.DetachedSinceUnixNano); st.DetachedSinceUnixNano > 0 {
		sess.detached = t
		if t.After(now) {
			sess.detached = now
		}
	}
	sess.in, sess.out = st.BytesIn, st.BytesOut
	if t := time.Unix(0, st.LastActivityUnixNano); st.LastActivityUnixNano > 0 {
		sess.active = t
		if t.After(now) {
			sess.active = now
		}
	}
	if st.DeviceUuid != "" {
		d := s.view.device(st.DeviceUuid)
		if d == nil || d.UUID != st.DeviceUuid {
			return nil
		}
		sess.device = d
	}
	return sess
}

// ReportHistory keeps what devices remember of their connections. Their clocks are not trusted: they say how long ago.
func (s hubService) ReportHistory(_ context.Context, req *connect.Request[api.ReportHistoryRequest]) (*connect.Response[api.ReportHistoryResponse], error) {
	if len(req.Msg.Histories) > maxHistories {
		return nil, invalid("more than %d histories in one report", maxHistories)
	}
	now := s.cfg.Now()
	for _, h := range req.Msg.Histories {
		if d := s.view.device(h.GetUuid()); d != nil && d.UUID == h.Uuid {
			s.hubs.remember(d.UUID, deviceEvents(h.Events, now))
		}
	}
	return connect.NewResponse(&api.ReportHistoryResponse{}), nil
}

// ReportIncident writes what a hub saw go wrong into the audit log.
func (s hubService) ReportIncident(ctx context.Context, req *connect.Request[api.ReportIncidentRequest]) (*connect.Response[api.ReportIncidentResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if !s.incidents.take(c.id.UUID, s.cfg.Now()) {
		return nil, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, "this hub has reported too many incidents")
	}
	e := Event{
		Type: "hub.incident", Actor: c.String(), Source: c.addr, Via: c.via, Hub: c.id.Name, Kind: wire.Quote(r.Kind, 32), Object: wire.Quote(r.PeerHub, 64),
		Device: wire.Quote(r.Device, 64), Reason: wire.Quote(r.Detail, maxIncident),
	}
	if h := s.view.hub(r.PeerHub); h != nil {
		e.Object = h.Name
	}
	if d := s.view.device(r.Device); d != nil {
		e.Device, e.DeviceUUID = d.Name, d.UUID
	}
	s.record(e)
	s.log.Warn("hub reports an incident", "hub", c.id.Name, "kind", e.Kind, "peer", e.Object, "device", e.Device, "detail", e.Reason)
	return connect.NewResponse(&api.ReportIncidentResponse{}), nil
}
