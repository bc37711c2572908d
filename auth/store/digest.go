package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// digest is the sum of all records' hashes, with their number: it is kept up with each transaction and compared at open. A record that a
// damaged file took away or brought back from the past shows, wherever in the database it was.
type digest struct {
	sum   [2]uint64
	count uint64
}

const digestSize = 24

func recordHash(key string, record []byte) [2]uint64 {
	h := sha256.New()
	h.Write(binary.AppendUvarint(nil, uint64(len(key))))
	h.Write([]byte(key))
	h.Write(record)
	s := h.Sum(nil)
	return [2]uint64{binary.BigEndian.Uint64(s), binary.BigEndian.Uint64(s[8:])}
}

func (d *digest) add(key string, record []byte) {
	h := recordHash(key, record)
	d.sum[0] += h[0]
	d.sum[1] += h[1]
	d.count++
}

func (d *digest) remove(key string, record []byte) {
	h := recordHash(key, record)
	d.sum[0] -= h[0]
	d.sum[1] -= h[1]
	d.count--
}

func (d digest) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, d.sum[0])
	b = binary.BigEndian.AppendUint64(b, d.sum[1])
	return binary.BigEndian.AppendUint64(b, d.count)
}

func decodeDigest(b []byte) (digest, error) {
	if len(b) != digestSize {
		return digest{}, fmt.Errorf("%w: digest of %d bytes", ErrDamaged, len(b))
	}
	return digest{[2]uint64{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}, binary.BigEndian.Uint64(b[16:])}, nil
}

// follow brings d up with events that are about to be written to t.
func (d *digest) follow(t *badger.Txn, events []Event) error {
	for _, e := range events {
		old, exists, err := getRecord(t, e.KV.Key)
		if err != nil {
			return err
		}
		if exists {
			d.remove(e.KV.Key, encodeRecord(old))
		}
		if e.Type == EventPut {
			d.add(e.KV.Key, encodeRecord(e.KV))
		}
	}
	return nil
}
