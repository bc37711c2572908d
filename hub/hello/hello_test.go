package hello

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"hawser/tunnel"
)

// helloOf is a ClientHello as crypto/tls writes it.
func helloOf(t testing.TB, protocols ...string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = tls.Client(a, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, ServerName: "hub.example"}).Handshake()
	}()
	buf := make([]byte, MaxHello)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
	<-done
	return buf[:n]
}

// inRecords cuts the handshake message of a hello into records of n bytes.
func inRecords(hello []byte, n int) []byte {
	var out []byte
	for part := range slices.Chunk(hello[recordHeader:], n) {
		out = append(out, recordHandshake, 3, 1, byte(len(part)>>8), byte(len(part)))
		out = append(out, part...)
	}
	return out
}

func TestHelloTellsWhatIsOffered(t *testing.T) {
	for _, offered := range [][]string{nil, {tunnel.ALPN}, {tunnel.ALPNAPI, "h2"}, {"h2", "http/1.1", tunnel.ALPNAPI}} {
		hello := helloOf(t, offered...)
		for _, b := range [][]byte{hello, inRecords(hello, 100), inRecords(hello, 1), append(bytes.Clone(hello), "more"...)} {
			got, err := Parse(b)
			if err != nil || !slices.Equal(got, offered) {
				t.Errorf("Parse = %q, %v, want %q", got, err, offered)
			}
		}
		for i := range hello {
			if _, err := Parse(hello[:i]); !errors.Is(err, ErrMore) {
				t.Fatalf("%d of %d bytes: %v, want to be told that there is more", i, len(hello), err)
			}
		}
	}
	for _, b := range []string{"SSH-2.0-x\r\n", "GET / HTTP/1.1\r\n", "\x16\x03\x01\x00\x00", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x04\x02\x00\x00\x00", "\x16\x03\x01\x00\x04\x01\xff\xff\xff"} {
		if _, err := Parse([]byte(b)); !errors.Is(err, ErrNoHello) {
			t.Errorf("%q: %v, want no ClientHello", b, err)
		}
	}
}

// readConn is a net.Conn that only reads.
type readConn struct {
	net.Conn
	io.Reader
}

func (c readConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }

func TestPeekedConnectionBeginsWithWhatWasRead(t *testing.T) {
	hello := helloOf(t, tunnel.ALPNAPI, "h2")
	want := append(bytes.Clone(hello), "and what follows"...)
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(want), "byte by byte": iotest.OneByteReader(bytes.NewReader(want))} {
		c, offered, err := Peek(readConn{Reader: r}, tunnel.ALPNAPI)
		if err != nil || !offered {
			t.Fatalf("%s: %v, %v", name, offered, err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(got), len(want), err)
		}
		if c.start != nil {
			t.Errorf("%s: the beginning is kept", name)
		}
	}
	if _, offered, err := Peek(readConn{Reader: bytes.NewReader([]byte("GET / HTTP/1.1\r\n"))}, tunnel.ALPNAPI); offered || err != nil {
		t.Errorf("what is no ClientHello: %v, %v; want TLS to judge it", offered, err)
	}
}

// A hello that never ends is read to a bound, whatever its records say.
func TestPeekIsBounded(t *testing.T) {
	endless := inRecords(append([]byte{22, 3, 1, 0, 0, typeClientHello, 0, 0x3f, 0xff}, make([]byte, 1<<16)...), 64)
	r := bytes.NewReader(endless)
	if _, _, err := Peek(readConn{Reader: r}, tunnel.ALPNAPI); err == nil {
		t.Error("an endless hello was taken")
	}
	if read := len(endless) - r.Len(); read > MaxHello {
		t.Errorf("%d bytes were read, want at most %d", read, MaxHello)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(helloOf(f, tunnel.ALPN))
	f.Add(inRecords(helloOf(f, tunnel.ALPNAPI, "h2"), 50))
	f.Add([]byte("SSH-2.0-x\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		names, err := Parse(b)
		if err != nil && names != nil {
			t.Fatal("names beside an error")
		}
		if err != nil {
			return
		}
		// What is complete stays what it is, whatever follows.
		if again, err := Parse(append(bytes.Clone(b), 0, 1, 2)); err != nil || !slices.Equal(again, names) {
			t.Fatalf("%q, then with more behind it %q, %v", names, again, err)
		}
	})
}

// The library that judges a hello in the end reads the same protocols in it.
func TestHelloIsReadAsTLSReadsIt(t *testing.T) {
	hello := helloOf(t, "a", tunnel.ALPNAPI)
	var saw []string
	c := &Conn{readConn{Reader: bytes.NewReader(nil)}, hello}
	_ = tls.Server(struct{ net.Conn }{pretend{c}}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
		saw = i.SupportedProtos
		return nil, ErrNoHello
	}}).Handshake()
	if mine, _ := Parse(hello); !slices.Equal(mine, saw) {
		t.Errorf("here %q, in crypto/tls %q", mine, saw)
	}
}

// pretend is a connection that writes nowhere.
type pretend struct{ net.Conn }

func (pretend) Write(b []byte) (int, error)      { return len(b), nil }
func (pretend) SetDeadline(time.Time) error      { return nil }
func (pretend) SetWriteDeadline(time.Time) error { return nil }
func (pretend) Close() error                     { return nil }
