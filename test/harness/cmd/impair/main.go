// Command impair delays and loses the packets of a netfilter queue, for kernels without netem:
//
//	iptables-legacy -t mangle -I FORWARD -j NFQUEUE --queue-num 7
//	impair --queue 7 --delay 150ms --loss 0.02
//
// Packets keep their order. It writes "ready" when the queue is bound, and ends on SIGTERM.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/florianl/go-nfqueue/v2"
	"github.com/mdlayher/netlink"
)

func main() {
	queue := flag.Uint("queue", 0, "number of the netfilter queue")
	delay := flag.Duration("delay", 0, "how long each packet is held")
	loss := flag.Float64("loss", 0, "share of packets dropped, 0 to 1")
	flag.Parse()
	if err := run(uint16(*queue), *delay, *loss); err != nil {
		fmt.Fprintln(os.Stderr, "impair:", err)
		os.Exit(1)
	}
}

// held is how many packets may be on their way; the kernel drops what comes beyond.
const held = 16384

func run(queue uint16, delay time.Duration, loss float64) error {
	nf, err := nfqueue.Open(&nfqueue.Config{NfQueue: queue, MaxQueueLen: held, MaxPacketLen: 64, Copymode: nfqueue.NfQnlCopyPacket, WriteTimeout: 50 * time.Millisecond})
	if err != nil {
		return fmt.Errorf("open the queue: %w", err)
	}
	defer nf.Close()
	// A burst beyond the socket's buffer is a lost packet, not the end.
	if err := nf.SetOption(netlink.NoENOBUFS, true); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	type packet struct {
		id  uint32
		due time.Time
	}
	waiting := make(chan packet, held)
	go func() {
		for p := range waiting {
			time.Sleep(time.Until(p.due))
			if err := nf.SetVerdict(p.id, nfqueue.NfAccept); err != nil {
				fmt.Fprintln(os.Stderr, "impair: verdict:", err)
			}
		}
	}()
	take := func(a nfqueue.Attribute) int {
		if a.PacketID == nil {
			return 0
		}
		if rand.Float64() < loss {
			_ = nf.SetVerdict(*a.PacketID, nfqueue.NfDrop)
			return 0
		}
		waiting <- packet{*a.PacketID, time.Now().Add(delay)}
		return 0
	}
	failed := func(err error) int {
		if ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "impair: receive:", err)
		}
		return 0
	}
	if err := nf.RegisterWithErrorFunc(ctx, take, failed); err != nil {
		return fmt.Errorf("bind queue %d: %w", queue, err)
	}
	fmt.Println("ready")
	<-ctx.Done()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
