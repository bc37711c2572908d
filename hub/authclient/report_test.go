package authclient

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// fakeAuth answers the reports; the other methods are nil and never called.
type fakeAuth struct {
	apiconnect.HubServiceClient
	mu        sync.Mutex
	err       error // of every call
	calls     int
	histories []*api.ReportHistoryRequest
	incidents []*api.ReportIncidentRequest
	sessions  []*api.ReportSessionsRequest
}

func (f *fakeAuth) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func (f *fakeAuth) ReportHistory(_ context.Context, r *connect.Request[api.ReportHistoryRequest]) (*connect.Response[api.ReportHistoryResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls++; f.err != nil {
		return nil, f.err
	}
	f.histories = append(f.histories, r.Msg)
	return connect.NewResponse(&api.ReportHistoryResponse{}), nil
}

func (f *fakeAuth) ReportIncident(_ context.Context, r *connect.Request[api.ReportIncidentRequest]) (*connect.Response[api.ReportIncidentResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls++; f.err != nil {
		return nil, f.err
	}
	f.incidents = append(f.incidents, r.Msg)
	return connect.NewResponse(&api.ReportIncidentResponse{}), nil
}

func (f *fakeAuth) ReportSessions(_ context.Context, r *connect.Request[api.ReportSessionsRequest]) (*connect.Response[api.ReportSessionsResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls++; f.err != nil {
		return nil, f.err
	}
	f.sessions = append(f.sessions, r.Msg)
	return connect.NewResponse(&api.ReportSessionsResponse{}), nil
}

var errAway = connect.NewError(connect.CodeUnavailable, errors.New("connection refused"))

func newClient(f *fakeAuth) *Client {
	x := &Client{
		c: Config{Logger: slog.New(slog.DiscardHandler), Now: time.Now}, api: &apiclient.Client{Hub: f}, sessionsDirty: make(chan struct{}, 1),
	}
	x.outbox.init()
	x.Cache.init()
	return x
}

func TestHistoryWaitsForAuthAndGrowsOlderMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuth{err: errAway}
		x := newClient(f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { x.telling(ctx); close(done) }()
		device := wire.NewUUID()
		// A hub is told each event once: what comes later must not displace what waits.
		x.ReportHistory(device, []wire.ConnEvent{{Kind: wire.EventStarted, Ago: time.Hour}})
		time.Sleep(5 * time.Second)
		x.ReportHistory(device, []wire.ConnEvent{{Kind: wire.EventLost, Ago: time.Minute, Lasted: time.Second, Carrier: 1, Times: 3}})
		time.Sleep(10 * time.Second)
		f.set(nil)
		time.Sleep(retryMax)
		synctest.Wait()
		if len(f.histories) != 1 || len(f.histories[0].Histories) != 1 || f.histories[0].Histories[0].Uuid != device.String() {
			t.Fatalf("told: %v", f.histories)
		}
		e := f.histories[0].Histories[0].Events
		if len(e) != 2 || e[0].Kind != uint32(wire.EventStarted) || e[0].AgoMs < 3_615_000 {
			t.Fatalf("events %v", e)
		}
		e = e[1:]
		if e[0].Kind != uint32(wire.EventLost) || e[0].AgoMs < 70_000 || e[0].AgoMs > 70_000+uint64(retryMax.Milliseconds()) ||
			e[0].LastedMs != 1000 || e[0].Carrier != "quic" || e[0].Times != 3 {
			t.Errorf("events %v", e)
		}
		if f.calls > 40 {
			t.Errorf("%d calls in 10 s while auth was away", f.calls)
		}
		f.set(errAway)
		for range maxEvents + 1 {
			x.ReportHistory(device, []wire.ConnEvent{{Kind: wire.EventLost}})
		}
		f.set(nil)
		time.Sleep(retryMax)
		synctest.Wait()
		if n := len(f.histories[1].Histories[0].Events); n != maxEvents {
			t.Errorf("%d events of one device, want %d", n, maxEvents)
		}
		cancel()
		<-done
	})
}

func TestOutboxIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuth{}
		x := newClient(f)
		for range maxHistories + 100 {
			x.ReportHistory(wire.NewUUID(), []wire.ConnEvent{{Kind: wire.EventLost}})
		}
		for i := range maxIncidents + 10 {
			x.ReportIncident("stamp", "hub-2", wire.UUID{1}, fmt.Sprintf("%d\x1b%s", i, strings.Repeat("x", 3*maxDetail)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { x.telling(ctx); close(done) }()
		synctest.Wait()
		n := 0
		for _, r := range f.histories {
			if len(r.Histories) > historyBatch {
				t.Errorf("%d histories in one call", len(r.Histories))
			}
			n += len(r.Histories)
		}
		if n != maxHistories || len(f.incidents) != maxIncidents {
			t.Errorf("told %d histories and %d incidents, want %d and %d", n, len(f.incidents), maxHistories, maxIncidents)
		}
		if d := f.incidents[0].Detail; !strings.HasPrefix(d, `0\x1bxxx`) || len(d) > maxDetail+16 {
			t.Errorf("detail of %d bytes: %.20q", len(d), d)
		}
		// What auth refuses is not tried for ever.
		f.set(connect.NewError(connect.CodeResourceExhausted, errors.New("too many")))
		calls := f.calls
		x.ReportIncident("stamp", "", wire.UUID{}, "again")
		time.Sleep(time.Minute)
		synctest.Wait()
		if f.calls != calls+1 {
			t.Errorf("%d calls for one refused incident", f.calls-calls)
		}
		cancel()
		<-done
	})
}

func TestReportOfSessionsIsTakenAgainWholeAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakeAuth{}
		x := newClient(f)
		var asked []bool
		e := Events{SessionStates: func(full bool) []*api.SessionState {
			asked = append(asked, full)
			return []*api.SessionState{{Command: "a\xffb"}}
		}}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { x.report(ctx, x.sessionsDirty, x.reportSessions(e)); close(done) }()
		synctest.Wait()
		x.SessionsDirty()
		synctest.Wait()
		f.set(errAway)
		x.SessionsDirty()
		synctest.Wait()
		f.set(nil)
		time.Sleep(retryMax)
		synctest.Wait()
		if got := fmt.Sprint(asked); got != "[true false false true]" {
			t.Errorf("asked for %s", got)
		}
		if len(f.sessions) != 3 || !f.sessions[0].Full || f.sessions[1].Full || !f.sessions[2].Full || f.sessions[0].Sessions[0].Command != "a?b" {
			t.Errorf("reported %v", f.sessions)
		}
		cancel()
		<-done
	})
}

func TestHubsAndTheirListAreCached(t *testing.T) {
	const cluster = "ber.example"
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))
	x := newClient(&fakeAuth{})
	x.trust.Store(&ca.Trust{Cluster: cluster, GrantKeys: []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}})
	x.creds.Store(&identity.Credentials{Cluster: cluster})
	id := wire.NewUUID()
	sign := func(key ed25519.PrivateKey, revision uint64) []byte {
		b, err := hublist.Sign(hublist.List{Cluster: cluster, Revision: revision, Hubs: []hublist.Hub{{UUID: id}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	told := 0
	e := Events{HubList: func() { told++ }}
	hubs := []*api.Hub{{Uuid: id.String(), Name: "hub", Zone: "a", SshAddresses: []string{"h:22"}, TunnelAddresses: []string{"h:443"}, Online: true}, {Uuid: "odd"}}
	first := sign(key, 1)
	x.apply(&api.WatchResponse{Hubs: hubs, HubList: first}, e)
	x.apply(&api.WatchResponse{HubList: first}, e)
	x.apply(&api.WatchResponse{HubList: sign(other, 2)}, e) // not by this cluster's key
	if list, blob := x.Cache.HubList(); told != 1 || list.Revision != 1 || string(blob) != string(first) {
		t.Errorf("told %d times, revision %d", told, list.Revision)
	}
	if h := x.Cache.Hubs(); len(h) != 1 || h[0].UUID != id || h[0].Name != "hub" || h[0].Zone != "a" || !h[0].Online || h[0].Tunnel[0] != "h:443" || h[0].SSH[0] != "h:22" {
		t.Errorf("hubs %+v", h)
	}
	if a := x.Cache.HubAddresses(); len(a) != 1 || a[0] != "h:443" {
		t.Errorf("addresses %v", a)
	}
	x.apply(&api.WatchResponse{HubList: sign(key, 2)}, e)
	if list, _ := x.Cache.HubList(); told != 2 || list.Revision != 2 {
		t.Errorf("told %d times, revision %d", told, list.Revision)
	}
}

func TestAddressesForNewcomersFitTheirMessage(t *testing.T) {
	x := newClient(&fakeAuth{})
	var hubs []*api.Hub
	for i := range 30 {
		h := &api.Hub{Uuid: wire.NewUUID().String(), Online: i%2 == 1}
		for k := range 3 {
			h.TunnelAddresses = append(h.TunnelAddresses, fmt.Sprintf("192.0.2.%d:%d", i, k))
		}
		hubs = append(hubs, h)
	}
	x.creds.Store(&identity.Credentials{})
	x.trust.Store(&ca.Trust{})
	x.apply(&api.WatchResponse{Hubs: hubs}, Events{})
	all := x.Cache.HubAddresses()
	if len(all) != maxAddresses || all[0] != "192.0.2.1:0" || all[1] != "192.0.2.3:0" || all[15] != "192.0.2.1:1" || all[45] != "192.0.2.0:0" {
		t.Errorf("%d addresses: %v", len(all), all)
	}
	if _, err := wire.Encode(wire.Ack{Hubs: all}); err != nil {
		t.Error(err)
	}
}

func TestNothingIsRemovedWhileAWholeStateIsOnItsWay(t *testing.T) {
	x := newClient(&fakeAuth{})
	x.creds.Store(&identity.Credentials{})
	x.trust.Store(&ca.Trust{})
	e := Events{Resynced: func() {}}
	gone := wire.UUID{1}
	for i, step := range []struct {
		m    *api.WatchResponse
		want bool
	}{
		{&api.WatchResponse{Full: true, Begin: true}, false},
		{&api.WatchResponse{Full: true, Synced: true}, true},
		{&api.WatchResponse{}, true},
		{&api.WatchResponse{Full: true, Begin: true}, false}, // the cache is empty, and the device may come in a later part
		{&api.WatchResponse{Full: true}, false},
		{&api.WatchResponse{Full: true, Synced: true}, true},
	} {
		x.apply(step.m, e)
		if got := x.Cache.Removed(gone); got != step.want {
			t.Errorf("step %d: removed %v", i, got)
		}
	}
}
