package auth

import (
	"context"
	"encoding/hex"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/forwarded"
	"hawser/auth/policy"
	chunkseal "hawser/auth/seal"
)

// forwardService takes what hubs tell of forwarded connections.
type forwardService struct{ *Server }

var _ apiconnect.ForwardServiceHandler = forwardService{}

// ReportForwards puts forwarded connections into the audit log. What the connection is auth knows; the rest is the hub's word, or end to end the device's.
func (s forwardService) ReportForwards(ctx context.Context, req *connect.Request[api.ReportForwardsRequest]) (*connect.Response[api.ReportForwardsResponse], error) {
	c, r, now := callerOf(ctx), req.Msg, s.cfg.Now()
	if len(r.Forwards) > maxForwards {
		return nil, invalid("more than %d forwards in one report", maxForwards)
	}
	if !s.reported.take("forwards "+c.id.UUID, now) {
		return nil, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, "this hub reports forwards too often")
	}
	for _, f := range r.Forwards {
		if len(f.GetConnectionId()) == 16 {
			s.recordForward(c, f, now)
		}
	}
	if r.Dropped > 0 {
		s.record(Event{Type: "forward.lost", Actor: c.String(), Hub: c.id.Name, Count: r.Dropped, Reason: "more forwards than the hub keeps"})
	}
	return connect.NewResponse(&api.ReportForwardsResponse{}), nil
}

func (s forwardService) recordForward(c caller, f *api.ForwardReport, now time.Time) {
	id := [16]byte(f.ConnectionId)
	e := Event{
		Type: "forward.open", Actor: c.String(), Hub: c.id.Name, User: clip(f.User), Login: clip(f.Login), Client: clip(f.ClientAddress),
		Connection: hex.EncodeToString(id[:]), Way: policy.WayHub, Device: clip(f.DeviceUuid),
	}
	what := forwarded.Report{Channel: f.Channel, Target: f.Target, Origin: f.Origin, Closed: f.Closed, In: f.BytesIn, Out: f.BytesOut}
	if len(f.Sealed) > 0 {
		b, err := chunkseal.Open(s.sealKey, id, f.Sealed)
		if err == nil {
			what, err = forwarded.Parse(b)
		}
		if err != nil {
			return // what nobody sealed, or somebody changed: it says nothing
		}
		e.Way, e.Actor = policy.WayEndToEnd, "device"
	}
	if live := s.hubs.of(id); live != nil && (live.device == nil || e.Device == live.device.UUID) {
		e.User, e.Login, e.Client, e.Way = live.user, live.login, live.client, live.way
	}
	e.Channel, e.Command, e.Source = clip(what.Channel), clip(what.Target), clip(what.Origin)
	if what.Closed {
		e.Type, e.BytesIn, e.BytesOut = "forward.close", what.In, what.Out
	}
	if d := s.view.device(e.Device); d != nil {
		e.Device, e.DeviceUUID = d.Name, d.UUID
	}
	s.record(e)
}
