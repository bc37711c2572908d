package ca

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
)

const (
	splitContext = "hawser split 1"
	maxSplit     = 8 << 10
	maxSplitText = 2048
)

// ErrBadSplit is an order to split that auth did not give to this device.
var ErrBadSplit = errors.New("order to split is not auth's, or not for this device")

// SignSplit makes the order by which a machine that has a copy of a device's identity becomes a device of its own: it makes a key and joins by
// the token. It is signed, for no hub may take a device's identity from it.
func SignSplit(key ed25519.PrivateKey, device, token string) []byte {
	return signed.Seal(splitContext, tlv.AppendString(tlv.AppendString(nil, 1, device), 2, token), key)
}

// OpenSplit returns the token of an order to that device.
func OpenSplit(blob []byte, keys []ed25519.PublicKey, device string) (token string, err error) {
	if len(blob) > maxSplit {
		return "", ErrBadSplit
	}
	payload, err := signed.Open(splitContext, blob, keys)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrBadSplit, err)
	}
	var to string
	err = tlv.Read(payload, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.String(&to, v, 36)
		case 2:
			return tlv.String(&token, v, maxSplitText)
		}
		return nil
	})
	if err != nil || to != device {
		return "", ErrBadSplit
	}
	return token, nil
}
