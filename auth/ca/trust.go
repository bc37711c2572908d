package ca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const trustContext = "hawser trust 1"

// Trust is every public key a part of the cluster verifies with. While a key is being replaced there are two of its kind.
//
// On the wire it is an envelope (auth/internal/signed) under the context "hawser trust 1", signed by a tunnel CA it names,
// at most 32 KiB. The payload is TLV; each list repeats its tag, at most 8 times:
//
//	1 cluster         string ≤ 253
//	2 revision        integer, grows with each change
//	3 user CA         SSH public key, wire format, ≤ 2048 bytes; so 4, 5 and 6
//	4 hub host CA
//	5 device host CA
//	6 target CA
//	7 tunnel CA       X.509 certificate, DER, ≤ 4096 bytes; at least one
//	8 grant key       Ed25519, 32 bytes
//	9 time key        Ed25519, 32 bytes
//	10 renew by       integer, Unix milliseconds, absent: at once; once
//	11 cross          X.509 certificate, DER, of a tunnel CA that is named, or of one between, by one that is no longer; at most 3
//
// What signs for users and devices is first of its kind. Who holds a certificate by another has it renewed, at a random moment until
// "renew by".
type Trust struct {
	Cluster      string
	Revision     uint64
	UserCA       [][]byte
	HubHostCA    [][]byte
	DeviceHostCA [][]byte
	TargetCA     [][]byte
	TunnelCA     [][]byte
	GrantKeys    []ed25519.PublicKey
	TimeKeys     []ed25519.PublicKey
	RenewBy      time.Time
	Cross        [][]byte
}

// Trust returns what the Set's own authorities amount to.
func (s *Set) Trust(revision uint64) Trust {
	st := s.state()
	t := Trust{Cluster: st.cluster, Revision: revision}
	for k, list := range map[Kind]*[][]byte{
		UserCA: &t.UserCA, HubHostCA: &t.HubHostCA, DeviceHostCA: &t.DeviceHostCA, TargetCA: &t.TargetCA,
	} {
		for _, a := range st.list(k) {
			*list = append(*list, a.SSHPublic())
		}
	}
	for _, a := range st.list(TunnelCA) {
		t.TunnelCA = append(t.TunnelCA, a.certificate)
	}
	for _, a := range st.list(GrantKey) {
		t.GrantKeys = append(t.GrantKeys, a.Public())
	}
	for _, a := range st.list(TimeKey) {
		t.TimeKeys = append(t.TimeKeys, a.Public())
	}
	t.Cross = st.crosses(maxCross)
	// Devices renew when what signs for them changes; the last tenth of the phase is for stragglers.
	for k, phase := range map[Kind]Phase{TunnelCA: PhaseUpdateClients, DeviceHostCA: PhaseUpdateServers} {
		e := &st.byKind[k]
		if e.Phase != phase && e.Phase != PhaseRollback {
			continue
		}
		if by := e.Since.Add(e.part() * 9 / 10).Truncate(time.Millisecond); by.After(t.RenewBy) {
			t.RenewBy = by
		}
	}
	return t
}

// SignTrust encodes t and signs it with each of the Set's tunnel CAs that t names, of which there must be one.
func (s *Set) SignTrust(t Trust) ([]byte, error) {
	st := s.state()
	if t.Cluster != st.cluster {
		return nil, ErrWrongCluster
	}
	if err := t.valid(); err != nil {
		return nil, err
	}
	var keys []ed25519.PrivateKey
	for _, a := range st.list(TunnelCA) {
		if listed(t.TunnelCA, a.certificate) {
			keys = append(keys, a.key)
		}
	}
	if len(keys) == 0 {
		return nil, ErrUnpinned
	}
	b := signed.Seal(trustContext, t.encode(), keys...)
	if len(b) > maxTrustBlob {
		return nil, fmt.Errorf("%w: too long", ErrBadTrust)
	}
	return b, nil
}

// OpenNextTrust decodes a bundle that is to take held's place. Its signer is a tunnel CA that held names, or one that a cross-certificate
// of the bundle leads to from there, for a reader who slept through rotations. It fails with ErrOldTrust where held is newer, and with
// ErrWrongCluster where it is of another cluster.
func OpenNextTrust(blob []byte, held *Trust) (*Trust, error) {
	t, err := openTrust(blob, func(next *Trust, root *x509.Certificate) bool {
		if listed(held.TunnelCA, root.Raw) {
			return true
		}
		crosses, err := parseCAs(next.Cross)
		if err != nil {
			return false
		}
		for _, c := range crosses {
			if bytes.Equal(c.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) &&
				verifyPath(append([]*x509.Certificate{c}, crosses...), held, c.NotBefore) == nil {
				return true
			}
		}
		return false
	})
	switch {
	case err != nil:
		return nil, err
	case t.Cluster != held.Cluster:
		return nil, ErrWrongCluster
	case t.Revision < held.Revision:
		return nil, ErrOldTrust
	}
	return t, nil
}

// OpenStoredTrust decodes a bundle that was verified before it was stored, and finds damage.
func OpenStoredTrust(blob []byte) (*Trust, error) {
	return openTrust(blob, func(*Trust, *x509.Certificate) bool { return true })
}

// OpenTrust decodes a bundle signed by a tunnel CA that matches one of pins: a token's, or Trust.Pins of the bundle held
// so far. Without a matching pin it fails with ErrUnpinned. The caller compares Cluster and Revision with what it holds.
func OpenTrust(blob []byte, pins ...string) (*Trust, error) {
	return openTrust(blob, func(_ *Trust, root *x509.Certificate) bool {
		for _, pin := range pins {
			if MatchPin(root, pin) {
				return true
			}
		}
		return false
	})
}

// openTrust decodes a bundle signed by a tunnel CA that it names and that is known.
func openTrust(blob []byte, known func(*Trust, *x509.Certificate) bool) (*Trust, error) {
	if len(blob) > maxTrustBlob {
		return nil, fmt.Errorf("%w: too long", ErrBadTrust)
	}
	env, err := signed.Parse(blob)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadTrust, err)
	}
	t, err := decodeTrust(env.Payload)
	if err != nil {
		return nil, err
	}
	roots, err := t.tunnelCAs()
	if err != nil {
		return nil, err
	}
	var keys []ed25519.PublicKey
	for _, root := range roots {
		if known(t, root) {
			keys = append(keys, root.PublicKey.(ed25519.PublicKey)) // parseCAs checked the type
		}
	}
	if len(keys) == 0 {
		return nil, ErrUnpinned
	}
	if env.Verify(trustContext, keys) != nil {
		return nil, ErrTrustSign
	}
	return t, nil
}

// PinnedTrust makes the Trust of a joiner that holds only a token: the certificate of chain that matches pin is its one
// tunnel CA. Chain is what the TLS peer sent; give both to VerifyPeer before any secret is sent.
func PinnedTrust(chain []*x509.Certificate, cluster, pin string) (*Trust, error) {
	for _, c := range chain[:min(len(chain), maxChain)] {
		if c.IsCA && MatchPin(c, pin) {
			return &Trust{Cluster: cluster, TunnelCA: [][]byte{c.Raw}}, nil
		}
	}
	return nil, ErrUnpinned
}

// Pins returns the pin of each tunnel CA, for OpenTrust of the next bundle.
func (t *Trust) Pins() []string {
	var pins []string
	for _, der := range t.TunnelCA {
		if pin, err := Pin(der); err == nil {
			pins = append(pins, pin)
		}
	}
	return pins
}

func (t *Trust) sshCAs(kind Kind) [][]byte {
	switch kind {
	case UserCA:
		return t.UserCA
	case HubHostCA:
		return t.HubHostCA
	case DeviceHostCA:
		return t.DeviceHostCA
	case TargetCA:
		return t.TargetCA
	}
	return nil
}

// Newest reports whether a device's certificates, or a user's, are by what signs for them now. One that is not is to be renewed (see
// RenewBy). kind is the authority of the SSH certificate.
func (t *Trust) Newest(leaf *x509.Certificate, cert *ssh.Certificate, kind Kind) bool {
	root, err := x509.ParseCertificate(t.TunnelCA[0]) // a Trust that was opened has one
	list := t.sshCAs(kind)
	return err == nil && issued(root, leaf) && len(list) > 0 && cert.SignatureKey != nil && bytes.Equal(cert.SignatureKey.Marshal(), list[0])
}

// tunnelCAs parses the tunnel CA certificates and requires that each is an Ed25519 CA.
func (t *Trust) tunnelCAs() ([]*x509.Certificate, error) {
	if len(t.TunnelCA) > maxTrustKeys {
		return nil, fmt.Errorf("%w: too many tunnel CAs", ErrBadTrust)
	}
	return parseCAs(t.TunnelCA)
}

func parseCAs(list [][]byte) ([]*x509.Certificate, error) {
	out := make([]*x509.Certificate, 0, len(list))
	for _, der := range list {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("%w: tunnel CA: %w", ErrBadTrust, err)
		}
		if _, ok := c.PublicKey.(ed25519.PublicKey); !ok || !c.IsCA {
			return nil, fmt.Errorf("%w: tunnel CA is no Ed25519 CA", ErrBadTrust)
		}
		out = append(out, c)
	}
	return out, nil
}

func (t *Trust) encode() []byte {
	b := tlv.AppendString(nil, 1, t.Cluster)
	b = tlv.AppendUint(b, 2, t.Revision)
	for i, list := range [][][]byte{t.UserCA, t.HubHostCA, t.DeviceHostCA, t.TargetCA, t.TunnelCA} {
		for _, key := range list {
			b = tlv.AppendBytes(b, uint8(3+i), key)
		}
	}
	for _, key := range t.GrantKeys {
		b = tlv.AppendBytes(b, 8, key)
	}
	for _, key := range t.TimeKeys {
		b = tlv.AppendBytes(b, 9, key)
	}
	if !t.RenewBy.IsZero() {
		b = tlv.AppendUint(b, 10, uint64(t.RenewBy.UnixMilli()))
	}
	for _, c := range t.Cross {
		b = tlv.AppendBytes(b, 11, c)
	}
	return b
}

func decodeTrust(payload []byte) (*Trust, error) {
	t := new(Trust)
	err := tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&t.Cluster, v, maxCluster)
		case 2:
			n, err := tlv.Uint(v)
			t.Revision = n
			return err
		case 3:
			return appendKey(&t.UserCA, v, maxSSHKey)
		case 4:
			return appendKey(&t.HubHostCA, v, maxSSHKey)
		case 5:
			return appendKey(&t.DeviceHostCA, v, maxSSHKey)
		case 6:
			return appendKey(&t.TargetCA, v, maxSSHKey)
		case 7:
			return appendKey(&t.TunnelCA, v, maxDER)
		case 8:
			return appendEd25519(&t.GrantKeys, v)
		case 9:
			return appendEd25519(&t.TimeKeys, v)
		case 10:
			n, err := tlv.Uint(v)
			if err != nil || n > maxUnixMilli {
				return tlv.ErrLength
			}
			t.RenewBy = time.UnixMilli(int64(n)).UTC()
		case 11:
			if len(t.Cross) == maxCross {
				return tlv.ErrLength
			}
			return appendKey(&t.Cross, v, maxDER)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadTrust, err)
	}
	return t, t.valid()
}

func appendKey(list *[][]byte, v []byte, limit int) error {
	if len(v) > limit || len(*list) == maxTrustKeys {
		return tlv.ErrLength
	}
	*list = append(*list, bytes.Clone(v))
	return nil
}

func appendEd25519(list *[]ed25519.PublicKey, v []byte) error {
	if len(v) != ed25519.PublicKeySize || len(*list) == maxTrustKeys {
		return tlv.ErrLength
	}
	*list = append(*list, bytes.Clone(v))
	return nil
}

// valid holds for what SignTrust accepts and OpenTrust returns.
func (t *Trust) valid() error {
	if err := CheckCluster(t.Cluster); err != nil {
		return fmt.Errorf("%w: %w", ErrBadTrust, err)
	}
	if len(t.TunnelCA) == 0 {
		return fmt.Errorf("%w: no tunnel CA", ErrBadTrust)
	}
	for _, list := range [][][]byte{t.UserCA, t.HubHostCA, t.DeviceHostCA, t.TargetCA} {
		if len(list) > maxTrustKeys {
			return fmt.Errorf("%w: too many keys of a kind", ErrBadTrust)
		}
		for _, key := range list {
			if k, err := ssh.ParsePublicKey(key); err != nil {
				return fmt.Errorf("%w: %w", ErrBadTrust, err)
			} else if err := CheckKey(k); err != nil {
				return fmt.Errorf("%w: %w", ErrBadTrust, err)
			}
		}
	}
	for _, list := range [][]ed25519.PublicKey{t.GrantKeys, t.TimeKeys} {
		if len(list) > maxTrustKeys {
			return fmt.Errorf("%w: too many keys of a kind", ErrBadTrust)
		}
		for _, key := range list {
			if len(key) != ed25519.PublicKeySize {
				return fmt.Errorf("%w: %w", ErrBadTrust, errors.New("key of the wrong length"))
			}
		}
	}
	if len(t.Cross) > maxCross {
		return fmt.Errorf("%w: too many cross-certificates", ErrBadTrust)
	}
	if _, err := parseCAs(t.Cross); err != nil {
		return err
	}
	_, err := t.tunnelCAs()
	return err
}
