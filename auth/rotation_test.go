package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/auth/policy"
)

var errCrash = errors.New("crash")

// A crash between any two steps of a change leaves either phase, whole; the next run goes on from there, and what was stored is what is
// published.
func TestARotationGoesOnAfterACrashAtAnyStep(t *testing.T) {
	for _, step := range []string{"write", "adopt", "publish"} {
		t.Run(step, func(t *testing.T) {
			b := start(t)
			stored := func() *ca.Set {
				t.Helper()
				_, set, err := openData(b.cfg)
				if err != nil {
					t.Fatal(err)
				}
				return set
			}
			begin := func(set *ca.Set) (*ca.Set, error) {
				return set.Rotate([]ca.Kind{ca.TunnelCA, ca.GrantKey}, ca.RotateOptions{Now: b.cfg.Now(), Grace: time.Hour, Manual: true})
			}
			advance := func(set *ca.Set) (*ca.Set, error) { return set.Advance(set.Rotating(), b.cfg.Now()) }
			changes := []func(*ca.Set) (*ca.Set, error){begin, advance, advance, advance}
			for i, change := range changes {
				before := stored().Revision()
				b.rotation.changing.Lock()
				b.rotation.fail = func(at string) error {
					if at == step {
						return errCrash
					}
					return nil
				}
				b.rotation.changing.Unlock()
				if err := b.changeSet(Event{Type: "ca.phase"}, nil, change); !errors.Is(err, errCrash) {
					t.Fatalf("change %d: %v", i, err)
				}
				b.stop()
				b.run(t) // a new Server: nothing of the old one's memory is left
				if after := stored().Revision(); (after == before) != (step == "write") {
					t.Fatalf("change %d: revision %d, before %d", i, after, before)
				}
				if step == "write" { // it was not begun: again
					if err := b.changeSet(Event{Type: "ca.phase"}, nil, change); err != nil {
						t.Fatalf("change %d again: %v", i, err)
					}
				}
				trust, err := ca.OpenStoredTrust(b.Trust())
				if err != nil {
					t.Fatal(err)
				}
				if want := stored(); trust.Revision != want.Revision() || !slices.EqualFunc(trust.TunnelCA, want.Trust(1).TunnelCA, slices.Equal) {
					t.Errorf("change %d: published revision %d, stored %d", i, trust.Revision, want.Revision())
				}
			}
			if kinds := stored().Rotating(); len(kinds) != 0 || len(b.trusted().TunnelCA) != 1 {
				t.Errorf("still rotating %v", kinds)
			}
			if _, err := os.Stat(filepath.Join(b.cfg.Data, authoritiesFile+".tmp")); err == nil {
				t.Error("a temporary file is left")
			}
		})
	}
}

func (b *bench) rotate(t *testing.T, r *api.RotateCARequest) *api.CAStatusResponse {
	t.Helper()
	res, err := b.admin.CA.RotateCA(t.Context(), connect.NewRequest(r))
	if err != nil {
		t.Fatal(err)
	}
	return res.Msg
}

func (b *bench) advance(t *testing.T) *api.CAStatusResponse {
	t.Helper()
	if err := b.changeSet(Event{Type: "ca.phase"}, b.set.Rotating(), func(set *ca.Set) (*ca.Set, error) { return set.Advance(set.Rotating(), b.cfg.Now()) }); err != nil {
		t.Fatal(err)
	}
	return b.caStatus()
}

func phaseOf(t *testing.T, st *api.CAStatusResponse, kind string) string {
	t.Helper()
	for _, a := range st.Authorities {
		if a.Kind == kind {
			return a.Phase
		}
	}
	t.Fatalf("no %s", kind)
	return ""
}

func TestPhasesFollowOneAnotherThroughARestart(t *testing.T) {
	b := start(t)
	b.rotate(t, &api.RotateCARequest{Kinds: []string{"user", "grant"}, GraceMs: uint64(ca.MinGrace.Milliseconds())})
	b.stop()
	b.run(t)
	deadline := time.Now().Add(30 * time.Second)
	for len(b.set.Rotating()) > 0 {
		select {
		case <-b.rotated():
		case <-time.After(time.Until(deadline)):
			t.Fatalf("still rotating %v", b.set.Rotating())
		}
	}
	if took := time.Since(deadline.Add(-30 * time.Second)); took > 15*time.Second {
		t.Errorf("took %v for a grace of %v", took, ca.MinGrace)
	}
	if len(b.set.Retired()) != 2 || !strings.Contains(b.auditText(t), `"ca.resume"`) {
		t.Errorf("%d retired, or the resumption is not audited", len(b.set.Retired()))
	}
}

func TestAWatchingHubHearsOfNewKeysBeforeWhatTheySign(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.device(t, h, "gw-1")
	stream, _ := h.watch(t)
	held, err := ca.OpenStoredTrust(h.res.Trust)
	if err != nil {
		t.Fatal(err)
	}
	b.rotate(t, &api.RotateCARequest{Manual: true})
	changes, renew, resigned := 0, false, false
	var signers []ed25519.PublicKey
	for stream.Receive() {
		m := stream.Msg()
		if len(m.Trust) > 0 {
			next, err := ca.OpenNextTrust(m.Trust, held)
			if err != nil {
				t.Fatal(err)
			}
			if next.Revision > held.Revision {
				changes++
			}
			held = next
		}
		for _, d := range m.Devices {
			if _, err := policy.OpenCompiled(d.Policy, held.GrantKeys, b.Cluster(), d.Uuid); err != nil {
				t.Errorf("policy signed by a key that is not known: %v", err)
			}
			resigned = true
		}
		if len(m.HubList) > 0 {
			if _, err := hublist.Open(m.HubList, held.GrantKeys, b.Cluster()); err != nil {
				t.Errorf("hub list: %v", err)
			}
		}
		if len(m.Time) > 0 {
			if _, _, err := ca.OpenTime(m.Time, held); err != nil {
				t.Errorf("time: %v", err)
			}
		}
		renew = renew || m.Renew
		if len(m.Trust) > 0 && changes <= 3 {
			if changes < 4 && len(b.set.Rotating()) > 0 {
				signers = append(signers, b.signer())
				b.advance(t)
			}
		}
		if changes == 4 && renew && resigned {
			break
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if !renew || !resigned || signers[0].Equal(b.signer()) {
		t.Errorf("told to renew %v, policies signed again %v", renew, resigned)
	}
}

func TestAHubThatSleptThroughARotationRenewsAndDoesNothingElse(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	b.rotate(t, &api.RotateCARequest{Manual: true})
	for range 3 {
		b.advance(t)
	}
	held, err := ca.OpenStoredTrust(h.res.Trust)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(cert *tls.Certificate) *apiclient.Client {
		t.Helper()
		c, err := apiclient.Dial(apiclient.Options{
			Addr: b.Addr(), Verify: apiclient.ByTrust(func() *ca.Trust { return held }, nil), Certificate: func() *tls.Certificate { return cert },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := dial(h.certificate())
	if _, err := c.Hub.SignTime(t.Context(), connect.NewRequest(&api.SignTimeRequest{})); connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "rotated") {
		t.Errorf("a retired certificate: %v", err)
	}
	res, err := c.Join.RenewHub(t.Context(), connect.NewRequest(&api.RenewHubRequest{Counter: h.res.Counter}))
	if err != nil {
		t.Fatal(err)
	}
	if held, err = ca.OpenNextTrust(res.Msg.Trust, held); err != nil {
		t.Fatal(err)
	}
	if _, err := dial(&tls.Certificate{Certificate: res.Msg.Chain, PrivateKey: h.key}).Hub.SignTime(t.Context(), connect.NewRequest(&api.SignTimeRequest{})); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	// A certificate by the retired CA for another key is worth nothing: what counts is the key on record.
	other := newKey(t)
	if _, err := dial(&tls.Certificate{Certificate: h.res.Chain, PrivateKey: other}).Join.RenewHub(t.Context(), connect.NewRequest(&api.RenewHubRequest{Counter: 2})); err == nil {
		t.Error("renewed for another key")
	}
}

func TestAUserOfTheOldCAIsToldToLogInAgain(t *testing.T) {
	b := start(t)
	b.rotate(t, &api.RotateCARequest{Kinds: []string{"user", "tunnel"}, Manual: true})
	for range 3 {
		b.advance(t)
	}
	_, err := b.dial(t, b.adminCert).Admin.Whoami(t.Context(), connect.NewRequest(&api.WhoamiRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "log in again") {
		t.Errorf("got %v", err)
	}
}

func TestTokensOfTheOldCAAreRefusedAfterTheLastPhase(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	old := b.token(t, &api.CreateTokenRequest{Kind: "edge", Uses: 9})
	b.rotate(t, &api.RotateCARequest{Kinds: []string{"tunnel"}, Manual: true})
	join := func(name string, token ca.Token) error {
		t.Helper()
		// The hub is one that renews when it is told.
		pub := h.key.Public().(ed25519.PublicKey)
		chain, _, err := b.set.IssueHub(ca.HubRequest{UUID: h.res.Uuid, Name: h.res.Name, Principals: []string{"hub"}, Key: pub, TTL: time.Hour, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		x := &testHub{b.dial(t, &tls.Certificate{Certificate: chain, PrivateKey: h.key}), h.key, h.res}
		_, err = x.joinDevice(t.Context(), token.Secret, newKey(t), name, "192.0.2.7:1")
		return err
	}
	for i, phase := range []string{"init", "update-clients", "update-servers"} {
		if i > 0 {
			b.advance(t)
		}
		if err := join("gw-"+phase, old); err != nil {
			t.Errorf("%s: %v", phase, err)
		}
	}
	b.advance(t)
	err := join("gw-late", old)
	wantCode(t, "after the last phase", err, api.Code_CODE_TOKEN_EXPIRED)
	if err == nil || !strings.Contains(err.Error(), "hawser token create") {
		t.Errorf("the mend is not named: %v", err)
	}
	if err := join("gw-new", b.token(t, &api.CreateTokenRequest{Kind: "edge"})); err != nil {
		t.Errorf("a new token: %v", err)
	}
}

func TestARotationCanBeRolledBackInEachPhaseAndRefusalsNameTheMend(t *testing.T) {
	b := start(t)
	refused := func(what string, err error, mend string) {
		t.Helper()
		if connect.CodeOf(err) != connect.CodeFailedPrecondition || !strings.Contains(err.Error(), mend) {
			t.Errorf("%s: %v", what, err)
		}
	}
	back := func() (*api.CAStatusResponse, error) {
		res, err := b.admin.CA.RollBackCA(t.Context(), connect.NewRequest(&api.RollBackCARequest{}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	_, err := back()
	refused("nothing to roll back", err, "hawser ca rotate")
	was := b.caStatus().Authorities[0].Fingerprint
	for after, want := range []string{"standby", "rollback", "rollback"} {
		b.rotate(t, &api.RotateCARequest{Manual: true})
		_, err := b.admin.CA.RotateCA(t.Context(), connect.NewRequest(&api.RotateCARequest{Manual: true}))
		refused("a second rotation", err, "hawser ca rollback")
		for range after {
			b.advance(t)
		}
		st, err := back()
		if err != nil {
			t.Fatal(err)
		}
		if got := phaseOf(t, st, "user"); got != want {
			t.Errorf("rolled back in phase %d: %s, want %s", after, got, want)
		}
		if want == "rollback" {
			_, err = back()
			refused("twice", err, "hawser ca advance")
			st = b.advance(t)
		}
		if got := phaseOf(t, st, "user"); got != "standby" || st.Authorities[0].Fingerprint != was {
			t.Errorf("not back: %s", got)
		}
	}
	_, err = b.admin.CA.RotateCA(t.Context(), connect.NewRequest(&api.RotateCARequest{Kinds: []string{"moon"}}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("unknown kind: %v", err)
	}
	_, err = b.admin.CA.RotateCA(t.Context(), connect.NewRequest(&api.RotateCARequest{GraceMs: 1}))
	if connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("short grace: %v", err)
	}
}

func TestACompromisedCALeavesWhoIsAwayBehindUntilATokenTellsIt(t *testing.T) {
	b := start(t)
	h := b.hub(t)
	cred, key := b.device(t, h, "gw-1")
	// Nobody is connected, so nobody is waited for.
	b.rotate(t, &api.RotateCARequest{Compromised: true})
	deadline := time.Now().Add(10 * time.Second)
	for len(b.set.Rotating()) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the old CA is still trusted after 10 s though nobody is connected")
		}
		<-b.rotated()
	}
	st := b.caStatus()
	var lost []string
	for _, l := range st.Behind {
		if l.MustRejoin {
			lost = append(lost, l.Kind+" "+l.Name)
		}
	}
	slices.Sort(lost)
	if len(lost) != 2 || lost[0] != "device gw-1" || lost[1] != "hub hub" {
		t.Errorf("must rejoin: %q", lost)
	}
	h2 := b.hub(t)
	pub := key.Public().(ed25519.PublicKey)
	// The same key, which was never the CA's, and a token of the new one.
	_, err := h2.joinDevice(t.Context(), []byte("not a token of this one"), key, "gw-1", "192.0.2.7:1")
	wantCode(t, "without a token", err, api.Code_CODE_TOKEN_UNKNOWN)
	again, err := h2.joinDevice(t.Context(), b.token(t, &api.CreateTokenRequest{Kind: "edge"}).Secret, key, "gw-1", "192.0.2.7:1")
	if err != nil {
		t.Fatal(err)
	}
	if again.Uuid != cred.Uuid || again.Name != cred.Name || again.Counter <= cred.Counter {
		t.Errorf("%s %s generation %d became %s %s generation %d", cred.Uuid, cred.Name, cred.Counter, again.Uuid, again.Name, again.Counter)
	}
	leaf, err := x509.ParseCertificate(again.Chain[0])
	if err != nil || !pub.Equal(leaf.PublicKey) {
		t.Errorf("%v, or another key", err)
	}
	if b.set.Behind(ca.RoleDevice, again.Chain, again.SshCertificate) {
		t.Error("it got certificates of the old CA")
	}
}

func TestEachPhaseIsInTheAuditLog(t *testing.T) {
	b := start(t)
	b.rotate(t, &api.RotateCARequest{Kinds: []string{"user"}, Manual: true})
	for range 3 {
		b.advance(t)
	}
	text := b.auditText(t)
	for _, want := range []string{`"ca.rotate"`, "phase init", "phase update-clients", "phase update-servers", "phase standby", `"user:admin"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in the audit log", want)
		}
	}
}

func TestKeysOfARotationAreSealedAtRest(t *testing.T) {
	b := start(t)
	b.rotate(t, &api.RotateCARequest{Manual: true})
	b.advance(t)
	seed := b.set.GrantKey().Seed() // the new one's
	err := filepath.WalkDir(b.cfg.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if bytes.Contains(text, seed) {
			t.Errorf("%s holds a key in the clear", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(b.cfg.Data, authoritiesFile))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, st.Mode())
	}
}

// auditText is the audit log's events, a line each.
func (b *bench) auditText(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(b.cfg.Data, "audit", "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no audit log: %v", err)
	}
	var out strings.Builder
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(text)
	}
	return out.String()
}
