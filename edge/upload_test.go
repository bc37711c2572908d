package edge

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// hubSide reads chunks off an Upload stream from the sequence on and acknowledges each; it stops after n, or at the end of the stream.
func hubSide(t *testing.T, c io.ReadWriter, from uint64, n int) (chunks [][]byte) {
	t.Helper()
	tell := func(seq uint64) {
		if _, err := c.Write(binary.BigEndian.AppendUint64(nil, seq)); err != nil {
			t.Errorf("hub: %v", err)
		}
	}
	tell(from)
	for len(chunks) < n {
		var size [4]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return chunks
		}
		chunk := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(c, chunk); err != nil {
			t.Errorf("hub: %v", err)
			return chunks
		}
		chunks = append(chunks, chunk)
		tell(from + uint64(len(chunks)))
	}
	return chunks
}

func TestABrokenUploadGoesOnWhereItWasDurable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add([16]byte{1}, entry{}, nil)
		want := [][]byte{[]byte("zero"), []byte("one"), []byte("two")}
		for i, c := range want {
			if err := up.sink(t.Context(), uint64(i), c); err != nil {
				t.Fatal(err)
			}
		}
		sent := make(chan error, 1)
		attach := func() net.Conn {
			a, b := net.Pipe()
			go func() { sent <- up.send(t.Context(), a); a.Close() }()
			return b
		}
		b := attach()
		got := hubSide(t, b, 0, 1)
		b.Close()
		if err := <-sent; err == nil {
			t.Fatal("a broken upload counts as done")
		}
		up.finish()
		b = attach()
		got = append(got, hubSide(t, b, 1, 2)...)
		b.Close()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("chunk %d is %q", i, got[i])
			}
		}
		if !up.complete() {
			t.Error("not complete")
		}
	})
}

func TestAnUploadThatNobodyFetchesHoldsItsSessionOnlyForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add([16]byte{1}, entry{}, nil)
		chunk := make([]byte, 64<<10)
		var err error
		n := uint64(0)
		for ; err == nil; n++ {
			err = up.sink(t.Context(), n, chunk)
		}
		if !errors.Is(err, errUploadStalled) || n != 1+uploadBuffer/(64<<10) {
			t.Fatalf("%v after %d chunks", err, n)
		}
	})
}

func TestALyingHubCannotAckWhatWasNeverSent(t *testing.T) {
	all := uploads{added: make(chan struct{}, 1)}
	up := all.add([16]byte{1}, entry{}, nil)
	if err := up.sink(context.Background(), 0, []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := up.durable(2); err == nil {
		t.Error("chunk 2 was taken for durable with one made")
	}
	if err := up.durable(1); err != nil {
		t.Error(err)
	}
	if err := up.durable(0); err == nil {
		t.Error("the hub went back")
	}
	if err := up.sink(context.Background(), 5, nil); err == nil {
		t.Error("a chunk out of order was taken")
	}
}

func TestAllUploadsTogetherAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		chunk := make([]byte, 64<<10)
		kept := func() (n int64) {
			for _, up := range all.byID {
				n += int64(up.bytes)
			}
			return n
		}
		for i := range byte(12) {
			up := all.add([16]byte{i}, entry{}, nil)
			for n := uint64(0); n < 8; n++ {
				if up.sink(t.Context(), n, chunk) != nil {
					break
				}
			}
			up.finish()
		}
		if got := kept(); got != all.bytes.Load() || got > uploadsBuffer+12*int64(len(chunk)) {
			t.Errorf("%d bytes kept, %d counted", got, all.bytes.Load())
		}
		all.pending(time.Now().Add(2 * uploadLinger))
		if all.bytes.Load() != 0 || len(all.byID) != 0 {
			t.Errorf("%d bytes of %d recordings after they were given up", all.bytes.Load(), len(all.byID))
		}
	})
}

func TestAHubThatIsAheadDoesNotMakeAnUploadWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := uploads{added: make(chan struct{}, 1)}
		up := all.add([16]byte{1}, entry{}, nil)
		for i := range uint64(4) {
			if err := up.sink(t.Context(), i, []byte{byte(i)}); err != nil {
				t.Fatal(err)
			}
		}
		a, b := net.Pipe()
		sent := make(chan error, 1)
		go func() { sent <- up.send(t.Context(), a); a.Close() }()
		// Auth has the first three already, by way of another hub.
		go func() {
			_, _ = b.Write(binary.BigEndian.AppendUint64(nil, 0))
			_, _ = b.Write(binary.BigEndian.AppendUint64(nil, 3))
		}()
		var frame [5]byte
		for {
			if _, err := io.ReadFull(b, frame[:]); err != nil {
				t.Fatal(err)
			}
			if frame[4] == 3 {
				break
			}
		}
		up.finish()
		if _, err := b.Write(binary.BigEndian.AppendUint64(nil, 4)); err != nil {
			t.Fatal(err)
		}
		b.Close()
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	})
}
