package hub

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// flood sends garbage to a UDP address at a rate until ctx ends, and returns how many datagrams it sent: random bytes, packets that look
// like QUIC's first, packets that look like those of a connection, and NAT probes under no key.
func flood(ctx context.Context, t *testing.T, to string, perSecond int) (sent int) {
	c, err := net.Dial("udp", to)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer func() { _ = c.Close() }()
	r := rand.NewChaCha8([32]byte{1})
	b := make([]byte, 1252)
	start := time.Now()
	for ctx.Err() == nil {
		due := int(time.Since(start).Seconds() * float64(perSecond))
		if sent >= due {
			time.Sleep(time.Millisecond)
			continue
		}
		for ; sent < due; sent++ {
			_, _ = r.Read(b)
			n := len(b)
			switch sent % 4 {
			case 0:
				n = 1 + int(b[1])
			case 1: // RFC 9000, section 17.2.2: an Initial of version 1 with connection IDs of 8 bytes
				b[0] = 0xc0 | b[0]&3
				binary.BigEndian.PutUint32(b[1:], 1)
				b[5], b[14] = 8, 8
				b[23], b[24], b[25] = 0, 0x44, 0xd0
			case 2:
				b[0] = 0x40 | b[0]&0x3f
				n = 60
			case 3:
				n = copy(b, wire.Probe{Device: testUUID}.Append(nil, &[16]byte{9}))
			}
			_, _ = c.Write(b[:n]) // what the kernel refuses is lost, as on a network
		}
	}
	return sent
}

func TestADeviceRegistersWhileGarbageComes(t *testing.T) {
	if testing.Short() {
		t.Skip("seconds of 20,000 datagrams each")
	}
	period := 4 * time.Second
	if v := os.Getenv("HAWSER_TEST_FLOOD"); v != "" { // as in 30s
		var err error
		if period, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	a, h, key := newCluster(t)
	e := a.edge(t, key, testUUID, time.Hour)
	heapBefore, _ := used()
	ctx, cancel := context.WithTimeout(t.Context(), period)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		const rate = 20_000
		n := flood(ctx, t, h.TunnelAddr().String(), rate)
		t.Logf("%d datagrams of garbage in %v", n, period)
		if os.Getenv("HAWSER_LONG") != "" && n < int(0.8*rate*period.Seconds()) {
			t.Errorf("%d datagrams in %v are no flood of %d a second", n, period, rate)
		}
	})
	time.Sleep(period / 2)
	start := time.Now()
	for i, carrier := range []tunnel.Carrier{tunnel.CarrierTLS, tunnel.CarrierQUIC} {
		c, ch := e.dial(t, h, carrier)
		e.register(t, c, ch, testUUID, uint64(i+1))
		receive[*wire.Ack](t, c)
		took := time.Since(start)
		t.Logf("registered over %s after %v", carrier, took)
		if took > 10*time.Second {
			t.Errorf("%s: it took %v", carrier, took)
		}
		start = time.Now()
	}
	wg.Wait()
	heap, _ := used()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	t.Logf("heap %d kB before, %d kB after; %d kB of the system's", heapBefore>>10, heap>>10, m.Sys>>10)
	if heap > heapBefore+16<<20 {
		t.Errorf("the heap grew by %d kB", (heap-heapBefore)>>10)
	}
}
