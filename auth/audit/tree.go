package audit

import (
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

const hashSize = tlog.HashSize

// tree is the log's Merkle tree: the stored hashes of RFC 6962 in tlog's order, in a file, and its right edge in
// memory, so that to append reads nothing. Not safe for concurrent use, but for a snapshot's ReadHashes.
type tree struct {
	f    *os.File
	n    int64         // leaves
	edge [64]tlog.Hash // edge[l] is the complete subtree of 2^l leaves on the right edge, where bit l of n is set
	// tail are the stored hashes that are not in the file yet: those of one batch, or of more where the disk is full.
	tail  []byte
	inF   int64 // stored hashes in the file
	dirty bool  // the file holds what is not synced
}

// fileHashes reads stored hashes from the file.
func fileHashes(f io.ReaderAt) tlog.HashReaderFunc {
	return func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(indexes))
		for i, x := range indexes {
			if _, err := f.ReadAt(out[i][:], x*hashSize); err != nil {
				return nil, fmt.Errorf("read the tree: %w", err)
			}
		}
		return out, nil
	}
}

// openTree opens the tree with n leaves, which the file must hold; what is beyond them in the file is cut off.
func openTree(f *os.File, n int64) (*tree, error) {
	t := &tree{f: f, n: n, inF: tlog.StoredHashCount(n)}
	if err := f.Truncate(t.inF * hashSize); err != nil {
		return nil, fmt.Errorf("cut the tree: %w", err)
	}
	for l := range 63 {
		if n>>l&1 == 0 {
			continue
		}
		hs, err := fileHashes(f)([]int64{tlog.StoredHashIndex(l, n>>l-1)})
		if err != nil {
			return nil, err
		}
		t.edge[l] = hs[0]
	}
	return t, nil
}

// leaves returns how many leaves a file of so many bytes holds whole.
func leaves(size int64) int64 {
	hashes := size / hashSize
	n := hashes/2 + 1 // at least: n leaves have fewer than 2n stored hashes
	for tlog.StoredHashCount(n) > hashes {
		n--
	}
	for tlog.StoredHashCount(n+1) <= hashes {
		n++
	}
	return n
}

// append adds a leaf to the tree, in memory.
func (t *tree) append(leaf [32]byte) { t.appendHash(tlog.RecordHash(leaf[:])) }

func (t *tree) appendHash(h tlog.Hash) {
	t.tail = append(t.tail, h[:]...)
	l := 0
	for ; t.n>>l&1 == 1; l++ {
		h = tlog.NodeHash(t.edge[l], h)
		t.tail = append(t.tail, h[:]...)
	}
	t.edge[l] = h
	t.n++
}

// flush writes what is in memory only. After an error the tree is unchanged and flush may be called again.
func (t *tree) flush() error {
	if len(t.tail) == 0 {
		return nil
	}
	if _, err := t.f.WriteAt(t.tail, t.inF*hashSize); err != nil {
		return fmt.Errorf("write the tree: %w", err)
	}
	t.inF += int64(len(t.tail) / hashSize)
	t.tail = t.tail[:0]
	t.dirty = true
	return nil
}

// root is the hash of the tree.
func (t *tree) root() tlog.Hash { return rootOf(t.n, &t.edge) }

func rootOf(n int64, edge *[64]tlog.Hash) tlog.Hash {
	if n == 0 {
		h, _ := tlog.TreeHash(0, nil)
		return h
	}
	l := bits.TrailingZeros64(uint64(n))
	h := edge[l]
	for l++; n>>l != 0; l++ {
		if n>>l&1 == 1 {
			h = tlog.NodeHash(edge[l], h)
		}
	}
	return h
}

// ErrSize: a proof was asked for a size the tree does not have.
var ErrSize = errors.New("the log has not that many events")
