package index

import (
	"fmt"
	"math/bits"
)

// A filter says which trigrams a block may have: of each run of three bytes of the folded text that does not cross a line's end, one bit is
// set. A query's text can only be in a block whose filter has all bits of the query. One in four bits is set at most, but in a full block of
// words that are all different: a word of six letters is looked for in vain in 1 of 250 blocks, one of ten in 1 of 65,000.

// trigrams calls fn with the hash of each trigram.
func trigrams(folded []byte, fn func(uint16)) {
	for i := 2; i < len(folded); i++ {
		a, b, c := folded[i-2], folded[i-1], folded[i]
		if a == '\n' || b == '\n' || c == '\n' {
			continue
		}
		h := (uint32(a) | uint32(b)<<8 | uint32(c)<<16) * 0x9e3779b1
		fn(uint16(h >> 16))
	}
}

// newFilter is an object: version, size as a power of two, bits.
func newFilter(folded []byte) []byte {
	var set [1 << maxFilterBits / 64]uint64
	trigrams(folded, func(h uint16) { set[h>>6] |= 1 << (h & 63) })
	n := 0
	for _, w := range set {
		n += bits.OnesCount64(w)
	}
	size := min(max(bits.Len(uint(4*n)), minFilterBits), maxFilterBits)
	f := make([]byte, 2+1<<size/8)
	f[0], f[1] = Version, byte(size)
	for i, w := range set {
		for ; w != 0; w &= w - 1 {
			h := uint(i<<6+bits.TrailingZeros64(w)) >> (maxFilterBits - size)
			f[2+h>>3] |= 1 << (h & 7)
		}
	}
	return f
}

// MayHold tells from a block's filter whether the block may have what is searched for.
func (q Query) MayHold(filter []byte) (bool, error) {
	if len(filter) < 2 || filter[0] != Version || filter[1] < minFilterBits || filter[1] > maxFilterBits || len(filter) != 2+1<<filter[1]/8 {
		return false, fmt.Errorf("%w: filter", ErrFormat)
	}
	shift := maxFilterBits - filter[1]
	for _, h := range q.hashes {
		if h >>= shift; filter[2+h>>3]&(1<<(h&7)) == 0 {
			return false, nil
		}
	}
	return true, nil
}
