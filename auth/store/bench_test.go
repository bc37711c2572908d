package store

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// What group commit buys: the same transactions by one writer, each waiting for its own sync, and by many that share one.
func BenchmarkCommit(b *testing.B) {
	for _, writers := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			s, err := OpenState(b.TempDir(), Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			value := make([]byte, 256)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range writers {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						if _, err := s.Txn(context.Background(), nil, []Op{Put(fmt.Sprintf("k/%d", i%10_000), value)}); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "txn/s")
		})
	}
}

// How long a service waits at its start, by the number of records.
func BenchmarkOpen(b *testing.B) {
	for _, records := range []int{1000, 50_000} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) {
			dir := b.TempDir() + "/state"
			left := records
			err := RestoreState(dir, Options{}, 1000, func() (KV, bool, error) {
				left--
				return KV{Key: fmt.Sprintf("device/%08d", left), Value: make([]byte, 2000)}, left >= 0, nil
			})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				s, err := OpenState(dir, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
