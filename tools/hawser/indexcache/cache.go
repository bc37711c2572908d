// Package indexcache keeps the indexes that an auditor's machine makes of recordings that are encrypted to him, so that they are made once. A file
// holds what one recording shows, and is encrypted by that recording's own key, with the copies of it that are wrapped for its recipients: whoever
// copies the files reads as little as who copies the recordings.
//
// The files are private to this package: of another version, or changed, they are made anew.
package indexcache

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
)

const (
	magic   = "HWIC\x01"
	context = "hawser index cache 1"

	maxBytes   = 1 << 30   // of all files; beyond, those that were used least lately go
	maxFile    = 256 << 20 // of one: an index has at most 64 MiB of text
	maxClosing = 128

	fresh      = ".new" // ends the name of a file that is being written
	freshLife  = time.Hour
	maxWrapped = 64 << 10
)

// ErrNone is returned for a recording of which there is no index here, or not of all of it.
var ErrNone = errors.New("no index of this recording here")

var errDamaged = errors.New("damaged")

// Index is a recording's: its text and their filters, as recorder/index makes them.
type Index struct {
	Text, Filters map[uint64][]byte
}

// Put takes an object of a Builder; those of no use for searching it leaves.
func (x *Index) Put(o index.Object) error {
	if x.Text == nil {
		x.Text, x.Filters = map[uint64][]byte{}, map[uint64][]byte{}
	}
	switch o.Kind {
	case index.KindText:
		x.Text[o.N] = bytes.Clone(o.Data)
	case index.KindFilter:
		x.Filters[o.N] = bytes.Clone(o.Data)
	}
	return nil
}

// Find returns at most limit lines that q finds, in the order of time, and how many there are.
func (x *Index) Find(q index.Query, limit int) (found []index.Line, all int) {
	var raw, buf []byte
	for n, text := range x.Text {
		if f, ok := x.Filters[n]; ok {
			if may, err := q.MayHold(f); !may && err == nil {
				continue
			}
		}
		b, err := index.OpenBlock(text, raw)
		if err != nil {
			continue
		}
		raw = b.Buffer()
		some, count, used, err := b.Search(q, limit, buf)
		if err != nil {
			continue
		}
		buf = used
		found = append(found, some...)
		all += count
	}
	slices.SortStableFunc(found, func(a, b index.Line) int { return int(a.Time - b.Time) })
	return found[:min(len(found), limit)], all
}

// Cache is a directory of indexes. Safe for concurrent use.
type Cache struct{ root *os.Root }

// Open opens the directory, which it makes if need be.
func Open(dir string) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Cache{root}, nil
}

// Close lets go of the directory.
func (c *Cache) Close() error { return c.root.Close() }

func name(id [16]byte) string { return hex.EncodeToString(id[:]) }

// Get reads the index of a recording whose closing chunk auth says is closing. ErrNone: there is none of it; another error: open's.
func (c *Cache) Get(id [16]byte, closing string, open reader.Opener) (*Index, error) {
	f, err := c.root.Open(name(id))
	if err != nil {
		return nil, ErrNone
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil || len(b) > maxFile {
		return nil, ErrNone
	}
	x, err := decode(b, id, closing, open)
	if errors.Is(err, errDamaged) {
		return nil, ErrNone
	}
	if err == nil {
		now := time.Now()
		_ = c.root.Chtimes(name(id), now, now) // it was of use lately
	}
	return x, err
}

// Put keeps the index of a recording with that header.
func (c *Cache) Put(h recorder.Header, closing string, key [32]byte, x *Index) error {
	b, err := encode(h, closing, key, x)
	if err != nil {
		return err
	}
	tmp := name(h.ID) + "." + rand.Text() + fresh // two may make the same
	if err := c.root.WriteFile(tmp, b, 0o600); err != nil {
		return errors.Join(err, c.root.Remove(tmp))
	}
	return c.root.Rename(tmp, name(h.ID))
}

// Remove removes the index of a recording, if there is one.
func (c *Cache) Remove(id [16]byte) error {
	if err := c.root.Remove(name(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Trim removes what is beyond the bound, and what a killed program left.
func (c *Cache) Trim() error { return c.trim(maxBytes) }

func (c *Cache) trim(most int64) error {
	dir, err := c.root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	var all []fs.FileInfo
	sum := int64(0)
	for _, e := range entries {
		if i, err := e.Info(); err == nil && i.Mode().IsRegular() {
			if strings.HasSuffix(i.Name(), fresh) && time.Since(i.ModTime()) > freshLife {
				_ = c.root.Remove(i.Name()) // the next time, else
				continue
			}
			all = append(all, i)
			sum += i.Size()
		}
	}
	slices.SortFunc(all, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, i := range all {
		if sum <= most {
			break
		}
		if err := c.root.Remove(i.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		sum -= i.Size()
	}
	return nil
}

func sealer(key [32]byte) (cipher.AEAD, error) {
	own, err := hkdf.Key(sha256.New, key[:], nil, context, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(own)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// A file: magic, id 16, closing and each wrapped key with their lengths u32, a length 0, nonce 12, and sealed, with all before as additional data, for
// each object kind u8, number u64, length u32, data.
func encode(h recorder.Header, closing string, key [32]byte, x *Index) ([]byte, error) {
	if len(closing) == 0 || len(closing) > maxClosing || len(h.Keys) > recorder.MaxKeys {
		return nil, fmt.Errorf("index of recording %x is not kept", h.ID)
	}
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	var plain []byte
	for kind, objects := range map[byte]map[uint64][]byte{index.KindText: x.Text, index.KindFilter: x.Filters} {
		for n, data := range objects {
			plain = binary.BigEndian.AppendUint64(append(plain, kind), n)
			plain = appendText(plain, data)
		}
	}
	if len(plain) > maxFile-1<<20 {
		return nil, fmt.Errorf("index of recording %x is too large to be kept", h.ID)
	}
	b := append([]byte(magic), h.ID[:]...)
	b = appendText(b, []byte(closing))
	for _, k := range h.Keys {
		b = appendText(b, k)
	}
	b = appendText(b, nil)
	nonce := make([]byte, aead.NonceSize())
	rand.Read(nonce)
	b = append(b, nonce...)
	return aead.Seal(b, nonce, plain, b), nil
}

func appendText(b, text []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(text))), text...)
}

func decode(b []byte, id [16]byte, closing string, open reader.Opener) (*Index, error) {
	rest, ok := bytes.CutPrefix(b, append([]byte(magic), id[:]...))
	if !ok {
		return nil, errDamaged
	}
	of, rest, ok := cutText(rest, maxClosing)
	if !ok || string(of) != closing || len(of) == 0 {
		return nil, errDamaged
	}
	var wrapped [][]byte
	for {
		var k []byte
		if k, rest, ok = cutText(rest, maxWrapped); !ok || len(wrapped) > recorder.MaxKeys {
			return nil, errDamaged
		}
		if len(k) == 0 {
			break
		}
		wrapped = append(wrapped, k)
	}
	key, err := open(wrapped)
	if err != nil {
		return nil, err
	}
	aead, err := sealer(key)
	if err != nil {
		return nil, err
	}
	if len(rest) < aead.NonceSize() {
		return nil, errDamaged
	}
	nonce, sealed := rest[:aead.NonceSize()], rest[aead.NonceSize():]
	plain, err := aead.Open(nil, nonce, sealed, b[:len(b)-len(sealed)])
	if err != nil {
		return nil, errDamaged
	}
	return parse(plain)
}

// parse reads the objects.
func parse(plain []byte) (*Index, error) {
	x := &Index{}
	for len(plain) > 0 {
		if len(plain) < 9 {
			return nil, errDamaged
		}
		o := index.Object{Kind: plain[0], N: binary.BigEndian.Uint64(plain[1:])}
		var ok bool
		if o.Data, plain, ok = cutText(plain[9:], maxFile); !ok {
			return nil, errDamaged
		}
		if err := x.Put(o); err != nil {
			return nil, err
		}
	}
	return x, nil
}

func cutText(b []byte, most int) (text, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(n) > uint64(min(most, len(b)-4)) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}
