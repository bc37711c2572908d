package e2e

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/ca"
	"hawser/auth/grant"
	"hawser/auth/policy"
	"hawser/edge/session"
)

// idler is a twin whose sessions print now and then, and end when they are told to.
type idler struct{ *twin }

func (w idler) Serve(ctx context.Context, ch *Session, _ *grant.Grant, _ session.Params) session.Result {
	for r := range ch.Requests() {
		_ = r.Reply(true)
		if r.Type == "exec" {
			break
		}
	}
	<-ctx.Done()
	_, _ = io.WriteString(ch.Stderr(), context.Cause(ctx).Error())
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{255}))
	return session.Result{Status: 255, Err: context.Cause(ctx)}
}

func (w *twin) reasons() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.why, "\n")
}

func (w *twin) limit(l policy.SessionLimits) {
	w.mu.Lock()
	w.limits = l
	changed := w.changed
	w.mu.Unlock()
	for _, f := range changed {
		f()
	}
}

func TestAConnectionWithoutChannelsEndsWhenItIsIdleHereToo(t *testing.T) {
	w, p := cluster(t)
	w.limits.Idle = 200 * time.Millisecond
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	eventually(t, func() bool {
		return strings.Contains(w.reasons(), "idle for 200ms, which is as long as your roles allow (idle_timeout)")
	}, "the hub to be told why")
}

func TestTheDevicesPolicyEndsSessionsAndAChangedOneAtOnce(t *testing.T) {
	for name, limit := range map[string]policy.SessionLimits{
		"idle for 100ms": {Idle: 100 * time.Millisecond}, "open for 1ms": {Duration: time.Millisecond},
		"what you logged in with has expired": {EndWithCredential: true},
	} {
		w, p := cluster(t)
		if limit.EndWithCredential {
			cert, err := p.set.IssueUser(ca.UserRequest{Name: "alice", Roles: []string{"admin"}, Key: p.key.PublicKey(), TTL: 2 * time.Second, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			p.cert = cert
		}
		w.served = idler{w}
		c, _, err := w.dial(t, me(t), p.signer(t))
		if err != nil {
			t.Fatal(err)
		}
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		stderr, _ := s.StderrPipe()
		if err := s.Start("x"); err != nil {
			t.Fatal(err)
		}
		w.limit(limit)
		if told, _ := io.ReadAll(stderr); !strings.HasPrefix(string(told), name) {
			t.Errorf("%s: told %q", name, told)
		}
		eventually(t, func() bool { return strings.Contains(w.reasons(), name) }, "the hub to be told why")
	}
}

// chatty is a twin whose sessions say things on stderr from several goroutines, and tell of the end meanwhile, as a kill does.
type chatty struct{ *twin }

const chats, lineOfChat = 4, "the same line again and again\r\n"

func (w chatty) Serve(_ context.Context, ch *Session, _ *grant.Grant, p session.Params) session.Result {
	for r := range ch.Requests() {
		_ = r.Reply(true)
		if r.Type == "exec" {
			break
		}
	}
	var wg sync.WaitGroup
	for range chats {
		wg.Go(func() {
			for range 200 {
				_, _ = io.WriteString(ch.Stderr(), lineOfChat)
			}
		})
	}
	wg.Wait()
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
	for range chats {
		wg.Go(func() { _, _ = io.WriteString(ch.Stderr(), lineOfChat) })
		wg.Go(func() { _, _ = io.WriteString(ch, lineOfChat) })
	}
	_ = ch.CloseWrite()
	wg.Wait()
	return session.Result{}
}

// x/crypto has one buffer for all that is written to a stream: two goroutines wrote on it at once, and OpenSSH ended the connection for a packet that made no sense.
func TestWhatSeveralSayOnStderrArrivesWhole(t *testing.T) {
	w, p := cluster(t)
	w.served = chatty{w}
	c, _, err := w.dial(t, me(t), p.signer(t))
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	s.Stderr = &stderr
	if err := s.Run("x"); err != nil {
		t.Error(err)
	}
	if got := stderr.String(); len(got) < chats*200*len(lineOfChat) || strings.ReplaceAll(got, lineOfChat, "") != "" {
		t.Errorf("%d bytes, and beside the lines %q", len(got), strings.ReplaceAll(got, lineOfChat, ""))
	}
}
