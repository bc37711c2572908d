package auth

import (
	"context"
	"crypto/x509"
	"net"
	"sync"
	"time"

	"hawser/auth/ca"
)

// verified remembers for one connection whom its certificate proved: its signatures are checked once a judgedLife, not at each of a thousand calls a
// second of a hub.
type verified struct {
	mu    sync.Mutex
	trust *ca.Trust
	leaf  *x509.Certificate
	at    time.Time
	id    ca.Identity
}

type verifiedKey struct{}

// withVerified is for http.Server.ConnContext.
func withVerified(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, verifiedKey{}, new(verified))
}

// peer is ca.VerifyPeer. What fails is checked each time. The nil verified remembers nothing.
func (v *verified) peer(chain []*x509.Certificate, trust *ca.Trust, now time.Time) (ca.Identity, error) {
	if v == nil || len(chain) == 0 {
		return ca.VerifyPeer(chain, trust, now)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.trust == trust && v.leaf == chain[0] && now.Sub(v.at).Abs() < judgedLife {
		return v.id, nil
	}
	id, err := ca.VerifyPeer(chain, trust, now)
	if err == nil {
		v.trust, v.leaf, v.at, v.id = trust, chain[0], now, id
	}
	return id, err
}
