// Package zstdcodec is the zstd codec of recordings, apart from package recorder so that the agent does
// not link it. Hubs write with Codec; recorder/reader reads with Decompress.
package zstdcodec

import (
	"sync"

	"github.com/klauspost/compress/zstd"

	"hawser/recorder"
)

// Codec compresses chunks with zstd at its fastest level. Safe for concurrent use; all Writers share
// its encoders, one for each CPU in use.
func Codec() recorder.Codec { return codec{} }

type codec struct{}

// The chunk carries a checksum of its own, and no chunk looks further back than its own 64 KiB.
var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(recorder.MaxChunk), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return e
})

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(1<<20), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

func (codec) ID() byte { return recorder.CodecZstd }

func (codec) Compress(dst, src []byte) []byte { return encoder().EncodeAll(src, dst) }

// Decompress returns what src holds; more than max bytes is an error, found before they are allocated.
func Decompress(src []byte, max int) ([]byte, error) {
	return decoder().DecodeAll(src, make([]byte, 0, max))
}
