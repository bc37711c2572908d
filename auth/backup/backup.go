// Package backup is the form of a backup of the auth service: one stream that holds everything a cluster is, in the order in which it is
// restored. Writer makes one, Read takes one apart and believes nothing: it ends with an error unless the stream is whole. What is written
// is secret (the CA keys are in it) and goes through Encrypt before it touches a disk.
//
// The stream is the line "hawser backup 1" and frames: a type byte, the length of the payload in 4 bytes, big-endian, and the payload.
//
//	H  Header, JSON; the first
//	R  a record of the state: the key's length in 2 bytes, the key, the value
//	S  the CA set; once
//	F  a file begins: FileInfo, JSON; its bytes follow in D frames
//	M  a recording begins: its manifest; its chunks follow in C frames: sequence number in 8 bytes, the chunk
//	E  End, JSON; the last
//
// Read accepts every stream of format 1; a frame of another type ends it with an error.
package backup

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// Format is what this package writes and reads.
const Format = 1

const (
	magic    = "hawser backup 1\n"
	maxFrame = 1<<20 + 64 // bytes of a payload; what is longer is cut into several, or is none of ours
	maxKey   = 1 << 12
	maxName  = 255 // bytes of a file's name
)

// Errors of Read.
var (
	ErrFormat    = errors.New("not a backup")
	ErrDamaged   = errors.New("the backup is damaged")
	ErrNewer     = errors.New("the backup is of a newer release")
	errWrongTurn = fmt.Errorf("%w: frames out of order", ErrDamaged)
)

// Header says what a backup is of.
type Header struct {
	Format     int       `json:"format"`
	Schema     int       `json:"schema"`  // of the records
	Version    string    `json:"version"` // of the program that wrote it
	Cluster    string    `json:"cluster"`
	UUID       string    `json:"uuid"` // of the auth service
	Created    time.Time `json:"created"`
	Recordings bool      `json:"recordings"` // whether recordings are in it
}

// End counts what came before.
type End struct {
	Revision   uint64 `json:"revision"` // of the state
	Records    int    `json:"records"`
	Files      int    `json:"files"`
	FileBytes  int64  `json:"file_bytes"`
	Recordings int    `json:"recordings"`
	Chunks     int    `json:"chunks"`
	Objects    int    `json:"objects,omitempty"` // of recordings: what was made of them, certificates
}

// FileInfo is a file of the data directory: an audit log.
type FileInfo struct {
	Name string `json:"name"` // with slashes, relative
	Size int64  `json:"size"`
}

func (f FileInfo) valid() bool {
	return f.Size >= 0 && f.Name != "" && len(f.Name) <= maxName && path.Clean(f.Name) == f.Name && !path.IsAbs(f.Name) &&
		f.Name != "." && f.Name != ".." && !strings.HasPrefix(f.Name, "../") && !strings.ContainsAny(f.Name, "\\\x00")
}

// Writer writes a backup. Call Record, Set, File and Recording with its Chunks in this order, End last. Not safe for concurrent use;
// after an error it is unusable.
type Writer struct {
	w   *bufio.Writer
	end End
}

// NewWriter begins a backup; h.Format is set.
func NewWriter(w io.Writer, h Header) (*Writer, error) {
	h.Format = Format
	b := &Writer{w: bufio.NewWriterSize(w, 64<<10)}
	if _, err := b.w.WriteString(magic); err != nil {
		return nil, err
	}
	return b, b.json('H', h)
}

// Record writes one record of the state.
func (b *Writer) Record(key string, value []byte) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("a key of %d bytes", len(key))
	}
	b.end.Records++
	return b.frame('R', binary.BigEndian.AppendUint16(nil, uint16(len(key))), []byte(key), value)
}

// Set writes the CA set.
func (b *Writer) Set(set []byte) error { return b.frame('S', set) }

// File writes a file's first size bytes, which r must have.
func (b *Writer) File(name string, size int64, r io.Reader) error {
	info := FileInfo{name, size}
	if !info.valid() {
		return fmt.Errorf("a file %q cannot be in a backup", name)
	}
	b.end.Files++
	b.end.FileBytes += size
	if err := b.json('F', info); err != nil {
		return err
	}
	buf := make([]byte, min(size, 256<<10))
	for left := size; left > 0; {
		part := buf[:min(left, int64(len(buf)))]
		if _, err := io.ReadFull(r, part); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := b.frame('D', part); err != nil {
			return err
		}
		left -= int64(len(part))
	}
	return nil
}

// Recording begins a recording.
func (b *Writer) Recording(manifest []byte) error {
	b.end.Recordings++
	return b.frame('M', manifest)
}

// Chunk writes the next chunk of the recording.
func (b *Writer) Chunk(seq uint64, chunk []byte) error {
	b.end.Chunks++
	return b.frame('C', binary.BigEndian.AppendUint64(nil, seq), chunk)
}

// Object writes a side object of the recording, after its chunks.
func (b *Writer) Object(kind byte, n uint64, data []byte) error {
	b.end.Objects++
	return b.frame('O', []byte{kind}, binary.BigEndian.AppendUint64(nil, n), data)
}

// End finishes the backup: without it Read accepts nothing.
func (b *Writer) End(revision uint64) (End, error) {
	b.end.Revision = revision
	if err := b.json('E', b.end); err != nil {
		return End{}, err
	}
	return b.end, b.w.Flush()
}

func (b *Writer) json(kind byte, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.frame(kind, p)
}

func (b *Writer) frame(kind byte, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n > maxFrame {
		return fmt.Errorf("a frame of %d bytes", n)
	}
	if _, err := b.w.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(n))); err != nil {
		return err
	}
	for _, p := range parts {
		if _, err := b.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Contents takes what Read finds, in the order of the stream. Slices are valid during the call. A nil function skips; an error ends Read.
type Contents struct {
	Header    func(Header) error
	Record    func(key string, value []byte) error
	Set       func(set []byte) error
	File      func(info FileInfo, r io.Reader) error // r has info.Size bytes or fails
	Recording func(manifest []byte) error
	Chunk     func(seq uint64, chunk []byte) error
	Object    func(kind byte, n uint64, data []byte) error
}

// Read takes a whole backup apart.
func Read(r io.Reader, c Contents) (Header, End, error) {
	d := &decoder{r: bufio.NewReaderSize(r, 64<<10), c: c}
	err := d.run()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%w: it ends too early", ErrDamaged)
	}
	return d.header, d.end, err
}

type decoder struct {
	r      *bufio.Reader
	c      Contents
	header Header
	end    End // counted
	buf    []byte
}

// next reads a frame; the payload is valid until the next call.
func (d *decoder) next() (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(d.r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrame {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes", ErrDamaged, n)
	}
	if int(n) > cap(d.buf) {
		d.buf = make([]byte, n)
	}
	payload = d.buf[:n]
	_, err = io.ReadFull(d.r, payload)
	return head[0], payload, err
}

func (d *decoder) run() error {
	begin := make([]byte, len(magic))
	if _, err := io.ReadFull(d.r, begin); err != nil || string(begin) != magic {
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = ErrFormat
		}
		return err
	}
	kind, p, err := d.next()
	if err != nil {
		return err
	}
	if kind != 'H' || json.Unmarshal(p, &d.header) != nil {
		return fmt.Errorf("%w: header", ErrDamaged)
	}
	if d.header.Format != Format {
		return fmt.Errorf("%w: format %d, this one reads %d", ErrNewer, d.header.Format, Format)
	}
	if d.c.Header != nil {
		if err := d.c.Header(d.header); err != nil {
			return err
		}
	}
	// Where in the order of types the stream is.
	const order = "RSFMCO"
	at, sets := 0, 0
	for {
		kind, p, err := d.next()
		if err != nil {
			return err
		}
		if kind == 'E' {
			if sets != 1 {
				return errWrongTurn
			}
			return d.finish(p)
		}
		turn := strings.IndexByte(order, kind)
		switch {
		case turn < 0:
			return fmt.Errorf("%w: a frame of type %q", ErrDamaged, kind)
		case kind == 'M' && at >= strings.IndexByte(order, 'C'):
			// Recordings follow one another.
		case (kind == 'C' || kind == 'O') && d.end.Recordings == 0, turn < at:
			return errWrongTurn
		}
		at = turn
		if kind == 'S' {
			if sets++; sets > 1 {
				return errWrongTurn
			}
		}
		if err := d.take(kind, p); err != nil {
			return err
		}
	}
}

func (d *decoder) take(kind byte, p []byte) error {
	switch kind {
	case 'R':
		if len(p) < 2 {
			return fmt.Errorf("%w: record", ErrDamaged)
		}
		n := int(binary.BigEndian.Uint16(p))
		if n == 0 || n > maxKey || len(p) < 2+n {
			return fmt.Errorf("%w: record", ErrDamaged)
		}
		d.end.Records++
		if d.c.Record != nil {
			return d.c.Record(string(p[2:2+n]), p[2+n:])
		}
	case 'S':
		if d.c.Set != nil {
			return d.c.Set(p)
		}
	case 'F':
		return d.file(p)
	case 'M':
		d.end.Recordings++
		if d.c.Recording != nil {
			return d.c.Recording(p)
		}
	case 'C':
		if len(p) < 8 {
			return fmt.Errorf("%w: chunk", ErrDamaged)
		}
		d.end.Chunks++
		if d.c.Chunk != nil {
			return d.c.Chunk(binary.BigEndian.Uint64(p), p[8:])
		}
	case 'O':
		if len(p) < 10 {
			return fmt.Errorf("%w: side object", ErrDamaged)
		}
		d.end.Objects++
		if d.c.Object != nil {
			return d.c.Object(p[0], binary.BigEndian.Uint64(p[1:]), p[9:])
		}
	}
	return nil
}

func (d *decoder) file(p []byte) error {
	var info FileInfo
	if err := json.Unmarshal(p, &info); err != nil || !info.valid() {
		return fmt.Errorf("%w: file", ErrDamaged)
	}
	d.end.Files++
	d.end.FileBytes += info.Size
	r := &fileReader{d: d, left: info.Size}
	if d.c.File != nil {
		if err := d.c.File(info, r); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

// fileReader reads the D frames of one file.
type fileReader struct {
	d    *decoder
	left int64
	part []byte
}

func (f *fileReader) Read(b []byte) (int, error) {
	if len(f.part) == 0 {
		if f.left == 0 {
			return 0, io.EOF
		}
		kind, p, err := f.d.next()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		if kind != 'D' || len(p) == 0 || int64(len(p)) > f.left {
			return 0, fmt.Errorf("%w: file", ErrDamaged)
		}
		f.part = p
		f.left -= int64(len(p))
	}
	n := copy(b, f.part)
	f.part = f.part[n:]
	return n, nil
}

func (d *decoder) finish(p []byte) error {
	var said End
	if err := json.Unmarshal(p, &said); err != nil {
		return fmt.Errorf("%w: end", ErrDamaged)
	}
	d.end.Revision = said.Revision
	if d.end != said {
		return fmt.Errorf("%w: it says %+v and has %+v", ErrDamaged, said, d.end)
	}
	if _, err := d.r.ReadByte(); err != io.EOF {
		return errors.Join(err, fmt.Errorf("%w: something follows its end", ErrDamaged))
	}
	return nil
}
