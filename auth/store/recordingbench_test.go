package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ingest has sessions that each append chunks one after another, as hubs do, and reports the rate over all.
func ingest(b *testing.B, sessions, size int, put func(session int, seq uint64, chunk []byte) error) {
	chunk := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(chunk) // as compressed as a chunk is
	var n atomic.Int64
	var wg sync.WaitGroup
	b.SetBytes(int64(size))
	b.ResetTimer()
	for s := range sessions {
		wg.Go(func() {
			c := append([]byte(nil), chunk...)
			for seq := uint64(0); n.Add(1) <= int64(b.N); seq++ {
				binary.BigEndian.PutUint64(c, seq)
				if err := put(s, seq, c); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// What it costs to keep chunks in Badger, beside plain files on the same disk with one fdatasync a chunk: each is on the disk when it is
// acknowledged. The sizes are those of a terminal's chunks and of a copy's.
func BenchmarkChunkIngest(b *testing.B) {
	for _, sessions := range []int{1, 16, 100} {
		for _, size := range []int{4 << 10, 64 << 10} {
			b.Run(fmt.Sprintf("badger/sessions=%d/chunk=%dKiB", sessions, size>>10), func(b *testing.B) {
				r, err := OpenRecordings(b.TempDir(), Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer r.Close()
				id := func(s int) (id [16]byte) {
					binary.BigEndian.PutUint32(id[:], uint32(s)*2654435761)
					return id
				}
				for s := range sessions {
					if err := r.PutManifest(context.Background(), Manifest{ID: id(s), Start: time.Now()}); err != nil {
						b.Fatal(err)
					}
				}
				ingest(b, sessions, size, func(s int, seq uint64, chunk []byte) error {
					return r.Append(context.Background(), id(s), seq, chunk)
				})
				b.StopTimer()
				b.ReportMetric(residentMB("RssAnon"), "anon-MB")
			})
			b.Run(fmt.Sprintf("files/sessions=%d/chunk=%dKiB", sessions, size>>10), func(b *testing.B) {
				files := make([]*os.File, sessions)
				for s := range files {
					f, err := os.Create(filepath.Join(b.TempDir(), fmt.Sprint(s)))
					if err != nil {
						b.Fatal(err)
					}
					defer f.Close()
					files[s] = f
				}
				ingest(b, sessions, size, func(s int, _ uint64, chunk []byte) error {
					if _, err := files[s].Write(chunk); err != nil {
						return err
					}
					return unix.Fdatasync(int(files[s].Fd()))
				})
			})
		}
	}
}

// residentMB is a line of /proc/self/status in megabytes.
func residentMB(name string) float64 {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if text, ok := strings.CutPrefix(line, name+":"); ok {
			var kb float64
			_, _ = fmt.Sscan(text, &kb)
			return kb / 1000
		}
	}
	return 0
}

// A machine of 512 MB records a hundred sessions at once: the store takes what its options say, whatever passes through it. The chunks are those of
// busy terminals, each once a second for some minutes, as fast as the disk takes them.
func TestAHundredSessionsFitASmallMachine(t *testing.T) {
	if os.Getenv("HAWSER_LONG") == "" || raceEnabled {
		t.Skip("measures the memory of its process under load; make test-long runs it by itself, without the race detector")
	}
	r, err := OpenRecordings(t.TempDir(), Options{OpenWeeks: minOpenWeeks, Free: plenty})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const sessions, chunks = 100, 300
	chunk := make([]byte, 8<<10)
	rand.NewChaCha8([32]byte{2}).Read(chunk)
	// A year of weeks is there, too.
	for i := range 52 {
		put(t, r, Manifest{ID: [16]byte{0xff, byte(i)}, Start: time.Now().AddDate(0, 0, -7*i)}, "old")
	}
	peak := 0.0
	var wg sync.WaitGroup
	for s := range byte(sessions) {
		wg.Go(func() {
			m := Manifest{ID: [16]byte{s, 1}, Start: time.Now()}
			if err := r.PutManifest(t.Context(), m); err != nil {
				t.Error(err)
			}
			for i := range uint64(chunks) {
				if err := r.Append(t.Context(), m.ID, i, chunk); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-tick.C:
			peak = max(peak, residentMB("RssAnon"))
		}
	}
	t.Logf("%d sessions, %d MB of chunks: at most %.0f MB of anonymous memory, %.0f MB resident with the files' pages, which the kernel takes back", sessions,
		sessions*chunks*len(chunk)>>20, peak, residentMB("VmHWM"))
	if peak > 160 {
		t.Errorf("%.0f MB of anonymous memory", peak)
	}
}
