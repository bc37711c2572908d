package inner

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/resume"
	"hawser/tunnel/tunneltest"
	"hawser/tunnel/wire"
)

// configs verify each other as hub and edge do: by VerifyConnection alone.
func configs(t testing.TB) (hub, edge *tls.Config) {
	edgeSide, hubSide := tunneltest.TLSConfigs(t) // its "hub" is the TLS server, which is the edge here
	verify := func(roots *x509.CertPool) func(tls.ConnectionState) error {
		return func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("no certificate")
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
			return err
		}
	}
	hub = &tls.Config{Certificates: hubSide.Certificates, InsecureSkipVerify: true, VerifyConnection: verify(hubSide.RootCAs)}
	edge = &tls.Config{Certificates: edgeSide.Certificates, VerifyConnection: verify(edgeSide.ClientCAs)}
	return hub, edge
}

// carrier is a stream from an entry hub to an edge: two memory tunnels' streams and, between them, the home hub, which may spoil the bytes.
func carrier(t testing.TB, spoil func(toEdge bool, b []byte) []byte) (hub, edge tunnel.Stream) {
	h, e := tunneltest.Pair(t)
	hub, atHome := tunneltest.Open(t, h, e, "")
	h2, e2 := tunneltest.Pair(t)
	homeOut, edge := tunneltest.Open(t, h2, e2, "")
	copyAll := func(dst, src tunnel.Stream, toEdge bool) {
		b := make([]byte, 32<<10)
		for {
			n, err := src.Read(b)
			if n > 0 {
				out := b[:n]
				if spoil != nil {
					if out = spoil(toEdge, out); out == nil {
						_ = dst.CloseWrite()
						return
					}
				}
				if _, err := dst.Write(out); err != nil {
					return
				}
			}
			if e, ok := errors.AsType[*tunnel.StreamError](err); ok {
				dst.Reset(e.Code)
				return
			}
			if err != nil {
				_ = dst.CloseWrite()
				return
			}
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() { copyAll(homeOut, atHome, true) })
	wg.Go(func() { copyAll(atHome, homeOut, false) })
	t.Cleanup(func() {
		hub.Reset(0)
		edge.Reset(0)
		_ = h.CloseWithError(0, "")
		_ = h2.CloseWithError(0, "")
		wg.Wait()
	})
	return hub, edge
}

type served struct {
	st    tunnel.Stream
	cs    tls.ConnectionState
	outer wire.Attach
	err   error
}

func serve(t testing.TB, edge tunnel.Stream, tc *tls.Config) <-chan served {
	c := make(chan served, 1)
	go func() {
		outer, err := resume.ReadAttach(t.Context(), edge)
		if err != nil {
			c <- served{err: err}
			return
		}
		st, cs, err := Server(t.Context(), edge, tc)
		c <- served{st, cs, outer, err}
	}()
	return c
}

func establish(t testing.TB, spoil func(bool, []byte) []byte) (hub tunnel.Stream, edge served) {
	hc, ec := configs(t)
	h, e := carrier(t, spoil)
	done := serve(t, e, ec)
	hub, err := Client(t.Context(), h, wire.Attach{ID: wire.StreamID{9}, EntryHub: wire.UUID{4}, Open: []byte("secret")}, hc)
	if err != nil {
		t.Fatal(err)
	}
	edge = <-done
	if edge.err != nil {
		t.Fatal(edge.err)
	}
	return hub, edge
}

func TestRoundTripAndHalfClose(t *testing.T) {
	hub, edge := establish(t, nil)
	if o := edge.outer; !o.InnerTLS || o.ID != (wire.StreamID{9}) || o.EntryHub != (wire.UUID{4}) || o.Open != nil {
		t.Errorf("outer Attach: %+v", o)
	}
	if len(edge.cs.PeerCertificates) != 1 || edge.cs.PeerCertificates[0].Subject.CommonName != "edge" {
		t.Error("the edge does not know its client")
	}
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(i * i >> 5)
	}
	var wg sync.WaitGroup
	for _, s := range [][2]tunnel.Stream{{hub, edge.st}, {edge.st, hub}} {
		wg.Go(func() {
			if _, err := s[0].Write(data); err != nil {
				t.Error(err)
			}
			if err := s[0].CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if got, err := io.ReadAll(s[1]); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	if err := errors.Join(hub.Close(), hub.Close(), edge.st.Close()); err != nil {
		t.Error(err)
	}
}

func TestOneDirectionGoesOnAfterTheOtherEnded(t *testing.T) {
	hub, edge := establish(t, nil)
	if err := hub.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(edge.st); err != nil || len(got) > 0 {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := edge.st.Write([]byte("late")); err != nil {
		t.Fatal(err)
	}
	_ = edge.st.Close()
	if got, err := io.ReadAll(hub); err != nil || string(got) != "late" {
		t.Errorf("%q, %v", got, err)
	}
}

// A home hub that ends the bytes between two records must not make a whole stream of a part of one.
func TestTruncationIsNoEnd(t *testing.T) {
	var mu sync.Mutex
	cut := false
	hub, edge := establish(t, func(toEdge bool, b []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if cut && toEdge {
			return nil
		}
		return b
	})
	if _, err := hub.Write([]byte("first")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(edge.st, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	cut = true
	mu.Unlock()
	if _, err := hub.Write([]byte("second")); err != nil {
		t.Fatal(err)
	}
	if n, err := edge.st.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestTamperingIsNoticed(t *testing.T) {
	for _, what := range []string{"flip", "replay"} {
		var mu sync.Mutex
		on := false
		hub, edge := establish(t, func(toEdge bool, b []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			switch {
			case !on || !toEdge:
				return b
			case what == "flip":
				b[len(b)-1] ^= 1
				return b
			}
			return append(bytes.Clone(b), b...)
		})
		mu.Lock()
		on = true
		mu.Unlock()
		if _, err := hub.Write([]byte("rm -r /tmp/x")); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(edge.st)
		if err == nil || err == io.EOF || what == "flip" && len(got) > 0 || len(got) > 12 {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
}

func TestResetPassesDown(t *testing.T) {
	hub, edge := establish(t, nil)
	hub.Reset(wire.StreamDenied)
	_, err := edge.st.Read(make([]byte, 1))
	if e, ok := errors.AsType[*tunnel.StreamError](err); !ok || e.Code != wire.StreamDenied || !e.Remote {
		t.Errorf("got %v", err)
	}
	if _, err := hub.Write([]byte("x")); err == nil {
		t.Error("wrote after Reset")
	}
}

func TestWhoIsNotAcceptedGetsNoStream(t *testing.T) {
	hc, ec := configs(t)
	otherHub, otherEdge := configs(t)
	unverified := func(c *tls.Config) *tls.Config { c = c.Clone(); c.VerifyConnection = nil; return c }
	for name, c := range map[string]struct{ hub, edge *tls.Config }{
		"hub of another CA":  {otherHub, ec},
		"edge of another CA": {hc, otherEdge},
		"hub unverified":     {hc, unverified(ec)},
		"edge unverified":    {unverified(hc), ec},
		"hub without one":    {&tls.Config{InsecureSkipVerify: true, VerifyConnection: hc.VerifyConnection}, ec},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		h, e := carrier(t, nil)
		done := serve(t, e, c.edge)
		st, err := Client(ctx, h, wire.Attach{}, c.hub)
		if err == nil { // TLS 1.3: a client learns with its first Read that the server did not want it
			_, err = st.Read(make([]byte, 1))
		}
		if s := <-done; err == nil || err == io.EOF || s.err == nil && name != "edge of another CA" && name != "edge unverified" {
			t.Errorf("%s: client %v, server %v", name, err, s.err)
		}
		cancel()
	}
}

// A peer that speaks TLS 1.3 but something else inside, such as a tunnel, is not taken for one.
func TestAnotherProtocolIsRefused(t *testing.T) {
	hc, ec := configs(t)
	for _, protos := range [][]string{nil, {"hawser-tunnel/1"}} {
		h, e := carrier(t, nil)
		done := serve(t, e, ec)
		if _, err := h.Write(wire.Attach{InnerTLS: true}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		raw := hc.Clone()
		raw.NextProtos = protos
		c := tls.Client(&conn{Stream: h}, raw)
		_ = c.HandshakeContext(t.Context())
		if s := <-done; s.err == nil {
			t.Errorf("%v accepted", protos)
		}
	}
}

func TestHandshakeEndsWithItsContext(t *testing.T) {
	hc, _ := configs(t)
	h, _ := carrier(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	go cancel(why)
	if _, err := Client(ctx, h, wire.Attach{}, hc); !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

// A resumable stream's end is told by the end of its attachment: with TLS below it too.
func TestResumableStreamOverInnerTLS(t *testing.T) {
	hub, edge := establish(t, nil)
	o := resume.Options{DetachedLife: time.Minute}
	hs := resume.Open(hub, wire.Attach{Kind: wire.KindSession}, o)
	a, err := resume.ReadAttach(t.Context(), edge.st)
	if err != nil {
		t.Fatal(err)
	}
	es, err := resume.Accept(edge.st, a, o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, s := range []*resume.Stream{hs, es} {
		wg.Go(func() {
			_, _ = s.Write([]byte("hello"))
			_ = s.CloseWrite()
			if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
				t.Errorf("%q, %v", got, err)
			}
			_ = s.Close()
			<-s.Done() // not after a wait for another attachment
		})
	}
	wg.Wait()
}
