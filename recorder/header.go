package recorder

import (
	"encoding/binary"
	"time"
)

// Header says what is recorded. It is the first record.
type Header struct {
	ID            [16]byte // the recording's id, also the session's
	Cluster       string
	User          string
	Device        string // name
	DeviceUUID    string
	Login         string
	Way           string // hub, end-to-end, direct
	ClientAddr    string
	Hub           string // name or UUID of the entry hub
	Kind          string // shell, exec, sftp, ...
	Command       string // not in the header of an encrypted recording, which all can read: the start record has it
	Term          string
	Width, Height uint32    // characters; 0 is no terminal
	Start         time.Time // kept to the microsecond; zero means now
	SignerKey     []byte    // Ed25519 public key that Options.Sign uses; may be empty
	Keys          [][]byte  // Options.Key, one encrypted copy for each recipient; none: the recording is not encrypted
	Input         string    // InputOff, InputRedacted or InputFull; empty is full
	Unkept        uint8     // UnkeptInput and the other bits
}

// append appends the payload of the header record.
func (h Header) append(b []byte) []byte {
	b = appendBytes(b, HeaderID, h.ID[:])
	for _, f := range []struct {
		tag  byte
		text string
	}{
		{HeaderCluster, h.Cluster}, {HeaderUser, h.User}, {HeaderDevice, h.Device}, {HeaderDeviceUUID, h.DeviceUUID},
		{HeaderLogin, h.Login}, {HeaderWay, h.Way}, {HeaderClientAddr, h.ClientAddr}, {HeaderHub, h.Hub},
		{HeaderKind, h.Kind}, {HeaderTerm, h.Term},
	} {
		b = appendText(b, f.tag, f.text, maxHeaderText)
	}
	b = appendText(b, HeaderCommand, h.Command, maxCommand)
	b = appendUint(b, HeaderWidth, uint64(h.Width))
	b = appendUint(b, HeaderHeight, uint64(h.Height))
	b = appendUint(b, HeaderStart, uint64(max(0, h.Start.UnixMicro())))
	if len(h.SignerKey) > 0 {
		b = appendBytes(b, HeaderSigner, h.SignerKey)
	}
	b = appendText(b, HeaderInput, h.Input, maxText)
	b = appendSome(b, HeaderUnkept, uint64(h.Unkept))
	for _, k := range h.Keys[:min(len(h.Keys), MaxKeys)] {
		b = appendBytes(b, HeaderKey, k[:min(len(k), maxKey)])
	}
	return b
}

// appendStart appends the payload of a start record.
func appendStart(b []byte, kind, command, term string, env []string) []byte {
	b = appendText(b, StartKind, kind, maxText)
	b = appendText(b, StartCommand, command, maxCommand)
	b = appendText(b, StartTerm, term, maxText)
	room := maxEnvBytes
	for _, e := range env[:min(len(env), maxEnv)] {
		if len(e) > room {
			break
		}
		room -= len(e)
		b = appendText(b, StartEnv, e, maxEnvBytes)
	}
	return b
}

// gapPayload is the payload of a gap record.
func gapPayload(bytes uint64, reason string) []byte {
	return appendText(appendUint(nil, GapBytes, bytes), GapReason, reason, maxText)
}

// appendText appends a field, cut to limit bytes; an empty one is left out.
func appendText(b []byte, tag byte, s string, limit int) []byte {
	if s == "" {
		return b
	}
	s = s[:min(len(s), limit)]
	b = binary.AppendUvarint(append(b, tag), uint64(len(s)))
	return append(b, s...)
}

func appendBytes(b []byte, tag byte, v []byte) []byte {
	b = binary.AppendUvarint(append(b, tag), uint64(len(v)))
	return append(b, v...)
}

func appendUint(b []byte, tag byte, v uint64) []byte {
	b = append(b, tag, byte(uvarintLen(v)))
	return binary.AppendUvarint(b, v)
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}
