package screen

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhatCannotBeSaidNowIsSaidWhenItCan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		free := true
		var said []string
		tl := NewTeller(func(text string) bool {
			mu.Lock()
			defer mu.Unlock()
			if free {
				said = append(said, text)
			}
			return free
		})
		become := func(yes bool) {
			mu.Lock()
			defer mu.Unlock()
			free = yes
		}
		want := func(lines ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(said, lines) {
				t.Errorf("said %q, not %q", said, lines)
			}
			said = nil
		}
		tl.Tell("a")
		want("a")
		become(false)
		for i := range maxUntold + 2 {
			tl.Tell(fmt.Sprint(i))
		}
		time.Sleep(time.Hour)
		want()
		become(true)
		time.Sleep(2 * tellAgain)
		want("2", "3", "4", "5", "6", "7", "8", "9")
		become(false)
		tl.Tell("never")
		synctest.Wait()
		tl.Stop()
		become(true)
		tl.Tell("nor this")
		time.Sleep(time.Hour)
		want()
	})
}
