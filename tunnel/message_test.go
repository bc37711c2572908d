package tunnel

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"hawser/tunnel/wire"
)

func TestReadMessageTakesOneMessageAndNothingBehindIt(t *testing.T) {
	one, two := wire.Renew{Counter: 1}.Append(nil), wire.Renew{Counter: 2}.Append(nil)
	r := bytes.NewReader(append(bytes.Clone(one), two...))
	for _, want := range [][]byte{one, two} {
		if got, err := ReadMessage(r, len(want)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %x, %v; want %x", got, err, want)
		}
	}
	if _, err := ReadMessage(r, 100); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	for n := 1; n < len(one); n++ {
		if _, err := ReadMessage(bytes.NewReader(one[:n]), 100); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	if _, err := ReadMessage(bytes.NewReader(one), len(one)-1); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("longer than the limit: %v", err)
	}
}

func TestAnUnknownMessageIsPassedOver(t *testing.T) {
	r := bytes.NewReader(append([]byte{0x7f, 0xff, 0, 0, 0, 1, 9}, wire.Renew{Counter: 3}.Append(nil)...))
	if _, err := ReceiveFrom(r); !errors.Is(err, wire.ErrUnknownType) {
		t.Errorf("unknown: %v", err)
	}
	if m, err := ReceiveFrom(r); err != nil || *m.(*wire.Renew) != (wire.Renew{Counter: 3}) {
		t.Errorf("behind it: %+v, %v", m, err)
	}
}
