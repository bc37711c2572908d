package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// clone sets what the cluster does about clones.
func (b *bench) clonePolicy(t *testing.T, what string) {
	t.Helper()
	raw, err := json.Marshal(policy.Cluster{Clone: what}.ToMap())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.commit(t.Context(), nil, store.Put(clusterKey, raw)); err != nil {
		t.Fatal(err)
	}
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func (h *testHub) renew(t *testing.T, uuid string, key ed25519.PrivateKey, counter uint64, source string) (*api.DeviceCredentials, error) {
	t.Helper()
	res, err := h.Hub.RenewDevice(t.Context(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: uuid, PublicKey: public(key), Counter: counter, Source: source}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (b *bench) pending(t *testing.T, states ...string) []*api.PendingDevice {
	t.Helper()
	res, err := b.admin.Device.ListPending(t.Context(), connect.NewRequest(&api.ListPendingRequest{States: states}))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Devices
}

func (b *bench) approve(t *testing.T, r *api.ApproveDevicesRequest) []*api.Device {
	t.Helper()
	res, err := b.admin.Device.ApproveDevices(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg.Devices
}

func certName(t *testing.T, d *api.DeviceCredentials) string {
	t.Helper()
	key, err := ssh.ParsePublicKey(d.SshCertificate)
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate).ValidPrincipals[1]
}

func TestADeviceOfAnApproveTokenWaitsUntilAPersonLetsItIn(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 3, Approve: true, Labels: []*api.Label{{Key: "site", Value: "ber"}}})
	key := newKey(t)
	for range 3 {
		_, err := h.joinDevice(t.Context(), token.Secret, key, "gw", "192.0.2.7:1")
		wantCode(t, "join by an --approve token", err, api.Code_CODE_PENDING)
		if retry := api.ProblemOf(err).GetRetryAfterSeconds(); retry < 5 || retry > 300 {
			t.Errorf("it is to come back after %d s", retry)
		}
	}
	list := b.pending(t)
	if len(list) != 1 || list[0].Name != "gw" || list[0].Source != "192.0.2.7:1" || list[0].Fingerprint != devicePrint(public(key)) {
		t.Fatalf("pending are %v", list)
	}
	tokens, _ := b.admin.Admin.ListTokens(t.Context(), connect.NewRequest(&api.ListTokensRequest{}))
	if i := slices.IndexFunc(tokens.Msg.Tokens, func(x *api.Token) bool { return x.Approve }); i < 0 || tokens.Msg.Tokens[i].Left != 2 {
		t.Errorf("three tries of one key cost other than one use: %v", tokens.Msg.Tokens)
	}
	if b.view.device("gw") != nil {
		t.Error("a pending device is a device")
	}
	b.stop() // and it waits through a restart of the service
	b.run(t)
	b.admin = b.dial(t, b.adminCert)
	h.Client = b.dial(t, h.certificate())
	got := b.approve(t, &api.ApproveDevicesRequest{Devices: []string{"gw"}, Labels: []*api.Label{{Key: "rack", Value: "4"}}})
	if len(got) != 1 || got[0].Name != "gw" || fmt.Sprint(labelText(got[0].Labels)) != "rack=4 site=ber" {
		t.Fatalf("approved: %v", got)
	}
	d, err := h.joinDevice(t.Context(), []byte("whatever it is"), key, "gw", "192.0.2.7:1")
	if err != nil || d.Uuid != list[0].Uuid || d.Counter != 1 {
		t.Fatalf("after approval: %v, %v", d, err)
	}
	if len(b.pending(t)) != 0 {
		t.Error("it still waits")
	}
}

func labelText(list []*api.Label) string {
	var out []string
	for _, l := range list {
		out = append(out, l.Key+"="+l.Value)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTheClusterMayAskForApprovalWhateverTheToken(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	raw, _ := json.Marshal(policy.Cluster{Approve: true}.ToMap())
	if err := b.commit(t.Context(), nil, store.Put(clusterKey, raw)); err != nil {
		t.Fatal(err)
	}
	_, err := h.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge"}).Secret, newKey(t), "gw", "192.0.2.7:1")
	wantCode(t, "join", err, api.Code_CODE_PENDING)
}

func TestARejectedDeviceIsToldSoAndMayBeApprovedLater(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge", Approve: true})
	key := newKey(t)
	_, err := h.joinDevice(t.Context(), token.Secret, key, "gw", "192.0.2.7:1")
	wantCode(t, "join", err, api.Code_CODE_PENDING)
	if _, err := b.admin.Device.RejectDevices(t.Context(), connect.NewRequest(&api.RejectDevicesRequest{Selectors: []string{"name=g*"}})); err != nil {
		t.Fatal(err)
	}
	if len(b.pending(t)) != 0 || len(b.pending(t, "rejected")) != 1 {
		t.Error("rejected is listed as pending, or not as rejected")
	}
	_, err = h.joinDevice(t.Context(), token.Secret, key, "gw", "192.0.2.7:1")
	if wantCode(t, "join of a rejected one", err, api.Code_CODE_PENDING); !strings.Contains(err.Error(), "rejected") || api.ProblemOf(err).GetRetryAfterSeconds() != 3600 {
		t.Errorf("it is told %v", err)
	}
	b.approve(t, &api.ApproveDevicesRequest{Devices: []string{devicePrint(public(key))}})
	if _, err := h.joinDevice(t.Context(), nil, key, "gw", "192.0.2.7:1"); err != nil {
		t.Error(err)
	}
}

func TestTwoThatWishOneNameAreToldApartByTheirKeys(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge", Approve: true, Uses: 2})
	one, two := newKey(t), newKey(t)
	for _, key := range []ed25519.PrivateKey{one, two} {
		_, err := h.joinDevice(t.Context(), token.Secret, key, "gw", "192.0.2.7:1")
		wantCode(t, "join", err, api.Code_CODE_PENDING)
	}
	_, err := b.admin.Device.ApproveDevices(t.Context(), connect.NewRequest(&api.ApproveDevicesRequest{Devices: []string{"gw"}}))
	if err == nil || !strings.Contains(err.Error(), devicePrint(public(one))) {
		t.Errorf("got %v, want the keys to choose from", err)
	}
	all := b.approve(t, &api.ApproveDevicesRequest{Selectors: []string{"name=gw"}})
	if len(all) != 2 || all[0].Name == all[1].Name {
		t.Fatalf("got %v", all)
	}
	if all[0].Note == all[1].Note || !strings.Contains(all[0].Note+all[1].Note, "wished the name gw, which was taken") {
		t.Errorf("notes are %q and %q", all[0].Note, all[1].Note)
	}
}

func TestOneUseGoesToOneOfAHundred(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	secret := b.token(t, &api.CreateTokenRequest{Kind: "edge"}).Secret
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for range 100 {
		key := newKey(t)
		wg.Go(func() {
			_, err := h.joinDevice(context.Background(), secret, key, "gw", "192.0.2.7:1")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if api.CodeOf(err) != api.Code_CODE_TOKEN_SPENT {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if won != 1 || b.view.deviceCount() != 1 {
		t.Errorf("%d joined, %d devices", won, b.view.deviceCount())
	}
}

func TestAHundredOfOneHostnameGetAHundredNames(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	secret := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 100}).Secret
	var wg sync.WaitGroup
	for range 100 {
		key := newKey(t)
		wg.Go(func() {
			if _, err := h.joinDevice(context.Background(), secret, key, "openwrt", "192.0.2.7:1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	names := make(map[string]bool)
	for _, d := range b.view.allDevices() {
		names[d.Name] = true
	}
	if len(names) != 100 || !names["openwrt"] || !names["openwrt-2"] || !names["openwrt-100"] {
		t.Errorf("%d names", len(names))
	}
}

func TestALostAnswerToAJoinCostsNoToken(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	secret, key := b.token(t, &api.CreateTokenRequest{Kind: "edge"}).Secret, newKey(t)
	one, err := h.joinDevice(t.Context(), secret, key, "gw", "192.0.2.7:1")
	if err != nil {
		t.Fatal(err)
	}
	two, err := h.joinDevice(t.Context(), secret, key, "gw", "192.0.2.7:1")
	if err != nil || two.Uuid != one.Uuid || two.Counter != one.Counter || b.view.deviceCount() != 1 {
		t.Fatalf("asked again: %v, %v", two, err)
	}
	if _, err := h.renew(t, one.Uuid, key, one.Counter, ""); err != nil {
		t.Fatal(err)
	}
	// Who joins with the key of a device that has renewed since has an old copy of its flash.
	_, err = h.joinDevice(t.Context(), secret, key, "gw", "203.0.113.9:1")
	wantCode(t, "join with a copied key", err, api.Code_CODE_QUARANTINED)
}

func TestATokenNamesNetworksAndNames(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	secret := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9, Name: "gw-*", Sources: []string{"192.0.2.0/24", "2001:db8::7"}}).Secret
	for _, c := range []struct {
		name, source string
		want         api.Code
	}{
		{"gw-1", "203.0.113.1:9", api.Code_CODE_TOKEN_SOURCE},
		{"gw-1", "[2001:db8::8]:9", api.Code_CODE_TOKEN_SOURCE},
		{"db-1", "192.0.2.9:9", api.Code_CODE_BAD_NAME},
		{"gw-1", "192.0.2.9:9", 0},
		{"gw-2", "[::ffff:192.0.2.9]:9", 0},
		{"gw-3", "[2001:db8::7]:9", 0},
	} {
		_, err := h.joinDevice(t.Context(), secret, newKey(t), c.name, c.source)
		if c.want == 0 && err != nil {
			t.Errorf("%s from %s: %v", c.name, c.source, err)
		} else if c.want != 0 {
			wantCode(t, c.name+" from "+c.source, err, c.want)
		}
	}
	template := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9, Name: "{label:site}-{n:3}", Labels: []*api.Label{{Key: "site", Value: "ber"}}}).Secret
	for _, want := range []string{"ber-001", "ber-002"} {
		if d, err := h.joinDevice(t.Context(), template, newKey(t), "x", "192.0.2.9:9"); err != nil || d.Name != want {
			t.Errorf("got %q, %v, want %q", d.GetName(), err, want)
		}
	}
	for _, bad := range []*api.CreateTokenRequest{
		{Kind: "edge", Name: "{nonsense}"}, {Kind: "edge", Name: "UPPER"}, {Kind: "edge", Name: "gw-{n"}, {Kind: "edge", Name: "[a"}, {Kind: "edge", Name: "gw", Uses: 2},
		{Kind: "edge", Sources: []string{"the office"}}, {Kind: "hub", Approve: true}, {Kind: "edge", Factory: true, Uses: 3}, {Kind: "hub", Factory: true},
	} {
		if _, err := b.CreateToken(t.Context(), bad); connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%v: got %v", bad, err)
		}
	}
}

func (b *bench) importFile(t *testing.T, text string) (*api.ImportDevicesResponse, error) {
	t.Helper()
	res, err := b.admin.Device.ImportDevices(t.Context(), connect.NewRequest(&api.ImportDevicesRequest{Data: []byte(text)}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func TestAnImportedKeyJoinsByItself(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	one, two, stranger := newKey(t), newKey(t), newKey(t)
	pub, _ := ssh.NewPublicKey(public(two))
	file := "name,key,labels\ngw-1," + devicePrint(public(one)) + ",site=ber;role=gw\ngw-2," + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))) + ",\n"
	if res, err := b.importFile(t, file); err != nil || res.Added != 2 {
		t.Fatalf("import: %v, %v", res, err)
	}
	if res, err := b.importFile(t, file); err != nil || res.Unchanged != 2 || res.Added != 0 {
		t.Fatalf("import again: %v, %v", res, err)
	}
	text, err := b.CreateToken(t.Context(), &api.CreateTokenRequest{Kind: "edge", Factory: true})
	if err != nil {
		t.Fatal(err)
	}
	if token, err := ca.ParseToken(text); err != nil || len(token.Secret) != 0 || token.Pin != b.Pin() {
		t.Fatalf("the factory's string is %v, %v", token, err)
	}
	for i, key := range []ed25519.PrivateKey{one, two} {
		d, err := h.joinDevice(t.Context(), nil, key, "what-it-says", "192.0.2.7:1")
		if want := fmt.Sprintf("gw-%d", i+1); err != nil || d.Name != want {
			t.Fatalf("got %q, %v, want %q", d.GetName(), err, want)
		}
	}
	if got := b.view.device("gw-1").Labels; got["site"] != "ber" || got["role"] != "gw" {
		t.Errorf("labels are %v", got)
	}
	_, err = h.joinDevice(t.Context(), nil, stranger, "gw-3", "192.0.2.7:1")
	if wantCode(t, "a key nobody imported", err, api.Code_CODE_PENDING); !strings.Contains(err.Error(), devicePrint(public(stranger))) {
		t.Errorf("it is told %v", err)
	}
	if res, err := b.importFile(t, file); err != nil || res.Joined != 2 {
		t.Errorf("import after they joined: %v, %v", res, err)
	}
}

func TestAnImportIsTheWholeFileOrNothing(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "taken")
	key := func() string { return devicePrint(public(newKey(t))) }
	k := key()
	_, err := b.importFile(t, "gw-1,"+key()+"\ntaken,"+key()+"\ngw-1,"+key()+"\nBad Name,"+key()+"\ngw-5,SHA256:short\ngw-6\ngw-7,"+k+"\ngw-8,"+k+"\n")
	for _, want := range []string{"line 3: name \"gw-1\" is that of line 1", "line 4: device name", "line 5: key of gw-5", "line 6: 1 columns", "line 8: the key is that of line 7"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
	_, err = b.importFile(t, "gw-1,"+key()+"\ntaken,"+key()+"\n")
	if err == nil || !strings.Contains(err.Error(), "line 2: the name taken is taken by another device") {
		t.Errorf("got %v", err)
	}
	if n := len(b.pending(t, "imported")); n != 0 {
		t.Errorf("%d were imported", n)
	}
	var big strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&big, "gw-%d,%s,site=s%d\n", i, key(), i%7)
	}
	if res, err := b.importFile(t, big.String()); err != nil || res.Added != 1500 {
		t.Fatalf("import of 1500: %v, %v", res, err)
	}
	if n := len(b.pending(t, "imported")); n != 1500 {
		t.Errorf("%d were imported", n)
	}
}

func TestAnImportThatDidNotCompleteCountsForNothing(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	keys := []ed25519.PrivateKey{newKey(t), newKey(t)}
	file := func(label string) string {
		return fmt.Sprintf("gw-1,%s,v=%s\ngw-2,%s,v=%s\n", devicePrint(public(keys[0])), label, devicePrint(public(keys[1])), label)
	}
	half := func(label string) {
		t.Helper()
		entries, err := parseImport([]byte(file(label)), "")
		if err != nil {
			t.Fatal(err)
		}
		plan, _, err := b.planImport(t.Context(), entries, "half-"+label, "test", b.cfg.Now())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range plan.writes { // and then the power goes, before the last transaction
			if err := b.commit(t.Context(), nil, w.ops...); err != nil {
				t.Fatal(err)
			}
		}
	}
	half("one")
	if n := len(b.pending(t, "imported")); n != 0 {
		t.Errorf("%d are imported", n)
	}
	_, err := h.joinDevice(t.Context(), nil, keys[0], "", "192.0.2.7:1")
	wantCode(t, "join", err, api.Code_CODE_PENDING)
	if res, err := b.importFile(t, file("two")); err != nil || res.Added != 2 {
		t.Fatalf("import after it: %v, %v", res, err)
	}
	half("three")
	for _, p := range b.pending(t, "imported") {
		if labelText(p.Labels) != "v=two" {
			t.Errorf("labels are %v", p.Labels)
		}
	}
	if d, err := h.joinDevice(t.Context(), nil, keys[0], "", "192.0.2.7:1"); err != nil || d.Name != "gw-1" {
		t.Errorf("join: %v, %v", d, err)
	}
	b.now.Store(int64(3 * time.Hour))
	b.sweepEnrolls(t.Context())
	if n := len(b.pending(t, "imported")); n != 1 {
		t.Errorf("%d are imported after the sweep", n)
	}
}

func TestRenameKeepsTheGenerationAndBringsACertificate(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	other, _ := b.device(t, h, "other")
	res, err := b.admin.Device.RenameDevice(t.Context(), connect.NewRequest(&api.RenameDeviceRequest{Device: "gw", Name: "gate"}))
	if err != nil || res.Msg.Uuid != d.Uuid || !slices.Equal(res.Msg.FormerNames, []string{"gw"}) {
		t.Fatalf("got %v, %v", res, err)
	}
	again, err := h.Hub.RenewDevice(t.Context(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: d.Uuid, PublicKey: public(key), Again: true}))
	if err != nil || again.Msg.Counter != d.Counter || certName(t, again.Msg) != "gate" {
		t.Fatalf("the hub gets %v, %v", again, err)
	}
	if leaf, err := x509.ParseCertificate(again.Msg.Chain[0]); err != nil || !bytes.Contains(leaf.Raw, []byte("gate")) {
		t.Errorf("the X.509 certificate has another name: %v", err)
	}
	if next, err := h.renew(t, d.Uuid, key, d.Counter, ""); err != nil || next.Counter != d.Counter+1 || next.Name != "gate" {
		t.Errorf("renewal after it: %v, %v", next, err)
	}
	_, err = b.admin.Device.RenameDevice(t.Context(), connect.NewRequest(&api.RenameDeviceRequest{Device: other.Uuid, Name: "gate"}))
	if connect.CodeOf(err) != connect.CodeAlreadyExists {
		t.Errorf("a taken name: %v", err)
	}
	if _, err = b.admin.Device.RenameDevice(t.Context(), connect.NewRequest(&api.RenameDeviceRequest{Device: other.Uuid, Name: "gw"})); err != nil {
		t.Errorf("the name that became free: %v", err)
	}
}

func TestALabelReachesTheHubsAsPolicyAtOnce(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, _ := b.device(t, h, "gw")
	b.apply(t, "kind: role\nname: lab\nallow:\n  devices: {site: [lab]}\n  logins: [root]\n  channels: [exec]\n  ways: [hub]\n")
	carol := b.user(t, "carol", "lab")
	if res := h.admit(t, request(carol, "gw", "root")); res.Refusal == nil {
		t.Fatal("admitted before the label")
	}
	stream, _ := h.watch(t)
	begun := time.Now()
	if _, err := b.admin.Device.LabelDevices(t.Context(), connect.NewRequest(&api.LabelDevicesRequest{
		Devices: []string{"gw"}, Set: []*api.Label{{Key: "site", Value: "lab"}}, Remove: []string{"nothing"}})); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		if i := slices.IndexFunc(stream.Msg().Devices, func(x *api.WatchDevice) bool { return x.Uuid == d.Uuid }); i >= 0 {
			compiled, err := policy.OpenCompiled(stream.Msg().Devices[i].Policy, b.trusted().GrantKeys, b.Cluster(), d.Uuid)
			if err != nil || !slices.Contains(compiled.Access([]string{"lab"}).Logins, "root") {
				t.Errorf("the policy sent is %v, %v", compiled, err)
			}
			break
		}
	}
	if took := time.Since(begun); took > 10*time.Second { // a second, and nine for a shared machine: nothing is polled on the way
		t.Errorf("it took %v", took)
	}
	if res := h.admit(t, request(carol, "gw", "root")); res.Refusal != nil {
		t.Errorf("refused after the label: %v", res.Refusal)
	}
}

// To roles name and uuid are what the device is: nobody gives them as labels.
func TestNameAndUUIDAreNotGivenAsLabels(t *testing.T) {
	b := start(t)
	b.device(t, b.hub(t), "gw")
	for _, key := range []string{"name", "uuid"} {
		l := []*api.Label{{Key: key, Value: "other"}}
		_, device := b.admin.Device.LabelDevices(t.Context(), connect.NewRequest(&api.LabelDevicesRequest{Devices: []string{"gw"}, Set: l}))
		_, approval := b.admin.Device.ApproveDevices(t.Context(), connect.NewRequest(&api.ApproveDevicesRequest{Devices: []string{"new"}, Labels: l}))
		_, token := b.CreateToken(t.Context(), &api.CreateTokenRequest{Kind: "edge", Labels: l})
		_, file := b.admin.Device.ImportDevices(t.Context(), connect.NewRequest(&api.ImportDevicesRequest{Data: []byte("new,SHA256:" + strings.Repeat("A", 43) + "," + key + "=other\n")}))
		for what, err := range map[string]error{"device": device, "approval": approval, "token": token, "import": file} {
			if connect.CodeOf(err) != connect.CodeInvalidArgument || !strings.Contains(err.Error(), "by itself") {
				t.Errorf("%s by %s: %v", key, what, err)
			}
		}
	}
	if _, err := b.admin.Device.LabelDevices(t.Context(), connect.NewRequest(&api.LabelDevicesRequest{Devices: []string{"gw"}, Remove: []string{"name"}})); err != nil {
		t.Errorf("one that was given before is not removed: %v", err)
	}
}

func TestAnAnswerLostForLongIsNoCloneAndTheLostOneBetraysACopy(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	lost, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1")
	if err != nil || lost.Counter != 2 {
		t.Fatal(lost, err)
	}
	b.now.Store(int64(time.Hour))
	second, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1") // power was lost before the answer was stored
	if err != nil || second.Counter != 3 {
		t.Fatalf("got %v, %v, want generation 3", second.GetCounter(), err)
	}
	if next, err := h.renew(t, d.Uuid, key, 3, "192.0.2.7:1"); err != nil || next.Counter != 4 {
		t.Fatal(next, err)
	}
	_, err = h.renew(t, d.Uuid, key, 2, "203.0.113.9:1")
	wantCode(t, "who holds the answer that was lost", err, api.Code_CODE_QUARANTINED)
}

func TestAnAnswerLostWithTheServiceIsGivenAgain(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	lost, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1")
	if err != nil {
		t.Fatal(err)
	}
	b.stop() // after the commit, before the device had the answer
	b.run(t)
	h.Client = b.dial(t, h.certificate())
	again, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1")
	if err != nil || again.Counter != lost.Counter || !bytes.Equal(again.SshCertificate, lost.SshCertificate) {
		t.Errorf("asked again: %v, %v", again.GetCounter(), err)
	}
}

func TestAHundredRenewalsAtOnceRaiseTheGenerationOnce(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			res, err := h.Hub.RenewDevice(context.Background(), connect.NewRequest(&api.RenewDeviceRequest{Uuid: d.Uuid, PublicKey: public(key), Counter: 1}))
			if err != nil || res.Msg.Counter != 2 {
				t.Errorf("got %v, %v", res, err)
			}
		})
	}
	wg.Wait()
	if got := b.view.device("gw").Counter; got != 2 {
		t.Errorf("generation is %d", got)
	}
}

func TestOneOfAHundredGetsAName(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	secret := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 20}).Secret
	var uuids []string
	for range 20 {
		d, err := h.joinDevice(t.Context(), secret, newKey(t), "gw", "192.0.2.7:1")
		if err != nil {
			t.Fatal(err)
		}
		uuids = append(uuids, d.Uuid)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for n := range 100 {
		wg.Go(func() {
			_, err := b.admin.Device.RenameDevice(context.Background(), connect.NewRequest(&api.RenameDeviceRequest{Device: uuids[n%20], Name: "the-one"}))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won++
			} else if connect.CodeOf(err) != connect.CodeAlreadyExists {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	names := make(map[string]bool)
	for _, d := range b.view.allDevices() {
		names[d.Name] = true
	}
	if won != 5 || len(names) != 20 || !names["the-one"] { // the five calls of the one that won
		t.Errorf("%d were told yes, %d names", won, len(names))
	}
}

func TestTwoThatRenewInTurnAreFoundAtTheSecondRenewal(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	counters := [2]uint64{1, 1} // two copies of one flash
	for turn := range 4 {
		b.now.Add(int64(time.Hour))
		res, err := h.renew(t, d.Uuid, key, counters[turn%2], fmt.Sprintf("192.0.2.%d:1", turn%2))
		if err != nil {
			if turn < 2 {
				t.Fatalf("renewal %d: %v", turn, err)
			}
			wantCode(t, "the second renewal", err, api.Code_CODE_QUARANTINED)
			return
		}
		counters[turn%2] = res.Counter
	}
	t.Error("nothing was noticed")
}

func TestAClonedDeviceIsServedToNobodyUntilItIsRecovered(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	admin := b.user(t, "ann", "operator")
	stream, _ := h.watch(t)
	if _, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1"); err != nil {
		t.Fatal(err)
	}
	b.now.Add(int64(time.Hour))
	if _, err := h.renew(t, d.Uuid, key, 2, "192.0.2.7:1"); err != nil {
		t.Fatal(err)
	}
	_, err := h.renew(t, d.Uuid, key, 1, "203.0.113.9:1")
	wantCode(t, "the copy", err, api.Code_CODE_QUARANTINED)
	_, err = h.renew(t, d.Uuid, key, 3, "192.0.2.7:1")
	wantCode(t, "the device", err, api.Code_CODE_QUARANTINED)
	for stream.Receive() {
		if i := slices.IndexFunc(stream.Msg().Devices, func(x *api.WatchDevice) bool { return x.Quarantine != "" }); i >= 0 {
			break
		}
	}
	if res := h.admit(t, request(admin, "gw", "root")); res.Refusal == nil || !strings.Contains(res.Refusal.Message, "hawser device recover gw") {
		t.Errorf("people are told %v", res.Refusal)
	}
	got, err := b.admin.Admin.GetDevice(t.Context(), connect.NewRequest(&api.GetDeviceRequest{Device: "gw"}))
	if err != nil || !slices.Equal(got.Msg.CloneSources, []string{"203.0.113.9:1", "192.0.2.7:1"}) {
		t.Errorf("shown is %v, %v", got, err)
	}
	if _, err := b.admin.Device.RecoverDevice(t.Context(), connect.NewRequest(&api.RecoverDeviceRequest{Device: "gw"})); err != nil {
		t.Fatal(err)
	}
	for stream.Receive() {
		if i := slices.IndexFunc(stream.Msg().Devices, func(x *api.WatchDevice) bool { return x.Quarantine == "" && x.IssuedAfterUnix > 0 }); i >= 0 {
			break
		}
	}
	// Whatever the device holds now, it gets a generation of its own...
	back, err := h.renew(t, d.Uuid, key, 2, "192.0.2.7:1")
	if err != nil || back.Counter <= 3 {
		t.Fatalf("got %v, %v", back, err)
	}
	// ...and the copy is found again when it comes.
	_, err = h.renew(t, d.Uuid, key, 1, "203.0.113.9:1")
	wantCode(t, "the copy, later", err, api.Code_CODE_QUARANTINED)
	_, err = b.admin.Device.RecoverDevice(t.Context(), connect.NewRequest(&api.RecoverDeviceRequest{Device: "gw"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.admin.Device.RecoverDevice(t.Context(), connect.NewRequest(&api.RecoverDeviceRequest{Device: "gw"}))
	if connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("recovered twice: %v", err)
	}
}

func TestReplaceServesWhoCameLast(t *testing.T) {
	b := start(t)
	b.clonePolicy(t, "replace")
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	for i, counter := range []uint64{1, 2, 1} {
		b.now.Add(int64(time.Hour))
		res, err := h.renew(t, d.Uuid, key, counter, "192.0.2.7:1")
		if err != nil || res.Counter <= uint64(i)+1 {
			t.Fatalf("renewal %d: %v, %v", i, res, err)
		}
	}
	res, err := h.Hub.ReportClone(t.Context(), connect.NewRequest(&api.ReportCloneRequest{Uuid: d.Uuid, PublicKey: public(key), Sources: []string{"a:1", "b:1"}}))
	if err != nil || !res.Msg.Serve {
		t.Errorf("taking turns: %v, %v", res, err)
	}
}

func TestSplitMakesOfTheCopyADeviceThatWaits(t *testing.T) {
	b := start(t)
	b.clonePolicy(t, "split")
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	res, err := h.Hub.ReportClone(t.Context(), connect.NewRequest(&api.ReportCloneRequest{Uuid: d.Uuid, PublicKey: public(key), Sources: []string{"192.0.2.9:1", "192.0.2.7:1"}}))
	if err != nil || res.Msg.Serve || res.Msg.Order == nil {
		t.Fatalf("taking turns: %v, %v", res, err)
	}
	if _, err := ca.OpenSplit(res.Msg.Order, b.trusted().GrantKeys, "00000000-0000-4000-8000-000000000000"); !errors.Is(err, ca.ErrBadSplit) {
		t.Errorf("the order is good for another device: %v", err)
	}
	if _, err := ca.OpenSplit(res.Msg.Order, []ed25519.PublicKey{public(newKey(t))}, d.Uuid); !errors.Is(err, ca.ErrBadSplit) {
		t.Errorf("the order is good whoever signed it: %v", err)
	}
	text, err := ca.OpenSplit(res.Msg.Order, b.trusted().GrantKeys, d.Uuid)
	if err != nil {
		t.Fatal(err)
	}
	token, err := ca.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	own := newKey(t)
	_, err = h.joinDevice(t.Context(), token.Secret, own, "gw", "192.0.2.9:1")
	wantCode(t, "the copy with a key of its own", err, api.Code_CODE_PENDING)
	if list := b.pending(t); len(list) != 1 || list[0].Parent != "gw" {
		t.Errorf("pending are %v", list)
	}
	if got := b.approve(t, &api.ApproveDevicesRequest{Devices: []string{devicePrint(public(own))}}); got[0].Name != "gw-2" {
		t.Errorf("it is called %s", got[0].Name)
	}
	if next, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1"); err != nil || next.Counter != 2 {
		t.Errorf("the device does not go on: %v, %v", next, err)
	}
	b.now.Add(int64(time.Hour))
	if _, err := h.renew(t, d.Uuid, key, 2, "192.0.2.7:1"); err != nil {
		t.Error(err)
	}
	_, err = h.renew(t, d.Uuid, key, 1, "192.0.2.9:1")
	if wantCode(t, "a copy that renews", err, api.Code_CODE_COUNTER_MISMATCH); len(api.ProblemOf(err).GetOrder()) == 0 {
		t.Error("it gets no order")
	}
}

func TestReflashedHardwareGoesOnAsTheDeviceOnAPersonsWordAlone(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	join := func(key ed25519.PrivateKey, secret []byte, name, serial string) (*api.DeviceCredentials, error) {
		res, err := h.Hub.JoinDevice(t.Context(), connect.NewRequest(&api.JoinDeviceRequest{
			Secret: secret, PublicKey: public(key), Name: name, Hostname: name, Source: "192.0.2.7:1",
			Evidence: []*api.Label{{Key: "serial", Value: serial}, {Key: "mac", Value: "02:00:00:00:00:0" + serial[:1]}, {Key: "mac", Value: "02:00:00:00:01:0" + serial[:1]}, {Key: "machine-id", Value: "00000000"}},
		}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	token := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9, Labels: []*api.Label{{Key: "site", Value: "ber"}}}).Secret
	oldKey, newK := newKey(t), newKey(t)
	old, err := join(oldKey, token, "gw-17", "1000000a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := join(newKey(t), token, "gw-18", "2000000b"); err != nil {
		t.Fatal(err)
	}
	approval := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9, Approve: true}).Secret
	_, err = join(newK, approval, "openwrt", "1000000a")
	wantCode(t, "join after the flash", err, api.Code_CODE_PENDING)
	list := b.pending(t)
	if len(list) != 1 || list[0].Like.GetName() != "gw-17" || !slices.Equal(list[0].Like.Evidence, []string{"serial 1000000a", "mac 02:00:00:00:00:01", "mac 02:00:00:00:01:01"}) {
		t.Fatalf("pending are %v", list)
	}
	if got := b.view.device("gw-17"); !bytes.Equal(got.Key, public(oldKey)) {
		t.Fatal("evidence alone changed the device")
	}
	got := b.approve(t, &api.ApproveDevicesRequest{Devices: []string{"openwrt"}, As: "gw-17"})
	if len(got) != 1 || got[0].Uuid != old.Uuid || got[0].Name != "gw-17" || labelText(got[0].Labels) != "site=ber" {
		t.Fatalf("adopted: %v", got)
	}
	back, err := join(newK, approval, "openwrt", "1000000a")
	if err != nil || back.Uuid != old.Uuid || certName(t, back) != "gw-17" {
		t.Fatalf("got %v, %v", back, err)
	}
	_, err = h.renew(t, old.Uuid, oldKey, 1, "192.0.2.7:1")
	wantCode(t, "the key that was", err, api.Code_CODE_KEY_MISMATCH)
	if next, err := h.renew(t, old.Uuid, newK, back.Counter, "192.0.2.7:1"); err != nil || next.Counter != back.Counter+1 {
		t.Errorf("renewal: %v, %v", next, err)
	}
}

// Who may let new devices in had every device: he approved one of his own as it.
func TestWhoLetsDevicesInTakesNoDevicesIdentity(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	_, key := b.device(t, h, "gw-17")
	b.apply(t, "kind: role\nname: installer\nallow: {admin: [{resources: [device], verbs: [create, list]}]}\n")
	installer := b.client(t, "ivy", "installer").Device
	secret := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9, Approve: true}).Secret
	for _, name := range []string{"evil", "good"} {
		_, err := h.joinDevice(t.Context(), secret, newKey(t), name, "192.0.2.7:1")
		wantCode(t, "join of "+name, err, api.Code_CODE_PENDING)
	}
	approve := func(c apiconnect.DeviceServiceClient, r *api.ApproveDevicesRequest) error {
		_, err := c.ApproveDevices(t.Context(), connect.NewRequest(r))
		return err
	}
	wantCode(t, "takes a device's identity", approve(installer, &api.ApproveDevicesRequest{Devices: []string{"evil"}, As: "gw-17"}), api.Code_CODE_DENIED)
	if got := b.view.device("gw-17"); !bytes.Equal(got.Key, public(key)) {
		t.Error("the device has another key")
	}
	if err := approve(installer, &api.ApproveDevicesRequest{Devices: []string{"good"}}); err != nil {
		t.Errorf("lets a new one in: %v", err)
	}
	labels := []*api.Label{{Key: "site", Value: "ams"}}
	if err := approve(b.admin.Device, &api.ApproveDevicesRequest{Devices: []string{"evil"}, As: "gw-17", Labels: labels}); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("labels that an adopted device would not get: %v", err)
	}
}

func TestADeviceAwayForTooLongWaitsForApproval(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	d, key := b.device(t, h, "gw")
	long := b.cfg.Now().Add(-2 * 366 * 24 * time.Hour)
	if _, err := b.changeDevice(t.Context(), d.Uuid, func(d *deviceRecord) error { d.NotAfter = long; return nil }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1")
		wantCode(t, "renewal after two years", err, api.Code_CODE_PENDING)
	}
	if list := b.pending(t); len(list) != 1 || list[0].State != "expired" || list[0].Name != "gw" {
		t.Fatalf("pending are %v", list)
	}
	b.approve(t, &api.ApproveDevicesRequest{Devices: []string{"gw"}})
	if back, err := h.renew(t, d.Uuid, key, 1, "192.0.2.7:1"); err != nil || back.Counter != 2 || len(b.pending(t)) != 0 {
		t.Errorf("after approval: %v, %v", back, err)
	}
}

func FuzzParseImport(f *testing.F) {
	f.Add("name,key,labels\ngw-1,SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU,site=ber;a=b\n", "")
	f.Add("- {name: gw-1, key: 'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU', labels: {a: b}}\n", "")
	f.Add(`{"name":"gw-1","key":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl x","labels":{"a":"b"}}`, "json")
	f.Fuzz(func(t *testing.T, text, format string) {
		entries, err := parseImport([]byte(text), format)
		if err != nil && len(entries) > 0 {
			t.Error("devices of a file that is refused")
		}
		seen := make(map[string]bool)
		for _, e := range entries {
			if e.line < 1 || len(e.hash) != 64 || seen[e.hash] || seen[e.name] || len(e.key) != 0 && len(e.key) != ed25519.PublicKeySize || checkLabels(e.labels) != nil {
				t.Errorf("%+v", e)
			}
			seen[e.hash], seen[e.name] = true, true
		}
	})
}

func FuzzNamePattern(f *testing.F) {
	f.Add("gw-*", "gw-1", "host", "serial", uint32(1))
	f.Add("ber-{hostname}-{n:4}", "", "Host.lan", "", uint32(7))
	f.Add("{label:site}-{serial}{mac}{name}", "x", "", "0000", uint32(0))
	f.Fuzz(func(t *testing.T, pattern, name, hostname, serial string, n uint32) {
		if checkPattern(pattern) != nil {
			return
		}
		got, err := nameBy(pattern, wish{name: name, hostname: hostname, serial: serial, mac: serial, labels: map[string]string{"site": serial}, n: n})
		if err == nil && name == "" {
			if err := wireCheck(got); err != nil {
				t.Errorf("pattern %q makes %q: %v", pattern, got, err)
			}
		}
	})
}

func wireCheck(name string) error { return wire.CheckDeviceName(name) }
