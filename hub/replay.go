package hub

import (
	"context"
	"errors"
	"fmt"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/tunnel/wire"
)

// Replay implements front.Backend.
func (b *backend) Replay(ctx context.Context, c front.Claim, id string) (*front.Replay, error) {
	if err := b.refused(&c, wire.UUID{}, ""); err != nil {
		return nil, err
	}
	r, err := b.h.auth.Replay(ctx, &api.ReplayRecordingRequest{
		Id: id, User: c.Identity.User, PublicKey: c.Identity.Key, Certificate: c.Identity.Certificate, ClientAddress: c.ClientAddr.String(),
		ConnectionId: c.ConnectionID[:],
	})
	if denied, ok := errors.AsType[*authclient.Denied](err); ok {
		return nil, &front.Refusal{Message: denied.Message}
	}
	if errors.Is(err, authclient.ErrUnavailable) {
		return nil, fmt.Errorf("%w: %w", front.ErrUnavailable, err)
	}
	if err != nil {
		return nil, err
	}
	return &front.Replay{Title: r.Recording.GetUser() + " on " + r.Recording.GetDevice(), Sealed: r.Recording.GetSealed(), Next: r.Next, Close: r.Close}, nil
}
