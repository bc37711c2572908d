package indextest

import (
	"encoding/binary"
	"hash/crc32"
	"time"

	"hawser/recorder"
	"hawser/recorder/zstdcodec"
)

// Chunks makes the stored chunks of a recording whose times are given, where a recorder.Writer takes them from the clock.
type Chunks struct {
	All [][]byte

	id       [16]byte
	records  []byte
	first    uint64 // microseconds, of the chunk
	last     uint64
	previous [32]byte
	sums     [3]uint64 // input, stdout, stderr
}

// NewChunks begins a recording at a terminal of that size; 0 is none.
func NewChunks(id [16]byte, start time.Time, width, height uint64) *Chunks {
	c := &Chunks{id: id, previous: recorder.Genesis(id)}
	p := field(nil, recorder.HeaderID, id[:])
	p = field(p, recorder.HeaderUser, []byte("alice"))
	p = field(p, recorder.HeaderDevice, []byte("gw-1"))
	p = field(p, recorder.HeaderWidth, binary.AppendUvarint(nil, width))
	p = field(p, recorder.HeaderHeight, binary.AppendUvarint(nil, height))
	p = field(p, recorder.HeaderStart, binary.AppendUvarint(nil, uint64(start.UnixMicro())))
	c.Record(0, recorder.RecordHeader, p)
	return c
}

func field(b []byte, tag byte, v []byte) []byte {
	return append(binary.AppendUvarint(append(b, tag), uint64(len(v))), v...)
}

// Record adds a record of at most 60,000 bytes.
func (c *Chunks) Record(at time.Duration, t recorder.RecordType, payload []byte) {
	us := max(c.last, uint64(at.Microseconds()))
	if len(c.records) > 0 && (us-c.first >= uint64(recorder.MaxChunkAge.Microseconds()) || len(c.records)+len(payload)+16 > recorder.MaxChunk) {
		c.cut(0)
	}
	if len(c.records) == 0 {
		c.first, c.last = us, us
	}
	c.records = binary.AppendUvarint(append(c.records, byte(t)), us-c.last)
	c.records = append(binary.AppendUvarint(c.records, uint64(len(payload))), payload...)
	c.last = us
	switch t {
	case recorder.RecordInput:
		c.sums[0] += uint64(len(payload)) - 1
	case recorder.RecordStdout:
		c.sums[1] += uint64(len(payload))
	case recorder.RecordStderr:
		c.sums[2] += uint64(len(payload))
	}
}

// Close ends the recording with an unsigned head.
func (c *Chunks) Close() [][]byte {
	c.cut(0)
	p := field(nil, recorder.HeadID, c.id[:])
	p = field(p, recorder.HeadChunks, binary.AppendUvarint(nil, uint64(len(c.All))))
	p = field(p, recorder.HeadHash, c.previous[:])
	for i, tag := range []byte{recorder.HeadInput, recorder.HeadStdout, recorder.HeadStderr} {
		p = field(p, tag, binary.AppendUvarint(nil, c.sums[i]))
	}
	p = field(p, recorder.HeadDuration, binary.AppendUvarint(nil, c.last))
	c.first = c.last
	c.records = append(binary.AppendUvarint([]byte{byte(recorder.RecordHead), 0}, uint64(len(p))), p...)
	c.cut(recorder.FlagLast)
	return c.All
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (c *Chunks) cut(flags byte) {
	if len(c.records) == 0 {
		return
	}
	b := append([]byte(recorder.Magic), recorder.Version, recorder.CodecZstd, flags, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(len(c.All)))
	b = binary.BigEndian.AppendUint64(b, c.first)
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.records)))
	b = append(append(b, 0, 0, 0, 0), c.previous[:]...)
	b = zstdcodec.Codec().Compress(b, c.records)
	if len(b)-recorder.ChunkHeaderSize >= len(c.records) {
		b = append(b[:recorder.ChunkHeaderSize], c.records...)
		b[5] = recorder.CodecNone
	}
	binary.BigEndian.PutUint32(b[28:], uint32(len(b)-recorder.ChunkHeaderSize))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	c.All = append(c.All, b)
	c.previous = recorder.Hash(b)
	c.records = c.records[:0]
}

// Record makes a recording of a session that lasts for so long.
func (s *Session) Record(id [16]byte, start time.Time, lasts time.Duration) [][]byte {
	c := NewChunks(id, start, 80, 24)
	var at time.Duration
	c.Record(at, recorder.RecordStdout, []byte(s.prompt()))
	for at < lasts {
		for _, st := range s.Steps() {
			at += st.After
			for b := st.Bytes; len(b) > 0; b = b[min(len(b), 32<<10):] {
				c.Record(at, recorder.RecordStdout, b[:min(len(b), 32<<10)])
			}
		}
	}
	c.Record(at, recorder.RecordExit, nil)
	return c.Close()
}
