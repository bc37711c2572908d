package idle

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hawser/auth/policy"
)

// watched is something with a Watch, in a synctest bubble.
type watched struct {
	mu       sync.Mutex
	m        *Meter
	w        *Watch
	tty      bool
	busy     bool
	away     bool
	fits     bool // a warning spoils nothing
	warnings []string
	tries    int
	ended    []string
	at       time.Duration // when it ended
}

func watch(t *testing.T, l Limits, x *watched) *watched {
	t.Helper()
	x.m, x.fits = NewMeter(), true
	begun := time.Now()
	get := func(b *bool) func() bool {
		return func() bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			return *b
		}
	}
	x.w = Start(Config{
		Meter: x.m, Terminal: get(&x.tty), Busy: get(&x.busy), Away: get(&x.away),
		Warn: func(text string) bool {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.tries++
			if x.fits {
				x.warnings = append(x.warnings, text)
			}
			return x.fits
		},
		End: func(reason string) {
			x.mu.Lock()
			defer x.mu.Unlock()
			x.ended, x.at = append(x.ended, reason), time.Since(begun)
		},
	}, l)
	t.Cleanup(x.w.Stop)
	return x
}

func (x *watched) set(b *bool, to bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	*b = to
}

func (x *watched) seen() (ended []string, at time.Duration, warnings []string) {
	synctest.Wait()
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.ended, x.at, x.warnings
}

func limits(idle, duration time.Duration) Limits {
	return Limits{SessionLimits: policy.SessionLimits{Idle: idle, Duration: duration}}
}

func TestWithATerminalThePersonsInputCountsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(15*time.Minute, 0), &watched{})
		time.Sleep(time.Second)
		x.set(&x.tty, true) // asked for after the channel was opened
		x.m.In(1)
		for range 10 { // top
			time.Sleep(time.Minute)
			x.m.Out(4000)
		}
		x.m.In(1)
		for range 14 {
			time.Sleep(time.Minute)
			x.m.Out(4000)
		}
		if ended, _, warnings := x.seen(); len(ended) > 0 || len(warnings) != 1 || warnings[0] != "this session ends in 1m unless you type something" {
			t.Fatalf("ended %q, warned %q", ended, warnings)
		}
		time.Sleep(30 * time.Second)
		x.m.In(1) // in time
		time.Sleep(15*time.Minute - time.Second)
		if ended, _, warnings := x.seen(); len(ended) > 0 || len(warnings) != 2 {
			t.Fatalf("ended %q, warned %q", ended, warnings)
		}
		time.Sleep(time.Second)
		ended, at, _ := x.seen()
		if len(ended) != 1 || at != 39*time.Minute+31*time.Second || !strings.Contains(ended[0], "idle for 15m") || !strings.Contains(ended[0], "idle_timeout") {
			t.Fatalf("ended %q at %v", ended, at)
		}
	})
}

func TestWithoutATerminalDataInEitherDirectionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(3*time.Second, 0), &watched{})
		for i := range 10 { // scp, and make that prints now and then
			time.Sleep(2 * time.Second)
			if i%2 == 0 {
				x.m.In(1)
			} else {
				x.m.Out(1)
			}
		}
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		time.Sleep(3 * time.Second)
		if ended, at, warnings := x.seen(); len(ended) != 1 || at != 23*time.Second || len(warnings) > 0 {
			t.Fatalf("ended %q at %v, warned %q", ended, at, warnings)
		}
		if in, out := x.m.Bytes(); in != 5 || out != 5 {
			t.Errorf("counted %d in, %d out", in, out)
		}
	})
}

func TestAWarningThatWouldSpoilWhatIsShownIsTriedAgainAndPutsOffNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(0, 10*time.Minute), &watched{tty: true})
		x.set(&x.fits, false)
		time.Sleep(9*time.Minute + 20*time.Second)
		synctest.Wait()
		x.mu.Lock()
		if len(x.warnings) > 0 || x.tries < 15 || x.tries > 21 {
			t.Errorf("tried %d times", x.tries)
		}
		x.fits = true
		x.mu.Unlock()
		time.Sleep(2 * time.Second)
		if _, _, warnings := x.seen(); len(warnings) != 1 || warnings[0] != "this session ends in 39s" {
			t.Errorf("warned %q", warnings)
		}
		time.Sleep(38 * time.Second)
		if ended, at, warnings := x.seen(); len(ended) != 1 || at != 10*time.Minute || len(warnings) != 1 || !strings.Contains(ended[0], "open for 10m") {
			t.Errorf("ended %q at %v, warned %q", ended, at, warnings)
		}
	})
}

// A person who reads nothing blocks the warning, and must not live on by that.
func TestAWarningThatBlocksPutsOffNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, ended := make(chan struct{}), make(chan struct{})
		w := Start(Config{
			Meter: NewMeter(), Terminal: func() bool { return true },
			Warn: func(string) bool { <-free; return true }, End: func(string) { close(ended) },
		}, limits(10*time.Second, 0))
		time.Sleep(10 * time.Second)
		<-ended
		close(free)
		w.Stop()
	})
}

func TestWhatIsBusyIsNotEndedAndTakesNothingNewWhenItIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(time.Minute, time.Hour), &watched{busy: true})
		time.Sleep(59 * time.Minute)
		if why := x.w.Late(); why != "" {
			t.Error(why)
		}
		time.Sleep(2 * time.Minute)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		if why := x.w.Late(); !strings.Contains(why, "max_session_duration") {
			t.Errorf("late: %q", why)
		}
		x.set(&x.busy, false)
		x.w.Look()
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Errorf("ended %q", ended)
		}
	})
}

func TestIdleBeginsWhenItIsNotBusyAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(time.Minute, 0), &watched{busy: true})
		time.Sleep(10 * time.Minute)
		x.set(&x.busy, false)
		x.m.Touch()
		x.w.Look()
		time.Sleep(59 * time.Second)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		time.Sleep(time.Second)
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Error("still there")
		}
	})
}

// What a person types while the link is lost arrives when it is back.
func TestNobodyIsIdleWhoCannotBeHeard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(time.Minute, 0), &watched{tty: true})
		time.Sleep(30 * time.Second)
		x.set(&x.away, true)
		time.Sleep(5 * time.Minute)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		x.set(&x.away, false)
		time.Sleep(500 * time.Millisecond)
		x.m.In(10)
		time.Sleep(59 * time.Second)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		x.set(&x.away, true)
		time.Sleep(5 * time.Minute)
		x.set(&x.away, false)
		time.Sleep(4 * time.Second) // and nothing came
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Error("still there")
		}
	})
}

func TestItEndsWithTheCredentialWhereThatIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Limits{Expires: time.Now().Add(time.Hour)}
		stays := watch(t, l, &watched{})
		l.EndWithCredential = true
		x := watch(t, l, &watched{tty: true})
		forever := watch(t, Limits{SessionLimits: l.SessionLimits}, &watched{})
		time.Sleep(2 * time.Hour)
		ended, at, warnings := x.seen()
		if len(ended) != 1 || at != time.Hour || len(warnings) != 1 || !strings.Contains(warnings[0], "certificate expires") {
			t.Errorf("ended %q at %v, warned %q", ended, at, warnings)
		}
		for _, y := range []*watched{stays, forever} {
			if ended, _, _ := y.seen(); len(ended) > 0 {
				t.Error(ended)
			}
		}
	})
}

func TestOtherLimitsHoldAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, Limits{}, &watched{})
		time.Sleep(time.Hour)
		x.w.Set(limits(2*time.Hour, 0))
		time.Sleep(30 * time.Minute)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Fatal(ended)
		}
		x.w.Set(limits(time.Hour, 0))
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Error("still there")
		}
		x.w.Set(limits(time.Second, 0))
		time.Sleep(time.Minute)
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Error("ended twice")
		}
	})
}

func TestAWatchThatIsStoppedEndsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, limits(time.Second, 0), &watched{})
		x.w.Stop()
		x.w.Set(limits(time.Second, time.Second))
		x.w.Look()
		time.Sleep(time.Minute)
		if ended, _, _ := x.seen(); len(ended) > 0 {
			t.Error(ended)
		}
		(*Watch)(nil).Stop()
	})
}

func TestDurationsReadWell(t *testing.T) {
	for d, want := range map[time.Duration]string{
		15 * time.Minute: "15m", 8 * time.Hour: "8h", 10 * time.Second: "10s", 90 * time.Second: "1m30s", 100 * time.Minute: "1h40m", 20 * time.Minute: "20m",
	} {
		if got := Text(d); got != want {
			t.Errorf("%v: %q, want %q", d, got, want)
		}
	}
}

func BenchmarkMeter(b *testing.B) {
	m := NewMeter()
	for b.Loop() {
		m.In(32 << 10)
	}
}

// The clock goes on between two readings of it, as outside of a test: the end reckoned by both was another at each look, and a terminal was warned of
// it again each second for the whole last minute.
func TestTheEndOfACertificateIsWarnedOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var drift time.Duration
		m, warnings, end := NewMeter(), 0, make(chan struct{})
		w := Start(Config{
			Meter: m, Terminal: func() bool { return true },
			Now:  func() time.Time { drift += 73; return time.Now().Add(drift) },
			Warn: func(string) bool { warnings++; return true },
			End:  func(string) { close(end) },
		}, Limits{SessionLimits: policy.SessionLimits{EndWithCredential: true}, Expires: time.Now().Add(30 * time.Second).Round(0)})
		<-end
		w.Stop()
		if warnings != 1 {
			t.Errorf("warned %d times", warnings)
		}
	})
}

// A terminal is asked for after the channel was opened. Who had less than a minute left by then was never warned.
func TestWhoHasLessThanAMinuteLeftIsWarned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := watch(t, Limits{SessionLimits: policy.SessionLimits{EndWithCredential: true}, Expires: time.Now().Add(10 * time.Second)}, &watched{})
		synctest.Wait()
		x.set(&x.tty, true)
		time.Sleep(5 * time.Second)
		if ended, _, warnings := x.seen(); len(ended) > 0 || len(warnings) != 1 {
			t.Errorf("ended %q, warned %q", ended, warnings)
		}
		time.Sleep(5 * time.Second)
		if ended, _, _ := x.seen(); len(ended) != 1 {
			t.Errorf("ended %q", ended)
		}
	})
}
