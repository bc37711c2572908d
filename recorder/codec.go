package recorder

import (
	"compress/flate"
	"sync"
)

// Codec compresses chunks. Implementations are safe for concurrent use.
type Codec interface {
	// ID is the codec id in the chunk's header.
	ID() byte
	// Compress appends the compressed form of src to dst.
	Compress(dst, src []byte) []byte
}

// Flate is the codec of edges: compress/flate at its fastest level.
var Flate Codec = flateCodec{}

type flateCodec struct{}

// flateWriters keeps compressors, 1.2 MB each, only while chunks are being cut: the pool is emptied by
// the garbage collector.
var flateWriters = sync.Pool{New: func() any {
	w, err := flate.NewWriter(nil, flate.BestSpeed)
	if err != nil {
		panic(err) // the level is a constant
	}
	return w
}}

func (flateCodec) ID() byte { return CodecFlate }

func (flateCodec) Compress(dst, src []byte) []byte {
	z := flateWriters.Get().(*flate.Writer)
	defer flateWriters.Put(z)
	out := appender{dst}
	z.Reset(&out)
	// Writing to an appender cannot fail.
	_, _ = z.Write(src)
	_ = z.Close()
	return out.b
}

// appender is an io.Writer onto a slice.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}
