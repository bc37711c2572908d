package ca

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"hawser/auth/internal/tlv"
)

// Errors of ParseInvite and Invite.Reveal.
var (
	ErrNoInvite      = errors.New("not an invitation: it begins with hwi1_")
	ErrInviteDamaged = errors.New("the invitation is incomplete or damaged: copy the whole line")
	ErrBadInvite     = errors.New("the invitation holds what none may")
)

const invitePrefix = "hwi1_"

// Invite lets a person set a password and an authenticator: where the cluster is, how to know it, whom the link is for, and
// the secret that auth knows it by. It prints without the secret; Reveal gives the string to hand over.
//
// That string is "hwi1_" and, in base64url without padding, TLV and the first 4 bytes of the TLV's SHA-256. The fields: 1
// user; 2 cluster; 3 hub, host:port of a hub's tunnel side, which passes TLS on to auth by ALPN, repeated 0 to 16 times; 4
// pin, 32 bytes, the SHA-256 of the tunnel CA's SubjectPublicKeyInfo; 5 secret, 16 to 64 bytes; 6 auth, host:port of auth
// itself, repeated 0 to 16 times. One address there is at least.
type Invite struct {
	User    string
	Cluster string
	Hubs    []string
	Auth    []string
	Pin     string // see Pin
	Secret  Secret
}

// String names the invitation without its secret.
func (i Invite) String() string {
	return fmt.Sprintf("invitation of %s to %s [redacted]", i.User, i.Cluster)
}

// Reveal returns the string that ParseInvite reads, secret included.
func (i Invite) Reveal() (string, error) {
	if err := i.valid(); err != nil {
		return "", err
	}
	pin, err := parsePin(i.Pin)
	if err != nil {
		return "", err
	}
	b := tlv.AppendString(nil, 1, i.User)
	b = tlv.AppendString(b, 2, i.Cluster)
	b = tlv.AppendStrings(b, 3, i.Hubs)
	b = tlv.AppendBytes(b, 4, pin[:])
	b = tlv.AppendBytes(b, 5, i.Secret)
	b = tlv.AppendStrings(b, 6, i.Auth)
	sum := sha256.Sum256(b)
	return invitePrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...)), nil
}

// ParseInvite reads what Reveal wrote; space around it is ignored. The errors say nothing of the content.
func ParseInvite(s string) (Invite, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(s), invitePrefix)
	if !ok {
		return Invite{}, ErrNoInvite
	}
	if len(text) > 2*maxToken {
		return Invite{}, ErrInviteDamaged
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(b) < 4 {
		return Invite{}, ErrInviteDamaged
	}
	body, check := b[:len(b)-4], b[len(b)-4:]
	if sum := sha256.Sum256(body); string(sum[:4]) != string(check) {
		return Invite{}, ErrInviteDamaged
	}
	var i Invite
	err = tlv.Read(body, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&i.User, v, maxUser)
		case 2:
			return tlv.String(&i.Cluster, v, maxCluster)
		case 3:
			return tlv.Element(&i.Hubs, v, maxTokenAddress, maxTokenAddrs)
		case 4:
			var sum [32]byte
			err := tlv.Fixed(sum[:], v)
			i.Pin = pinText(sum)
			return err
		case 5:
			i.Secret = append(Secret(nil), v...)
		case 6:
			return tlv.Element(&i.Auth, v, maxTokenAddress, maxTokenAddrs)
		}
		return nil
	})
	if err != nil {
		return Invite{}, fmt.Errorf("%w: %w", ErrBadInvite, err)
	}
	return i, i.valid()
}

func (i Invite) valid() error {
	if err := CheckUserName(i.User); err != nil {
		return fmt.Errorf("%w: %w", ErrBadInvite, err)
	}
	if err := CheckCluster(i.Cluster); err != nil {
		return fmt.Errorf("%w: %w", ErrBadInvite, err)
	}
	if n := len(i.Hubs) + len(i.Auth); n < 1 || len(i.Hubs) > maxTokenAddrs || len(i.Auth) > maxTokenAddrs {
		return fmt.Errorf("%w: number of addresses", ErrBadInvite)
	}
	for _, list := range [][]string{i.Hubs, i.Auth} {
		for _, a := range list {
			if !validAddress(a) {
				return fmt.Errorf("%w: address %q is not host:port", ErrBadInvite, a)
			}
		}
	}
	if _, err := parsePin(i.Pin); err != nil {
		return fmt.Errorf("%w: %w", ErrBadInvite, err)
	}
	if len(i.Secret) < minTokenSecret || len(i.Secret) > maxTokenSecret {
		return fmt.Errorf("%w: length of the secret", ErrBadInvite)
	}
	return nil
}
