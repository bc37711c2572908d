package audit

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"time"
)

// block is a run of lines of one day's file, and what a search must know to leave it out.
type block struct {
	off, end    int64 // in the file
	first, n    int64 // seqs
	from, until int64 // times of its events, Unix nanoseconds
	bloom       [bloomBytes]byte
}

// blockSize is a block in the index file: its numbers, its bloom filter, a CRC-32C of both; all little endian.
const blockSize = 6*8 + bloomBytes + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (b *block) append(to []byte) []byte {
	at := len(to)
	for _, v := range [...]int64{b.off, b.end, b.first, b.n, b.from, b.until} {
		to = binary.LittleEndian.AppendUint64(to, uint64(v))
	}
	to = append(to, b.bloom[:]...)
	return binary.LittleEndian.AppendUint32(to, crc32.Checksum(to[at:], castagnoli))
}

// parseBlock decodes one; false: it is damaged.
func parseBlock(p []byte) (b block, ok bool) {
	if len(p) < blockSize || crc32.Checksum(p[:blockSize-4], castagnoli) != binary.LittleEndian.Uint32(p[blockSize-4:]) {
		return b, false
	}
	for i, v := range []*int64{&b.off, &b.end, &b.first, &b.n, &b.from, &b.until} {
		*v = int64(binary.LittleEndian.Uint64(p[8*i:]))
	}
	copy(b.bloom[:], p[48:])
	return b, b.off >= 0 && b.end > b.off && b.n > 0
}

// parseIndex decodes the blocks that an index file begins with and that follow each other, up to size bytes of events.
func parseIndex(p []byte, size int64) []block {
	var out []block
	for ; len(p) >= blockSize; p = p[blockSize:] {
		b, ok := parseBlock(p)
		if !ok || b.end > size || len(out) == 0 && b.off != 0 || len(out) > 0 && (b.off != out[len(out)-1].end || b.first != out[len(out)-1].first+out[len(out)-1].n) {
			break
		}
		out = append(out, b)
	}
	return out
}

// Terms of the index. A search for one leaves out the blocks that have it not.
const (
	termUser    = "u"
	termDevice  = "d"
	termSession = "s"
	termType    = "t"
)

// terms calls f with each of the event's terms.
func (e *Event) terms(f func(kind, value string)) {
	add := func(kind, v string) {
		if v != "" {
			f(kind, v)
		}
	}
	add(termUser, e.User)
	if name, ok := strings.CutPrefix(e.Actor, "user:"); ok {
		add(termUser, name)
	}
	add(termDevice, e.Device)
	add(termDevice, e.DeviceUUID)
	add(termSession, e.Session)
	add(termSession, e.Connection)
	for i := range len(e.Type) {
		if e.Type[i] == '.' {
			add(termType, e.Type[:i])
		}
	}
	add(termType, e.Type)
}

// fnv64 is FNV-1a: the index must mean the same in the next run, which hash/maphash does not.
func fnv64(kind, value string) uint64 {
	h := uint64(14695981039346656037)
	for _, s := range [...]string{kind, value} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
	}
	return h
}

func (b *block) add(kind, value string) {
	h := fnv64(kind, value)
	for x, d := uint32(h), uint32(h>>32)|1; x != uint32(h)+4*d; x += d {
		bit := x % (bloomBytes * 8)
		b.bloom[bit/8] |= 1 << (bit % 8)
	}
}

func (b *block) has(kind, value string) bool {
	h := fnv64(kind, value)
	for x, d := uint32(h), uint32(h>>32)|1; x != uint32(h)+4*d; x += d {
		bit := x % (bloomBytes * 8)
		if b.bloom[bit/8]&(1<<(bit%8)) == 0 {
			return false
		}
	}
	return true
}

// take adds a line of so many bytes, newline included, to the block.
func (b *block) take(e *Event, seq int64, size int) {
	at := e.Time.UnixNano()
	if b.n == 0 {
		b.first, b.from, b.until = seq, at, at
	}
	b.n++
	b.end += int64(size)
	b.from, b.until = min(b.from, at), max(b.until, at)
	e.terms(b.add)
}

// full tells whether the block is to be closed.
func (b *block) full() bool { return b.end-b.off >= blockBytes }

// overlaps tells whether the block may hold events of [since, until); a zero time has no bound.
func (b *block) overlaps(since, until time.Time) bool {
	return (since.IsZero() || b.until >= since.UnixNano()) && (until.IsZero() || b.from < until.UnixNano())
}
