package hub

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"hawser/auth/api"
	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/hub/shell"
	"hawser/tunnel/wire"
)

// tell passes something on to where the people of a session are.
func (h *Hub) tell(m wire.Tell) {
	if h.targets.Tell(m.SessionID, m) { // on a server that this hub shows
		return
	}
	device, ok := h.granted.deviceOf(m.SessionID)
	if !ok {
		device, ok = h.front.DeviceOf(m.SessionID)
	}
	if !ok {
		h.config.Logger.Debug("word for a session that is not here", "session", hex.EncodeToString(m.SessionID[:]))
		return
	}
	c, release := h.holdControl(device)
	defer release() // it lingers
	c.tell(m)
}

// Joinable implements front.Backend.
func (b *backend) Joinable(ctx context.Context, c front.Claim) ([]shell.Session, error) {
	res, err := b.h.auth.ListJoinableOf(ctx, &api.ListJoinableOfRequest{
		User: c.Identity.User, PublicKey: c.Identity.Key, Certificate: c.Identity.Certificate, ClientAddress: c.ClientAddr.String(), Id: c.Joins.Session,
	})
	if errors.Is(err, authclient.ErrUnavailable) {
		return nil, errors.Join(front.ErrUnavailable, err)
	}
	if err != nil {
		return nil, &front.Refusal{Message: wire.Quote(api.MessageOf(err), 512)}
	}
	list := make([]shell.Session, 0, len(res.Sessions))
	for _, j := range res.Sessions {
		list = append(list, shell.Session{
			ID: hex.EncodeToString(j.Id), Owner: j.User, Device: j.Device, Login: j.Login, Way: j.Way, Runs: j.Channel, Start: time.Unix(0, j.StartUnixNano),
			Guests: int(j.Guests), Modes: j.ModesByHub, InvitedBy: j.Invitation.GetBy(), InvitedAs: j.Invitation.GetMode(),
		})
	}
	return list, nil
}
