package hub

import (
	"errors"

	"hawser/auth/ca"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/tunnel/wire"
)

// What this hub refuses without asking auth goes into the audit log by these.

// tunnelRefused tells of a tunnel whose certificate was not accepted. What else ends a handshake is no refusal.
func (h *Hub) tunnelRefused(err error, client string) {
	reason := ca.Reason(err)
	if errors.Is(err, errNotDevice) {
		reason = "wrong-role"
	}
	if reason != "" {
		h.auth.ReportRefusal(authclient.Refusal{Type: "tunnel", Reason: reason, Client: client, Detail: err.Error()})
	}
}

// deviceRefused tells of a device that was sent away for what it is or said. Of one that wants to join, auth itself tells.
func (h *Hub) deviceRefused(p peer, end *wire.CloseError, client string) {
	if p.class == mayJoin || end == nil {
		return
	}
	reason := ""
	switch end.Code {
	case wire.CloseAuth:
		reason = "registration"
	case wire.CloseBanned:
		reason = "banned"
	case wire.CloseClone:
		reason = "clone"
	case wire.CloseExpired:
		reason = "expired"
	default:
		return
	}
	h.auth.ReportRefusal(authclient.Refusal{Type: "device", Reason: reason, Device: p.uuid.String(), Client: client, Detail: end.Reason})
}

// reportRefused tells of a person.
func (h *Hub) reportRefused(r front.Refused) {
	h.auth.ReportRefusal(authclient.Refusal{
		Type: r.Type, Reason: r.Reason, User: r.User, Device: r.Device, Login: r.Login, Client: r.Client.String(), Method: r.Method, Detail: r.Detail,
		Connection: r.Connection,
	})
}
