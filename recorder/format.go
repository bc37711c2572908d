package recorder

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Version of the format written here and understood by recorder/reader.
const Version = 1

// Magic begins every chunk.
const Magic = "HWRC"

// Codec ids, the byte in a chunk's header.
const (
	CodecNone  = 0 // stored as it is; chosen where compression gains nothing
	CodecFlate = 1 // RFC 1951
	CodecZstd  = 2 // RFC 8878
)

// Chunk flags. A reader refuses a chunk with a flag it does not know.
const (
	FlagLast   = 1 << 0 // the closing chunk: one Head record, nothing after it
	FlagSealed = 1 << 1 // the body is encrypted
)

// RecordType is the first byte of a record. A reader skips types it does not know.
type RecordType byte

// Record types of version 1. FORMAT.md gives each payload.
const (
	RecordHeader RecordType = 1  // TLV, first record of chunk 0
	RecordInput  RecordType = 2  // participant uvarint, then bytes
	RecordStdout RecordType = 3  // bytes
	RecordStderr RecordType = 4  // bytes
	RecordResize RecordType = 5  // columns uvarint, rows uvarint
	RecordStart  RecordType = 6  // TLV
	RecordExit   RecordType = 7  // TLV
	RecordMarker RecordType = 8  // UTF-8 text
	RecordGap    RecordType = 9  // TLV: what was dropped, and why
	RecordHead   RecordType = 10 // TLV: the closing head and its signature

	RecordFileOp      RecordType = 11 // TLV: something done to a file
	RecordForward     RecordType = 12 // TLV: a forwarded connection
	RecordAgentUse    RecordType = 13 // TLV: a use of the person's agent
	RecordParticipant RecordType = 14 // TLV: somebody joined or left
	RecordCommand     RecordType = 15 // TLV: a command that was run
	RecordWithheld    RecordType = 16 // TLV: input that is not kept
	RecordRequest     RecordType = 17 // TLV: a channel request that passed
)

// Field tags of the TLV payloads: tag u8, length uvarint, value. Unknown tags are ignored.
const (
	HeaderID         = 1  // 16 bytes
	HeaderCluster    = 2  // text
	HeaderUser       = 3  // text
	HeaderDevice     = 4  // text
	HeaderDeviceUUID = 5  // text
	HeaderLogin      = 6  // text
	HeaderWay        = 7  // text
	HeaderClientAddr = 8  // text
	HeaderHub        = 9  // text
	HeaderKind       = 10 // text
	HeaderCommand    = 11 // text
	HeaderTerm       = 12 // text
	HeaderWidth      = 13 // uvarint
	HeaderHeight     = 14 // uvarint
	HeaderStart      = 15 // uvarint, Unix time in microseconds
	HeaderSigner     = 16 // 32 bytes, Ed25519 public key that will sign the head
	HeaderKey        = 17 // bytes: the session's key, encrypted to one recipient; repeated
	HeaderInput      = 18 // text: what is kept of input: off, redacted, full
	HeaderUnkept     = 19 // uvarint: bits of streams that pass without being kept

	StartKind    = 1 // text: shell, exec, sftp, ...
	StartCommand = 2 // bytes
	StartTerm    = 3 // text
	StartEnv     = 4 // text NAME=VALUE, repeated

	ExitStatus = 1 // uvarint
	ExitSignal = 2 // text, RFC 4254 section 6.10 name without SIG

	GapBytes  = 1 // uvarint, how many bytes are missing
	GapReason = 2 // text

	HeadID        = 1 // 16 bytes
	HeadChunks    = 2 // uvarint, chunks before the closing one
	HeadHash      = 3 // 32 bytes, hash of the last of them
	HeadInput     = 4 // uvarint, bytes of input
	HeadStdout    = 5 // uvarint
	HeadStderr    = 6 // uvarint
	HeadGaps      = 7 // uvarint, gap records
	HeadDuration  = 8 // uvarint, microseconds
	HeadSignature = 15

	HeadInputHash    = 16 // 32 bytes, SHA-256 of the input that is kept; of all that passed where the stream is not kept
	HeadStdoutHash   = 17 // 32 bytes, the same
	HeadStderrHash   = 18 // 32 bytes, the same
	HeadRequestsHash = 19 // 32 bytes, over all requests to the device: RequestHash
	HeadWithheld     = 20 // uvarint, bytes of input that are not kept
	HeadRequests     = 21 // uvarint, requests to the device
	HeadAnswers      = 22 // uvarint, requests by the device
	HeadAnswersHash  = 23 // 32 bytes, over all requests by the device
	HeadWitness      = 24 // bytes: the device's witness
	HeadUnwitnessed  = 25 // text: why there is none
	HeadInputHashed  = 26 // uvarint, bytes of input that HeadInputHash is of: the owner's, where HeadInput counts guests' too

	FileOpName   = 1 // text
	FilePath     = 2 // text
	FilePath2    = 3 // text
	FileRead     = 4 // uvarint, bytes
	FileWritten  = 5 // uvarint, bytes
	FileStatus   = 6 // uvarint
	FileHash     = 7 // 32 bytes, SHA-256
	FileMode     = 8 // uvarint
	FileProtocol = 9 // text

	ForwardKind   = 1 // text
	ForwardTarget = 2 // text
	ForwardOrigin = 3 // text
	ForwardState  = 4 // text
	ForwardIn     = 5 // uvarint, bytes
	ForwardOut    = 6 // uvarint, bytes
	ForwardID     = 7 // uvarint

	AgentFingerprint = 1 // text
	AgentWhat        = 2 // text
	AgentBytes       = 3 // uvarint

	ParticipantID    = 1 // uvarint
	ParticipantUser  = 2 // text
	ParticipantMode  = 3 // text
	ParticipantState = 4 // text
	ParticipantWay   = 5 // text

	CommandText       = 1 // text
	CommandSource     = 2 // text
	CommandConfidence = 3 // uvarint, 0..100
	CommandStatus     = 4 // uvarint; absent: not known

	WithheldBytes       = 1 // uvarint
	WithheldReason      = 2 // text
	WithheldParticipant = 3 // uvarint
	WithheldEnter       = 4 // uvarint, 1: a line ended here

	RequestName       = 1 // text
	RequestPayload    = 2 // bytes
	RequestDigest     = 3 // 32 bytes, SHA-256 of a payload that is not kept
	RequestFromDevice = 4 // uvarint, 1: the device asked
)

// What a recording keeps of input, HeaderInput. Absent is InputFull.
const (
	InputOff      = "off"
	InputRedacted = "redacted"
	InputFull     = "full"
)

// InputPaused is the WithheldReason of what was typed before a session began, or while it was paused: no process got it.
const InputPaused = "paused"

// Bits of HeaderUnkept: the stream is counted and hashed, and its bytes are not in the recording. A file transfer's are facts instead.
const (
	UnkeptInput  = 1 << 0
	UnkeptStdout = 1 << 1
	UnkeptStderr = 1 << 2
)

// Errors of ParseChunk.
var (
	ErrChunk     = errors.New("recorder: damaged chunk")
	ErrVersion   = errors.New("recorder: chunk of a version this program does not know")
	ErrTruncated = errors.New("recorder: chunk is cut off")
)

// ChunkHeaderSize is the fixed part before a chunk's body:
//
//	magic 4 | version 1 | codec 1 | flags 1 | reserved 1 | seq 8 | time 8 | raw length 4 | body length 4 | previous hash 32
const ChunkHeaderSize = 4 + 4 + 8 + 8 + 4 + 4 + 32

// ChunkTrailerSize is the CRC-32C after the body, over all before it.
const ChunkTrailerSize = 4

// SealOverhead is how much longer encryption makes a body: the tag of AES-GCM.
const SealOverhead = 16

// MaxStoredChunk bounds a whole stored chunk in bytes: a body is never longer than what it holds, but for SealOverhead.
const MaxStoredChunk = ChunkHeaderSize + MaxChunk + SealOverhead + ChunkTrailerSize

// ChunkHeader is a stored chunk's fixed part. Integers are big-endian.
type ChunkHeader struct {
	Version  uint8
	Codec    uint8
	Flags    uint8
	Seq      uint64   // 0, 1, 2, ...
	Time     uint64   // microseconds since the recording's start; the first record's delta counts from here
	RawLen   uint32   // length of the records once uncompressed
	BodyLen  uint32   // length of the body as stored
	Previous [32]byte // Hash of the chunk before, Genesis for chunk 0
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash of a stored chunk: SHA-256 over all its bytes, trailer included.
func Hash(stored []byte) [32]byte { return sha256.Sum256(stored) }

// Genesis is the previous hash of chunk 0. It binds the chain to the recording's id.
func Genesis(id [16]byte) [32]byte {
	return sha256.Sum256(append([]byte("hawser recording v1\x00"), id[:]...))
}

// HeadMessage is what the recorder signs: a context string and the head's fields before the signature.
func HeadMessage(fields []byte) []byte {
	return append([]byte("hawser recording head v1\x00"), fields...)
}

// ParseChunk checks a stored chunk's frame and returns its header and body. The chunk may be followed by
// others; ChunkHeader.Size tells its length. ErrTruncated means that more bytes are needed.
func ParseChunk(b []byte) (ChunkHeader, []byte, error) {
	var h ChunkHeader
	if len(b) < ChunkHeaderSize {
		return h, nil, ErrTruncated
	}
	if string(b[:4]) != Magic {
		return h, nil, fmt.Errorf("%w: no magic", ErrChunk)
	}
	h.Version, h.Codec, h.Flags = b[4], b[5], b[6]
	if h.Version != Version {
		return h, nil, fmt.Errorf("%w: version %d", ErrVersion, h.Version)
	}
	if b[7] != 0 {
		return h, nil, fmt.Errorf("%w: reserved byte %#x", ErrChunk, b[7])
	}
	h.Seq = binary.BigEndian.Uint64(b[8:])
	h.Time = binary.BigEndian.Uint64(b[16:])
	h.RawLen = binary.BigEndian.Uint32(b[24:])
	h.BodyLen = binary.BigEndian.Uint32(b[28:])
	copy(h.Previous[:], b[32:])
	extra := uint32(0)
	if h.Flags&FlagSealed != 0 {
		extra = SealOverhead
	}
	if h.RawLen > MaxChunk || h.BodyLen > h.RawLen+extra || h.BodyLen < extra {
		return h, nil, fmt.Errorf("%w: length beyond the bound", ErrChunk)
	}
	if len(b) < h.Size() {
		return h, nil, ErrTruncated
	}
	end := ChunkHeaderSize + int(h.BodyLen)
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return h, nil, fmt.Errorf("%w: checksum differs", ErrChunk)
	}
	return h, b[ChunkHeaderSize:end], nil
}

// Size is the length of the whole stored chunk in bytes.
func (h ChunkHeader) Size() int { return ChunkHeaderSize + int(h.BodyLen) + ChunkTrailerSize }

// appendHeader appends the fixed part.
func (h ChunkHeader) appendHeader(b []byte) []byte {
	b = append(b, Magic...)
	b = append(b, h.Version, h.Codec, h.Flags, 0)
	b = binary.BigEndian.AppendUint64(b, h.Seq)
	b = binary.BigEndian.AppendUint64(b, h.Time)
	b = binary.BigEndian.AppendUint32(b, h.RawLen)
	b = binary.BigEndian.AppendUint32(b, h.BodyLen)
	return append(b, h.Previous[:]...)
}
