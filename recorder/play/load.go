package play

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"hawser/recorder"
	"hawser/recorder/commands"
	"hawser/recorder/index"
	"hawser/recorder/reader"
)

// inMemory is how many bytes of a recording are held in memory; those beyond are in a file that has no name.
const inMemory = 64 << 20

// A Recording is one that is being loaded: it can be played as far as it is there. Its bytes are kept as they are stored, so of an encrypted
// one no plain text is. Safe for concurrent use.
type Recording struct {
	open   func(next func() ([]byte, error)) *reader.Reader
	middle func(h recorder.Header, chunk uint64, next func() ([]byte, error)) *reader.Reader
	made   bool  // the index came with it
	most   int64 // bytes; 0: not bounded

	mu       sync.Mutex
	more     chan struct{} // closed when something came
	header   *recorder.Header
	chunks   []stored
	memory   int64
	file     *os.File
	size     int64
	duration time.Duration
	complete bool
	ended    bool
	err      error
	frames   map[uint64][]index.Frame
	text     map[uint64][]byte
	every    uint64 // one of so many groups of frames is kept
	framed   int64  // bytes of frames
	texts    int64  // bytes of text

	ranMu sync.Mutex
	ran   *commands.Finder // nil: there is no header yet
}

type stored struct {
	mem  []byte
	at   int64
	size int
}

// NewRecording is one that Load loads.
func NewRecording() *Recording {
	return &Recording{open: reader.New, middle: reader.From, more: make(chan struct{}), every: 1, frames: map[uint64][]index.Frame{}, text: map[uint64][]byte{}}
}

// Index gives objects of an index that is of the whole recording, before Load, so that it need not be made.
func (l *Recording) Index(keyframes, text [][]byte) error {
	for i, o := range keyframes {
		frames, err := index.OpenFrames(o)
		if err != nil {
			return err
		}
		l.frames[uint64(i)] = frames
	}
	for i, o := range text {
		l.text[uint64(i)] = o
	}
	l.made = true
	return nil
}

// ErrTooLarge is Load's for a recording beyond the bound of InMemory.
var ErrTooLarge = errors.New("the recording is too large to be played here")

// InMemory bounds the recording's bytes, all of which are then held in memory: nothing of it is put into a file. Its index is bounded to as much, half
// of it keyframes and half text. It is called before Load.
func (l *Recording) InMemory(most int64) { l.most = most }

// Load reads the chunks that next returns until its io.EOF, checks their chain and makes the index, if none was given. What was read before
// an error can be played.
func (l *Recording) Load(next func() ([]byte, error)) error {
	err := l.load(func() ([]byte, error) {
		c, err := next()
		if err == nil {
			err = l.keep(c)
		}
		return c, err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended, l.err = true, err
	l.changedLocked()
	return err
}

func (l *Recording) load(next func() ([]byte, error)) error {
	r := l.open(next)
	h, err := r.Header()
	if err != nil {
		if err == io.EOF {
			err = errors.New("the recording is empty")
		}
		return err
	}
	l.mu.Lock()
	l.header = &h
	l.changedLocked()
	l.mu.Unlock()
	l.ranMu.Lock()
	l.ran = commands.New(h)
	l.ranMu.Unlock()
	if l.made {
		for err == nil {
			var e reader.Event
			if e, err = r.Next(); err == nil {
				l.reached(e)
			}
		}
		if err == io.EOF {
			err = nil
		}
	} else {
		b := index.NewBuilder(h, l.put)
		b.Seen = l.reached
		err = b.Extend(r)
		err = errors.Join(err, b.Flush())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.complete = r.Complete()
	if head := r.Head(); head != nil {
		l.duration = max(l.duration, head.Duration)
	}
	return err
}

func (l *Recording) reached(e reader.Event) {
	l.ranMu.Lock()
	l.ran.Event(e)
	l.ranMu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.duration = e.Time
}

// Commands are those that were run, in the order of their times, as far as the recording is loaded.
func (l *Recording) Commands() []commands.Command {
	l.ranMu.Lock()
	defer l.ranMu.Unlock()
	if l.ran == nil {
		return nil
	}
	return l.ran.Commands()
}

func (l *Recording) put(o index.Object) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch o.Kind {
	case index.KindFrames:
		if o.N%l.every != 0 {
			return nil
		}
		frames, err := index.OpenFrames(o.Data)
		if err != nil {
			return err
		}
		l.framed += sizeOf(frames) - sizeOf(l.frames[o.N]) // the last may come again
		l.frames[o.N] = frames
	case index.KindText:
		grows := int64(len(o.Data) - len(l.text[o.N]))
		if l.most > 0 && l.texts+grows > l.most/2 {
			return nil // it is not found then
		}
		l.texts += grows
		l.text[o.N] = o.Data
	}
	// Output of many times its stored size has frames of many times that too. With fewer a seek plays a longer part.
	for l.most > 0 && l.framed > l.most/2 && len(l.frames) > 1 {
		l.every *= 2
		for n, frames := range l.frames {
			if n%l.every != 0 {
				l.framed -= sizeOf(frames)
				delete(l.frames, n)
			}
		}
	}
	return nil
}

// sizeOf is how much memory frames take.
func sizeOf(frames []index.Frame) (n int64) {
	for _, f := range frames {
		n += int64(len(f.State)) + 64
	}
	return n
}

// keep stores one chunk.
func (l *Recording) keep(c []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := stored{size: len(c)}
	if l.most > 0 && l.memory+int64(len(c)) > l.most {
		return ErrTooLarge
	}
	if l.most > 0 || l.memory+int64(len(c)) <= inMemory {
		s.mem = slices.Clone(c)
		l.memory += int64(len(c))
	} else {
		if l.file == nil {
			f, err := os.CreateTemp("", "hawser-play-")
			if err != nil {
				return err
			}
			if err := os.Remove(f.Name()); err != nil {
				return errors.Join(err, f.Close())
			}
			l.file = f
		}
		if _, err := l.file.WriteAt(c, l.size); err != nil {
			return fmt.Errorf("keep a long recording in %s: %w", os.TempDir(), err)
		}
		s.at = l.size
		l.size += int64(len(c))
	}
	l.chunks = append(l.chunks, s)
	l.changedLocked()
	return nil
}

func (l *Recording) changedLocked() {
	close(l.more)
	l.more = make(chan struct{})
}

// Close lets go of what is kept. Load must have returned.
func (l *Recording) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// Header waits for the header.
func (l *Recording) Header(ctx context.Context) (recorder.Header, error) {
	for {
		l.mu.Lock()
		h, ended, err, more := l.header, l.ended, l.err, l.more
		l.mu.Unlock()
		switch {
		case h != nil:
			return *h, nil
		case ended:
			return recorder.Header{}, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return recorder.Header{}, context.Cause(ctx)
		}
	}
}

// from reads from a chunk that was checked when it was loaded.
func (l *Recording) from(h recorder.Header, chunk uint64, next func() ([]byte, error)) *reader.Reader {
	if chunk == 0 {
		return l.open(next)
	}
	return l.middle(h, chunk, next)
}

// chunk waits for a chunk; io.EOF: there is none, or it cannot be believed.
func (l *Recording) chunk(ctx context.Context, n uint64) ([]byte, error) {
	for {
		l.mu.Lock()
		ended, more, file := l.ended, l.more, l.file
		var s *stored
		if n < uint64(len(l.chunks)) {
			s = &l.chunks[n]
		}
		l.mu.Unlock()
		switch {
		case s != nil && s.mem != nil:
			return s.mem, nil
		case s != nil:
			b := make([]byte, s.size)
			_, err := file.ReadAt(b, s.at)
			return b, err
		case ended:
			return nil, io.EOF
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Duration is how long the recording is, as far as it is loaded; ended: it is loaded, or cannot be to its end.
func (l *Recording) Duration() (d time.Duration, ended bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.duration, l.ended
}

// Complete tells, when it is loaded, whether its recorder closed it.
func (l *Recording) Complete() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.complete
}

// frameBefore is the last keyframe that is not after a time.
func (l *Recording) frameBefore(t time.Duration) (best index.Frame, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, group := range l.frames {
		for _, f := range group {
			if f.Time <= t && (!ok || f.Time > best.Time || f.Time == best.Time && f.Chunk > best.Chunk) && f.Chunk < uint64(len(l.chunks)) {
				best, ok = f, true
			}
		}
	}
	return best, ok
}

// Find returns the lines that keep says, in the order of their times.
func (l *Recording) Find(keep func(index.Line) bool) (found []index.Line) {
	l.mu.Lock()
	objects := make([][]byte, 0, len(l.text))
	for _, o := range l.text {
		objects = append(objects, o)
	}
	l.mu.Unlock()
	for _, o := range objects {
		b, err := index.OpenBlock(o, nil)
		if err != nil {
			continue
		}
		_ = b.Lines(func(line index.Line) bool { // as far as they can be read
			if keep(line) {
				found = append(found, line)
			}
			return true
		})
	}
	slices.SortStableFunc(found, func(a, b index.Line) int { return cmp.Compare(a.Time, b.Time) })
	return found
}
