package profile

import (
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// agentTimeout bounds what an agent takes to answer; one that asks a person before each signature takes long.
const agentTimeout = 2 * time.Minute

// ErrNoAgent means that there is no ssh-agent, or that it does not hold the key.
var ErrNoAgent = errors.New("no ssh-agent with the key of this login")

// HasAgent tells whether there is an agent to put keys into.
func HasAgent() bool {
	done, _, err := dialAgent()
	if err == nil {
		done()
	}
	return err == nil
}

func dialAgent() (done func(), a agent.ExtendedAgent, err error) {
	path := os.Getenv("SSH_AUTH_SOCK")
	if path == "" {
		return nil, nil, fmt.Errorf("%w: SSH_AUTH_SOCK is not set", ErrNoAgent)
	}
	c, err := net.DialTimeout("unix", path, 5*time.Second)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNoAgent, err)
	}
	if err := c.SetDeadline(time.Now().Add(agentTimeout)); err != nil {
		_ = c.Close()
		return nil, nil, err
	}
	return func() { _ = c.Close() }, agent.NewClient(c), nil
}

// AddToAgent hands the agent a key, to be forgotten by it when the login ends, and its certificate, at notAfter.
func AddToAgent(key ed25519.PrivateKey, certificate []byte, comment string, notAfter, loginEnds time.Time) error {
	done, a, err := dialAgent()
	if err != nil {
		return err
	}
	defer done()
	pub, err := ssh.ParsePublicKey(certificate)
	if err != nil {
		return fmt.Errorf("read the SSH certificate that auth issued: %w", err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok {
		return errors.New("auth issued no SSH certificate")
	}
	if time.Until(notAfter) < time.Second {
		return errors.New("the certificate has expired already; is this machine's clock right?")
	}
	entry := agent.AddedKey{PrivateKey: key, Comment: comment, LifetimeSecs: lifetime(loginEnds)}
	// The key by itself is what a renewed certificate, which lies in a file, is used with.
	if err := a.Add(entry); err != nil {
		return fmt.Errorf("add the key to the ssh-agent (--no-agent keeps it in a file): %w", err)
	}
	entry.Certificate, entry.LifetimeSecs = cert, lifetime(notAfter)
	if err := a.Add(entry); err != nil {
		return fmt.Errorf("add the certificate to the ssh-agent (--no-agent keeps it in a file): %w", err)
	}
	return nil
}

func lifetime(until time.Time) uint32 {
	return uint32(min(max(time.Until(until)/time.Second, 1), 1<<31))
}

// RemoveFromAgent makes the agent forget the profile's key and certificate, if there is an agent and it has them.
func (p *Profile) RemoveFromAgent() {
	done, a, err := dialAgent()
	if err != nil {
		return
	}
	defer done()
	var own ssh.PublicKey
	if b, err := p.root.ReadFile(publicFile); err == nil {
		own, _, _, _, _ = ssh.ParseAuthorizedKey(b)
	}
	if own == nil {
		return
	}
	keys, err := a.List()
	if err != nil {
		return
	}
	for _, k := range keys {
		pub, err := ssh.ParsePublicKey(k.Blob)
		if err != nil {
			continue
		}
		plain := pub
		if cert, ok := pub.(*ssh.Certificate); ok {
			plain = cert.Key
		}
		if string(plain.Marshal()) == string(own.Marshal()) {
			_ = a.Remove(pub)
		}
	}
}

// agentKey signs with an Ed25519 key that an agent holds.
type agentKey struct {
	pub ssh.PublicKey
	key ed25519.PublicKey
}

// inAgent returns the signer of a key, if an agent has it now.
func inAgent(pub ssh.PublicKey) (crypto.Signer, error) {
	ck, ok := pub.(ssh.CryptoPublicKey)
	if !ok {
		return nil, errors.New("the profile's public key is not an Ed25519 key")
	}
	key, ok := ck.CryptoPublicKey().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("the profile's public key is not an Ed25519 key")
	}
	done, a, err := dialAgent()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLoggedOut, err)
	}
	defer done()
	keys, err := a.List()
	if err != nil {
		return nil, fmt.Errorf("ask the ssh-agent: %w", err)
	}
	for _, k := range keys {
		if string(k.Blob) == string(pub.Marshal()) {
			return &agentKey{pub, key}, nil
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrLoggedOut, ErrNoAgent)
}

// Public implements crypto.Signer.
func (k *agentKey) Public() crypto.PublicKey { return k.key }

// Sign implements crypto.Signer. What an agent signs with an Ed25519 key is the message itself, as TLS 1.3 wants it.
func (k *agentKey) Sign(_ io.Reader, message []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != 0 {
		return nil, errors.New("an Ed25519 key signs no hash")
	}
	done, a, err := dialAgent()
	if err != nil {
		return nil, err
	}
	defer done()
	sig, err := a.Sign(k.pub, message)
	if err != nil {
		return nil, fmt.Errorf("sign by the ssh-agent: %w", err)
	}
	if sig.Format != ssh.KeyAlgoED25519 || len(sig.Blob) != ed25519.SignatureSize {
		return nil, fmt.Errorf("the ssh-agent made a signature of another kind: %q", sig.Format)
	}
	return sig.Blob, nil
}
