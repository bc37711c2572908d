// Package relay moves bytes between two streams. Start from [Both].
package relay

import (
	"io"
	"sync"
)

// Both copies both ways between a and b, passing on each half-close, and closes both when both directions ended. An error in one direction ends both.
func Both(a, b io.ReadWriteCloser) {
	var wg sync.WaitGroup
	one := func(dst, src io.ReadWriteCloser) {
		_, err := io.Copy(dst, src)
		if c, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			a.Close()
			b.Close()
		}
	}
	wg.Go(func() { one(a, b) })
	wg.Go(func() { one(b, a) })
	wg.Wait()
	a.Close()
	b.Close()
}
