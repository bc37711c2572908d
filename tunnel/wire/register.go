package wire

import "encoding/binary"

// registerContext keeps the device key's signature from meaning anything but a registration.
const registerContext = "hawser-tunnel/1 register\x00"

// RegisterTBS returns the bytes a device signs to register: a context string, the hub's nonce, and the fields that
// order registrations. A hub shows them with the signature to other hubs.
func RegisterTBS(nonce [32]byte, r Register) []byte {
	b := make([]byte, 0, len(registerContext)+32+16+16+16+1+8)
	b = append(b, registerContext...)
	b = append(b, nonce[:]...)
	b = append(b, r.UUID[:]...)
	b = append(b, r.Hub[:]...)
	b = append(b, r.Incarnation[:]...)
	b = append(b, r.Slot)
	return binary.BigEndian.AppendUint64(b, r.Counter)
}
