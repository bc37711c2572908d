package netwatch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// inNamespace is set in the copy of the test that runs inside a network namespace.
const inNamespace = "HAWSER_TEST_NETWATCH"

// alone reports whether this process is in a namespace of its own; if not it runs the calling test there.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespace) != "" {
		return true
	}
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	ns := fmt.Sprintf("hw-netwatch-%d", os.Getpid())
	ip(t, "netns", "add", ns)
	t.Cleanup(func() { ip(t, "netns", "delete", ns) })
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("in the namespace: %v\n%s", err, out)
	}
	return false
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// within waits for a token.
func within(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(5 * time.Second):
		t.Fatalf("no token: %s", what)
	}
}

// settle swallows the tokens of a change that comes in several messages, and the ones a change to a marker interface brings.
func settle(t *testing.T, ch <-chan struct{}) {
	t.Helper()
	for {
		select {
		case <-ch:
		case <-time.After(300 * time.Millisecond):
			return
		}
	}
}

func TestEachKindOfChangeBringsATokenAndNoiseNone(t *testing.T) {
	if !alone(t) {
		return
	}
	ch := Watch(t.Context(), nil)
	change := func(args ...string) {
		t.Helper()
		settle(t, ch)
		ip(t, args...)
		within(t, ch, strings.Join(args, " "))
	}
	quiet := func(args ...string) {
		t.Helper()
		settle(t, ch)
		ip(t, args...)
		select {
		case <-ch:
			t.Errorf("a token for: %s", strings.Join(args, " "))
		case <-time.After(300 * time.Millisecond):
		}
	}
	quiet("link", "set", "lo", "up")
	quiet("link", "add", "v0", "type", "veth", "peer", "name", "v1")
	ip(t, "link", "set", "v0", "addrgenmode", "none") // else an address of its own appears when it pleases
	ip(t, "link", "set", "v1", "addrgenmode", "none", "up")
	change("link", "set", "v0", "up")
	change("addr", "add", "192.0.2.2/24", "dev", "v0")
	quiet("addr", "change", "192.0.2.2/24", "dev", "v0", "valid_lft", "3600", "preferred_lft", "3600")
	quiet("neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01", "dev", "v0")
	change("route", "add", "default", "via", "192.0.2.1")
	if got := Network(); got != "v0 192.0.2.1 02:00:00:00:00:01" {
		t.Errorf("network %q", got)
	}
	quiet("route", "add", "198.51.100.0/24", "via", "192.0.2.1", "proto", "bird")
	change("route", "add", "203.0.113.0/24", "via", "192.0.2.1")
	change("-6", "addr", "add", "2001:db8::2/64", "dev", "v0", "nodad")
	change("-6", "route", "add", "default", "via", "2001:db8::1")
	change("route", "del", "default")
	if got := Network(); got != "v0 2001:db8::1" {
		t.Errorf("network %q", got)
	}
	change("link", "set", "v1", "down") // carrier
	change("addr", "del", "192.0.2.2/24", "dev", "v0")
	change("link", "del", "v0")
	if got := Network(); got != "" {
		t.Errorf("without a route: network %q", got)
	}
}

func TestAStormOfChangesIsSurvived(t *testing.T) {
	if !alone(t) {
		return
	}
	ip(t, "link", "add", "d0", "type", "veth", "peer", "name", "d1")
	ip(t, "link", "set", "d0", "up")
	ch := Watch(t.Context(), nil)
	var batch strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&batch, "addr add 10.%d.%d.1/24 dev d0\n", i>>8, i&255)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(batch.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	within(t, ch, "the storm")
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &before)
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); {
		settle(t, ch)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &after)
	if used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()); used > 500*time.Millisecond {
		t.Errorf("%s of CPU after the storm", used)
	}
	ip(t, "link", "set", "d0", "down")
	within(t, ch, "a change after the storm")
}

// script is a socket whose reads are written down.
type script struct {
	reads []error // nil: the same message of an address each time
	n     int
	done  <-chan struct{}
}

func (s *script) Read(b []byte) (int, error) {
	if s.n == len(s.reads) {
		<-s.done
		return 0, os.ErrDeadlineExceeded
	}
	s.n++
	time.Sleep(time.Millisecond)
	if err := s.reads[s.n-1]; err != nil {
		return 0, &os.PathError{Op: "read", Path: "netlink", Err: err}
	}
	return copy(b, addrMessage(syscall.RTM_NEWADDR, 7, netip.MustParseAddr("192.0.2.1"))), nil
}

// A machine that was too slow for the kernel must neither miss that something changed, nor spin, nor take what it missed for old news.
func TestAnOverrunIsAChangeAndNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := &script{reads: []error{nil, syscall.EINTR, nil, syscall.ENOBUFS, syscall.ENOBUFS, nil}, done: ctx.Done()}
		var tokens []time.Duration
		ch := make(chan struct{})
		go func() {
			defer close(ch)
			if err := watch(ctx, s, empty(), ch); err != nil {
				t.Error(err)
			}
		}()
		start := time.Now()
		time.AfterFunc(time.Minute, cancel)
		for range ch {
			tokens = append(tokens, time.Since(start))
		}
		// The address once; each overrun after its pause; the address anew.
		const read = time.Millisecond
		want := []time.Duration{read, 4*read + overrunPause, 5*read + 2*overrunPause, 6*read + 2*overrunPause}
		if !slices.Equal(tokens, want) {
			t.Errorf("tokens at %v, want %v", tokens, want)
		}
	})
}

func TestASocketThatFailsIsReportedAndLeft(t *testing.T) {
	if err := watch(t.Context(), &script{reads: []error{syscall.EBADF}}, empty(), nil); !errors.Is(err, syscall.EBADF) {
		t.Errorf("%v", err)
	}
}

func TestTheChannelClosesWithItsContext(t *testing.T) {
	ch := Watch(t.Context(), nil)
	t.Cleanup(func() { // after the test's context is over
		for range ch {
		}
	})
}

// message is a netlink message of the kernel's.
func message(kind uint16, body ...[]byte) []byte {
	b := make([]byte, syscall.NLMSG_HDRLEN)
	for _, p := range body {
		b = append(b, p...)
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], kind)
	return b
}

func linkMessage(kind uint16, index, flags uint32) []byte {
	b := make([]byte, syscall.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], flags)
	return message(kind, b)
}

func addrMessage(kind uint16, index uint32, ip netip.Addr) []byte {
	b := make([]byte, syscall.SizeofIfAddrmsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	a := binary.NativeEndian.AppendUint16(nil, uint16(syscall.SizeofRtAttr+len(ip.AsSlice())))
	a = binary.NativeEndian.AppendUint16(a, syscall.IFA_ADDRESS)
	return message(kind, b, a, ip.AsSlice())
}

func empty() *seen {
	s := blank()
	s.blank = false
	return s
}

func TestTheSameThingAgainIsNoNews(t *testing.T) {
	s := empty()
	const up = syscall.IFF_UP | syscall.IFF_RUNNING
	ip := netip.MustParseAddr("2001:db8::1")
	for i, step := range []struct {
		b    []byte
		news bool
	}{
		{linkMessage(syscall.RTM_NEWLINK, 7, 0), false},
		{linkMessage(syscall.RTM_NEWLINK, 7, up), true},
		{linkMessage(syscall.RTM_NEWLINK, 7, up|syscall.IFF_PROMISC), false},
		{linkMessage(syscall.RTM_NEWLINK, 7, syscall.IFF_UP), true},
		{linkMessage(syscall.RTM_NEWLINK, 1, up|syscall.IFF_LOOPBACK), false},
		{addrMessage(syscall.RTM_NEWADDR, 7, ip), true},
		{addrMessage(syscall.RTM_NEWADDR, 7, ip), false},
		{addrMessage(syscall.RTM_NEWADDR, 8, ip), true},
		{addrMessage(syscall.RTM_DELADDR, 7, ip), true},
		{addrMessage(syscall.RTM_NEWADDR, 7, ip), true},
		{append(linkMessage(syscall.RTM_NEWLINK, 7, syscall.IFF_UP), addrMessage(syscall.RTM_DELADDR, 7, ip)...), true},
		{linkMessage(syscall.RTM_DELLINK, 7, 0), true},
	} {
		if got := s.change(step.b); got != step.news {
			t.Errorf("step %d: news %v", i, got)
		}
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	s := empty()
	for i := range uint32(4 * maxSeen) {
		s.change(linkMessage(syscall.RTM_NEWLINK, i, syscall.IFF_UP))
		s.change(addrMessage(syscall.RTM_NEWADDR, i, netip.MustParseAddr("192.0.2.1")))
	}
	if len(s.links) > maxSeen || len(s.addrs) > maxSeen {
		t.Errorf("%d links, %d addresses", len(s.links), len(s.addrs))
	}
}

const (
	routeHead = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
	arpHead   = "IP address       HW type     Flags       HW address            Mask     Device\n"
	loop6     = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n"
)

// hexAddr is an IPv4 address as /proc/net/route has it on this machine.
func hexAddr(s string) string {
	b := netip.MustParseAddr(s).As4()
	return fmt.Sprintf("%08X", binary.NativeEndian.Uint32(b[:]))
}

func TestTheNetworkIsItsBestDefaultRoute(t *testing.T) {
	line := func(dev, dst, gw string, flags, metric int, mask string) string {
		return fmt.Sprintf("%s\t%s\t%s\t%04X\t0\t0\t%d\t%s\t0\t0\t0\n", dev, hexAddr(dst), hexAddr(gw), flags, metric, hexAddr(mask))
	}
	arp := arpHead + "192.168.1.1      0x1         0x2         9c:3d:cf:00:00:01     *        eth0\n" +
		"10.0.0.1         0x1         0x0         00:00:00:00:00:00     *        wlan0\n"
	for _, tt := range []struct{ name, route, route6, want string }{
		{"none", routeHead, loop6, ""},
		{"ethernet", routeHead + line("eth0", "192.168.1.0", "0.0.0.0", 1, 0, "255.255.255.0") + line("eth0", "0.0.0.0", "192.168.1.1", 3, 0, "0.0.0.0"), "",
			"eth0 192.168.1.1 9c:3d:cf:00:00:01"},
		{"the lower metric", line("wlan0", "0.0.0.0", "10.0.0.1", 3, 600, "0.0.0.0") + line("eth0", "0.0.0.0", "192.168.1.1", 3, 100, "0.0.0.0"), "",
			"eth0 192.168.1.1 9c:3d:cf:00:00:01"},
		{"no MAC yet", line("wlan0", "0.0.0.0", "10.0.0.1", 3, 600, "0.0.0.0"), "", "wlan0 10.0.0.1"},
		{"point to point", line("ppp0", "0.0.0.0", "0.0.0.0", 1, 0, "0.0.0.0"), "", "ppp0"},
		{"half of everything is no default", line("tun0", "0.0.0.0", "10.8.0.1", 3, 0, "128.0.0.0"), "", ""},
		{"unreachable", line("*", "0.0.0.0", "0.0.0.0", 0x201, 0, "0.0.0.0"), loop6, ""},
		{"IPv6 alone", routeHead, "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe80000000000000000000000000000a 00000400 00000001 00000000 00450003     eth0\n" + loop6,
			"eth0 fe80::a"},
	} {
		if got := network([]byte(tt.route), []byte(arp), []byte(tt.route6)); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAGatewaysMACMakesNoOtherNetwork(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"", "eth0 192.168.1.1", false},
		{"eth0 192.168.1.1", "eth0 192.168.1.1", true},
		{"eth0 192.168.1.1", "eth0 192.168.1.1 9c:3d:cf:00:00:01", true},
		{"eth0 192.168.1.1 9c:3d:cf:00:00:01", "eth0 192.168.1.1 9c:3d:cf:00:00:02", false},
		{"eth0 192.168.1.1", "eth0 192.168.1.10", false},
		{"eth0 192.168.1.1", "eth0 192.168.1.10 9c:3d:cf:00:00:01", false},
		{"ppp0", "ppp0 10.0.0.1", false},
		{"ppp0", "ppp0", true},
	} {
		if Same(tt.a, tt.b) != tt.want || Same(tt.b, tt.a) != tt.want {
			t.Errorf("%q and %q: want %v", tt.a, tt.b, tt.want)
		}
	}
}

func FuzzChange(f *testing.F) {
	ip := netip.MustParseAddr("192.0.2.1")
	f.Add(append(linkMessage(syscall.RTM_NEWLINK, 7, syscall.IFF_UP), addrMessage(syscall.RTM_NEWADDR, 7, ip)...))
	f.Add(message(syscall.RTM_NEWROUTE, make([]byte, syscall.SizeofRtMsg)))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		s := empty()
		s.change(b)
		s.change(b)
		for a := range s.addrs {
			if len(a.ip) != 4 && len(a.ip) != 16 {
				t.Errorf("an address of %d bytes", len(a.ip))
			}
		}
	})
}

func FuzzNetwork(f *testing.F) {
	f.Add([]byte(routeHead+"eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"), []byte(arpHead+"192.168.1.1 0x1 0x2 9c:3d:cf:00:00:01 * eth0\n"), []byte(loop6))
	f.Fuzz(func(t *testing.T, route, arp, route6 []byte) {
		if id := network(route, arp, route6); strings.ContainsAny(id, "\n\t") {
			t.Errorf("%q", id)
		}
	})
}
