package authclient

import (
	"context"

	"connectrpc.com/connect"

	"hawser/auth/api"
)

// OpenTarget asks for the way to a server without an agent, and what logs in to it.
func (x *Client) OpenTarget(ctx context.Context, r *api.OpenTargetRequest) (*api.OpenTargetResponse, error) {
	return answer(x.api.Target.OpenTarget(ctx, connect.NewRequest(r)))
}

// PinHostKey has auth judge a server's host key.
func (x *Client) PinHostKey(ctx context.Context, r *api.PinHostKeyRequest) (*api.PinHostKeyResponse, error) {
	return answer(x.api.Target.PinHostKey(ctx, connect.NewRequest(r)))
}

// SignForTarget has auth sign one login with a stored key.
func (x *Client) SignForTarget(ctx context.Context, r *api.SignForTargetRequest) (*api.SignForTargetResponse, error) {
	return answer(x.api.Target.SignForTarget(ctx, connect.NewRequest(r)))
}

func answer[T any](res *connect.Response[T], err error) (*T, error) {
	if err != nil {
		return nil, unavailable(err)
	}
	return res.Msg, nil
}
