package auth

import (
	"context"
	"encoding/base32"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// RFC 9106's Argon2id in the form of the PHC string format; the hash of "password" and "somesalt" is the one that the
// reference implementation's tests give for 64 MiB, 2 passes and 1 lane.
const referenceHash = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc"

func TestHashOfTheReferenceImplementationIsChecked(t *testing.T) {
	h := newHasher()
	if ok, old, err := h.check(t.Context(), "192.0.2.1", "password", referenceHash); !ok || !old || err != nil {
		t.Errorf("got %v, old %v, %v", ok, old, err)
	}
	if ok, _, _ := h.check(t.Context(), "192.0.2.1", "passwort", referenceHash); ok {
		t.Error("another password was taken")
	}
	for _, none := range []string{"", "x", strings.Replace(referenceHash, "argon2id", "argon2i", 1)} {
		if ok, _, err := h.check(t.Context(), "192.0.2.1", "password", none); ok || err != nil {
			t.Errorf("%q: got %v, %v", none, ok, err)
		}
	}
}

func TestHashesTakeTheirTurnAndTheQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hasher{slots: make(chan struct{}, 1), queue: make(chan struct{}, 2), of: make(map[string]int)}
		leave, err := h.enter(t.Context(), "192.0.2.1")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := h.enter(ctx, "192.0.2.1"); !errors.Is(err, context.Canceled) {
				t.Errorf("one that waits and is cancelled: %v", err)
			}
		})
		synctest.Wait()
		if _, err := h.enter(t.Context(), "192.0.2.1"); !errors.Is(err, errBusy) {
			t.Errorf("one too many: %v", err)
		}
		cancel()
		wg.Wait()
		leave()
		if leave, err = h.enter(t.Context(), "192.0.2.1"); err != nil {
			t.Fatal(err)
		}
		leave()
		if len(h.queue)+len(h.slots)+len(h.of) != 0 {
			t.Error("a place was not given back")
		}
	})
}

func TestOneSourceDoesNotTakeTheWholeQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHasher()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var refused atomic.Int32
		for range 100 {
			wg.Go(func() {
				leave, err := h.enter(ctx, "192.0.2.1")
				if errors.Is(err, errBusy) {
					refused.Add(1)
				}
				if err == nil {
					<-ctx.Done()
					leave()
				}
			})
		}
		synctest.Wait()
		if refused.Load() != 100-maxHashesFrom {
			t.Errorf("%d of 100 of one source refused", refused.Load())
		}
		wg.Go(func() {
			if _, err := h.enter(ctx, "192.0.2.2"); !errors.Is(err, context.Canceled) {
				t.Errorf("another source does not wait for its turn: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}

func FuzzParseHash(f *testing.F) {
	f.Add(referenceHash)
	f.Add("$argon2id$v=19$m=4294967295,t=4294967295,p=255$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc")
	f.Fuzz(func(t *testing.T, s string) {
		p, salt, tag, err := parseHash(s)
		if err != nil {
			return
		}
		if p.memory > 1<<20 || p.memory < 8 || p.passes == 0 || p.passes > 64 || p.lanes == 0 || len(salt) > 64 || len(tag) < 16 {
			t.Errorf("%q: %+v", s, p)
		}
	})
}

func TestPasswordsThatAreGuessedFirstAreRefused(t *testing.T) {
	for _, bad := range []string{"", "elevenchars", "aaaaaaaaaaaaaaaa", "abababababababab", "ann.example1234567890", "password1234567890", "HawserHawser1234", "x\xffyzxyzxyzxyz", strings.Repeat("xyzzy ", 200)} {
		if checkPassword(bad, "ann.example", "ber.example") == nil {
			t.Errorf("%.30q was taken", bad)
		}
	}
	for _, good := range []string{"correct horse battery staple", "Grüße aus Köln!", "kJ8#mPq2x!Lw"} {
		if err := checkPassword(good, "ann", "ber.example"); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
}

// RFC 6238, appendix B, of which six digits are the last six.
func TestCodesOfTheRFC(t *testing.T) {
	secret := base32.StdEncoding.EncodeToString([]byte("12345678901234567890"))
	for at, code := range map[int64]string{59: "287082", 1111111109: "081804", 1234567890: "005924", 2000000000: "279037", 20000000000: "353130"} {
		now := time.Unix(at, 0)
		if step, ok := matchTOTP(secret, code, 0, now); !ok || step != uint64(at/30) {
			t.Errorf("at %d: got step %d, %v", at, step, ok)
		}
		if _, ok := matchTOTP(secret, code[:3]+" "+code[3:], 0, now); !ok {
			t.Errorf("at %d: not with a space", at)
		}
		for skew, want := range map[time.Duration]bool{-60 * time.Second: false, -30 * time.Second: true, 30 * time.Second: true, 60 * time.Second: false} {
			if at < 60 {
				continue // there is no time before it
			}
			if _, ok := matchTOTP(secret, code, 0, now.Add(skew)); ok != want {
				t.Errorf("at %d%+v: got %v", at, skew, ok)
			}
		}
		if _, ok := matchTOTP(secret, code, uint64(at/30), now); ok {
			t.Errorf("at %d: good twice", at)
		}
	}
}

// No code is taken twice, and none older than one that was taken, in whatever order they come.
func TestStepsOnlyGrow(t *testing.T) {
	s := newStepsUsed()
	var mu sync.Mutex
	won := make(map[uint64]int)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for step := uint64(1); step <= 100; step++ {
				if s.spend("ann", step) {
					mu.Lock()
					won[step]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for step, n := range won {
		if n != 1 {
			t.Errorf("step %d was spent %d times", step, n)
		}
	}
	if s.spend("ann", 100) || !s.spend("bob", 1) {
		t.Error("steps of one user are not his own")
	}
	if s.unspend("ann", 100); !s.spend("ann", 100) {
		t.Error("what was not stored stays spent")
	}
}

func TestDelayGrowsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLockout()
		var waits []time.Duration
		for range 20 {
			l.failed("192.0.2.1", "ann", time.Now())
			w, _ := l.wait("192.0.2.1", "ann", false, time.Now())
			waits = append(waits, w)
			time.Sleep(w)
		}
		if waits[freeFailures-1] != 0 || waits[freeFailures] != time.Second || waits[freeFailures+3] != 8*time.Second || waits[19] != maxDelay {
			t.Errorf("got %v", waits)
		}
		if w, _ := l.wait("192.0.2.2", "ann", false, time.Now()); w != 0 {
			t.Errorf("another source waits %v", w)
		}
		if w, _ := l.wait("192.0.2.1", "bob", false, time.Now()); w != 0 {
			t.Errorf("another user waits %v", w)
		}
		time.Sleep(failureLife)
		l.failed("192.0.2.1", "ann", time.Now())
		if w, _ := l.wait("192.0.2.1", "ann", false, time.Now()); w != 0 {
			t.Errorf("an hour later one failure costs %v", w)
		}
	})
}

func TestSprayerIsHeldOffOverAllUsers(t *testing.T) {
	l, now := newLockout(), time.Now()
	for i := range sourceFailures {
		l.failed("192.0.2.1", fmt.Sprint("user", i), now)
	}
	if w, what := l.wait("192.0.2.1", "ann", false, now); w == 0 || what != "source" {
		t.Errorf("got %v for %q", w, what)
	}
	if w, _ := l.wait("192.0.2.1", "ann", true, now); w != 0 {
		t.Error("a person where he works is held off by another's guesses")
	}
}

func TestFailuresRememberedAreBounded(t *testing.T) {
	l, now := newLockout(), time.Now()
	for range freeFailures + 3 {
		l.failed("192.0.2.1", "ann", now.Add(time.Minute))
	}
	for i := range maxSources + 10 {
		l.failed(fmt.Sprint("source", i), "bob", now)
	}
	if len(l.pairs) > maxSources {
		t.Errorf("%d pairs remembered", len(l.pairs))
	}
	if w, _ := l.wait("192.0.2.1", "ann", true, now.Add(time.Minute)); w == 0 {
		t.Error("the newest was forgotten for older ones")
	}
}

func TestOneCustomerIsOneSource(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:22": "192.0.2.1", "[::ffff:192.0.2.1]:22": "192.0.2.1", "[2001:db8:1:2ff::1]:22": "2001:db8:1:200::/56",
		"2001:db8:1:201::1": "2001:db8:1:200::/56", "[fe80::1%eth0]:1": "fe80::/56", "pipe": "pipe",
	} {
		if got := sourceOf(addr); got != want {
			t.Errorf("%s: got %s, want %s", addr, got, want)
		}
	}
}

func TestSecondFactorsRememberedAreBounded(t *testing.T) {
	f, now := newSecondFactors(), time.Now()
	for i := range maxSecondFactors + 1 {
		f.add(connectionKey{"hub", [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}, "ann"}, "key", fmt.Sprint("192.0.2.1:", i), now.Add(time.Duration(i)))
	}
	if len(f.of) > maxSecondFactors {
		t.Errorf("%d connections remembered", len(f.of))
	}
	if f.has(connectionKey{"hub", [16]byte{}, "ann"}, "key", now) {
		t.Error("the oldest was kept for newer ones")
	}
	last := connectionKey{"hub", [16]byte{byte(maxSecondFactors & 255), byte(maxSecondFactors >> 8 & 255), byte(maxSecondFactors >> 16)}, "ann"}
	if !f.has(last, "key", now) || f.has(last, "another key", now) || f.has(last, "key", now.Add(secondFactorLife+time.Second)) {
		t.Error("the newest is not what it should be")
	}
	if !f.carries("hub", fmt.Sprint("192.0.2.1:", maxSecondFactors), "ann", now) || f.carries("hub", "192.0.2.1:0", "ann", now) || len(f.from) != len(f.of) {
		t.Error("connections are not found by where they are from")
	}
	if f.forgetUser("ann"); len(f.of)+len(f.from) != 0 {
		t.Error("a removed user's are kept")
	}
}

func FuzzSSHSig(f *testing.F) {
	f.Add([]byte(sshSigMagic))
	f.Add([]byte(sshSigMagic + "\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01n\x00\x00\x00\x00\x00\x00\x00\x06sha256\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSSHSig(b)
		if err == nil && (len(b) > maxSSHSig || s.namespace == "") {
			t.Errorf("%x: %+v", b, s)
		}
		if verifyKeyProof(b, []byte("no key"), "ann", "ber.example") == nil {
			t.Error("a proof of no key")
		}
	})
}

func TestPasswordsAreHashedAsStated(t *testing.T) {
	if want := (argonParams{memory: 64 << 10, passes: 3, lanes: 4, salt: 16, key: 32}); statedParams != want {
		t.Errorf("hashed with %+v, docs/access.md and RFC 9106 say %+v", statedParams, want)
	}
}
