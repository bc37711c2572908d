package authclient

import (
	"context"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

// LastSeen asks where a device was last.
func (x *Client) LastSeen(ctx context.Context, r *api.LastSeenRequest) (*api.LastSeenResponse, error) {
	resp, err := x.api.Presence.LastSeen(ctx, connect.NewRequest(r))
	if err != nil {
		return nil, unavailable(err)
	}
	return resp.Msg, nil
}
