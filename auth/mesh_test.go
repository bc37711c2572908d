package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/tunnel/wire"
)

// await polls cond, which another goroutine of the service makes true.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not within 10 s: %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// up opens the hub's Watch, follows it, and returns what ends it.
func (h *testHub) up(t testing.TB, r *api.WatchRequest, on func(*api.WatchResponse)) (down func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r.SshAddresses, r.TunnelAddresses = []string{"127.0.0.1:22"}, []string{"127.0.0.1:443"}
	stream, err := h.Hub.Watch(ctx, connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	synced, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for stream.Receive() {
			if on != nil {
				on(stream.Msg())
			}
			if len(stream.Msg().Time) > 0 {
				select {
				case <-synced:
				default:
					close(synced)
				}
			}
		}
	}()
	down = func() { cancel(); <-done }
	t.Cleanup(down)
	select {
	case <-synced:
	case <-done:
		t.Fatal(stream.Err())
	}
	return down
}

// again connects to the service after a restart.
func (b *bench) again(t *testing.T, h *testHub) *testHub {
	t.Helper()
	return &testHub{b.dial(t, h.certificate()), h.key, h.res}
}

func (h *testHub) report(t *testing.T, full bool, states ...*api.DeviceState) {
	t.Helper()
	if _, err := h.Hub.ReportDevices(t.Context(), connect.NewRequest(&api.ReportDevicesRequest{Full: full, Devices: states})); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) show(t *testing.T, name string) *api.Device {
	t.Helper()
	res, err := b.admin.Admin.GetDevice(t.Context(), connect.NewRequest(&api.GetDeviceRequest{Device: name}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}

func TestDeviceIsOnlineWhileAnyHubHasATunnelThatSpeaks(t *testing.T) {
	b := start(t)
	one, two := b.hub(t), b.hub(t)
	downOne := one.up(t, &api.WatchRequest{Zone: "a"}, nil)
	downTwo := two.up(t, &api.WatchRequest{Zone: "b"}, nil)
	d, _ := b.device(t, one, "gw")
	active := &api.DeviceState{Uuid: d.Uuid, Online: true, Carrier: "QUIC", SinceUnix: 100}
	standby := &api.DeviceState{Uuid: d.Uuid, Online: true, Carrier: "TLS", SinceUnix: 200, Slot: 1}
	one.report(t, true, active)
	two.report(t, true, standby)
	got := b.show(t, "gw")
	if !got.Online || got.Hub != "hub" || got.Zone != "a" || got.Carrier != "QUIC" || got.SinceUnix != 100 || len(got.Tunnels) != 2 || got.Tunnels[1].Hub != "hub-2" {
		t.Errorf("with both: %v", got)
	}
	one.report(t, false, &api.DeviceState{Uuid: d.Uuid, Online: true, Carrier: "QUIC", SinceUnix: 100, Silent: true})
	if got = b.show(t, "gw"); !got.Online || got.Hub != "hub-2" || got.Carrier != "TLS" || !got.Tunnels[1].Silent {
		t.Errorf("with the first silent: %v", got)
	}
	two.report(t, false, &api.DeviceState{Uuid: d.Uuid, Reason: "heartbeats\x1b stopped"})
	if got = b.show(t, "gw"); got.Online || got.Hub != "" || got.LastHub != "hub-2" || got.LastCarrier != "TLS" || got.LastReason != `heartbeats\x1b stopped` {
		t.Errorf("with the second gone: %v", got)
	}
	one.report(t, false, active)
	two.report(t, false, standby)
	downOne()
	await(t, "the standby hub has it", func() bool { got := b.show(t, "gw"); return got.Online && got.Hub == "hub-2" && len(got.Tunnels) == 1 })
	downTwo()
	await(t, "no hub has it", func() bool { got := b.show(t, "gw"); return !got.Online && got.LastReason == "hub hub-2 is gone" })
}

func TestFullReportTakesAwayWhatItDoesNotName(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, h, "gw")
	other, _ := b.device(t, h, "gw-2")
	h.report(t, true, &api.DeviceState{Uuid: d.Uuid, Online: true}, &api.DeviceState{Uuid: other.Uuid, Online: true})
	h.report(t, true, &api.DeviceState{Uuid: other.Uuid, Online: true})
	if b.show(t, "gw").Online || !b.show(t, "gw-2").Online {
		t.Error("a full report did not say it all")
	}
	// All that is said of one device in one report is all the hub has of it.
	h.report(t, false, &api.DeviceState{Uuid: other.Uuid, Online: true}, &api.DeviceState{Uuid: other.Uuid, Online: true, Slot: 1})
	h.report(t, false, &api.DeviceState{Uuid: other.Uuid, Online: true, Slot: 1})
	if got := b.show(t, "gw-2"); len(got.Tunnels) != 1 || got.Tunnels[0].Slot != 1 {
		t.Errorf("tunnels %v", got.Tunnels)
	}
}

func TestLastSeenOutlivesTheServiceAndCostsOneWriteAMinute(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, h, "gw")
	writes := func() (rev uint64) {
		kv, err := b.state.Get(t.Context(), seenPrefix+d.Uuid)
		if err != nil {
			return 0
		}
		return kv.ModRev
	}
	online, gone := &api.DeviceState{Uuid: d.Uuid, Online: true, Carrier: "QUIC"}, &api.DeviceState{Uuid: d.Uuid, Reason: "heartbeats stopped"}
	h.report(t, false, online)
	b.saveLastSeenNow(t.Context(), saveDevice)
	first := writes()
	for range 5 {
		h.report(t, false, gone)
		h.report(t, false, online)
		b.saveLastSeenNow(t.Context(), saveDevice)
	}
	if got := writes(); first == 0 || got != first {
		t.Errorf("written at %d and again at %d within a minute", first, got)
	}
	b.now.Add(int64(saveDevice))
	h.report(t, false, gone)
	b.saveLastSeenNow(t.Context(), saveDevice)
	if got := writes(); got == first {
		t.Error("not written after a minute")
	}
	was := b.show(t, "gw")
	b.stop()
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	got := b.show(t, "gw")
	if got.Online || got.LastSeenUnix != was.LastSeenUnix || got.LastHub != "hub" || got.LastCarrier != "QUIC" || got.LastReason != "heartbeats stopped" {
		t.Errorf("after a restart: %v, before: %v", got, was)
	}
	// The hub saw it for a while when this service was down, and says how it ended.
	h = b.again(t, h)
	h.up(t, &api.WatchRequest{}, nil)
	end := time.Now().Add(time.Duration(b.now.Load()) - 3*time.Second).Unix()
	b.now.Add(int64(time.Minute))
	h.report(t, true, &api.DeviceState{Uuid: d.Uuid, Reason: "drained", SinceUnix: end + 30})
	if got := b.show(t, "gw"); got.LastReason != "drained" || got.LastSeenUnix != end+30 {
		t.Errorf("told afterwards: %v, want %d", got, end+30)
	}
}

func sessionStates(t *testing.T, b *bench) []*api.Session {
	t.Helper()
	res, err := b.admin.Admin.ListSessions(t.Context(), connect.NewRequest(&api.ListSessionsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Sessions
}

func TestHubsTellTheirSessionsAgainAfterARestartOfAuth(t *testing.T) {
	b := start(t)
	h, other := b.hub(t), b.hub(t)
	d, _ := b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	h.admit(t, r)
	b.stop()
	b.run(t)
	b.admin, h, other = b.dial(t, b.adminCert), b.again(t, h), b.again(t, other)
	state := &api.SessionState{
		Id: r.SessionId, ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_SESSION, User: "ann", DeviceUuid: d.Uuid, Login: "root", Way: "hub", Channel: "exec",
		Command: "id", ClientAddress: r.ClientAddress, StartUnixNano: time.Now().Add(-time.Hour).UnixNano(), Recorded: true,
	}
	connection := &api.SessionState{Id: r.ConnectionId, ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_CONNECTION, User: "ann", StartUnixNano: state.StartUnixNano}
	report := func(h *testHub, full bool, states ...*api.SessionState) error {
		_, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Full: full, Sessions: states}))
		return err
	}
	if err := report(h, true, state); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("without a Watch: %v", err)
	}
	kills := make(chan *api.Kill, 8)
	h.up(t, &api.WatchRequest{Sessions: [][]byte{r.SessionId, r.ConnectionId}}, func(m *api.WatchResponse) {
		for _, k := range m.Kills {
			kills <- k
		}
	})
	other.up(t, &api.WatchRequest{}, nil)
	if err := report(h, true, state, connection); err != nil {
		t.Fatal(err)
	}
	list := sessionStates(t, b)
	if len(list) != 2 || list[0].Hub != "hub" || list[0].User != "ann" || list[0].StartUnixNano != state.StartUnixNano {
		t.Fatalf("known again: %v", list)
	}
	if _, err := b.admin.Admin.KillSession(t.Context(), connect.NewRequest(&api.KillSessionRequest{Id: hexOf(r.SessionId)})); err != nil {
		t.Fatal(err)
	}
	if k := <-kills; !bytes.Equal(k.SessionId, r.SessionId) {
		t.Errorf("killed: %v", k)
	}
	gone := &api.SessionState{Id: id16(), ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_SESSION, User: "removed", DeviceUuid: d.Uuid}
	if err := report(h, false, gone); err != nil {
		t.Fatal(err)
	}
	if k := <-kills; !bytes.Equal(k.SessionId, gone.Id) || k.Reason != "the user was removed" {
		t.Errorf("killed: %v", k)
	}
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: gone.Id})); err != nil {
		t.Fatal(err)
	}
	byID := func(id []byte) *api.Session {
		for _, s := range sessionStates(t, b) {
			if bytes.Equal(s.Id, id) {
				return s
			}
		}
		return nil
	}
	if s := byID(r.SessionId); s == nil || s.Device != "gw" || s.Channel != "exec" || !s.Recorded || s.DetachedSinceUnixNano != 0 || s.Command != "id" {
		t.Errorf("the session: %v", s)
	}
	if b.show(t, "gw").Sessions != 1 {
		t.Error("the device has no session")
	}
	state.BytesIn, state.BytesOut, state.LastActivityUnixNano = 7, 1<<40, time.Now().Add(time.Hour).UnixNano()
	if err := report(h, false, state); err != nil {
		t.Fatal(err)
	}
	if s := byID(r.SessionId); s.BytesIn != 7 || s.BytesOut != 1<<40 || s.LastActivityUnixNano == 0 || s.LastActivityUnixNano > time.Now().UnixNano() ||
		len(s.Roles) != 1 || s.Roles[0] != "operator" {
		t.Errorf("what passed, and by which roles: %v", s)
	}
	state.DetachedSinceUnixNano = time.Now().Add(-12 * time.Second).UnixNano()
	if err := report(h, false, state); err != nil {
		t.Fatal(err)
	}
	if s := byID(r.SessionId); s.DetachedSinceUnixNano != state.DetachedSinceUnixNano {
		t.Errorf("detached since %d, want %d", s.DetachedSinceUnixNano, state.DetachedSinceUnixNano)
	}
	// Another hub can neither claim it nor change it nor end it.
	theirs := &api.SessionState{Id: r.SessionId, ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_SESSION, User: "eve", DeviceUuid: d.Uuid}
	if err := report(other, true, theirs); err != nil {
		t.Fatal(err)
	}
	if s := byID(r.SessionId); s.User != "ann" || s.Hub != "hub" || s.DetachedSinceUnixNano == 0 {
		t.Errorf("changed by another hub: %v", s)
	}
	// A report that was on its way when the session ended does not bring it back.
	if _, err := h.Hub.Release(t.Context(), connect.NewRequest(&api.ReleaseRequest{SessionId: r.SessionId})); err != nil {
		t.Fatal(err)
	}
	if err := report(h, true, state, connection); err != nil {
		t.Fatal(err)
	}
	if s := byID(r.SessionId); s != nil {
		t.Errorf("risen: %v", s)
	}
	b.now.Add(int64(2 * claimGrace))
	if err := report(h, true); err != nil {
		t.Fatal(err)
	}
	if list := sessionStates(t, b); len(list) != 0 {
		t.Errorf("left over: %v", list)
	}
}

func TestSessionReportThatMakesNoSenseIsLeftOut(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	good := func() *api.SessionState {
		return &api.SessionState{Id: id16(), ConnectionId: id16(), Kind: api.Kind_KIND_SESSION, User: "ann", Command: strings.Repeat("x", maxCommand+9)}
	}
	bad := []*api.SessionState{nil, {}, good(), good(), good(), good()}
	bad[2].Id = make([]byte, 16)
	bad[3].ConnectionId = nil
	bad[4].Kind = api.Kind_KIND_FORWARDS
	bad[5].DeviceUuid = wire.NewUUID().String()
	future := good()
	future.StartUnixNano, future.DetachedSinceUnixNano = time.Now().Add(time.Hour).UnixNano(), time.Now().Add(time.Hour).UnixNano()
	// What it says was a certificate is a key, which once made a panic of the whole report.
	future.Certificate = sshKey(t, newKey(t)).Marshal()
	if _, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Sessions: append(bad[1:], future)})); err != nil {
		t.Fatal(err)
	}
	list := sessionStates(t, b)
	if len(list) != 1 || time.Unix(0, list[0].StartUnixNano).After(time.Now()) || time.Unix(0, list[0].DetachedSinceUnixNano).After(time.Now()) {
		t.Errorf("taken over: %v", list)
	}
}

func openList(t *testing.T, b *bench, blob []byte) hublist.List {
	t.Helper()
	l, err := hublist.Open(blob, []ed25519.PublicKey{b.set.Authority(ca.GrantKey).Public()}, b.Cluster())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestHubListGrowsItsRevisionOnlyWhenItChanges(t *testing.T) {
	b := start(t)
	one := b.hub(t)
	lists := make(chan []byte, 16)
	first := func(m *api.WatchResponse) {
		if len(m.HubList) > 0 {
			lists <- m.HubList
		}
	}
	one.up(t, &api.WatchRequest{Zone: "a"}, first)
	l := openList(t, b, <-lists)
	if len(l.Hubs) != 1 || l.Hubs[0].Name != "hub" || l.Hubs[0].Zone != "a" || l.Window != minWindow || !slices.Equal(l.Hubs[0].Tunnel, []string{"127.0.0.1:443"}) {
		t.Fatalf("the first: %+v", l)
	}
	// One that has joined and was never up is nobody's choice yet.
	two := b.hub(t)
	b.user(t, "ann", "operator")
	down := two.up(t, &api.WatchRequest{Zone: "b"}, nil)
	next := openList(t, b, <-lists)
	if len(next.Hubs) != 2 || next.Revision <= l.Revision {
		t.Fatalf("with two: %+v", next)
	}
	down()
	b.stop()
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	one = b.again(t, one)
	one.up(t, &api.WatchRequest{Zone: "a"}, first)
	if again := openList(t, b, <-lists); again.Revision != next.Revision || len(again.Hubs) != 2 {
		t.Errorf("one down and auth restarted: revision %d, want %d; %+v", again.Revision, next.Revision, again)
	}
	hubs, err := b.admin.Admin.ListHubs(t.Context(), connect.NewRequest(&api.ListHubsRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if h := hubs.Msg.Hubs; len(h) != 2 || !h[0].Online || h[1].Online || h[1].Zone != "b" || !h[1].Listed || h[1].LastSeenUnix == 0 {
		t.Errorf("hubs: %v", h)
	}
	if _, err := b.admin.Admin.RemoveHub(t.Context(), connect.NewRequest(&api.RemoveHubRequest{Hub: "hub-2"})); err != nil {
		t.Fatal(err)
	}
	if after := openList(t, b, <-lists); len(after.Hubs) != 1 || after.Revision <= next.Revision {
		t.Errorf("after the removal: %+v", after)
	}
	if _, err := b.again(t, two).Hub.SignTime(t.Context(), connect.NewRequest(&api.SignTimeRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the removed hub is heard: %v", err)
	}
	if _, err := b.admin.Admin.RemoveHub(t.Context(), connect.NewRequest(&api.RemoveHubRequest{Hub: "hub-2"})); connect.CodeOf(err) != connect.CodeNotFound {
		t.Errorf("removed twice: %v", err)
	}
	select {
	case blob := <-lists:
		t.Errorf("another list: %+v", openList(t, b, blob))
	default:
	}
}

func TestRemovedHubIsCutAtOnce(t *testing.T) {
	b := start(t)
	one, two := b.hub(t), b.hub(t)
	one.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, one, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	ended := make(chan struct{})
	stream, err := two.Hub.Watch(t.Context(), connect.NewRequest(&api.WatchRequest{TunnelAddresses: []string{"127.0.0.1:443"}}))
	if err != nil {
		t.Fatal(err)
	}
	stream.Receive()
	two.report(t, true, &api.DeviceState{Uuid: d.Uuid, Online: true})
	two.admit(t, r)
	go func() {
		defer close(ended)
		for stream.Receive() {
		}
	}()
	if _, err := b.admin.Admin.RemoveHub(t.Context(), connect.NewRequest(&api.RemoveHubRequest{Hub: two.res.Uuid})); err != nil {
		t.Fatal(err)
	}
	<-ended
	if got := b.show(t, "gw"); got.Online || got.LastReason != "hub hub-2 was removed" {
		t.Errorf("its device: %v", got)
	}
	if list := sessionStates(t, b); len(list) != 0 {
		t.Errorf("its sessions: %v", list)
	}
}

func TestHubsHearOfOneAnotherComingAndGoing(t *testing.T) {
	b := start(t)
	one, two := b.hub(t), b.hub(t)
	online := make(chan bool, 64)
	one.up(t, &api.WatchRequest{}, func(m *api.WatchResponse) {
		for _, h := range m.Hubs {
			if h.Uuid == two.res.Uuid {
				online <- h.Online
			}
		}
	})
	expect := func(want bool) {
		t.Helper()
		for {
			select {
			case got := <-online:
				if got == want {
					return
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("never told that online is %v", want)
			}
		}
	}
	expect(false)
	down := two.up(t, &api.WatchRequest{}, nil)
	expect(true)
	down()
	expect(false)
}

func TestHubThatIsLongDownLeavesTheList(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	record := func(name string, down time.Duration) *hubRecord {
		return &hubRecord{UUID: wire.NewUUID().String(), Name: name, Tunnel: []string{"192.0.2.1:443"}, Up: now.Add(-down)}
	}
	never, nowhere := record("never", 0), record("nowhere", 0)
	never.Up, nowhere.Tunnel = time.Time{}, nil
	got := listed([]*hubRecord{record("b", time.Minute), record("a", listedFor), record("long", listedFor+1), never, nowhere}, now)
	if len(got) != 2 || got[0].Name != "a" || got[1].Name != "b" {
		t.Errorf("listed: %+v", got)
	}
	var many []*hubRecord
	for i := range hublist.MaxHubs + 10 {
		many = append(many, record(fmt.Sprintf("h-%03d", i), time.Duration(i)*time.Minute))
	}
	if got := listed(many, now); len(got) != hublist.MaxHubs || got[len(got)-1].Name != "h-063" {
		t.Errorf("of %d hubs: %d, the last %+v", len(many), len(got), got[len(got)-1])
	}
}

func TestWindowBringsTenThousandBackWithinAMinute(t *testing.T) {
	for _, tt := range []struct {
		was           time.Duration
		devices, hubs int
		want          time.Duration
	}{
		{0, 0, 0, 5 * time.Second},
		{0, 1000, 3, 5 * time.Second},
		{0, 10000, 1, 40 * time.Second},
		{0, 10000, 2, 20 * time.Second},
		{0, 20000, 2, 40 * time.Second},
		{0, 100000, 3, 45 * time.Second},
		{10 * time.Second, 1251, 1, 10 * time.Second},
		{10 * time.Second, 1249, 1, 10 * time.Second}, // devices come and go at the border: no new list for each
		{15 * time.Second, 1249, 1, 5 * time.Second},
		{5 * time.Second, 1251, 1, 10 * time.Second},
	} {
		if got := window(tt.was, tt.devices, tt.hubs); got != tt.want {
			t.Errorf("%d devices of %d hubs, before %v: %v, want %v", tt.devices, tt.hubs, tt.was, got, tt.want)
		}
	}
	if hublist.MaxWindow < maxWindow || maxWindow > 50*time.Second {
		t.Error("the greatest window is no good")
	}
}

func TestDeviceTellsItsHistoryAgainWithoutTellingItTwice(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, h, "gw")
	tell := func(events ...*api.DeviceEvent) []*api.DeviceEvent {
		t.Helper()
		_, err := h.Hub.ReportHistory(t.Context(), connect.NewRequest(&api.ReportHistoryRequest{Histories: []*api.DeviceHistory{
			{Uuid: d.Uuid, Events: events}, {Uuid: wire.NewUUID().String(), Events: events},
		}}))
		if err != nil {
			t.Fatal(err)
		}
		return b.show(t, "gw").History
	}
	const minute = 60_000
	got := tell(&api.DeviceEvent{Kind: uint32(wire.EventStarted), AgoMs: 30 * minute}, &api.DeviceEvent{Kind: uint32(wire.EventLost), AgoMs: 11 * minute, Text: "a\x1b[2J"},
		&api.DeviceEvent{Kind: uint32(wire.EventDNS), AgoMs: 11 * minute, LastedMs: 9 * minute, Times: 40})
	if len(got) != 3 || got[0].Name != "started" || got[2].Name != "dns-failed" || got[2].Times != 40 || strings.Contains(got[1].Text, "\x1b") {
		t.Fatalf("told: %v", got)
	}
	if at := time.Since(time.Unix(0, got[1].AtUnixNano)); at < 11*time.Minute || at > 11*time.Minute+10*time.Second {
		t.Errorf("lost %v ago", at)
	}
	// A minute later, with what came since; the agent was restarted meanwhile, or has forgotten its start.
	b.now.Add(int64(time.Minute))
	got = tell(&api.DeviceEvent{Kind: uint32(wire.EventLost), AgoMs: 12 * minute}, &api.DeviceEvent{Kind: uint32(wire.EventDNS), AgoMs: 12 * minute, LastedMs: 9 * minute},
		&api.DeviceEvent{Kind: uint32(wire.EventRegistered), AgoMs: 10})
	var names []string
	for _, e := range got {
		names = append(names, e.Name)
	}
	if want := []string{"started", "lost", "dns-failed", "registered"}; !slices.Equal(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
	var many []*api.DeviceEvent
	for i := range 50 {
		many = append(many, &api.DeviceEvent{Kind: 200, AgoMs: uint64(50 - i)})
	}
	if got = tell(many...); len(got) != maxHistory || got[0].Name != "unknown" {
		t.Errorf("of 50 events %d are kept", len(got))
	}
	res, err := b.admin.Admin.ListDevices(t.Context(), connect.NewRequest(&api.ListDevicesRequest{}))
	if err != nil || len(res.Msg.Devices) != 1 || len(res.Msg.Devices[0].History) != 0 {
		t.Errorf("the list carries histories: %v, %v", res, err)
	}
}

func TestIncidentsAreAuditedQuotedAndLimited(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	report := func() error {
		_, err := h.Hub.ReportIncident(t.Context(), connect.NewRequest(&api.ReportIncidentRequest{
			Kind: "stamp", PeerHub: h.res.Uuid, Device: d.Uuid, Detail: "ahead \x1b[31m" + strings.Repeat("x", 5000)}))
		return err
	}
	if err := report(); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.auditText(t)), "\n")
	var e Event
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &e); err != nil {
		t.Fatal(err)
	}
	if e.Type != "hub.incident" || e.Actor != "hub:hub" || e.Kind != "stamp" || e.Object != "hub" || e.Device != "gw" || e.DeviceUUID != d.Uuid ||
		strings.Contains(e.Reason, "\x1b") || !strings.HasPrefix(e.Reason, `ahead \x1b[31m`) || len(e.Reason) > maxIncident+16 {
		t.Errorf("audited: %+v", e)
	}
	var err error
	for range incidentBurst {
		err = report()
	}
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("after %d: %v", incidentBurst+1, err)
	}
	b.now.Add(int64(incidentEvery))
	if err := report(); err != nil {
		t.Errorf("later: %v", err)
	}
}

func TestZoneIsOneWord(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	for _, zone := range []string{"a b", "\x1b", "é", strings.Repeat("x", maxZone+1)} {
		stream, err := h.Hub.Watch(t.Context(), connect.NewRequest(&api.WatchRequest{Zone: zone}))
		if err != nil {
			t.Fatal(err)
		}
		if stream.Receive() || connect.CodeOf(stream.Err()) != connect.CodeInvalidArgument {
			t.Errorf("zone %q: %v", zone, stream.Err())
		}
	}
}

func TestNewcomersAreToldHubsThatAreUpFirst(t *testing.T) {
	b := start(t)
	for i := range 30 {
		h := hubRecord{UUID: wire.NewUUID().String(), Name: fmt.Sprintf("hub-%02d", i)}
		for k := range 3 {
			h.Tunnel = append(h.Tunnel, fmt.Sprintf("192.0.2.%d:%d", i, k))
		}
		if err := b.commit(t.Context(), nil, put(hubPrefix+h.UUID, h)); err != nil {
			t.Fatal(err)
		}
		if i == 7 {
			b.hubs.begin(h.ref(), nil, time.Now())
		}
	}
	got := b.tunnelAddrs()
	if len(got) != maxJoinAddrs || !slices.Equal(got[:4], []string{"192.0.2.7:0", "192.0.2.7:1", "192.0.2.7:2", "192.0.2.0:0"}) || got[4] != "192.0.2.1:0" {
		t.Errorf("%d: %v", len(got), got)
	}
}

func TestDeviceThatWasOnlineWhenTheServiceStoppedWasSeenThen(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, h, "gw")
	h.report(t, true, &api.DeviceState{Uuid: d.Uuid, Online: true, Carrier: "tls"})
	b.now.Add(int64(time.Minute))
	stopped := b.cfg.Now().Unix()
	b.stop()
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	if got := b.show(t, "gw"); got.Online || got.LastSeenUnix < stopped || got.LastHub != "hub" || got.LastCarrier != "tls" || got.LastReason != "" {
		t.Errorf("seen %d, stopped %d: %v", got.LastSeenUnix, stopped, got)
	}
}

func TestSessionAdmittedBeforeTheWatchIsOpenIsKept(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	if got := b.hubs.expire(b.cfg.Now().Add(orphanLife / 2)); len(got) != 0 {
		t.Error("ended")
	}
}

// A hub that was killed and runs again has none of what it was granted a moment before.
func TestYoungSessionsThatAHubDoesNotNameEndLater(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw")
	user := b.user(t, "ann", "operator")
	lost, kept := request(user, "gw", "root"), request(user, "gw", "root")
	h.admit(t, lost)
	h.admit(t, kept)
	h.up(t, &api.WatchRequest{}, nil)
	for _, list := range [][]*api.SessionState{nil, {{Id: kept.SessionId, ConnectionId: kept.ConnectionId, Kind: api.Kind_KIND_SESSION, User: "ann"}}} {
		if _, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Full: list == nil, Sessions: list})); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.hubs.expire(b.cfg.Now()); len(got) != 0 {
		t.Error("ended at once")
	}
	got := b.hubs.expire(b.cfg.Now().Add(claimGrace + time.Second))
	if list := sessionStates(t, b); len(got) != 1 || len(list) != 1 || string(list[0].Id) != string(kept.SessionId) {
		t.Errorf("ended %d, left %v", len(got), list)
	}
}

func TestSessionsOfAHubThatIsGoneAreNotCalledLiveForLong(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	down := h.up(t, &api.WatchRequest{}, nil)
	b.device(t, h, "gw")
	r := request(b.user(t, "ann", "operator"), "gw", "root")
	h.admit(t, r)
	if list := sessionStates(t, b); len(list) != 1 || list[0].HubGoneSinceUnixNano != 0 {
		t.Fatalf("while it is up: %v", list)
	}
	if got := b.hubs.expire(b.cfg.Now()); len(got) != 0 {
		t.Error("ended while its hub was there")
	}
	down()
	await(t, "the hub is gone", func() bool { list := sessionStates(t, b); return len(list) == 1 && list[0].HubGoneSinceUnixNano != 0 })
	if got := b.hubs.expire(b.cfg.Now()); len(got) != 0 {
		t.Error("ended at once")
	}
	if got := b.hubs.expire(b.cfg.Now().Add(orphanLife + time.Second)); len(got) != 1 || len(sessionStates(t, b)) != 0 {
		t.Errorf("ended %d", len(got))
	}
	// It was only auth that the hub had lost.
	h.up(t, &api.WatchRequest{Sessions: [][]byte{r.SessionId}}, nil)
	state := &api.SessionState{Id: r.SessionId, ConnectionId: r.ConnectionId, Kind: api.Kind_KIND_SESSION, User: "ann"}
	if _, err := h.Hub.ReportSessions(t.Context(), connect.NewRequest(&api.ReportSessionsRequest{Full: true, Sessions: []*api.SessionState{state}})); err != nil {
		t.Fatal(err)
	}
	if list := sessionStates(t, b); len(list) != 1 || list[0].HubGoneSinceUnixNano != 0 {
		t.Errorf("told again: %v", list)
	}
}

func TestSessionOnASilentTunnelIsDetached(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	h.up(t, &api.WatchRequest{}, nil)
	d, _ := b.device(t, h, "gw")
	state := &api.DeviceState{Uuid: d.Uuid, Online: true}
	h.report(t, false, state)
	h.admit(t, request(b.user(t, "ann", "operator"), "gw", "root"))
	for _, silent := range []bool{false, true, false} {
		state.Silent = silent
		h.report(t, false, state)
		if got := sessionStates(t, b)[0].DetachedSinceUnixNano != 0; got != silent {
			t.Errorf("silent %v: detached %v", silent, got)
		}
	}
}
