package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

type replayService struct{ *Server }

// ReplayRecording streams a recording to a hub, for somebody who is at it.
func (s replayService) ReplayRecording(ctx context.Context, req *connect.Request[api.ReplayRecordingRequest], stream *connect.ServerStream[api.GetRecordingResponse]) error {
	hub, r := callerOf(ctx), req.Msg
	c, e, err := s.replays(hub, r)
	if err != nil {
		if ref, ok := errors.AsType[*refusal](err); ok {
			e.Type, e.Reason, e.Rule = "recording.replay.refuse", ref.reason, ref.rule
			s.record(e)
			return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "%s", ref.message)
		}
		return err
	}
	m, err := s.findRecording(ctx, c, r.Id)
	switch {
	case err != nil:
		return err
	case m.Removed != nil:
		return errRemoved(m)
	}
	e.Session, e.User, e.Login, e.Device, e.DeviceUUID = hex.EncodeToString(m.ID[:]), m.User, m.Login, m.Device, m.DeviceUUID
	return s.sendRecording(ctx, c, m, 0, e, stream)
}

// sendRecording streams what there is of a recording, from a chunk on. e goes into the log before anything is sent, and not where nothing is.
func (s *Server) sendRecording(ctx context.Context, c caller, m store.Manifest, from uint64, e Event, stream *connect.ServerStream[api.GetRecordingResponse]) error {
	leave, err := s.readers.enter(c.String())
	if err != nil {
		return err
	}
	defer leave()
	s.record(e)
	if err := stream.Send(&api.GetRecordingResponse{Recording: s.recordingOf(m), Evidence: s.evidenceOf(ctx, m)}); err != nil {
		return err
	}
	return s.recordings.Chunks(ctx, m.ID, from, func(seq uint64, chunk []byte) error {
		return stream.Send(&api.GetRecordingResponse{Chunks: []*api.Chunk{{Seq: seq, Data: chunk}}})
	})
}

// replays tells who a hub says it plays a recording to, and with which roles, and the event of that. That he is there auth knows by itself: a hub reads
// nothing in the name of who has no connection to it. Of his roles those count that what he showed is enough for: a registered key alone opens no
// recordings to a role that asks for a certificate or a code.
func (s *Server) replays(hub caller, r *api.ReplayRecordingRequest) (caller, Event, error) {
	e := Event{Type: "recording.replay", Actor: hub.String(), Hub: hub.id.Name, Via: hub.id.Name, Source: r.ClientAddress, Object: clip(r.Id)}
	client, err := netip.ParseAddrPort(r.ClientAddress)
	if err != nil {
		return caller{}, e, invalid("client address %q is not ip:port", wire.Quote(r.ClientAddress, 64))
	}
	if len(r.ConnectionId) != 16 {
		return caller{}, e, invalid("ids have 16 bytes")
	}
	if !s.admits.take(hub.id.UUID, s.cfg.Now()) {
		return caller{}, e, connect.NewError(connect.CodeResourceExhausted, errors.New("this hub asks too often; try again in a second"))
	}
	w, err := s.authenticate(&api.AdmitRequest{User: r.User, PublicKey: r.PublicKey, Certificate: r.Certificate}, client)
	if w.user != nil {
		e.Actor, e.Method = "user:"+w.user.Name, w.method
	}
	if err != nil {
		return caller{}, e, err
	}
	id := [16]byte(r.ConnectionId)
	e.Connection = hex.EncodeToString(id[:])
	if !slices.ContainsFunc(s.hubs.list(), func(x *session) bool { return x.connection == id && x.hub == hub.id.UUID && x.user == w.user.Name }) {
		return caller{}, e, &refusal{reason: "connection", rule: "none", message: "the auth service knows no connection of yours to this hub; connect again"}
	}
	sub := subjectOf(r.PublicKey, r.Certificate, client.Addr())
	sub.User, sub.Roles = w.user.Name, w.user.Roles
	if err := refusedBy(s.lockedOut(sub)); err != nil {
		return caller{}, e, err
	}
	all, _ := s.view.policies()
	shown := inForce(all, w.user.Roles, roleNames(w.roles))
	credential := policy.CredentialCertificate
	if w.key != nil {
		credential = policy.CredentialKey
		if w.key.ForceCommand != "" {
			return caller{}, e, &refusal{reason: "force-command", rule: "force-command", message: "this key runs one command and opens nothing else; use another key, or `hawser login`"}
		}
	}
	second := s.second.has(connectionKey{hub.id.UUID, id, w.user.Name}, w.method, s.cfg.Now())
	roles := slices.Clone(shown)
	for i, role := range roles {
		one := roles[i : i+1]
		mfa := policy.MFA(one)
		enough := mfa == policy.MFANone || second || mfa == policy.MFALogin && w.mfa
		if !enough || !slices.Contains(policy.Credentials(one), credential) {
			roles[i] = policy.Role{Name: role.Name, Deny: role.Deny}
		}
	}
	if policy.RecordingScope(roles) == policy.ScopeNone && policy.RecordingScope(shown) != policy.ScopeNone {
		return caller{}, e, &refusal{reason: "mfa", rule: "recordings", message: "the roles that let you see recordings ask for more than you came with: `hawser login`, and then `hawser play` or ssh with the certificate"}
	}
	return caller{id: ca.Identity{Role: ca.RoleUser, Name: w.user.Name}, roles: roles, addr: r.ClientAddress, via: hub.id.Name}, e, nil
}
