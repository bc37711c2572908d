package auth

import (
	"context"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

type presenceService struct{ *Server }

// LastSeen answers where a device was last.
func (s presenceService) LastSeen(_ context.Context, req *connect.Request[api.LastSeenRequest]) (*connect.Response[api.LastSeenResponse], error) {
	tunnels, last, online := s.hubs.device(req.Msg.DeviceUuid)
	if online {
		return connect.NewResponse(&api.LastSeenResponse{AtUnix: s.cfg.Now().Unix(), Hub: tunnels[0].hub.name, Carrier: tunnels[0].Carrier}), nil
	}
	if last.At.IsZero() {
		return connect.NewResponse(&api.LastSeenResponse{}), nil
	}
	return connect.NewResponse(&api.LastSeenResponse{AtUnix: last.At.Unix(), Hub: last.Hub, Carrier: last.Carrier, Reason: last.Reason}), nil
}
