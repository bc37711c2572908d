package auth

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/grant"
	"hawser/auth/policy"
	chunkseal "hawser/auth/seal"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// openGrant is what is in a grant of the cluster.
func (b *bench) openGrant(t *testing.T, blob []byte) *grant.Grant {
	t.Helper()
	g, err := grant.Open(blob, []ed25519.PublicKey{b.set.GrantKey().Public().(ed25519.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// deviceRecording is a recording that a device makes and passes on through hubs.
type deviceRecording struct {
	id     [16]byte
	to     *chunkseal.Sealer
	chunks []*api.Chunk
}

func (b *bench) deviceRecording(t *testing.T, g *api.AdmitResponse, n int) *deviceRecording {
	t.Helper()
	r := &deviceRecording{id: [16]byte(g.RecordingId), chunks: chunksOf(t, g.RecordingId, n, "what happened ")}
	var err error
	if r.to, err = chunkseal.To(b.openGrant(t, g.Grant).SealKey, r.id); err != nil {
		t.Fatal(err)
	}
	return r
}

// append has a hub pass on some of its chunks; none: it asks how far auth has it.
func (r *deviceRecording) append(t *testing.T, h *testHub, proof []byte, chunks ...*api.Chunk) error {
	t.Helper()
	req := &api.AppendRecordingRequest{RecordingId: r.id[:], Grant: proof, AckKey: r.to.Public()}
	for _, c := range chunks {
		req.Chunks = append(req.Chunks, &api.Chunk{Seq: c.Seq, Data: r.to.Seal(c.Seq, 0, c.Data)})
	}
	_, err := h.Hub.AppendRecording(t.Context(), connectRequest(req))
	return err
}

func (r *deviceRecording) close(t *testing.T, h *testHub, proof []byte) error {
	t.Helper()
	_, err := h.Hub.CloseRecording(t.Context(), connectRequest(&api.CloseRecordingRequest{RecordingId: r.id[:], Grant: proof, Chunks: uint64(len(r.chunks))}))
	return err
}

// A session past the hub goes on when its hub is gone, and was granted anew by another; its recording stayed bound to the first, so that one that must be recorded
// ended all the same. Any hub that shows the grant passes it on, and none that does not, whatever another has shown before it.
func TestADevicesRecordingFollowsItsSessionToAnotherHub(t *testing.T) {
	b := start(t)
	first, second, stranger := b.hub(t), b.hub(t), b.hub(t)
	b.device(t, first, "gw")
	p := b.invite(t, "bob", "operator", false)
	req := certRequest(p.cred, api.Kind_KIND_SESSION, "gw")
	req.Way, req.HubIncarnation = policy.WayDirect, id16()
	g := first.admit(t, req)
	r := b.deviceRecording(t, g, 5)
	id, all := r.id, r.chunks
	denied := func(what string, err error) {
		t.Helper()
		wantCode(t, what, err, api.Code_CODE_DENIED)
	}
	passed := func(what string, hub *testHub, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if m, err := b.recordings.Manifest(t.Context(), id); err != nil || m.Hub != hub.res.Uuid {
			t.Errorf("%s: the manifest names the hub %s, want %s, %v", what, m.Hub, hub.res.Uuid, err)
		}
	}
	passed("where it was granted", first, r.append(t, first, g.Grant, all[0]))
	denied("another hub without the grant", r.append(t, second, nil, all[1]))
	req.Attempt, req.HubIncarnation = 2, id16()
	anew := second.admit(t, req)
	if anew.Refusal != nil {
		t.Fatal(anew.Refusal)
	}
	passed("where it was granted anew", second, r.append(t, second, anew.Grant, all[1]))
	denied("the first hub without the grant", r.append(t, first, nil))
	denied("a hub that has shown nothing", r.append(t, stranger, nil))
	denied("a hub that has shown nothing closes it", r.close(t, stranger, nil))
	passed("with the other hub's grant", stranger, r.append(t, stranger, anew.Grant, all[2]))

	own := b.openGrant(t, g.Grant).EntryHub
	sign := func(change func(g *grant.Grant)) []byte {
		t.Helper()
		like := b.openGrant(t, anew.Grant)
		change(like)
		blob, err := like.Sign(b.set.GrantKey())
		if err != nil {
			t.Fatal(err)
		}
		return blob
	}
	for what, change := range map[string]func(g *grant.Grant){
		"another session":          func(g *grant.Grant) { g.SessionID = [16]byte(id16()) },
		"another's":                func(g *grant.Grant) { g.User = "mallory" },
		"another device":           func(g *grant.Grant) { g.Device = wire.UUID(id16()) },
		"another login":            func(g *grant.Grant) { g.Login = "nobody" },
		"one that the hub records": func(like *grant.Grant) { like.SealKey, like.EntryHub = [32]byte{}, own },
		"one that is not recorded": func(g *grant.Grant) { g.Record = "" },
		"another cluster":          func(g *grant.Grant) { g.Cluster = "elsewhere" },
	} {
		denied("a grant of "+what, r.append(t, first, sign(change)))
	}
	passed("nothing of that", stranger, r.append(t, stranger, nil))

	// After a restart auth knows no more than the manifest.
	b.stop()
	b.run(t)
	first, second, stranger = b.again(t, first), b.again(t, second), b.again(t, stranger)
	denied("after a restart without the grant", r.append(t, second, nil, all[3]))
	passed("after a restart", second, r.append(t, second, anew.Grant, all[3:]...))
	denied("closed without the grant", r.close(t, stranger, nil))
	if err := r.close(t, first, g.Grant); err != nil {
		t.Fatal(err)
	}
	m, err := b.recordings.Manifest(t.Context(), id)
	if err != nil || !m.Closed || !m.Complete || m.Chunks != 5 || m.Hub != first.res.Uuid || m.Recorder != store.RecorderDevice {
		t.Errorf("got %+v, %v", m, err)
	}
	// The answer to that may be lost, and who asks again is another.
	if err := r.append(t, second, g.Grant); err != nil {
		t.Errorf("asked when it is closed: %v", err)
	}
	if m, err := b.recordings.Manifest(t.Context(), id); err != nil || m.Hub != first.res.Uuid {
		t.Errorf("when it is closed the manifest names the hub %s, %v", m.Hub, err)
	}
}

// The person's hub may be gone before the first chunk came, and the device's is another.
func TestADevicesRecordingBeginsAtAnyHubThatShowsItsGrant(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	key := b.user(t, "ann", "operator")
	req := request(key, "gw", "root")
	req.Way = policy.WayEndToEnd
	g := h.admit(t, req)
	r := b.deviceRecording(t, g, 3)
	if err := r.append(t, other, g.Grant, r.chunks...); err != nil {
		t.Fatal(err)
	}
	if err := r.close(t, other, g.Grant); err != nil {
		t.Error(err)
	}
	if m, err := b.recordings.Manifest(t.Context(), r.id); err != nil || !m.Complete || m.Hub != other.res.Uuid {
		t.Errorf("got %+v, %v", m, err)
	}
	// What a hub makes, it alone makes.
	g = h.admit(t, request(key, "gw", "root"))
	_, err := other.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: chunksOf(t, g.RecordingId, 3, "x")}))
	wantCode(t, "a recording that another hub makes", err, api.Code_CODE_DENIED)
}

// A device asks again for as long as it has a recording that nobody takes, a hub asks auth each time, and each was told in the audit log.
func TestRefusedRecordingsDoNotFillTheLog(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	req := request(b.user(t, "ann", "operator"), "gw", "root")
	req.Way = policy.WayEndToEnd
	g := h.admit(t, req)
	req.SessionId = id16()
	elsewhere := h.admit(t, req).Grant
	r := b.deviceRecording(t, g, 3)
	told := func() int { return strings.Count(b.auditText(t), `"type":"recording.refuse"`) }
	for _, hub := range []*testHub{h, other} {
		before := told()
		for range 3 * reportBurst {
			wantCode(t, "no grant", r.append(t, hub, nil), api.Code_CODE_DENIED)
			wantCode(t, "a grant of another session", r.append(t, hub, elsewhere), api.Code_CODE_DENIED)
			_, err := hub.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: g.Grant, Chunks: r.chunks[:1]}))
			wantCode(t, "not sealed", err, api.Code_CODE_DENIED)
		}
		if n := told() - before; n < reportBurst || n > reportBurst+5 {
			t.Errorf("%d events, want about %d", n, reportBurst)
		}
	}
}

// countedLists counts what the store gives for lists that somebody asked for; the service's own are not that narrow.
type countedLists struct {
	store.Recordings
	listed atomic.Int64
}

// List implements store.Recordings.
func (c *countedLists) List(ctx context.Context, f store.Filter) ([]store.Manifest, error) {
	all, err := c.Recordings.List(ctx, f)
	if f.Match != nil {
		c.listed.Add(int64(len(all)))
	}
	return all, err
}

// There may be a million recordings. To find one by the beginning of its id, or the newest of somebody's login, auth held all of them in memory.
func TestNoMoreRecordingsAreListedThanAreShown(t *testing.T) {
	var lists *countedLists
	b := startWith(t, func(s *Server) {
		lists = &countedLists{Recordings: s.recordings}
		s.recordings = lists
	})
	now, id := b.cfg.Now(), func(i int) [16]byte { return [16]byte{0xab, byte(i), 0xcd} }
	for i := range 20 {
		m := store.Manifest{ID: id(i), Start: now.Add(-time.Duration(i) * time.Hour), User: "ann", Login: []string{"root", "db"}[i%2], Kind: "shell", Way: "hub", Closed: true}
		if err := b.recordings.PutManifest(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	list := func(what string, want int, r *api.ListRecordingsRequest, newest [16]byte) {
		t.Helper()
		lists.listed.Store(0)
		res, err := b.admin.Admin.ListRecordings(t.Context(), connectRequest(r))
		if err != nil {
			t.Fatal(err)
		}
		if got := res.Msg.Recordings; len(got) != want || [16]byte(got[0].Id) != newest || lists.listed.Load() != int64(want) {
			t.Errorf("%s: %d of %d recordings, want %d", what, len(got), lists.listed.Load(), want)
		}
	}
	list("the newest of a login", 3, &api.ListRecordingsRequest{Limit: 3, Filter: &api.RecordingFilter{Login: "db"}}, id(1))
	list("a kind and a way", 5, &api.ListRecordingsRequest{Limit: 5, Filter: &api.RecordingFilter{Kind: "shell", Way: "hub"}}, id(0))
	list("an id's beginning", 1, &api.ListRecordingsRequest{Filter: &api.RecordingFilter{Id: "ab07cd"}}, id(7))
	whole := id(9)
	list("an id, in capitals", 1, &api.ListRecordingsRequest{Filter: &api.RecordingFilter{Id: strings.ToUpper(hexID(whole))}}, whole)

	admin := caller{roles: []policy.Role{{Allow: policy.Rule{Recordings: policy.ScopeAll}}}}
	for what, c := range map[string]struct {
		id     string
		listed int64
		found  bool
	}{"one": {"ab07cd", 1, true}, "none": {"ab77cd", 0, false}, "too little of it": {"ab07c", 0, false}, "no id": {"the last", 0, false}} {
		lists.listed.Store(0)
		if m, err := b.findRecording(t.Context(), admin, c.id); (err == nil) != c.found || c.found && m.ID != id(7) || lists.listed.Load() != c.listed {
			t.Errorf("%s: %x of %d, %v", what, m.ID, lists.listed.Load(), err)
		}
	}
}

// To open a chunk that was sealed for auth costs more than to see that its hub may bring none: a hub that was let in could have had auth open chunks of nothing.
func TestAuthOpensNoChunkOfAHubThatMayBringNone(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	b.device(t, h, "gw")
	req := request(b.user(t, "ann", "operator"), "gw", "root")
	req.Way = policy.WayEndToEnd
	g := h.admit(t, req)
	r := b.deviceRecording(t, g, 3)
	put := func(hub *testHub, proof []byte, seq uint64, data []byte) error {
		chunks := []*api.Chunk{{Seq: seq, Data: data}}
		_, err := hub.Hub.AppendRecording(t.Context(), connectRequest(&api.AppendRecordingRequest{RecordingId: g.RecordingId, Grant: proof, Chunks: chunks}))
		return err
	}
	spoiled := r.to.Seal(0, 0, r.chunks[0].Data)
	spoiled[len(spoiled)-1] ^= 1
	wantCode(t, "a chunk that does not open, without the grant", put(other, nil, 0, spoiled), api.Code_CODE_DENIED)
	if err := put(h, g.Grant, 0, spoiled); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a chunk that does not open: %v", err)
	}
	if err := put(h, g.Grant, 1, r.to.Seal(0, 0, r.chunks[0].Data)); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("a chunk under another number: %v", err)
	}
	if _, err := b.recordings.Manifest(t.Context(), r.id); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("there is a recording of that: %v", err)
	}
	if err := r.append(t, h, g.Grant, r.chunks...); err != nil {
		t.Error(err)
	}
}
