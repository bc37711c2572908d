package ca

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/internal/signed"
)

var everyKind = []Kind{UserCA, HubHostCA, DeviceHostCA, TargetCA, TunnelCA, GrantKey, TimeKey}

// party is a device or a hub with what it has stored.
type party struct {
	name    string
	role    Role
	key     ed25519.PrivateKey
	chain   []*x509.Certificate
	der     [][]byte
	sshCert []byte
	trust   *Trust
	asleep  bool
	slept   int // rotations of the tunnel CA that ended meanwhile
}

// fleet is a cluster without a network: what auth signs, and what the parts have got of it.
type fleet struct {
	t     *testing.T
	set   *Set
	now   time.Time
	parts []*party
}

const someUUID = "6f1c0a9e-1a2b-4c3d-8e4f-0123456789ab"

func (f *fleet) bundle() []byte {
	f.t.Helper()
	blob, err := f.set.SignTrust(f.set.Trust(f.set.Revision()))
	if err != nil {
		f.t.Fatal(err)
	}
	return blob
}

func (f *fleet) renew(p *party) {
	f.t.Helper()
	pub := p.key.Public().(ed25519.PublicKey)
	var err error
	if p.role == RoleDevice {
		p.der, p.sshCert, err = f.set.IssueDevice(DeviceRequest{UUID: someUUID, Name: p.name, Key: pub, TTL: 90 * 24 * time.Hour, Now: f.now})
	} else {
		p.der, p.sshCert, err = f.set.IssueHub(HubRequest{UUID: someUUID, Name: p.name, Principals: []string{"hub"}, Key: pub, TTL: 90 * 24 * time.Hour, Now: f.now})
	}
	if err != nil {
		f.t.Fatal(err)
	}
	p.chain = parse(f.t, p.der)
}

func (f *fleet) join(name string, role Role) {
	f.t.Helper()
	key, _ := newKey(f.t)
	trust, err := OpenStoredTrust(f.bundle())
	if err != nil {
		f.t.Fatal(err)
	}
	p := &party{name: name, role: role, key: key, trust: trust}
	f.renew(p)
	f.parts = append(f.parts, p)
}

// become is what auth does with a new Set: it is stored, perhaps read again after a crash, and told to all that are awake.
func (f *fleet) become(next *Set, crash bool) {
	f.t.Helper()
	stored := next.Marshal()
	if crash {
		var err error
		if next, err = UnmarshalSet(stored); err != nil {
			f.t.Fatalf("after a crash: %v", err)
		}
		if !bytes.Equal(next.Marshal(), stored) {
			f.t.Fatal("what is read is not what was stored")
		}
	}
	f.set.Become(next)
	for _, p := range f.parts {
		if !p.asleep {
			f.tell(p)
		}
	}
}

func (f *fleet) tell(p *party) {
	f.t.Helper()
	blob := f.bundle()
	next, err := OpenNextTrust(blob, p.trust)
	if err != nil {
		f.t.Fatalf("%s: trust refused: %v", p.name, err)
	}
	p.trust = next
}

// check is the invariant: all that are awake and have renewed in this phase reach one another, and what auth signs is accepted by them.
func (f *fleet) check(step string) {
	f.t.Helper()
	grant := signed.Seal("test", []byte("grant"), f.set.GrantKey())
	beacon := f.set.SignTime(f.now, nil)
	_, pub := newKey(f.t)
	user, err := f.set.IssueUser(UserRequest{Name: "alice", Roles: []string{"field"}, Key: pub, TTL: time.Hour, Now: f.now})
	if err != nil {
		f.t.Fatal(err)
	}
	authKey, _ := newKey(f.t)
	chain, err := f.set.IssueAuth(AuthRequest{UUID: someUUID, Name: "auth", Key: authKey.Public().(ed25519.PublicKey), TTL: time.Hour, Now: f.now})
	if err != nil {
		f.t.Fatal(err)
	}
	auth := parse(f.t, chain)
	now := f.set.Trust(f.set.Revision())
	for _, p := range f.parts {
		if p.asleep {
			continue
		}
		if _, err := VerifyPeer(auth, p.trust, f.now); err != nil {
			f.t.Fatalf("%s: %s does not know auth: %v", step, p.name, err)
		}
		if _, err := signed.Open("test", grant, p.trust.GrantKeys); err != nil {
			f.t.Fatalf("%s: %s: grant: %v", step, p.name, err)
		}
		if _, _, err := OpenTime(beacon, p.trust); err != nil {
			f.t.Fatalf("%s: %s: time: %v", step, p.name, err)
		}
		if _, err := VerifyUserCert(user, p.trust, f.now, nil); err != nil {
			f.t.Fatalf("%s: %s: user: %v", step, p.name, err)
		}
		cert, err := ssh.ParsePublicKey(p.sshCert)
		if err != nil {
			f.t.Fatal(err)
		}
		kind := DeviceHostCA
		if p.role == RoleHub {
			kind = HubHostCA
		}
		if err := VerifyHostCert(cert.(*ssh.Certificate), &now, kind, p.name, f.now); p.role == RoleDevice && err != nil {
			f.t.Fatalf("%s: host certificate of %s: %v", step, p.name, err)
		}
		for _, q := range f.parts {
			if q.asleep || p == q {
				continue
			}
			if _, err := VerifyPeer(q.chain, p.trust, f.now); err != nil {
				f.t.Fatalf("%s: %s does not accept %s: %v", step, p.name, q.name, err)
			}
		}
	}
	for _, old := range f.set.Retired() {
		if old.Kind == TunnelCA && listed(now.TunnelCA, old.Certificate) {
			f.t.Fatalf("%s: a retired CA is trusted", step)
		}
	}
}

// Rotations, rollbacks, crashes and sleepers in any order: whoever is awake and renews when told always reaches the others, and whoever
// slept through no more rotations than a chain has room for comes back.
func TestWhoeverIsAwakeAlwaysReachesTheOthers(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 4))
			set, _ := newSet(t, "ber.example")
			f := &fleet{t: t, set: set, now: t0}
			for _, x := range []struct {
				name string
				role Role
			}{{"gw-1", RoleDevice}, {"gw-2", RoleDevice}, {"gw-3", RoleDevice}, {"hub-1", RoleHub}, {"hub-2", RoleHub}} {
				f.join(x.name, x.role)
			}
			f.check("begin")
			for step := range 40 {
				f.now = f.now.Add(time.Minute)
				kinds := f.set.Rotating()
				var next *Set
				var err error
				what := ""
				switch n := r.IntN(10); {
				case len(kinds) == 0 && n < 7:
					kinds = nil
					for _, k := range everyKind {
						if r.IntN(2) == 0 {
							kinds = append(kinds, k)
						}
					}
					if len(kinds) == 0 {
						continue
					}
					what = fmt.Sprint("rotate ", kinds)
					next, err = f.set.Rotate(kinds, RotateOptions{Now: f.now, Grace: time.Hour, Manual: r.IntN(2) == 0})
				case len(kinds) == 0:
					p := f.parts[r.IntN(len(f.parts))]
					p.asleep = true // until a rotation begins and ends, or not
					continue
				case n < 6:
					kinds = kinds[:1+r.IntN(len(kinds))]
					what = fmt.Sprint("advance ", kinds)
					before := f.set.Authority(TunnelCA)
					next, err = f.set.Advance(kinds, f.now)
					if err == nil && next.Authority(TunnelCA) != before {
						for _, p := range f.parts {
							if p.asleep {
								p.slept++
							}
						}
					}
				case n < 8:
					kinds = kinds[:1+r.IntN(len(kinds))]
					what = fmt.Sprint("roll back ", kinds)
					if next, err = f.set.Rollback(kinds, f.now); errors.Is(err, ErrNoRollback) {
						continue
					}
				default:
					p := f.parts[r.IntN(len(f.parts))]
					p.asleep = !p.asleep
					if !p.asleep {
						f.wake(p)
					}
					continue
				}
				if err != nil {
					t.Fatalf("step %d: %s: %v", step, what, err)
				}
				f.become(next, r.IntN(3) == 0)
				f.check(fmt.Sprintf("step %d: after %s, nobody has renewed", step, what))
				for _, i := range r.Perm(len(f.parts)) {
					p := f.parts[i]
					if !p.asleep && f.set.Behind(p.role, p.der, p.sshCert) {
						f.renew(p)
						f.check(fmt.Sprintf("step %d: after %s, %s has renewed", step, what, p.name))
					}
				}
				for _, p := range f.parts {
					if !p.asleep && f.set.Behind(p.role, p.der, p.sshCert) {
						t.Fatalf("step %d: after %s: %s is behind though it has renewed", step, what, p.name)
					}
				}
			}
		})
	}
}

// wake brings a sleeper back: it must recognise a hub by what it stored, take the bundle of now, and be recognised for a renewal.
func (f *fleet) wake(p *party) {
	f.t.Helper()
	key, _ := newKey(f.t)
	chain, _, err := f.set.IssueHub(HubRequest{UUID: someUUID, Name: "hub", Principals: []string{"hub"}, Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: f.now})
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = VerifyPeer(parse(f.t, chain), p.trust, f.now)
	if p.slept > maxCross {
		// Too many: it joins again.
		p.trust, err = OpenStoredTrust(f.bundle())
		p.slept = 0
		f.renew(p)
	}
	if err != nil {
		f.t.Fatalf("%s slept through %d rotations and does not know the hub: %v", p.name, p.slept, err)
	}
	f.tell(p)
	trust := f.set.Trust(1)
	if _, err := VerifyPeer(p.chain, &trust, f.now); err != nil {
		if _, err := VerifyPeer(p.chain, f.set.RetiredTrust(), f.now); err != nil {
			f.t.Fatalf("%s is not recognised: %v", p.name, err)
		}
	}
	f.renew(p)
	p.slept = 0
	f.check("woken " + p.name)
}

func TestOldCertificatesAreRefusedAfterTheLastPhase(t *testing.T) {
	set, old := newSet(t, "ber.example")
	user := userCert(t, set)
	device := issueDevice(t, set)
	next := rotateAll(t, set, false)
	trust := next.Trust(next.Revision())
	if _, err := VerifyUserCert(user, &trust, t0, nil); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("user: %v", err)
	}
	if _, err := VerifyPeer(device, &trust, t0); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("device: %v", err)
	}
	// And the old bundle takes nobody's place.
	blob, err := set.SignTrust(*old)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenNextTrust(blob, &trust); !errors.Is(err, ErrUnpinned) {
		t.Errorf("old bundle: %v", err)
	}
}

func issueDevice(t testing.TB, s *Set) []*x509.Certificate {
	t.Helper()
	key, _ := newKey(t)
	chain, _, err := s.IssueDevice(DeviceRequest{UUID: someUUID, Name: "gw-1", Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: t0})
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, chain)
}

// rotateAll takes all kinds through a whole rotation; set stays as it was.
func rotateAll(t testing.TB, set *Set, compromised bool) *Set {
	t.Helper()
	next, err := set.Rotate(everyKind, RotateOptions{Now: t0, Grace: time.Hour, Manual: true, Compromised: compromised})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		kinds := next.Rotating()
		if len(kinds) == 0 {
			break
		}
		if next, err = next.Advance(kinds, t0); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

func TestACompromisedCAVouchesForNobody(t *testing.T) {
	set, old := newSet(t, "ber.example")
	device := issueDevice(t, set)
	next := rotateAll(t, set, true)
	if len(next.Rotating()) != 0 {
		t.Fatalf("still rotating %v", next.Rotating())
	}
	trust := next.Trust(next.Revision())
	if len(trust.Cross) != 0 || len(trust.TunnelCA) != 1 || len(trust.UserCA) != 1 || len(trust.GrantKeys) != 1 {
		t.Errorf("%d crosses, %d tunnel CAs, %d user CAs, %d grant keys", len(trust.Cross), len(trust.TunnelCA), len(trust.UserCA), len(trust.GrantKeys))
	}
	if _, err := VerifyPeer(issueDevice(t, next), old, t0); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("who knows the old CA alone accepts the new one's certificates: %v", err)
	}
	if _, err := VerifyPeer(device, &trust, t0); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("old certificate: %v", err)
	}
	if !next.Stranded([][]byte{device[0].Raw}) {
		t.Error("a device of the old CA is not said to be stranded")
	}
	for _, k := range next.Ever(TimeKey)[1:] {
		t.Errorf("a compromised key is kept: %x", k)
	}
	if _, err := next.Rollback([]Kind{TunnelCA}, t0); !errors.Is(err, ErrNotRotating) {
		t.Errorf("rollback: %v", err)
	}
	begun, err := set.Rotate([]Kind{TunnelCA}, RotateOptions{Now: t0, Compromised: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := begun.Rollback([]Kind{TunnelCA}, t0); !errors.Is(err, ErrNoRollback) {
		t.Errorf("rollback of a compromise: %v", err)
	}
}

// A rotation in progress becomes a compromised one: what certified the successor is gone, too.
func TestACompromiseFoundDuringARotationDropsTheCrossCertificates(t *testing.T) {
	set, old := newSet(t, "ber.example")
	set = rotateAll(t, set, false) // leaves one
	next, err := set.Rotate([]Kind{TunnelCA}, RotateOptions{Now: t0, Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(next.Trust(1).Cross); n != 2 {
		t.Fatalf("%d cross-certificates", n)
	}
	if next, err = next.Rotate([]Kind{TunnelCA}, RotateOptions{Now: t0, Compromised: true}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if n := len(next.Trust(1).Cross); n != 0 {
			t.Errorf("%v: %d cross-certificates", next.Rotation(TunnelCA).Phase, n)
		}
		if next, err = next.Advance([]Kind{TunnelCA}, t0); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := VerifyPeer(issueDevice(t, next), old, t0); !errors.Is(err, ErrUnknownCA) {
		t.Errorf("%v", err)
	}
}

func TestTokensOfTheOldPinWorkDuringThePhasesAndNotAfter(t *testing.T) {
	set, old := newSet(t, "ber.example")
	pin := old.Pins()[0]
	next, err := set.Rotate([]Kind{TunnelCA}, RotateOptions{Now: t0, Grace: time.Hour, Manual: true})
	for err == nil {
		phase := next.Rotation(TunnelCA).Phase
		key, _ := newKey(t)
		der, _, e := next.IssueHub(HubRequest{UUID: someUUID, Name: "hub", Principals: []string{"hub"}, Key: key.Public().(ed25519.PublicKey), TTL: time.Hour, Now: t0})
		if e != nil {
			t.Fatal(e)
		}
		chain := parse(t, der)
		trust, e := PinnedTrust(chain, "ber.example", pin)
		if phase == PhaseStandby {
			if !errors.Is(e, ErrUnpinned) {
				t.Errorf("after the last phase: %v", e)
			}
			newest := next.Trust(1)
			if trust, e = PinnedTrust(chain, "ber.example", newest.Pins()[0]); e == nil {
				_, e = VerifyPeer(chain, trust, t0)
			}
			if e != nil {
				t.Errorf("the new pin: %v", e)
			}
			return
		}
		if e == nil {
			_, e = VerifyPeer(chain, trust, t0)
		}
		if e != nil {
			t.Errorf("%v: %v", phase, e)
		}
		blob, e := next.SignTrust(next.Trust(next.Revision()))
		if e != nil {
			t.Fatal(e)
		}
		if _, e := OpenTrust(blob, pin); e != nil {
			t.Errorf("%v: bundle: %v", phase, e)
		}
		next, err = next.Advance([]Kind{TunnelCA}, t0)
	}
	t.Fatal(err)
}

func TestPhasesEndByThemselvesUnlessByHand(t *testing.T) {
	set, _ := newSet(t, "ber.example")
	auto, err := set.Rotate([]Kind{UserCA}, RotateOptions{Now: t0, Grace: 3 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if due, next := auto.Due(t0); len(due) != 0 || !next.Equal(t0.Add(time.Hour)) {
		t.Errorf("due %v, next %v", due, next)
	}
	if due, _ := auto.Due(t0.Add(time.Hour)); len(due) != 1 || due[0] != UserCA {
		t.Errorf("due %v", due)
	}
	manual, err := set.Rotate([]Kind{UserCA}, RotateOptions{Now: t0, Grace: 3 * time.Hour, Manual: true})
	if err != nil {
		t.Fatal(err)
	}
	if due, next := manual.Due(t0.Add(1000 * time.Hour)); len(due) != 0 || !next.IsZero() {
		t.Errorf("by hand: due %v, next %v", due, next)
	}
	for _, o := range []RotateOptions{{Now: t0}, {Now: t0, Grace: MinGrace - 1}, {Now: t0, Grace: MaxGrace + 1}} {
		if _, err := set.Rotate([]Kind{UserCA}, o); !errors.Is(err, ErrGrace) {
			t.Errorf("grace %v: %v", o.Grace, err)
		}
	}
	if _, err := auto.Rotate([]Kind{UserCA}, RotateOptions{Now: t0, Grace: time.Hour}); !errors.Is(err, ErrRotating) {
		t.Errorf("twice: %v", err)
	}
}

func TestTheRevisionGrowsOverARestoredBackup(t *testing.T) {
	set, _ := newSet(t, "ber.example")
	backup := set.Marshal()
	newest := rotateAll(t, set, false)
	restored, err := UnmarshalSet(backup)
	if err != nil {
		t.Fatal(err)
	}
	later, err := restored.Rotate([]Kind{UserCA}, RotateOptions{Now: t0.Add(time.Hour), Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if later.Revision() <= newest.Revision() {
		t.Errorf("revision %d after the restore, %d before", later.Revision(), newest.Revision())
	}
}

func TestWhatWasRetiredLongAgoIsForgotten(t *testing.T) {
	set, _ := newSet(t, "ber.example")
	next := rotateAll(t, set, false)
	if _, some := next.Forget(t0, t0); some {
		t.Error("forgotten too early")
	}
	later, some := next.Forget(t0.Add(time.Second), t0)
	if !some || len(later.Retired()) != 0 || len(later.Trust(1).Cross) != 0 {
		t.Errorf("%v, %d retired", some, len(later.Retired()))
	}
	for range maxRetired + 3 {
		next = rotateAll(t, next, false)
	}
	if n := len(next.RetiredTrust().TunnelCA); n != maxRetired {
		t.Errorf("%d retired tunnel CAs", n)
	}
	if b := next.Marshal(); len(b) > maxSet/2 {
		t.Errorf("%d bytes", len(b))
	}
	if _, err := UnmarshalSet(next.Marshal()); err != nil {
		t.Error(err)
	}
	if _, err := next.SignTrust(next.Trust(1)); err != nil {
		t.Error(err)
	}
}
