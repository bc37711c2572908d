package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
)

// ErrFormat is wrapped by what is wrong with an object.
var ErrFormat = errors.New("index: malformed")

// Kind says where a line is from.
type Kind uint8

// The kinds of lines.
const (
	Screen  Kind = iota // the terminal showed it, or it was written without one
	Command             // a command that was run
	File                // an operation on a file
	Forward             // a forward's target
	Remark              // of the recorder, or about people in the session
	kinds
)

var kindNames = [kinds]string{"screen", "command", "file", "forward", "remark"}

// String is the name for people and for data.
func (k Kind) String() string {
	if k >= kinds {
		return "unknown"
	}
	return kindNames[k]
}

// Line is one line of what a recording shows.
type Line struct {
	Time time.Duration // since the recording's start: when it was there to be seen
	Kind Kind
	Text string
}

// block collects lines until there are enough for an object.
type block struct {
	text  []byte
	about []byte
	lines int
	last  int64 // milliseconds, of the last line
}

// add adds a line that has no controls; false: there is no room.
func (b *block) add(at time.Duration, kind Kind, text string) bool {
	if b.lines == maxLines || len(b.text)+len(text)+1 > maxText {
		return false
	}
	ms := min(max(0, at.Milliseconds()), maxTime.Milliseconds())
	// Lines come in the order in which they went: the times of some go back.
	step := ms - b.last
	b.about = binary.AppendUvarint(b.about, uint64(step<<1^step>>63)<<3|uint64(kind))
	b.last = ms
	b.text = append(append(b.text, text...), '\n')
	b.lines++
	return true
}

// seal returns the block as an object, and the filter of its text.
func (b *block) seal() (object, filter []byte) {
	object = append(object, Version)
	object = binary.AppendUvarint(object, uint64(len(b.text)))
	object = binary.AppendUvarint(object, uint64(len(b.about)))
	object = encoder().EncodeAll(append(bytes.Clone(b.text), b.about...), object)
	return object, newFilter(fold(nil, b.text))
}

// A Block is one object of text, opened.
type Block struct {
	text  []byte
	about []byte
}

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(true), zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(2))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(2<<20), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

// OpenBlock opens an object of text. buf is used for it if it is large enough.
func OpenBlock(object, buf []byte) (Block, error) {
	if len(object) == 0 || object[0] != Version {
		return Block{}, fmt.Errorf("%w: not a block of version %d", ErrFormat, Version)
	}
	text, n := binary.Uvarint(object[1:])
	if n <= 0 || text > maxText {
		return Block{}, fmt.Errorf("%w: length of the text", ErrFormat)
	}
	about, m := binary.Uvarint(object[1+n:])
	if m <= 0 || about > maxLines*lineBytes {
		return Block{}, fmt.Errorf("%w: length of what is said of lines", ErrFormat)
	}
	raw, err := decompress(object[1+n+m:], buf, int(text+about))
	if err != nil {
		return Block{}, err
	}
	return Block{raw[:text], raw[text:]}, nil
}

// decompress returns what object holds, which is length bytes.
func decompress(object, buf []byte, length int) ([]byte, error) {
	if cap(buf) < length {
		buf = make([]byte, 0, length)
	}
	raw, err := decoder().DecodeAll(object, buf[:0:length])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if len(raw) != length {
		return nil, fmt.Errorf("%w: %d bytes, not %d", ErrFormat, len(raw), length)
	}
	return raw, nil
}

// Lines calls fn for each line until it returns false.
func (b Block) Lines(fn func(Line) bool) error {
	return b.each(func(at time.Duration, kind Kind, text []byte) bool { return fn(Line{at, kind, clean(string(text))}) })
}

func (b Block) each(fn func(at time.Duration, kind Kind, text []byte) bool) error {
	text, about := b.text, b.about
	var ms int64
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		n, w := binary.Uvarint(about)
		step := int64(n>>4) ^ -int64(n>>3&1)
		if end < 0 || w <= 0 || step > maxTime.Milliseconds()-ms || ms+step < 0 {
			return fmt.Errorf("%w: lines", ErrFormat)
		}
		ms += step
		if !fn(time.Duration(ms)*time.Millisecond, Kind(n&7), text[:end]) {
			return nil
		}
		text, about = text[end+1:], about[w:]
	}
	return nil
}

// at returns the lines of these numbers, which rise.
func (b Block) at(numbers []int) (found []Line, err error) {
	n := 0
	err = b.each(func(at time.Duration, kind Kind, text []byte) bool {
		if n == numbers[len(found)] {
			found = append(found, Line{at, kind, clean(string(text))})
		}
		n++
		return len(found) < len(numbers)
	})
	return found, err
}

// A Query is a text that is searched for. The zero Query is none.
type Query struct {
	text   []byte // folded, unless exact
	exact  bool
	hashes []uint16 // of the folded text's trigrams
}

// NewQuery prepares a search for a text within a line, exact or whatever its capitals are.
func NewQuery(text string, exact bool) (Query, error) {
	switch {
	case text == "":
		return Query{}, errors.New("nothing to search for")
	case len(text) > MaxQuery:
		return Query{}, fmt.Errorf("a text of %d bytes; at most %d are searched for", len(text), MaxQuery)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return Query{}, errors.New("a text to search for has no control characters, and is UTF-8")
	}
	q := Query{text: []byte(text), exact: exact}
	folded := fold(nil, q.text)
	if !exact {
		q.text = folded
	}
	trigrams(folded, func(h uint16) { q.hashes = append(q.hashes, h) })
	return q, nil
}

// Matches tells whether a line has what is searched for.
func (q Query) Matches(line string) bool {
	if q.exact {
		return strings.Contains(line, string(q.text))
	}
	return bytes.Contains(fold(nil, []byte(line)), q.text)
}

// Search returns the lines that match, at most limit of them, and how many there are in all. buf holds what is needed meanwhile; it may be
// nil, and is returned to be given again.
func (b Block) Search(q Query, limit int, buf []byte) (found []Line, all int, _ []byte, err error) {
	text := b.text
	if !q.exact {
		buf = fold(buf[:0], text)
		text = buf
	}
	var numbers []int
	for line := 0; ; {
		i := bytes.Index(text, q.text)
		if i < 0 {
			break
		}
		line += bytes.Count(text[:i], []byte{'\n'})
		if len(numbers) < limit {
			numbers = append(numbers, line)
		}
		all++
		end := bytes.IndexByte(text[i:], '\n')
		if end < 0 {
			break
		}
		text = text[i+end+1:]
		line++
	}
	if len(numbers) > 0 {
		found, err = b.at(numbers)
	}
	return found, all, buf, err
}

// fold appends b with capitals made small. It keeps the lines' ends where they are.
func fold(dst, b []byte) []byte {
	start := len(dst)
	dst = append(dst, b...)
	out := dst[start:]
	for i, c := range out {
		if c >= utf8.RuneSelf {
			return foldRunes(dst[:start+i], b[i:])
		}
		if c-'A' < 26 {
			out[i] = c + ('a' - 'A')
		}
	}
	return dst
}

// foldRunes is fold for what is more than ASCII.
func foldRunes(dst, b []byte) []byte {
	for len(b) > 0 {
		if c := b[0]; c < utf8.RuneSelf {
			if c-'A' < 26 {
				c += 'a' - 'A'
			}
			dst, b = append(dst, c), b[1:]
			continue
		}
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			dst = append(dst, b[0])
		} else {
			dst = utf8.AppendRune(dst, unicode.ToLower(r))
		}
		b = b[n:]
	}
	return dst
}

// clean makes one line of s that is text and nothing else, of at most MaxLine bytes.
func clean(s string) string {
	plain := len(s) <= MaxLine
	for i := 0; plain && i < len(s); i++ {
		plain = s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain {
		return strings.TrimRight(s, " ")
	}
	b := make([]byte, 0, min(len(s), MaxLine))
	for _, r := range s {
		if r == '\t' || unicode.Is(unicode.Zs, r) {
			r = ' '
		} else if !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		if len(b)+utf8.RuneLen(r) > MaxLine {
			break
		}
		b = utf8.AppendRune(b, r)
	}
	return strings.TrimRight(string(b), " ")
}

// Spans are where in a line what is searched for is, as beginnings and ends in bytes.
func (q Query) Spans(line string) (spans [][2]int) {
	text := []byte(line)
	if !q.exact {
		if text = fold(nil, text); len(text) != len(line) {
			return nil // a letter has more bytes one way than the other
		}
	}
	for at := 0; ; {
		i := bytes.Index(text[at:], q.text)
		if i < 0 || len(spans) == maxSpans {
			return spans
		}
		spans = append(spans, [2]int{at + i, at + i + len(q.text)})
		at += i + len(q.text)
	}
}

// maxSpans of one line are told.
const maxSpans = 100

// Buffer is the memory that a block is in, for the next OpenBlock.
func (b Block) Buffer() []byte { return b.text[:0] }
