// Package relay moves bytes between two streams. Start from [Both].
package relay

import (
	"io"
	"sync"
)

// Both copies both ways between a and b, passing on each half-close, and closes both when both directions ended. An error in one direction ends both.
// It returns how many bytes came from each.
func Both(a, b io.ReadWriteCloser) (fromA, fromB int64) {
	var wg sync.WaitGroup
	one := func(dst, src io.ReadWriteCloser) int64 {
		n, err := io.Copy(dst, src)
		if c, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
			err = c.CloseWrite()
		}
		if err != nil {
			a.Close()
			b.Close()
		}
		return n
	}
	wg.Go(func() { fromB = one(a, b) })
	wg.Go(func() { fromA = one(b, a) })
	wg.Wait()
	a.Close()
	b.Close()
	return fromA, fromB
}
