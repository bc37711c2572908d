package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"hawser/auth/api/apiclient"
	"hawser/auth/api/apiconnect"
	"hawser/tools/hawser/profile"
)

// client is a connection to auth as the profile's person.
type client struct {
	apiconnect.AdminServiceClient
	profile *profile.Profile
	conn    *apiclient.Client
}

// dial opens the profile; the connection is made at the first call.
func dial() (*client, error) {
	dir, err := profile.DefaultDir()
	if err != nil {
		return nil, err
	}
	p, err := profile.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: `hawser login` makes one, or point HAWSER_HOME at one (hawser up writes DIR/home)", err)
	}
	cert, err := p.TLSCertificate()
	if errors.Is(err, profile.ErrLoggedOut) {
		err = fmt.Errorf("%w; `hawser login` logs in", err)
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	conn, err := apiclient.Dial(apiclient.Options{
		More:        p.Addresses(),
		Verify:      heldTrust(p),
		Certificate: func() *tls.Certificate { return &cert },
		Reached:     p.Reached,
	})
	if err != nil {
		p.Close()
		return nil, err
	}
	return &client{conn.Admin, p, conn}, nil
}

// call makes one call as the profile's person.
func call[Req, Res any](
	ctx context.Context, method func(apiconnect.AdminServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (c *client) close() {
	c.conn.Close()
	c.profile.Close()
}
