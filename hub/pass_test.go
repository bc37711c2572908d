package hub

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestPlacesOfPassesAreBoundedAndGivenBack(t *testing.T) {
	var s passes
	at := func(last byte) net.IP { return net.IPv4(192, 0, last, 1) }
	var held []*pass
	enter := func(last byte) error {
		p, err := s.enter(addrPort(&net.TCPAddr{IP: at(last)}).Addr(), func() {})
		if err == nil {
			held = append(held, p)
		}
		return err
	}
	for range maxPassesPerSource {
		if err := enter(1); err != nil {
			t.Fatal(err)
		}
	}
	if err := enter(1); !errors.Is(err, errPassesFull) {
		t.Errorf("one more of a source: %v", err)
	}
	for last := byte(2); len(held) < maxPasses; last++ {
		for range maxPassesPerSource {
			if err := enter(last); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := enter(250); !errors.Is(err, errPassesFull) {
		t.Errorf("one more of all: %v", err)
	}
	for _, p := range held {
		s.leave(p)
	}
	if s.count() != 0 || len(s.sources) != 0 {
		t.Errorf("%d passes, %d sources are left", s.count(), len(s.sources))
	}
	s.drain()
	if err := enter(1); !errors.Is(err, errDraining) {
		t.Errorf("while the hub drains: %v", err)
	}
}

// A pass through which nothing goes is ended; one that is used is not, until the hub drains and it is quiet for a moment.
func TestIdlePassesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s passes
		at := netip.MustParseAddr("192.0.2.1")
		ended := make(map[string]time.Duration)
		var mu sync.Mutex
		began := time.Now()
		enter := func(name string) *pass {
			p, err := s.enter(at, func() {
				mu.Lock()
				defer mu.Unlock()
				ended[name] = time.Since(began)
			})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		quiet, used := enter("quiet"), enter("used")
		for range 12 {
			time.Sleep(passIdle / 8)
			used.last.Store(time.Now().UnixNano())
		}
		synctest.Wait()
		mu.Lock()
		if len(ended) != 1 || ended["quiet"] != passIdle {
			t.Errorf("ended after %v, want the quiet one after %v and no other", ended, passIdle)
		}
		mu.Unlock()
		s.leave(quiet)
		s.drain()
		time.Sleep(drainPassIdle)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if _, over := ended["used"]; !over {
			t.Error("a draining hub keeps a pass that is idle")
		}
		s.leave(used)
	})
}
