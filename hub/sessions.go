package hub

import (
	"net/netip"
	"time"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/hub/front"
	"hawser/tunnel/wire"
)

// sessionStates is what auth is told of the sessions and connections alive here. There are at most a few thousand and they change seldom, so
// that all are told each time, but for their proofs, of which auth has need after it was away.
func (h *Hub) sessionStates(full bool) []*api.SessionState {
	var states []*api.SessionState
	for _, s := range h.front.States() {
		state := &api.SessionState{
			Id: s.ID[:], ConnectionId: s.Connection[:], Kind: api.Kind_KIND_SESSION, User: s.User, Login: s.Login, Way: policy.WayHub,
			Channel: s.Channel, Command: wire.Quote(s.Command, maxStateCommand), ClientAddress: s.Client.String(),
			StartUnixNano: s.Started.UnixNano(), Recorded: s.Recorded, DetachedSinceUnixNano: unixNano(s.DetachedSince),
			BytesIn: s.BytesIn, BytesOut: s.BytesOut, LastActivityUnixNano: unixNano(s.LastActivity),
			Joins: s.Joins, JoinMode: s.JoinMode,
		}
		if full {
			state.PublicKey, state.Certificate = s.Identity.Key, s.Identity.Certificate
		}
		if s.Kind == front.Connection {
			state.Kind = api.Kind_KIND_CONNECTION
		}
		if s.Device != (wire.UUID{}) {
			state.DeviceUuid = s.Device.String()
		}
		states = append(states, state)
	}
	pipes := h.front.Pipes()
	for _, state := range h.granted.states(full) {
		if client, err := netip.ParseAddrPort(state.ClientAddress); err == nil && state.Kind == api.Kind_KIND_CONNECTION && state.Way == policy.WayEndToEnd {
			id, _ := wire.ParseUUID(state.DeviceUuid)
			n := pipes[front.PipeKey{Device: id, Client: client}]
			state.BytesIn, state.BytesOut = n[0], n[1]
		}
		states = append(states, state)
	}
	return states
}

// maxStateCommand bounds a command in a report; the recording and the audit have it whole.
const maxStateCommand = 256

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
