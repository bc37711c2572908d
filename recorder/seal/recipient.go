package seal

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"strings"
)

// What ParseRecipient returns.
var (
	errRecipient = errors.New("it is no age recipient, or was mistyped: give what `age-keygen` calls the public key, age1 and 58 characters")
	errIdentity  = errors.New("it is an identity, the secret half, that none but the auditor may have: make a new one with `age-keygen`, and give its public key")
	errOther     = errors.New("it is of another kind: recordings are encrypted to the recipients that `age-keygen` makes without options, age1 and 58 characters")
	errSSH       = errors.New("it is an SSH key: make an age key with `age-keygen -o FILE`, and give its public key")
	errWeak      = errors.New("it is no key that anybody has: make one with `age-keygen`")
)

// bech32 is the alphabet of BIP 173.
const bech32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"

// maxRecipient bounds the text of a recipient: those of age's other kinds are longer, and said to be such.
const maxRecipient = 4 << 10

// ParseRecipient reads a recipient, an X25519 public key, as age writes it: age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p. The
// error says what is wrong with it and what to give.
func ParseRecipient(s string) (r [32]byte, err error) {
	lower := strings.ToLower(s)
	switch {
	case strings.HasPrefix(lower, "age-secret-key-"):
		return r, errIdentity
	case strings.HasPrefix(lower, "ssh-"):
		return r, errSSH
	case len(s) > maxRecipient:
		return r, errRecipient
	}
	name, data, ok := decode(s)
	switch {
	case ok && name != "age" && strings.HasPrefix(name, "age1"):
		return r, errOther // a plugin's, or post-quantum
	case !ok || name != "age" || len(data) != len(r):
		return r, errRecipient
	}
	copy(r[:], data)
	if !usable(r) {
		return [32]byte{}, errWeak
	}
	return r, nil
}

// usable tells whether a key can be agreed on with it: with the points of small order none can.
func usable(r [32]byte) bool {
	own, err := ecdh.X25519().NewPrivateKey(bytes.Repeat([]byte{9}, 32)) // any key does
	if err != nil {
		return false
	}
	to, err := ecdh.X25519().NewPublicKey(r[:])
	if err != nil {
		return false
	}
	_, err = own.ECDH(to)
	return err == nil
}

// decode decodes Bech32 of any length.
func decode(s string) (name string, data []byte, ok bool) {
	if s != strings.ToLower(s) && s != strings.ToUpper(s) {
		return "", nil, false
	}
	for _, c := range []byte(s) {
		if c < 33 || c > 126 { // and so no letter that only folds to one of the alphabet
			return "", nil, false
		}
	}
	s = strings.ToLower(s)
	one := strings.LastIndexByte(s, '1')
	if one < 1 || len(s)-one < 7 {
		return "", nil, false
	}
	name = s[:one]
	groups := make([]byte, 0, len(s))
	for _, c := range []byte(s[one+1:]) {
		i := strings.IndexByte(bech32, c)
		if i < 0 {
			return "", nil, false
		}
		groups = append(groups, byte(i))
	}
	if checksum(name, groups) != 1 {
		return "", nil, false
	}
	groups = groups[:len(groups)-6]
	data = regroup(groups, 5, 8)
	// What pads the last group is zero and less than a group.
	back := regroup(data, 8, 5)
	return name, data, string(back) == string(groups)
}

// checksum is BIP 173's polymod of the name and the groups.
func checksum(name string, groups []byte) uint32 {
	sum := uint32(1)
	add := func(v byte) {
		top := sum >> 25
		sum = sum&0x1ffffff<<5 ^ uint32(v)
		for i, g := range []uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
			if top>>i&1 == 1 {
				sum ^= g
			}
		}
	}
	for _, c := range []byte(name) {
		add(c >> 5)
	}
	add(0)
	for _, c := range []byte(name) {
		add(c & 31)
	}
	for _, g := range groups {
		add(g)
	}
	return sum
}

// regroup makes groups of so many bits of groups of others; to whole bytes, it leaves out what is not a whole one.
func regroup(in []byte, from, to uint) (out []byte) {
	acc, bits := uint32(0), uint(0)
	for _, v := range in {
		acc = acc<<from | uint32(v)
		for bits += from; bits >= to; {
			bits -= to
			out = append(out, byte(acc>>bits)&(1<<to-1))
		}
		acc &= 1<<bits - 1
	}
	if bits > 0 && to == 5 {
		out = append(out, byte(acc<<(to-bits))&31)
	}
	return out
}
