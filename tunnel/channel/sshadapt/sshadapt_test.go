package sshadapt

import (
	"crypto/ed25519"
	"io"
	"net"
	"testing"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/channel"
)

func TestSSHChannelPassesEverythingOn(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	served := make(chan struct{})
	go func() {
		defer close(served)
		serve(t, l, signer)
	}()
	client, err := ssh.Dial("tcp", l.Addr().String(), &ssh.ClientConfig{HostKeyCallback: ssh.FixedHostKey(signer.PublicKey())})
	if err != nil {
		t.Fatal(err)
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	out, err := session.Output("say")
	if e, ok := err.(*ssh.ExitError); !ok || e.ExitStatus() != 7 || string(out) != "said" {
		t.Errorf("got %q, %v", out, err)
	}
	client.Close()
	<-served
}

func serve(t *testing.T, l net.Listener, signer ssh.Signer) {
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	nc, err := l.Accept()
	if err != nil {
		t.Error(err)
		return
	}
	conn, chans, reqs, err := ssh.NewServerConn(nc, config)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(reqs)
	ch, chReqs, err := (<-chans).Accept()
	if err != nil {
		t.Error(err)
		return
	}
	c := SSHChannel(ch, chReqs)
	r := <-c.Requests()
	if r.Type != "exec" || r.Reply(true) != nil || r.Reply(true) != channel.ErrReplied {
		t.Errorf("request %+v", r)
	}
	_, _ = io.WriteString(c, "said")
	if _, err := c.SendRequest("exit-status", false, []byte{0, 0, 0, 7}); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if c.Close() != nil {
		t.Error("second Close failed")
	}
	for range c.Requests() {
	}
}
