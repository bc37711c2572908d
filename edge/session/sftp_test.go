package session

import (
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"hawser/tunnel/channel/payload"
)

// The file server of the agent's own account is no process, and a kill waited for what it did: for a copy without end, for good.
func TestAKillEndsAFileServerThatCopiesWithoutEnd(t *testing.T) {
	c := open(t, engine(t), Params{})
	c.ask("subsystem", payload.Subsystem{Name: "sftp"}.Marshal(), true)
	send := func(fields ...any) {
		var b []byte
		for _, f := range fields {
			switch f := f.(type) {
			case byte:
				b = append(b, f)
			case int:
				b = binary.BigEndian.AppendUint32(b, uint32(f))
			case uint64:
				b = binary.BigEndian.AppendUint64(b, f)
			case string:
				b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
			}
		}
		if _, err := c.ch.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)); err != nil {
			t.Fatal(err)
		}
	}
	receive := func() (b []byte) {
		var size [4]byte
		_, err := io.ReadFull(c.ch, size[:])
		if b = make([]byte, binary.BigEndian.Uint32(size[:])); err == nil {
			_, err = io.ReadFull(c.ch, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	send(byte(1), 3)
	receive()
	send(byte(3), 1, "/dev/zero", 1, 0)
	from := string(receive()[9:])
	send(byte(3), 2, "/dev/null", 2, 0)
	to := string(receive()[9:])
	send(byte(200), 3, "copy-data", from, uint64(0), uint64(0), to, uint64(0))
	time.Sleep(20 * time.Millisecond) // it is copying, and shows nothing of it
	c.cancel(errors.New("ended by admin"))
	go c.finish()
	select {
	case r := <-c.result:
		c.result <- r
	case <-time.After(5 * time.Second):
		t.Fatal("the session goes on")
	}
}
