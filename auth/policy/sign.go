package policy

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const signContext = "hawser policy 1"

// Errors of OpenCompiled.
var (
	ErrSignature    = errors.New("policy is not signed by a trusted grant key")
	ErrWrongCluster = errors.New("policy is for another cluster")
	ErrWrongDevice  = errors.New("policy is for another device")
)

// SignCompiled signs c for one device with the grant key.
//
// The blob is an envelope (auth/internal/signed) under the context "hawser policy 1"; the payload is TLV: 1 cluster, string
// ≤ 253; 2 device, its UUID in text; 3 the encoded Compiled; 4 recipient, 32 bytes, X25519, repeated ≤ 16: Compiled.Recipients.
func SignCompiled(key ed25519.PrivateKey, cluster, device string, c Compiled) ([]byte, error) {
	body, err := c.Encode()
	if err != nil {
		return nil, err
	}
	b := tlv.AppendString(nil, 1, cluster)
	b = tlv.AppendString(b, 2, device)
	b = tlv.AppendBytes(b, 3, body)
	for _, r := range c.Recipients {
		b = tlv.AppendBytes(b, 4, r[:])
	}
	return signed.Seal(signContext, b, key), nil
}

// OpenCompiled returns the policy in blob when one of keys signed it for this device of this cluster. The caller compares
// its Revision with the one it holds.
func OpenCompiled(blob []byte, keys []ed25519.PublicKey, cluster, device string) (Compiled, error) {
	if len(blob) > MaxCompiled+signedExtra {
		return Compiled{}, ErrTooLarge
	}
	payload, err := signed.Open(signContext, blob, keys)
	if errors.Is(err, signed.ErrSignature) {
		return Compiled{}, ErrSignature
	} else if err != nil {
		return Compiled{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var gotCluster, gotDevice string
	var body []byte
	var recipients [][32]byte
	err = tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&gotCluster, v, maxCluster)
		case 2:
			return tlv.String(&gotDevice, v, maxUUID)
		case 3:
			body = v
		case 4:
			if len(recipients) == MaxRecipients {
				return tlv.ErrLength
			}
			recipients = append(recipients, [32]byte{})
			return tlv.Fixed(recipients[len(recipients)-1][:], v)
		}
		return nil
	})
	switch {
	case err != nil:
		return Compiled{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	case gotCluster != cluster:
		return Compiled{}, ErrWrongCluster
	case gotDevice != device:
		return Compiled{}, ErrWrongDevice
	case body == nil:
		return Compiled{}, fmt.Errorf("%w: no body", ErrMalformed)
	}
	c, err := Decode(body)
	c.Recipients = recipients
	return c, err
}
