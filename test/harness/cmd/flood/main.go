// Command flood sends garbage datagrams to an address at a steady rate: random bytes, half of them with the look of a QUIC packet.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

func main() {
	rate := flag.Int("rate", 20000, "datagrams a second")
	last := flag.Duration("for", 5*time.Second, "how long")
	flag.Parse()
	if err := run(flag.Arg(0), *rate, *last); err != nil {
		fmt.Fprintln(os.Stderr, "flood:", err)
		os.Exit(1)
	}
}

func run(addr string, rate int, last time.Duration) error {
	c, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	const perTick = 100 // datagrams between two looks at the clock
	source := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 1400)
	start := time.Now()
	sent := 0
	for time.Since(start) < last {
		for range perTick {
			p := b[:1+source.IntN(len(b)-1)]
			for i := 0; i < len(p); i += 8 {
				v := source.Uint64()
				for j := i; j < min(i+8, len(p)); j++ {
					p[j] = byte(v)
					v >>= 8
				}
			}
			if len(p) > 5 {
				switch source.IntN(4) {
				case 0: // a short header
					p[0] = p[0]&0x3f | 0x40
				case 1: // a long header of version 1
					p[0] |= 0xc0
					copy(p[1:], []byte{0, 0, 0, 1})
				}
			}
			// A refusal (ICMP) is for this sender's next call: not of interest.
			_, _ = c.Write(p)
			sent++
		}
		time.Sleep(time.Until(start.Add(time.Duration(sent) * time.Second / time.Duration(rate))))
	}
	fmt.Println(sent)
	return nil
}
