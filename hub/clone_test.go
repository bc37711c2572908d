package hub

import (
	"context"
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// tell sends the device as change makes it.
func (a *authTwin) tell(change func(*api.WatchDevice)) {
	d := proto.Clone(a.device).(*api.WatchDevice)
	change(d)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.news = []*api.WatchDevice{d}
	close(a.found)
	a.found = make(chan struct{})
}

// RenewDevice issues for the name told last, which shows in the certificate.
func (a *authTwin) RenewDevice(_ context.Context, r *connect.Request[api.RenewDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	if !r.Msg.Again {
		return nil, api.NewError(connect.CodeAborted, api.Code_CODE_QUARANTINED, "in quarantine")
	}
	a.mu.Lock()
	name := a.news[0].Name
	a.mu.Unlock()
	chain, cert, err := a.set.IssueDevice(ca.DeviceRequest{UUID: r.Msg.Uuid, Name: name, Key: r.Msg.PublicKey, TTL: time.Hour, Now: time.Now()})
	return connect.NewResponse(&api.DeviceCredentials{Uuid: r.Msg.Uuid, Name: name, Chain: chain, SshCertificate: cert, Trust: a.trust, Counter: 4}), err
}

func (a *authTwin) JoinDevice(_ context.Context, r *connect.Request[api.JoinDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	if !ed25519.PublicKey(r.Msg.PublicKey).Equal(ed25519.PublicKey(a.device.PublicKey)) {
		return nil, api.NewRetryError(connect.CodePermissionDenied, api.Code_CODE_PENDING, time.Minute, "waits for approval")
	}
	return connect.NewResponse(&api.DeviceCredentials{Uuid: a.device.Uuid, Name: "gw-1", Cluster: testCluster, Counter: 1}), nil
}

func (a *authTwin) ReportClone(_ context.Context, r *connect.Request[api.ReportCloneRequest]) (*connect.Response[api.ReportCloneResponse], error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.clone == nil || len(r.Msg.Sources) != 2 {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("not now"))
	}
	return connect.NewResponse(a.clone), nil
}

func registerAs(t *testing.T, e testEdge, h *Hub, run byte, counter uint64) tunnel.Conn {
	t.Helper()
	c, ch := e.dial(t, h, tunnel.CarrierTLS)
	r := wire.Register{UUID: testUUID, Hub: ch.HubUUID, Incarnation: wire.Incarnation{run}, Counter: counter}
	r.Signature = ed25519.Sign(e.key, wire.RegisterTBS(ch.Nonce, r))
	if err := tunnel.Send(c, r); err != nil {
		t.Fatal(err)
	}
	return c
}

func closedBy(t *testing.T, c tunnel.Conn) *wire.CloseError {
	t.Helper()
	select {
	case <-c.Context().Done():
	case <-time.After(5 * time.Second):
		t.Fatal("the tunnel was not closed")
	}
	e, ok := errors.AsType[*wire.CloseError](context.Cause(c.Context()))
	if !ok {
		t.Fatalf("closed by %v", context.Cause(c.Context()))
	}
	return e
}

func TestADeviceInQuarantineIsClosedAndRefusedWithWords(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	c := registerAs(t, e, h, 1, 1)
	receive[*wire.Ack](t, c)
	a.tell(func(d *api.WatchDevice) { d.Quarantine = "gw-1 is in quarantine" })
	if end := closedBy(t, c); end.Code != wire.CloseClone || end.Reason != "gw-1 is in quarantine" {
		t.Errorf("closed by %v", end)
	}
	c = registerAs(t, e, h, 1, 2)
	if code := refusal(t, c); code != wire.CloseClone {
		t.Errorf("it comes back: %v", code)
	}
	// Recovered: what was issued before is to be renewed first.
	a.tell(func(d *api.WatchDevice) { d.IssuedAfterUnix = time.Now().Add(time.Minute).Unix() })
	for deadline := time.Now().Add(5 * time.Second); ; {
		c = registerAs(t, e, h, 1, 3)
		if code := refusal(t, c); code == wire.CloseExpired {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("with the old certificate: %v", code)
		}
	}
	if got := h.registry.All(); len(got) != 0 {
		t.Errorf("%d registered", len(got))
	}
}

func TestARenamedDeviceIsBroughtItsCertificateOnce(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	c := registerAs(t, e, h, 1, 1)
	receive[*wire.Ack](t, c)
	a.tell(func(d *api.WatchDevice) { d.Name = "gate" })
	if m := receive[*wire.Renewed](t, c); m.Counter != 4 || len(m.Chain) == 0 {
		t.Errorf("got %+v", m)
	}
	a.tell(func(d *api.WatchDevice) { d.Name, d.Labels = "gate", []*api.Label{{Key: "a", Value: "b"}} })
	receive[*wire.Policy](t, c)
	// One that was away comes with its old certificate, and gets the new one too.
	c = registerAs(t, e, h, 1, 2)
	receive[*wire.Ack](t, c)
	receive[*wire.Renewed](t, c)
}

func TestAKeyThatIsAnothersNowIsClosed(t *testing.T) {
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	c := registerAs(t, e, h, 1, 1)
	receive[*wire.Ack](t, c)
	other, _, _ := ed25519.GenerateKey(nil)
	a.tell(func(d *api.WatchDevice) { d.PublicKey = other })
	if end := closedBy(t, c); end.Code != wire.CloseBanned || !strings.Contains(end.Reason, "another key") {
		t.Errorf("closed by %v", end)
	}
}

func TestAKeyThatIsADevicesMayJoinAgain(t *testing.T) {
	a, h, key := newCluster(t)
	join := func(key ed25519.PrivateKey) tunnel.Conn {
		self, err := ca.SelfSigned(key, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		c, _ := testEdge{key, [][]byte{self}}.dial(t, h, tunnel.CarrierTLS)
		if err := tunnel.Send(c, wire.Join{Name: "gw-1"}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if m := receive[*wire.Joined](t, join(key)); m.UUID != testUUID {
		t.Errorf("joined as %v", m.UUID)
	}
	_, stranger, _ := ed25519.GenerateKey(nil)
	if m := receive[*wire.Refused](t, join(stranger)); m.Code != wire.ClosePending || m.RetryAfter != time.Minute {
		t.Errorf("refused by %+v", m)
	}
	_ = a
}

func TestAuthDecidesAboutTwoMachinesThatTakeTurns(t *testing.T) {
	for _, x := range []struct {
		name   string
		answer *api.ReportCloneResponse
		code   wire.CloseCode // 0: served
	}{
		{"auth is away", nil, wire.CloseClone},
		{"quarantine", &api.ReportCloneResponse{Message: "in quarantine"}, wire.CloseClone},
		{"split", &api.ReportCloneResponse{Message: "split", Order: []byte("order")}, wire.CloseClone},
		{"replace", &api.ReportCloneResponse{Serve: true}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			a, h, key := newCluster(t)
			a.clone = x.answer
			e := a.edge(t, key, testUUID, time.Hour)
			// Run 2 displaces run 1; each that comes back is a turn, and the third is one too many.
			for i, run := range []byte{1, 2, 1, 2} {
				receive[*wire.Ack](t, registerAs(t, e, h, run, uint64(i+1)))
			}
			c := registerAs(t, e, h, 1, 9)
			if x.code == 0 {
				receive[*wire.Ack](t, c)
				return
			}
			m := receive[*wire.Refused](t, c)
			if m.Code != x.code || string(m.Order) != string(x.answer.GetOrder()) || x.answer != nil && m.Message != x.answer.Message {
				t.Errorf("refused by %+v", m)
			}
		})
	}
}
