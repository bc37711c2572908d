package relay

import (
	"io"
	"net"
	"testing"
)

// pair is a TCP connection on loopback: net.Pipe has no half-close.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestAHalfCloseReachesTheOtherSideAndTheAnswerComesBack(t *testing.T) {
	client, a := pair(t)
	b, server := pair(t)
	done := make(chan struct{})
	go func() { Both(a, b); close(done) }()
	go func() {
		q, _ := io.ReadAll(server)
		server.Write(append([]byte("answer to "), q...))
		server.Close()
	}()
	client.Write([]byte("question"))
	client.CloseWrite()
	got, err := io.ReadAll(client)
	if err != nil || string(got) != "answer to question" {
		t.Fatalf("%q, %v", got, err)
	}
	<-done
}
