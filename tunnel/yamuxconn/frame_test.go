package yamuxconn

import (
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

func FuzzFrames(f *testing.F) {
	f.Add([]byte{3, 0, 0, 6, 0, 1, 0, 0, 0, 9})
	f.Add(append([]byte{8, 0, 0, 7}, streamEnd{5, wire.StreamDenied, 3}.append(nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < frameHeaderLen {
			return
		}
		if typ, n, err := parseFrameHeader([frameHeaderLen]byte(b)); err == nil && n > typ.maxLen() {
			t.Errorf("type %d with %d bytes was accepted", typ, n)
		}
		if e, err := parseClose(b[frameHeaderLen:]); err == nil && len(e.Reason) <= maxReason {
			if got, err := parseClose(appendClose(nil, e)); err != nil || *got != *e {
				t.Errorf("close: %v, %v", got, err)
			}
		}
		if e, err := parseStreamEnd(b[frameHeaderLen:]); err == nil {
			if got, _ := parseStreamEnd(e.append(nil)); got != e {
				t.Errorf("stream end: %v", got)
			}
		}
	})
}

func TestIdleTunnelHasNoSession(t *testing.T) {
	hub, edge := pair(t, Options{MuxIdle: time.Millisecond})
	defer hub.CloseWithError(wire.CloseNormal, "")
	defer edge.CloseWithError(wire.CloseNormal, "")
	for range 3 {
		h, e := tunneltest.Open(t, hub, edge, "x")
		h.Close()
		e.Close()
		for _, end := range []tunnel.Conn{hub, edge} {
			c := end.(*conn)
			for deadline := time.Now().Add(20 * time.Second); ; {
				c.muxMu.Lock()
				gone := c.mux == nil && c.stopping == 0
				c.muxMu.Unlock()
				if gone {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the session did not stop")
				}
				// Control goes on without a session; a round trip of it is also our wait.
				if err := hub.SendControl([]byte("x")); err != nil {
					t.Fatal(err)
				}
				if _, err := edge.ReceiveControl(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}
