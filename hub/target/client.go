package target

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/tunnel/wire"
)

// client is a connection to a server, logged in.
type client struct {
	ssh.Conn
	release func()        // gives its place back
	done    chan struct{} // closed when the server's side has ended
	stored  bool          // a stored key logged in, so that no certificate holds the server to a forced command
}

// Close ends the connection and waits.
func (c *client) Close() {
	_ = c.Conn.Close()
	<-c.done
	c.release()
}

// failure is why somebody cannot be logged in, in words for him.
type failure struct {
	message string
	cause   error
}

func (f *failure) Error() string { return f.message }
func (f *failure) Unwrap() error { return f.cause }

// explain gives the person what he can act on. What a server or a device said is quoted.
func (t *Targets) explain(d Device, err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.message
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return d.Name + " did not answer in time"
	}
	return d.Name + ": " + wire.Quote(api.MessageOf(err), 300)
}

// connect reaches a server and logs in, against a grant for it.
func (t *Targets) connect(ctx context.Context, d Device, g *grant.Grant, blob []byte) (_ *client, err error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	release, err := t.place(g.User)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	own, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	login, err := t.c.Auth.OpenTarget(ctx, d.UUID, &api.OpenTargetRequest{Grant: blob, PublicKey: own.PublicKey().Marshal()})
	if err != nil {
		return nil, &failure{d.Name + " cannot be reached: " + wire.Quote(api.MessageOf(err), 300), err}
	}
	nc, err := t.c.Dial(ctx, login, g)
	if err != nil {
		by := "by this hub"
		if login.Via != "hub" {
			by = "through " + login.ViaName
		}
		return nil, &failure{fmt.Sprintf("%s (%s) cannot be reached %s: %s", d.Name, login.Address, by, wire.Quote(err.Error(), 300)), err}
	}
	return t.handshake(ctx, d, g, blob, login, own, nc, release)
}

func (t *Targets) handshake(ctx context.Context, d Device, g *grant.Grant, blob []byte, login *api.OpenTargetResponse, own ssh.Signer, nc net.Conn, release func()) (*client, error) {
	bound := &boundConn{nc, new(binding)}
	var why error // of our own, which the library wraps or swallows
	signer, err := t.signer(ctx, blob, login, own, bound.binding, &why)
	if err != nil {
		_ = nc.Close()
		return nil, err
	}
	var taken []byte // the key of the first exchange: auth is not asked at each one, and the grant does not last
	config := &ssh.ClientConfig{
		User: g.Login, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, ClientVersion: "SSH-2.0-Hawser",
		HostKeyAlgorithms: hostKeyAlgorithms(login.HostKey),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			if taken != nil {
				if !bytes.Equal(taken, key.Marshal()) {
					return errors.New("another host key within one connection")
				}
				return nil
			}
			if why = t.checkHostKey(ctx, blob, login, key); why == nil {
				taken = key.Marshal()
			}
			return why
		},
	}
	if at, ok := ctx.Deadline(); ok {
		_ = nc.SetDeadline(at)
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.Close() })
	conn, chans, reqs, err := ssh.NewClientConn(bound, login.Address, config)
	if !stop() && err == nil {
		_ = conn.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		switch _, ours := errors.AsType[*failure](why); {
		case ours:
			return nil, why
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case strings.Contains(err.Error(), "unable to authenticate"):
			return nil, &failure{refused(d, g, login), err}
		}
		return nil, &failure{fmt.Sprintf("%s (%s) and this hub do not understand one another: %s", d.Name, login.Address, wire.Quote(err.Error(), 300)), err}
	}
	_ = nc.SetDeadline(time.Time{})
	c := &client{Conn: conn, release: release, done: make(chan struct{}), stored: len(login.StoredKey) > 0}
	t.wg.Go(func() {
		defer close(c.done)
		defer t.recovered(func() { _ = conn.Close() })
		go ssh.DiscardRequests(reqs) // until the connection ends, as the loop does
		for nch := range chans {
			_ = nch.Reject(ssh.Prohibited, "this connection is for what was asked for")
		}
	})
	return c, nil
}

// refused says what a server lacks that takes no login.
func refused(d Device, g *grant.Grant, login *api.OpenTargetResponse) string {
	if len(login.StoredKey) > 0 {
		return fmt.Sprintf("%s does not take its stored key for the login %s: the line of `hawser device key ls` is to be in that account's authorized_keys", d.Name,
			wire.Quote(g.Login, 64))
	}
	return fmt.Sprintf("%s does not take the cluster's certificates for the login %s: its sshd_config needs the lines that `hawser ca export --kind target` prints, "+
		"and the account has to exist", d.Name, wire.Quote(g.Login, 64))
}

// hostKeyAlgorithms asks for a key of the pinned one's type, and else for one that we would take.
func hostKeyAlgorithms(pinned []byte) []string {
	key, err := ssh.ParsePublicKey(pinned)
	switch {
	case err != nil:
		return []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	case key.Type() == ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	// The others too, but last: a server installed anew is to be told from one that speaks no common algorithm.
	all := hostKeyAlgorithms(nil)
	out := []string{key.Type()}
	for _, a := range all {
		if a != key.Type() {
			out = append(out, a)
		}
	}
	return out
}

// checkHostKey takes the pinned key alone; the first, and another, are auth's to decide on.
func (t *Targets) checkHostKey(ctx context.Context, blob []byte, login *api.OpenTargetResponse, key ssh.PublicKey) error {
	got := key.Marshal()
	if len(login.HostKey) > 0 && bytes.Equal(login.HostKey, got) {
		return nil
	}
	res, err := t.c.Auth.PinHostKey(ctx, &api.PinHostKeyRequest{Grant: blob, HostKey: got})
	switch {
	case err != nil:
		return &failure{"the host key cannot be checked: " + wire.Quote(api.MessageOf(err), 300), err}
	case !res.Ok:
		return &failure{message: wire.Quote(res.Message, 800)}
	}
	return nil
}

// signer is what logs in: our key of this moment with its certificate, or auth with the stored key.
func (t *Targets) signer(ctx context.Context, blob []byte, login *api.OpenTargetResponse, own ssh.Signer, b *binding, why *error) (ssh.Signer, error) {
	if len(login.StoredKey) > 0 {
		key, err := ssh.ParsePublicKey(login.StoredKey)
		if err != nil {
			return nil, fmt.Errorf("read the stored key: %w", err)
		}
		return &storedKey{t: t, ctx: ctx, grant: blob, key: key, binding: b, why: why}, nil
	}
	key, err := ssh.ParsePublicKey(login.Certificate)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	cert, ok := key.(*ssh.Certificate)
	if !ok {
		return nil, errors.New("auth gave no certificate")
	}
	return ssh.NewCertSigner(cert, own)
}

// storedKey signs by asking auth, which has the key. It is used by one handshake.
type storedKey struct {
	t       *Targets
	ctx     context.Context // of the handshake
	grant   []byte
	key     ssh.PublicKey
	binding *binding
	why     *error
}

// PublicKey implements ssh.Signer.
func (k *storedKey) PublicKey() ssh.PublicKey { return k.key }

// Algorithms implements ssh.MultiAlgorithmSigner.
func (k *storedKey) Algorithms() []string {
	if k.key.Type() == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{k.key.Type()}
}

// Sign implements ssh.Signer.
func (k *storedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, k.Algorithms()[0])
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (k *storedKey) SignWithAlgorithm(_ io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	host, signature := k.binding.get()
	res, err := k.t.c.Auth.SignForTarget(k.ctx, &api.SignForTargetRequest{Grant: k.grant, Data: data, Algorithm: algorithm, HostKey: host, HostSignature: signature})
	if err != nil {
		*k.why = &failure{"the stored key was not used: " + wire.Quote(api.MessageOf(err), 300), err}
		return nil, *k.why
	}
	sig := new(ssh.Signature)
	if err := ssh.Unmarshal(res.Signature, sig); err != nil {
		return nil, fmt.Errorf("read auth's signature: %w", err)
	}
	return sig, nil
}
