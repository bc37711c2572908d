package auth

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/place"
	"hawser/auth/store"
)

const cappedRole = `kind: role
name: capped
allow: {devices: {"*": ["*"]}, logins: [root], channels: [exec], ways: [hub, end-to-end]}
options: {max_connections: 2, max_sessions: 2%s}
`

// placesHub is a hub that renews as a real one does.
type placesHub struct {
	*testHub
	run    []byte
	seq    uint64
	answer *api.RenewPlacesResponse
}

func newPlacesHub(t testing.TB, b *bench) *placesHub {
	h := &placesHub{testHub: b.hub(t), run: id16()}
	h.renew(t)
	return h
}

func (h *placesHub) renew(t testing.TB, held ...[]byte) *api.RenewPlacesResponse {
	t.Helper()
	h.seq++
	r := &api.RenewPlacesRequest{Incarnation: h.run, Seq: h.seq, Held: held}
	if h.answer != nil {
		r.Answered, r.Epoch = h.seq-1, h.answer.Epoch
	}
	res, err := h.Place.RenewPlaces(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	h.answer = res.Msg
	return h.answer
}

func (h *placesHub) session(t *testing.T, key ssh.PublicKey, device string) *api.AdmitResponse {
	t.Helper()
	r := request(key, device, "root")
	r.HubIncarnation = h.run
	return h.admit(t, r)
}

func (h *placesHub) release(t testing.TB, id []byte) {
	t.Helper()
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: id})); err != nil {
		t.Fatal(err)
	}
}

// soon tries until it is so; each try of an Admit takes up to place.Linger.
func soon(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		if cond() {
			return
		}
	}
	t.Errorf("not so: %s", what)
}

func wantCap(t *testing.T, res *api.AdmitResponse, words ...string) {
	t.Helper()
	if res.Refusal == nil || res.Refusal.Reason != "cap" {
		t.Errorf("got %v, want a refusal by a cap", res.Refusal)
		return
	}
	for _, w := range words {
		if !strings.Contains(res.Refusal.Message, w) {
			t.Errorf("the refusal lacks %q: %s", w, res.Refusal.Message)
		}
	}
}

func TestACapHoldsOverHubsAndWaysAndARestartOfAuth(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, fmt.Sprintf(cappedRole, ", cap_mode: exact"))
	one, two := newPlacesHub(t, b), newPlacesHub(t, b)
	b.device(t, one.testHub, "gw")
	key := b.user(t, "ann", "capped")
	asked := request(key, "gw", "root")
	asked.HubIncarnation = two.run
	first, second := one.session(t, key, "gw"), two.admit(t, asked)
	if first.Refusal != nil || second.Refusal != nil || !first.Access.Counted || !first.Access.Exact {
		t.Fatalf("got %v, %v", first, second)
	}
	wantCap(t, one.session(t, key, "gw"), "2 sessions", "2 are open", "max_sessions", "hawser sessions ls --user me")
	if got := one.renew(t, first.SessionId); len(got.Exact) != 1 || len(got.Counted) != 1 || got.Report {
		t.Errorf("renewal says %v", got)
	}
	// Whoever asks again, for the answer was lost, has it.
	if res := two.admit(t, asked); res.Refusal != nil {
		t.Errorf("asked again: %v", res.Refusal)
	}

	b.stop()
	b.run(t)
	one.Client, two.Client = b.dial(t, one.certificate()), b.dial(t, two.certificate())
	wantCap(t, one.session(t, key, "gw"), "2 are open")
	two.release(t, second.SessionId)
	third := one.session(t, key, "gw")
	if third.Refusal != nil {
		t.Errorf("with one given back: %v", third.Refusal)
	}
	// The hub dies: its places are free when its lease is over, and no sooner.
	two.renew(t)
	wantCap(t, two.session(t, key, "gw"))
	b.now.Store(int64(place.TTL + time.Second))
	two.seq++
	soon(t, "a dead hub's places are free", func() bool { return two.session(t, key, "gw").Refusal == nil })
}

func TestARunOfAHubHasWhatItNamesAndNoMore(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, fmt.Sprintf(cappedRole, ""))
	h := newPlacesHub(t, b)
	b.device(t, h.testHub, "gw")
	key := b.user(t, "ann", "capped")
	lost, kept := h.session(t, key, "gw").SessionId, h.session(t, key, "gw").SessionId
	wantCap(t, h.session(t, key, "gw"))
	h.renew(t, kept) // may have been made before lost was asked for
	wantCap(t, h.session(t, key, "gw"))
	h.renew(t, kept)
	if res := h.session(t, key, "gw"); res.Refusal != nil {
		t.Errorf("the release of %x was lost, and no renewal told of it: %v", lost, res.Refusal)
	}
	h.run, h.seq, h.answer = id16(), 0, nil // kill -9, and a new start
	h.renew(t)
	for range 2 {
		if res := h.session(t, key, "gw"); res.Refusal != nil {
			t.Errorf("the run before still has it: %v", res.Refusal)
		}
	}
	if got := h.renew(t, id16()); !got.Report {
		t.Error("auth does not ask for what it does not know")
	}
}

func TestConnectionsAreCountedOnceAndByEveryCapOfTheCluster(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, fmt.Sprintf(cappedRole, "")+"---\nkind: role\nname: chief\nallow: {devices: {\"*\": [\"*\"]}, logins: [root], channels: [exec]}\noptions: {reserved: true}\n"+
		"---\nkind: cluster\ncaps: {per_source: 3, per_device: 2, per_hub: 4, per_connection: 5}\n")
	h := newPlacesHub(t, b)
	b.device(t, h.testHub, "gw")
	b.device(t, h.testHub, "gx")
	ann, bob, chief := b.user(t, "ann", "capped"), b.user(t, "bob", "operator"), b.user(t, "zoe", "chief")
	connection := func(key ssh.PublicKey, from string) *api.AdmitResponse {
		return h.admit(t, &api.AdmitRequest{PublicKey: key.Marshal(), ConnectionId: id16(), Kind: api.Kind_KIND_CONNECTION, Way: "hub", ClientAddress: from, HubIncarnation: h.run})
	}
	ok := func(what string, res *api.AdmitResponse) {
		t.Helper()
		if res.Refusal != nil {
			t.Errorf("%s: %v", what, res.Refusal)
		}
	}
	res := connection(ann, "192.0.2.1:1")
	ok("the first", res)
	if res.Access.MaxChannels != 5 {
		t.Errorf("the hub is told of %d channels", res.Access.MaxChannels)
	}
	ok("the second", connection(ann, "192.0.2.1:2"))
	wantCap(t, connection(ann, "192.0.2.1:3"), "2 connections", "max_connections")
	ok("another's", connection(bob, "192.0.2.1:4"))
	wantCap(t, connection(chief, "192.0.2.1:5"), "192.0.2.1/32", "caps.per_source")
	wantCap(t, connection(bob, "192.0.2.9:5"), "caps.per_hub", "the last place is kept")
	ok("the last, for a reserved role", connection(chief, "192.0.2.9:6"))
	ok("a session", h.session(t, bob, "gw"))
	wantCap(t, h.session(t, bob, "gw"), "on gw", "1 is open", "caps.per_device", "the last place is kept")
	ok("a session on another device", h.session(t, bob, "gx"))
	ok("the last session, for a reserved role", h.session(t, chief, "gw"))
	wantCap(t, h.session(t, chief, "gw"), "caps.per_device")
	if _, err := b.admin.Admin.Apply(t.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: "kind: cluster\n"})); err != nil {
		t.Fatal(err)
	}
	soon(t, "caps lifted are lifted", func() bool { return h.session(t, bob, "gw").Refusal == nil })
}

func TestEverybodySeesWhatHeHoldsHimself(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, fmt.Sprintf(cappedRole, ""))
	h := newPlacesHub(t, b)
	b.device(t, h.testHub, "gw")
	h.session(t, b.user(t, "ann", "capped"), "gw")
	h.session(t, b.user(t, "bob", "capped"), "gw")
	tlsKey := newKey(t)
	chain, err := b.set.IssueUserX509(ca.UserX509Request{Name: "ann", Cluster: b.Cluster(), Key: tlsKey.Public(), TTL: time.Hour, Now: b.cfg.Now(), Login: ca.Login{At: b.cfg.Now()}})
	if err != nil {
		t.Fatal(err)
	}
	ann := b.dial(t, &tls.Certificate{Certificate: chain, PrivateKey: tlsKey})
	list := func(user string) *api.ListSessionsResponse {
		res, err := ann.Admin.ListSessions(t.Context(), connect.NewRequest(&api.ListSessionsRequest{User: user}))
		if err != nil {
			t.Fatal(err)
		}
		return res.Msg
	}
	if got := list("me"); len(got.Sessions) != 1 || got.Sessions[0].User != "ann" || len(got.Caps) != 2 || got.Caps[1].Held != 1 || got.Caps[1].Max != 2 {
		t.Errorf("got %v", got)
	}
	if got := list(""); len(got.Sessions) != 0 {
		t.Errorf("her roles let her see no sessions, and she sees %v", got.Sessions)
	}
	if got := list("bob"); len(got.Sessions) != 0 || len(got.Caps) != 0 {
		t.Errorf("she sees another's: %v", got)
	}
}

// Twenty that come and go as fast as they can under a cap of twenty are never refused: Ansible with --forks 20.
func TestNobodyIsRefusedAtTheCap(t *testing.T) {
	t.Parallel()
	b := start(t)
	b.apply(t, strings.Replace(fmt.Sprintf(cappedRole, ""), "max_connections: 2, max_sessions: 2", "max_connections: 20, max_sessions: 20", 1))
	h := newPlacesHub(t, b)
	b.device(t, h.testHub, "gw")
	key := b.user(t, "ann", "capped")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			for range 10 {
				r := request(key, "gw", "root")
				r.HubIncarnation = h.run
				res := h.admit(t, r)
				if res.Refusal != nil {
					t.Error(res.Refusal)
					return
				}
				h.release(t, res.SessionId)
			}
		})
	}
	wg.Wait()
}

func BenchmarkAdmit(b *testing.B) {
	for _, capped := range []bool{false, true} {
		b.Run(map[bool]string{false: "without-caps", true: "with-caps"}[capped], func(b *testing.B) {
			s := start(b)
			s.cfg.Now = time.Now
			role := "operator"
			if capped {
				role = "capped"
				if _, err := s.admin.Admin.Apply(b.Context(), connect.NewRequest(&api.ApplyRequest{Yaml: strings.ReplaceAll(fmt.Sprintf(cappedRole, ""), ": 2", ": 100000")})); err != nil {
					b.Fatal(err)
				}
			}
			h := newPlacesHub(b, s)
			s.device(b, h.testHub, "gw")
			key := s.user(b, "ann", role)
			s.admits = newGuesses(1<<30, time.Nanosecond)
			var wg sync.WaitGroup
			b.ResetTimer()
			for range 64 {
				wg.Go(func() {
					for range b.N/64 + 1 {
						r := request(key, "gw", "root")
						r.HubIncarnation = h.run
						rand.Read(r.SessionId)
						res, err := h.Hub.Admit(b.Context(), connect.NewRequest(r))
						if err != nil || res.Msg.Refusal != nil {
							b.Error(err, res.Msg.GetRefusal())
							return
						}
						h.release(b, res.Msg.SessionId)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "admits/s")
		})
	}
}

// BenchmarkAdmitUnderAClusterCap is one more session beside 50,000. Each walked them all under the lock, for those that are not stored yet.
func BenchmarkAdmitUnderAClusterCap(b *testing.B) {
	l := place.Limits{PerDevice: 1 << 20}
	p := newPlaces(store.NewMemory(), slog.New(slog.DiscardHandler), time.Now, "e", func(string) (place.Limits, bool) { return l, false })
	at := place.Place{Kind: place.Session, User: "ann", Device: "gw", Client: netip.MustParseAddrPort("192.0.2.1:1"), Run: place.Run{Hub: "a"}}
	n := 0
	next := func() place.Place {
		n++
		binary.BigEndian.PutUint64(at.ID[:], uint64(n))
		return at
	}
	for range 50_000 {
		if _, err := p.take(b.Context(), next(), l); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := p.take(b.Context(), next(), l); err != nil {
			b.Fatal(err)
		}
	}
}

// A cap of the cluster counts what was taken before there was one: all of that is on disk before the next is granted, and looked for once.
func TestWhatWasTakenBeforeACapIsStoredOnce(t *testing.T) {
	state := store.NewMemory()
	p := newPlaces(state, slog.New(slog.DiscardHandler), time.Now, "e", func(string) (place.Limits, bool) { return place.Limits{}, false })
	take := func(n byte, l place.Limits) {
		t.Helper()
		pl := place.Place{ID: [16]byte{n}, Kind: place.Session, User: string(rune(97 + n)), Device: "gw", Client: netip.MustParseAddrPort("192.0.2.1:1"), Run: place.Run{Hub: "h"}}
		if _, err := p.take(t.Context(), pl, l); err != nil {
			t.Fatal(err)
		}
	}
	stored := func() int {
		kvs, _, err := state.Range(t.Context(), placePrefix, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(kvs)
	}
	capped := place.Limits{PerDevice: 10}
	for i, step := range []struct {
		l    place.Limits
		want int
	}{{place.Limits{}, 0}, {place.Limits{}, 0}, {capped, 3}, {capped, 4}, {place.Limits{}, 4}, {capped, 6}} {
		take(byte(i+1), step.l)
		if got := stored(); got != step.want {
			t.Errorf("after place %d: %d are stored, want %d", i+1, got, step.want)
		}
		if step.l == capped && p.loose[place.Session] {
			t.Error("the next walks them all again")
		}
	}
}

// Places of a source, a device or a hub are other people's too: to end one's own is no mend then.
func TestARefusalSaysWhoCanSeeWhoHoldsThePlaces(t *testing.T) {
	s := new(Server)
	for name, shared := range map[string]bool{"max_connections": false, "max_sessions": false, "caps.per_source": true, "caps.per_hub": true} {
		text := s.refuseFull(&place.Full{Cap: name, Of: "x", Max: 2, Held: 2}).message
		if !strings.Contains(text, name) || !strings.Contains(text, "hawser sessions ls --user me") || strings.Contains(text, "end one") == shared {
			t.Errorf("%s: %s", name, text)
		}
	}
}
