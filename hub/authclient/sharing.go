package authclient

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

// ListJoinableOf asks which live sessions somebody who has authenticated here may join, or was invited to.
func (x *Client) ListJoinableOf(ctx context.Context, r *api.ListJoinableOfRequest) (*api.ListJoinableResponse, error) {
	resp, err := x.api.Sharing.ListJoinableOf(ctx, connect.NewRequest(r))
	if err == nil {
		return resp.Msg, nil
	}
	if away := unavailable(err); errors.Is(away, ErrUnavailable) {
		return nil, away
	}
	return nil, err // in auth's words
}
