package netwatch

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// maxTable is how much of a table in /proc/net is read: a border router's has a million lines, and its default routes come first.
const maxTable = 64 << 10

// Network names the network the machine is on: interface and gateway of the best default route, and the gateway's MAC where the neighbour table has it, for
// every second site is 192.168.1.1 on eth0. Empty: there is no default route.
func Network() string { return network(read("route"), read("arp"), read("ipv6_route")) }

// Same tells whether two names may be of one network: the gateway's MAC comes to be known, and is forgotten, while nothing changes.
func Same(a, b string) bool { return a == b || extends(a, b) || extends(b, a) }

// extends tells whether long is short, an interface and its gateway, with the MAC.
func extends(long, short string) bool {
	return strings.Count(short, " ") == 1 && strings.HasPrefix(long, short) && strings.HasPrefix(long[len(short):], " ")
}

func read(name string) []byte {
	f, err := os.Open("/proc/net/" + name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, _ := io.ReadAll(io.LimitReader(f, maxTable))
	return b
}

func network(route, arp, route6 []byte) string {
	if device, gateway, ok := default4(route); ok {
		id := device
		if gateway.IsUnspecified() {
			return id // point to point
		}
		return id + " " + gateway.String() + mac(arp, device, gateway)
	}
	if device, gateway, ok := default6(route6); ok {
		if gateway.IsUnspecified() {
			return device
		}
		return device + " " + gateway.String()
	}
	return ""
}

// Flags of a route (route(8)), and the column of them.
const routeUp, routeReject = 0x1, 0x200

// default4 reads /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask ...; addresses are hexadecimal numbers in the machine's byte order.
func default4(table []byte) (device string, gateway netip.Addr, ok bool) {
	best := uint64(0)
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
			continue
		}
		g, err := strconv.ParseUint(f[2], 16, 32)
		flags, err2 := strconv.ParseUint(f[3], 16, 32)
		metric, err3 := strconv.ParseUint(f[6], 10, 32)
		if err != nil || err2 != nil || err3 != nil || flags&routeUp == 0 || flags&routeReject != 0 || ok && metric >= best {
			continue
		}
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], uint32(g))
		device, gateway, best, ok = f[0], netip.AddrFrom4(b), metric, true
	}
	return device, gateway, ok
}

// default6 reads /proc/net/ipv6_route: destination, prefix length, source, its length, next hop, metric, references, uses, flags, device; all hexadecimal.
func default6(table []byte) (device string, gateway netip.Addr, ok bool) {
	best := uint64(0)
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) < 10 || f[1] != "00" || f[9] == "lo" {
			continue
		}
		g, err := hex.DecodeString(f[4])
		metric, err2 := strconv.ParseUint(f[5], 16, 32)
		flags, err3 := strconv.ParseUint(f[8], 16, 32)
		hop, isAddr := netip.AddrFromSlice(g)
		if err != nil || err2 != nil || err3 != nil || !isAddr || flags&routeUp == 0 || flags&routeReject != 0 || ok && metric >= best {
			continue
		}
		device, gateway, best, ok = f[9], hop, metric, true
	}
	return device, gateway, ok
}

// mac is a space and the gateway's hardware address of /proc/net/arp: IP address, HW type, Flags, HW address, Mask, Device. Empty: not known yet.
func mac(table []byte, device string, gateway netip.Addr) string {
	for line := range bytes.Lines(table) {
		f := strings.Fields(string(line))
		if len(f) >= 6 && f[5] == device && f[0] == gateway.String() && f[3] != "00:00:00:00:00:00" && len(f[3]) <= 64 {
			return " " + f[3]
		}
	}
	return ""
}
