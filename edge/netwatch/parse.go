package netwatch

import (
	"encoding/binary"
	"syscall"
)

// maxSeen bounds how many interfaces, and how many addresses, are remembered. A machine with more gets a token for each refresh of the rest.
const maxSeen = 256

// seen is what the messages so far said of interfaces and addresses: the kernel repeats itself, and only news counts.
type seen struct {
	links map[int32]uint32
	addrs map[address]struct{}
	blank bool // it did not begin with what is there
}

type address struct {
	index int32
	ip    string // 4 or 16 bytes
}

// newSeen begins with what is there now, as far as the kernel tells.
func newSeen() *seen {
	s := blank()
	s.blank = false
	for _, what := range []int{syscall.RTM_GETLINK, syscall.RTM_GETADDR} {
		if b, err := syscall.NetlinkRIB(what, syscall.AF_UNSPEC); err == nil {
			s.change(b)
		}
	}
	return s
}

// blank knows nothing, so that everything is news.
func blank() *seen {
	return &seen{links: map[int32]uint32{}, addrs: map[address]struct{}{}, blank: true}
}

// change takes what one read returned, whole netlink messages, and reports whether any of them is news. What is malformed ends the
// reading: it comes from the kernel, so it is of a version we do not know.
func (s *seen) change(b []byte) bool {
	news := false
	for len(b) >= syscall.NLMSG_HDRLEN {
		n := binary.NativeEndian.Uint32(b)
		if n < syscall.NLMSG_HDRLEN || uint64(n) > uint64(len(b)) {
			break
		}
		if s.one(binary.NativeEndian.Uint16(b[4:]), b[syscall.NLMSG_HDRLEN:n]) {
			news = true
		}
		b = b[min(int(n+3)&^3, len(b)):]
	}
	return news
}

func (s *seen) one(kind uint16, b []byte) bool {
	switch kind {
	case syscall.RTM_NEWLINK, syscall.RTM_DELLINK:
		return s.link(kind, b)
	case syscall.RTM_NEWADDR, syscall.RTM_DELADDR:
		return s.addr(kind, b)
	case syscall.RTM_NEWROUTE, syscall.RTM_DELROUTE:
		return route(b)
	}
	return false
}

// link reads a struct ifinfomsg. Wireless drivers and bridges send one for every scan and every statistic: only up, running and carrier count.
func (s *seen) link(kind uint16, b []byte) bool {
	if len(b) < syscall.SizeofIfInfomsg || b[0] != syscall.AF_UNSPEC {
		return false
	}
	const lowerUp = 1 << 16 // IFF_LOWER_UP: carrier
	index, flags := int32(binary.NativeEndian.Uint32(b[4:])), binary.NativeEndian.Uint32(b[8:])
	if flags&syscall.IFF_LOOPBACK != 0 {
		return false
	}
	flags &= syscall.IFF_UP | syscall.IFF_RUNNING | lowerUp
	old, known := s.links[index]
	if kind == syscall.RTM_DELLINK {
		delete(s.links, index)
		return !known || old != 0
	}
	if known && old == flags {
		return false
	}
	if known || len(s.links) < maxSeen {
		s.links[index] = flags
	}
	return known || flags != 0 || s.blank // a new interface that is still down is no news
}

// addr reads a struct ifaddrmsg. The kernel sends one whenever a router advertisement prolongs an address.
func (s *seen) addr(kind uint16, b []byte) bool {
	if len(b) < syscall.SizeofIfAddrmsg || b[3] == syscall.RT_SCOPE_HOST {
		return false
	}
	a := address{index: int32(binary.NativeEndian.Uint32(b[4:]))}
	for b = b[syscall.SizeofIfAddrmsg:]; len(b) >= syscall.SizeofRtAttr; {
		n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < syscall.SizeofRtAttr || n > len(b) {
			break
		}
		// On a point-to-point link IFA_ADDRESS is the peer's and IFA_LOCAL ours; IPv6 has no IFA_LOCAL.
		if kind == syscall.IFA_LOCAL || kind == syscall.IFA_ADDRESS && a.ip == "" {
			a.ip = string(b[syscall.SizeofRtAttr:n])
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	if len(a.ip) != 4 && len(a.ip) != 16 {
		return false
	}
	_, known := s.addrs[a]
	if kind == syscall.RTM_DELADDR {
		delete(s.addrs, a)
		return true
	}
	if !known && len(s.addrs) < maxSeen {
		s.addrs[a] = struct{}{}
	}
	return !known
}

// route reads a struct rtmsg. Default routes count; others only when no routing daemon set them: a mesh router changes its table all day.
func route(b []byte) bool {
	if len(b) < syscall.SizeofRtMsg {
		return false
	}
	bits, table, protocol, kind, flags := b[1], b[4], b[5], b[7], binary.NativeEndian.Uint32(b[8:])
	if table == syscall.RT_TABLE_LOCAL || flags&syscall.RTM_F_CLONED != 0 || kind == syscall.RTN_MULTICAST || kind == syscall.RTN_BROADCAST {
		return false
	}
	const ra, dhcp = 9, 16 // RTPROT_RA, RTPROT_DHCP
	return bits <= 1 /* 0/1 and 128/1 are a VPN's default */ || protocol <= syscall.RTPROT_STATIC || protocol == ra || protocol == dhcp
}
