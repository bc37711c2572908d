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

// brokeRules counts a tunnel that ended because the device's end did not keep to PROTOCOL.md, and logs each cause once.
func (h *Hub) brokeRules(device, client string, err error) {
	cause := ""
	e, closed := errors.AsType[*wire.CloseError](err)
	switch {
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, wire.ErrTooLong):
		cause = "malformed message"
	case closed && e.Remote && e.Code == wire.CloseUpgrade:
		cause = "another version" // it closed, and says why
	case closed && !e.Remote && e.Code == wire.CloseProtocol:
		cause = wire.Quote(e.Reason, 80)
	default:
		return
	}
	if h.broken.Add(cause) {
		h.config.Logger.Warn("a device broke the rules of the tunnel; more of this cause are counted, see hawser-hub status", "cause", cause, "device", device,
			"client", client, "error", err)
	}
}

// reportRefused tells of a person.
func (h *Hub) reportRefused(r front.Refused) {
	h.auth.ReportRefusal(authclient.Refusal{
		Type: r.Type, Reason: r.Reason, User: r.User, Device: r.Device, Login: r.Login, Client: r.Client.String(), Method: r.Method, Detail: r.Detail,
		Connection: r.Connection,
	})
}
