package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"hawser/auth/grant"
	"hawser/edge/session"
	"hawser/recorder/share"
	"hawser/tunnel/channel/payload"
)

// joinable is a twin with a session of its that may be joined.
type joinable struct {
	*twin
	held   [][16]byte // places given back when another was asked for, to join
	refuse error      // to let anybody join
	joined *session.Join
	err    error
}

func (j *joinable) Place(ctx context.Context, a Ask) (*grant.Grant, error) {
	g, err := j.twin.Place(ctx, a)
	if err == nil && a.Join != "" {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.held = append([][16]byte{}, j.released...)
		if j.refuse != nil {
			return nil, j.refuse
		}
		g.Join, g.JoinMode, g.Roles = [16]byte{0xab}, a.JoinMode, []string{"lead"}
	}
	return g, err
}

// Serve joins what the person says, and ends.
func (j *joinable) Serve(ctx context.Context, ch *Session, _ *grant.Grant, p session.Params) session.Result {
	for r := range ch.Requests() {
		if e, err := payload.ParseEnv(r.Payload); r.Type == "env" && err == nil {
			j.joined, j.err = p.JoinAs(ctx, e.Value)
		}
		_ = r.Reply(true)
		if r.Type == "shell" {
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
			break
		}
	}
	return session.Result{}
}

// Who joins has one place, of the session that joins: under a cap of one he could not join otherwise. Every place comes back.
func TestWhoJoinsGivesThePlaceOfHisOwnSessionBackFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		says   string
		refuse error
		want   string // of the refusal
	}{
		"a peer":          {"ABCDEF01:peer", nil, ""},
		"whom auth lets":  {"abcdef01", &Refusal{Message: "no live session for you"}, "no live session for you"},
		"no hub to ask":   {"abcdef01", errors.New("stream lost at 10.0.0.1"), "could not ask its hub"},
		"a mode unknown":  {"abcdef01:god", nil, "observer, peer or moderator"},
		"a short id":      {"abcde", nil, "ID:MODE"},
		"what is no id":   {"../../etc", nil, "ID:MODE"},
		"nothing at all":  {"", nil, "ID:MODE"},
		"too much of one": {strings.Repeat("a", 33), nil, "ID:MODE"},
	} {
		t.Run(name, func(t *testing.T) {
			w, p := cluster(t)
			j := &joinable{twin: w, refuse: tt.refuse}
			w.served = j
			c, _, err := w.dial(t, me(t), p.signer(t))
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Setenv("HAWSER_JOIN", tt.says)
			if err := s.Shell(); err == nil {
				_ = s.Wait()
			}
			c.Close()
			_ = c.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if tt.want != "" {
				if j.err == nil || !strings.Contains(j.err.Error(), tt.want) || strings.Contains(j.err.Error(), "10.0.0.1") || j.joined != nil {
					t.Errorf("joined %+v, %v", j.joined, j.err)
				}
			} else {
				a := w.asked[2]
				if j.err != nil || j.joined.Mode != share.Peer || !strings.HasPrefix(j.joined.Session, "ab00") || strings.Join(j.joined.Roles, "") != "lead" {
					t.Fatalf("joined %+v, %v", j.joined, j.err)
				}
				if a.Join != "abcdef01" || a.JoinMode != "peer" || a.SessionID == w.asked[1].SessionID {
					t.Errorf("asked for %+v", a)
				}
				if len(j.held) != 1 || j.held[0] != w.asked[1].SessionID {
					t.Errorf("given back before: %x", j.held)
				}
			}
			for _, id := range w.released {
				n := 0
				for _, other := range w.released {
					if id == other {
						n++
					}
				}
				if n != 1 {
					t.Errorf("%x was given back %d times", id, n)
				}
			}
		})
	}
}
