package spool

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
	"os"
	"strings"
	"sync"
)

// Chunk is one chunk of a recording.
type Chunk struct {
	Seq  uint64
	Data []byte
}

// Recording is the file of one recording. Safe for concurrent use.
type Recording struct {
	ID   [16]byte
	Note []byte // as Begin was given it
	// Ending is what End was given in an earlier run.
	Ending []byte

	s    *Spool
	name string
	aead cipher.AEAD

	mu     sync.Mutex
	f      *os.File // nil: not open now
	body   int64    // where the chunks begin
	size   int64
	chunks []place // those that are there, in order
	first  uint64  // the sequence of chunks[0]
	ending []byte  // what End was given
	ended  bool    // removed
	// hadChunks: there are chunks in the file, if only such as are dropped.
	hadChunks bool
	extra     int64 // bytes taken beyond the bounds
	damaged   bool  // behind the chunks are bytes that do not read, and then records that do: the file is kept as it is
}

// place is where a chunk is.
type place struct {
	at     int64
	length int // of its sealed part
}

const (
	magic      = "HWSPOOL1"
	fileHead   = len(magic) + 16 + 32
	recordHead = 4 + 8 + 12

	kindNote   = 1
	kindChunk  = 2
	kindEnding = 3

	// endingSeq stands where a chunk has its sequence.
	endingSeq = 1<<64 - 1
	// maxSeq is more than the sequence of any chunk.
	maxSeq = 1 << 40
)

// errNothing is a file without a note.
var errNothing = errors.New("spool: empty file")

func putHead(b []byte, seq uint64, sealed int) {
	binary.BigEndian.PutUint32(b, uint32(sealed))
	binary.BigEndian.PutUint64(b[4:], seq)
	_, _ = rand.Read(b[12:recordHead]) // never fails
}

func additional(id [16]byte, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 24), id[:]...), seq)
}

func (s *Spool) cipher(id [16]byte, salt []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, s.c.Key[:], salt, "hawser spool 1"+string(id[:]), 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Begin makes the file of a recording. The note is what its owner needs to go on after a restart.
func (s *Spool) Begin(id [16]byte, note []byte) (*Recording, error) {
	if len(note) > maxRecord {
		return nil, fmt.Errorf("spool: note of %d bytes", len(note))
	}
	b := append(append(make([]byte, 0, fileHead), magic...), id[:]...)
	b = append(b, make([]byte, 32)...)
	_, _ = rand.Read(b[len(magic)+16:]) // never fails
	aead, err := s.cipher(id, b[len(magic)+16:])
	if err != nil {
		return nil, err
	}
	b = append(b, sealRecord(aead, id, 0, kindNote, note)...)
	r := &Recording{ID: id, Note: note, s: s, name: hex.EncodeToString(id[:]) + suffix, aead: aead, body: int64(len(b)), size: int64(len(b))}
	f, err := s.root.OpenFile(r.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, s.root.Remove(r.name))
	}
	s.mu.Lock()
	s.files++
	s.bytes += r.size
	s.mu.Unlock()
	return r, nil
}

// read reads what an earlier run left in a file.
func (s *Spool) read(id [16]byte, name string) (*Recording, error) {
	f, err := s.root.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, fileHead)
	if _, err := io.ReadFull(f, head); err != nil {
		return nil, fmt.Errorf("%w: %w", errNothing, err)
	}
	if string(head[:len(magic)]) != magic || [16]byte(head[len(magic):]) != id {
		return nil, ErrDamaged
	}
	r := &Recording{ID: id, s: s, name: name}
	if r.aead, err = s.cipher(id, head[len(magic)+16:]); err != nil {
		return nil, err
	}
	at := int64(fileHead)
scan:
	for n := 0; ; n++ {
		var h [recordHead]byte
		if _, err := f.ReadAt(h[:], at); err != nil {
			break
		}
		length, seq := int64(binary.BigEndian.Uint32(h[:])), binary.BigEndian.Uint64(h[4:])
		if length > maxRecord+64 || at+recordHead+length > st.Size() {
			break scan
		}
		switch {
		case n == 0:
			kind, note, err := r.unseal(f, at, int(length), 0)
			if err != nil || kind != kindNote {
				return nil, errors.Join(ErrDamaged, err)
			}
			r.Note, r.body = note, at+recordHead+length
		case seq == endingSeq:
			if kind, ending, err := r.unseal(f, at, int(length), seq); err == nil && kind == kindEnding {
				r.Ending, r.ending = ending, ending
			}
		default:
			if len(r.chunks) == 0 {
				r.first = seq
			} else if seq != r.first+uint64(len(r.chunks)) {
				break scan
			}
			r.chunks = append(r.chunks, place{at, int(length)})
		}
		at += recordHead + length
	}
	r.damaged = at < st.Size() && r.opensBehind(f, at)
	switch {
	case r.body == 0 && r.damaged:
		return nil, ErrDamaged
	case r.body == 0:
		return nil, errNothing
	}
	// A power cut may leave the length of a record without its bytes.
	for len(r.chunks) > 0 {
		last := len(r.chunks) - 1
		if _, _, err := r.unseal(f, r.chunks[last].at, r.chunks[last].length, r.first+uint64(last)); err == nil {
			break
		}
		at, r.chunks = r.chunks[last].at, r.chunks[:last]
	}
	if r.hadChunks = len(r.chunks) > 0; r.damaged {
		r.size = st.Size()
		s.c.Logger.Error("spooled recording is damaged: what is before goes to the auth service, and the file is kept as .refused",
			"file", name, "dir", s.c.Dir, "at", at)
		return r, nil
	}
	r.size = at
	return r, f.Truncate(at)
}

// opensBehind tells whether some record behind a place opens, or the disk does not tell: what is there is no torn end, and not to be cut off.
func (r *Recording) opensBehind(f io.ReaderAt, at int64) bool {
	b := make([]byte, 1<<20)
	for {
		n, err := f.ReadAt(b, at)
		if err != nil && err != io.EOF {
			return true
		}
		for i := 0; i+recordHead <= n; i++ {
			length, seq := binary.BigEndian.Uint32(b[i:]), binary.BigEndian.Uint64(b[i+4:])
			if length <= uint32(r.aead.Overhead()) || length > maxRecord+64 || seq > maxSeq && seq != endingSeq {
				continue
			}
			if _, _, err := r.unseal(f, at+int64(i), int(length), seq); err == nil {
				return true
			}
		}
		if err == io.EOF {
			return false
		}
		at += int64(n - recordHead + 1)
	}
}

// unseal reads one record.
func (r *Recording) unseal(f io.ReaderAt, at int64, length int, seq uint64) (kind byte, data []byte, err error) {
	b := make([]byte, recordHead+length)
	if _, err := f.ReadAt(b, at); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if binary.BigEndian.Uint64(b[4:]) != seq {
		return 0, nil, ErrDamaged
	}
	plain, err := r.aead.Open(b[recordHead:recordHead], b[12:recordHead], b[recordHead:], additional(r.ID, seq))
	if err != nil || len(plain) == 0 {
		return 0, nil, fmt.Errorf("%w: record %d does not open", ErrDamaged, seq)
	}
	return plain[0], plain[1:], nil
}

func (r *Recording) openLocked() error {
	if r.ended {
		return os.ErrClosed
	}
	if r.f != nil {
		return nil
	}
	f, err := r.s.root.OpenFile(r.name, os.O_RDWR, 0)
	r.f = f
	return err
}

// Range is the sequence of the oldest chunk that is there, and of the one after the newest.
func (r *Recording) Range() (first, next uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.first + uint64(len(r.chunks))
}

// Room tells whether a chunk of that many bytes would be taken.
func (r *Recording) Room(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.s
	if r.size+int64(n) > s.c.Each {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes+int64(n) <= s.c.Total && s.free-int64(n) >= s.c.Free
}

// Append adds a chunk behind the last. ErrFull: it would pass a bound, or the disk is full.
func (r *Recording) Append(c Chunk) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.damaged {
		return ErrDamaged
	}
	if next := r.first + uint64(len(r.chunks)); len(r.chunks) > 0 && c.Seq != next {
		return fmt.Errorf("spool: chunk %d where %d was due", c.Seq, next)
	}
	if len(c.Data) > maxRecord {
		return fmt.Errorf("spool: chunk of %d bytes", len(c.Data))
	}
	n := int64(recordHead + 1 + len(c.Data) + r.aead.Overhead())
	extra, err := r.s.takes(r.size, n, r.extra)
	if err != nil {
		return err
	}
	if err := r.openLocked(); err != nil {
		return err
	}
	b := sealRecord(r.aead, r.ID, c.Seq, kindChunk, c.Data)
	if _, err := r.f.WriteAt(b, r.size); err != nil {
		_ = r.f.Truncate(r.size)
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	if len(r.chunks) == 0 {
		r.first = c.Seq
	}
	r.chunks = append(r.chunks, place{r.size, len(b) - recordHead})
	r.hadChunks, r.extra = true, extra
	r.size += n
	r.s.grew(r, n)
	return nil
}

// End notes how the session ended, for who goes on after a restart. It is taken though the bounds are reached.
func (r *Recording) End(ending []byte) error {
	if len(ending) > maxEnding {
		return fmt.Errorf("spool: ending of %d bytes", len(ending))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ending = bytes.Clone(ending)
	return r.endLocked()
}

func (r *Recording) endLocked() error {
	if err := r.openLocked(); err != nil {
		return err
	}
	b := sealRecord(r.aead, r.ID, endingSeq, kindEnding, r.ending)
	if _, err := r.f.WriteAt(b, r.size); err != nil {
		_ = r.f.Truncate(r.size)
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	r.size += int64(len(b))
	r.s.grew(r, int64(len(b)))
	return nil
}

// Read returns chunks from the one with the sequence on, at least one if there is one, and no more than limit bytes beyond it. ErrDamaged comes
// with those before the damage.
func (r *Recording) Read(from uint64, limit int) (chunks []Chunk, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := r.first + uint64(len(r.chunks))
	for seq := max(from, r.first); seq < next && (limit > 0 || len(chunks) == 0); seq++ {
		if err := r.openLocked(); err != nil {
			return chunks, err
		}
		p := r.chunks[seq-r.first]
		kind, data, err := r.unseal(r.f, p.at, p.length, seq)
		if err != nil || kind != kindChunk {
			return chunks, errors.Join(ErrDamaged, err)
		}
		limit -= len(data)
		chunks = append(chunks, Chunk{seq, data})
	}
	if r.damaged && max(from, r.first)+uint64(len(chunks)) >= next {
		return chunks, ErrDamaged
	}
	return chunks, nil
}

// Drop forgets the chunks below next. When none is left the file gives their space back.
func (r *Recording) Drop(next uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.chunks) > 0 && r.first < next {
		r.chunks = r.chunks[1:]
		r.first++
	}
	if len(r.chunks) > 0 || !r.hadChunks || r.ended || r.damaged {
		return nil
	}
	if err := r.openLocked(); err != nil {
		return err
	}
	if err := r.f.Truncate(r.body); err != nil {
		return err
	}
	r.s.grew(r, r.body-r.size)
	r.size, r.chunks, r.hadChunks, r.extra = r.body, nil, false, 0
	var err error
	if r.ending != nil {
		err = r.endLocked()
	}
	return errors.Join(err, r.closeLocked())
}

func (r *Recording) sync() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	return r.f.Sync()
}

func (r *Recording) closeLocked() error {
	if r.f == nil {
		return nil
	}
	err := r.f.Close()
	r.f = nil
	return err
}

// Close closes the file, which stays for the next run. A later call opens it again.
func (r *Recording) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.f == nil {
		return nil
	}
	return errors.Join(r.f.Sync(), r.closeLocked())
}

// Refuse keeps the file under another name, for people to look into: auth does not take the recording, or it cannot be read. One without
// chunks is removed.
func (r *Recording) Refuse() error {
	r.mu.Lock()
	if r.ended || len(r.chunks) == 0 && !r.damaged {
		r.mu.Unlock()
		return r.Remove()
	}
	defer r.mu.Unlock()
	r.ended = true
	r.s.gone(r)
	r.s.mu.Lock()
	r.s.refusedFiles++
	r.s.mu.Unlock()
	return errors.Join(r.closeLocked(), r.s.root.Rename(r.name, strings.TrimSuffix(r.name, suffix)+refusedSuffix))
}

// Remove removes the file: the recording is closed.
func (r *Recording) Remove() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return nil
	}
	r.ended = true
	r.s.grew(r, -r.size)
	r.s.gone(r)
	return errors.Join(r.closeLocked(), r.s.root.Remove(r.name))
}
