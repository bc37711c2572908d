package target

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"
)

// What the server signed in the key exchange is what auth is shown: it holds for the session identifier that both ends have.
func TestTheHostsSignatureIsReadAlongTheWay(t *testing.T) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	host, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		config := &ssh.ServerConfig{NoClientAuth: true}
		config.AddHostKey(host)
		if c, _, _, err := ssh.NewServerConn(nc, config); err == nil {
			_ = c.Wait()
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	bound := &boundConn{nc, new(binding)}
	c, _, _, err := ssh.NewClientConn(bound, "", &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, signature := bound.binding.get()
	var sig ssh.Signature
	if err := ssh.Unmarshal(signature, &sig); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, host.PublicKey().Marshal()) || host.PublicKey().Verify(c.SessionID(), &sig) != nil {
		t.Error("it is not the signature of this key exchange")
	}
}

func FuzzBinding(f *testing.F) {
	f.Add([]byte("hello\r\nSSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x15\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("SSH-2.0-x\n\x00\x00\x00\x10\x04\x1f\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		whole, bits := new(binding), new(binding)
		whole.take(p)
		for i := range p {
			bits.take(p[i : i+1])
		}
		k1, s1 := whole.get()
		k2, s2 := bits.get()
		if !bytes.Equal(k1, k2) || !bytes.Equal(s1, s2) {
			t.Error("it depends on how the bytes come")
		}
		if len(whole.buf) > maxPacket+maxPreface+len(p) {
			t.Error("it keeps more than it was given")
		}
	})
}
