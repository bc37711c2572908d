package hub

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// class is what a tunnel's certificate lets it do.
type class uint8

const (
	mayRegister class = iota + 1
	mayRenew          // expired, or of a CA that is no longer trusted, but the key is known
	mayJoin           // a self-signed certificate: it proves a key and nothing else
)

// peer is who is at the other end.
type peer struct {
	class class
	key   ed25519.PublicKey
	uuid  wire.UUID // not for mayJoin
	name  string
	// fresh: with mayRenew, the certificate is nobody's but the key's own, so that the device may not know yet that it has joined.
	fresh bool
}

var errNotDevice = errors.New("certificate is not a device's")

// tlsConfig asks for any certificate and names no CA, for a device with one of a retired CA would else send none.
// A refusal is put into the audit log here where the caller cannot, who hears nothing of it.
func (h *Hub) tlsConfig(tell bool) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{tunnel.ALPN},
		ClientAuth: tls.RequireAnyClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return h.auth.Certificate(), nil
		},
		// A resumed handshake would not ask what has changed since.
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.NegotiatedProtocol == quicconn.ALPNPeer {
				_, err := h.identifyHub(cs)
				if err != nil {
					h.config.Logger.Info("peer refused", "error", err)
				}
				return err
			}
			p, err := h.judge(cs)
			if err != nil {
				h.config.Logger.Info("tunnel refused", "error", err)
				if tell {
					h.tunnelRefused(err, "")
				}
				return err
			}
			if p.class == mayRegister && h.auth.Cache.Synced() && h.removed(p) {
				return errNotDevice
			}
			h.issuers.slim(cs.PeerCertificates)
			return nil
		},
	}
}

// removed tells whether auth knows the device with another key. A device it does not know may have joined a moment ago.
func (h *Hub) removed(p peer) bool {
	d := h.auth.Cache.Device(p.uuid)
	return d != nil && !d.Key.Equal(p.key)
}

// judge decides what the peer's certificate lets it do.
func (h *Hub) judge(cs tls.ConnectionState) (peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return peer{}, ca.ErrNoCertificate
	}
	leaf := cs.PeerCertificates[0]
	key, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return peer{}, ca.ErrKeyType
	}
	id, err := ca.VerifyPeer(cs.PeerCertificates, h.auth.Trust(), h.config.Now())
	switch {
	case err == nil, errors.Is(err, ca.ErrExpired) && id.UUID != "":
		if id.Role != ca.RoleDevice {
			return peer{}, fmt.Errorf("%w: role %s", errNotDevice, id.Role)
		}
		uuid, perr := wire.ParseUUID(id.UUID)
		if perr != nil {
			return peer{}, perr
		}
		p := peer{class: mayRegister, key: key, uuid: uuid, name: id.Name}
		if err != nil {
			p.class = mayRenew
		}
		return p, nil
	}
	if d := h.auth.Cache.ByDeviceKey(key); d != nil {
		return peer{class: mayRenew, key: key, uuid: d.UUID, name: d.Name, fresh: selfSigned(leaf)}, nil
	}
	if selfSigned(leaf) {
		return peer{class: mayJoin, key: key}, nil
	}
	return peer{}, err
}

func selfSigned(leaf *x509.Certificate) bool {
	return leaf.CheckSignature(leaf.SignatureAlgorithm, leaf.RawTBSCertificate, leaf.Signature) == nil
}
