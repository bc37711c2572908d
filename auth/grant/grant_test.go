package grant

import (
	"crypto/ed25519"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"hawser/auth/internal/signed"
	"hawser/auth/internal/tlv"
	"hawser/tunnel/wire"
)

var (
	t0  = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	key = ed25519.NewKeyFromSeed(make([]byte, 32))
	pub = []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
)

func sample() *Grant {
	g := &Grant{
		Cluster: "ber.example", ID: [16]byte{1}, SessionID: [16]byte{2}, ConnectionID: [16]byte{3}, Kind: Session,
		User: "alice", Method: "certificate", Roles: []string{"field", "lead"}, PolicyRevision: 9, Device: [16]byte{4},
		Incarnation: [16]byte{5}, Login: "root", Channels: []string{"shell", "sftp"}, ForceCommand: "id",
		ForwardTo: []string{"127.0.0.1:80"}, ClientAddr: netip.MustParseAddrPort("[2001:db8::1]:4711"),
		EntryHub: [16]byte{6}, Record: "best-effort", Offline: true, DetachedLife: 90 * time.Second,
	}
	g.NotBefore, g.NotAfter = Window(t0)
	return g
}

func sign(t testing.TB, g *Grant) []byte {
	t.Helper()
	b, err := g.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGrantRoundTrip(t *testing.T) {
	want := sample()
	got, err := Open(sign(t, want), pub)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if !got.Permits("sftp") || got.Permits("exec") {
		t.Error("permits other channels than it names")
	}
}

// What auth says is what an edge obeys: nothing at all is not ten minutes, and silence is not nothing.
func TestDetachedLifeCanBeNoneAndIsTenMinutesUnsaid(t *testing.T) {
	g := sample()
	g.DetachedLife = 0
	if got, err := Open(sign(t, g), pub); err != nil || got.DetachedLife != 0 {
		t.Errorf("0 was read as %v, %v", got.DetachedLife, err)
	}
	payload := g.encode()
	if got, err := decode(payload[:len(payload)-12]); err != nil || got.DetachedLife != 10*time.Minute {
		t.Errorf("unsaid was read as %v, %v", got.DetachedLife, err)
	}
}

func TestNoChangedGrantOpens(t *testing.T) {
	blob := sign(t, sample())
	for i := range blob {
		if _, err := Open(blob[:i], pub); err == nil {
			t.Fatalf("opens cut to %d", i)
		}
		bad := append([]byte(nil), blob...)
		bad[i] ^= 1
		if _, err := Open(bad, pub); err == nil {
			t.Fatalf("opens with byte %d changed", i)
		}
	}
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32))).Public().(ed25519.PublicKey)
	if _, err := Open(blob, []ed25519.PublicKey{other, nil}); !errors.Is(err, ErrSignature) {
		t.Errorf("other key: %v", err)
	}
	if _, err := Open(make([]byte, MaxBlob+1), pub); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

// What a newer auth restricts must not be granted whole by who does not know the restriction; what it only tells may be skipped.
func TestARestrictionThatIsNotKnownOpensNothing(t *testing.T) {
	for tag, want := range map[byte]error{127: nil, firstCritical: ErrTooNew, 255: ErrTooNew} {
		blob := signed.Seal(signContext, tlv.AppendUint(sample().encode(), tag, 1), key)
		if _, err := Open(blob, pub); !errors.Is(err, want) {
			t.Errorf("tag %d: %v, want %v", tag, err, want)
		}
	}
}

// A grant that auth signs but no message of the tunnel can carry would be refused at the device, in words nobody understands.
func TestWhatTheTunnelCannotCarryIsNotSigned(t *testing.T) {
	g := sample()
	for range maxForwards {
		g.ForwardTo = append(g.ForwardTo[:len(g.ForwardTo):len(g.ForwardTo)], strings.Repeat("a", maxForwardTo-3)+":80")
	}
	g.ForwardTo = g.ForwardTo[:maxForwards]
	if _, err := g.Sign(key); !errors.Is(err, ErrTooLarge) {
		t.Errorf("signed: %v", err)
	}
	g.ForwardTo = g.ForwardTo[:20]
	blob := sign(t, g)
	if _, err := wire.Encode(wire.PlaceReply{Grant: blob}); err != nil {
		t.Errorf("%d bytes: %v", len(blob), err)
	}
}

func TestEachMismatchHasItsError(t *testing.T) {
	good := Want{Cluster: "ber.example", Device: [16]byte{4}, Incarnation: [16]byte{5}, Hub: [16]byte{6}, Kind: Session, Now: t0}
	for name, tt := range map[string]struct {
		change func(*Want)
		want   error
	}{
		"good":        {func(*Want) {}, nil},
		"cluster":     {func(w *Want) { w.Cluster = "x" }, ErrWrongCluster},
		"device":      {func(w *Want) { w.Device[0]++ }, ErrWrongDevice},
		"incarnation": {func(w *Want) { w.Incarnation[0]++ }, ErrWrongIncarnation},
		"hub":         {func(w *Want) { w.Hub[0]++ }, ErrWrongHub},
		"kind":        {func(w *Want) { w.Kind = Forwards }, ErrWrongKind},
		"kind unset":  {func(w *Want) { w.Kind = 0 }, ErrWrongKind},
		"early":       {func(w *Want) { w.Now = t0.Add(-Backdate - 1) }, ErrNotYetValid},
		"late":        {func(w *Want) { w.Now = t0.Add(MaxLife - Backdate) }, ErrExpired},
	} {
		w := good
		tt.change(&w)
		if err := sample().Check(w); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func TestIssuerCannotExceedTheLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*Grant)
		want   error
	}{
		"life":      {func(g *Grant) { g.NotAfter = g.NotBefore.Add(MaxLife + time.Second) }, ErrLife},
		"backwards": {func(g *Grant) { g.NotAfter = g.NotBefore }, ErrMalformed},
		"no id":     {func(g *Grant) { g.ID = [16]byte{} }, ErrMalformed},
		"no device": {func(g *Grant) { g.Device = [16]byte{} }, ErrMalformed},
		"no user":   {func(g *Grant) { g.User = "" }, ErrMalformed},
		"no client": {func(g *Grant) { g.ClientAddr = netip.AddrPort{} }, ErrMalformed},
		"detached":  {func(g *Grant) { g.DetachedLife = MaxDetachedLife + 1 }, ErrMalformed},
		"command":   {func(g *Grant) { g.ForceCommand = strings.Repeat("x", maxForceCommand+1) }, ErrMalformed},
		"roles":     {func(g *Grant) { g.Roles = make([]string, maxRoles+1) }, ErrMalformed},
	} {
		g := sample()
		tt.change(g)
		if _, err := g.Sign(key); !errors.Is(err, tt.want) {
			t.Errorf("%s: got %v, want %v", name, err, tt.want)
		}
	}
}

func TestGrantIsSpentOnce(t *testing.T) {
	s, g := NewSpent(2), sample()
	if err := s.Spend(g, t0); err != nil {
		t.Fatal(err)
	}
	if err := s.Spend(g, t0); !errors.Is(err, ErrSpent) {
		t.Errorf("second time: %v", err)
	}
	b, c := sample(), sample()
	b.ID, c.ID = [16]byte{8}, [16]byte{9}
	if err := s.Spend(b, t0); err != nil {
		t.Fatal(err)
	}
	if err := s.Spend(c, t0); !errors.Is(err, ErrSpentFull) {
		t.Errorf("full: %v", err)
	}
	later := t0.Add(MaxLife)
	c.NotBefore, c.NotAfter = Window(later)
	if err := s.Spend(c, later); err != nil {
		t.Errorf("room after expiry: %v", err)
	}
	if s.Len() != 1 {
		t.Errorf("remembers %d, want 1", s.Len())
	}
	if err := s.Spend(g, t0); !errors.Is(err, ErrExpired) {
		t.Errorf("a clock set back revived a spent grant: %v", err)
	}
}

func TestClockThatRanAheadCostsAtMostFiveMinutes(t *testing.T) {
	s, g := NewSpent(8), sample()
	if err := s.Spend(g, t0); err != nil {
		t.Fatal(err)
	}
	far := sample()
	far.ID = [16]byte{7}
	_ = s.Spend(far, t0.AddDate(24, 0, 0)) // expired then; sweeps
	next := sample()
	next.ID = [16]byte{8}
	next.NotBefore, next.NotAfter = Window(t0.Add(time.Second))
	if err := s.Spend(next, t0.Add(time.Second)); err != nil {
		t.Errorf("after the clock came back: %v", err)
	}
}

func TestOneUserLeavesRoomForOthersGrants(t *testing.T) {
	s, g := NewSpent(8), sample()
	spend := func(user string, at time.Time) (err error) {
		for id := byte(1); err == nil; id++ {
			g.User, g.ID = user, [16]byte{id, user[0]}
			err = s.Spend(g, at)
		}
		return err
	}
	if err := spend("alice", t0); !errors.Is(err, ErrSpentFull) || s.Len() != 6 {
		t.Errorf("%d of 8 by one user: %v", s.Len(), err)
	}
	if err := spend("bob", t0); !errors.Is(err, ErrSpentFull) || s.Len() != 8 {
		t.Errorf("%d of 8 by two: %v", s.Len(), err)
	}
	g.NotBefore, g.NotAfter = g.NotAfter, g.NotAfter.Add(time.Minute)
	if err := spend("alice", g.NotBefore); !errors.Is(err, ErrSpentFull) || s.Len() != 6 || len(s.users) != 1 {
		t.Errorf("%d when the others have expired: %v", s.Len(), err)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(sign(f, sample()))
	f.Add(sample().encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Open(b, pub)
		if g, err := decode(b); err == nil && g.valid() == nil {
			back, err := decode(g.encode())
			if err != nil || !reflect.DeepEqual(g, back) {
				t.Errorf("%+v came back as %+v, %v", g, back, err)
			}
		}
	})
}
