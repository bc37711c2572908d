package proxyproto

import (
	"bytes"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

func pair(src, dst string) Header {
	return Header{Source: netip.MustParseAddrPort(src), Destination: netip.MustParseAddrPort(dst)}
}

func TestHeadersComeBackAsTheyWere(t *testing.T) {
	for _, h := range []Header{
		pair("192.0.2.7:40000", "198.51.100.1:443"),
		pair("[2001:db8::7]:1", "[2001:db8::1]:65535"),
		{Local: true},
	} {
		b := append(h.Append(nil), "next"...)
		got, n, err := Parse(b)
		if err != nil || got != h || string(b[n:]) != "next" {
			t.Errorf("Parse = %+v, %d, %v; want %+v", got, n, err, h)
		}
		r := bytes.NewReader(b)
		if got, err := Read(r); err != nil || got != h || r.Len() != len("next") {
			t.Errorf("Read = %+v, %v and left %d bytes; want %+v and 4", got, err, r.Len(), h)
		}
	}
}

func TestAMappedAddressIsThatOfItsIPv4(t *testing.T) {
	h := Header{Source: netip.MustParseAddrPort("[::ffff:192.0.2.7]:9"), Destination: netip.MustParseAddrPort("[2001:db8::1]:22")}
	got, _, err := Parse(h.Append(nil))
	if err != nil || got.Source != netip.MustParseAddrPort("192.0.2.7:9") {
		t.Errorf("Parse = %+v, %v; a lock on 192.0.2.0/24 would miss it", got, err)
	}
}

func TestWhatIsNoHeaderIsRefused(t *testing.T) {
	good := string(pair("192.0.2.7:40000", "198.51.100.1:443").Append(nil))
	set := func(i int, c byte) string { return good[:i] + string([]byte{c}) + good[i+1:] }
	for name, c := range map[string]struct {
		in   string
		want error
	}{
		"version 1":            {"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", ErrNoHeader},
		"SSH":                  {"SSH-2.0-OpenSSH_10.0\r\n", ErrNoHeader},
		"TLS":                  {"\x16\x03\x01\x02\x00", ErrNoHeader},
		"half":                 {good[:20], ErrShort},
		"nothing":              {"", ErrShort},
		"version 3":            {set(12, 0x31), ErrHeader},
		"unknown command":      {set(12, 0x22), ErrHeader},
		"UDP":                  {set(13, 0x12), ErrHeader},
		"unix":                 {set(13, 0x31), ErrHeader},
		"IPv6 in IPv4's size":  {set(13, 0x21), ErrHeader},
		"too long":             {set(14, 0xff), ErrHeader},
		"nobody's address":     {string(Header{Source: netip.MustParseAddrPort("0.0.0.0:1")}.Append(nil)), ErrHeader},
		"multicast":            {string(pair("224.0.0.1:1", "198.51.100.1:443").Append(nil)), ErrHeader},
		"no source":            {string(Header{}.Append(nil)), ErrHeader},
		"IPv4 of eleven bytes": {good[:15] + "\x0b" + good[16:], ErrHeader},
	} {
		if h, _, err := Parse([]byte(c.in)); !errors.Is(err, c.want) {
			t.Errorf("%s: Parse = %+v, %v; want %v", name, h, err, c.want)
		}
	}
}

func TestWhatAProxyAddsIsSkipped(t *testing.T) {
	h := pair("192.0.2.7:40000", "198.51.100.1:443")
	b := h.Append(nil)
	b[15] += 3 + 4
	b = append(b, 0x04, 0, 4, 1, 2, 3, 4) // PP2_TYPE_NOOP
	if got, n, err := Parse(append(b, 'x')); err != nil || got != h || n != len(b) {
		t.Errorf("Parse = %+v, %d, %v", got, n, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(pair("192.0.2.7:40000", "198.51.100.1:443").Append(nil))
	f.Add(pair("[2001:db8::7]:1", "[2001:db8::1]:2").Append([]byte{}))
	f.Add(Header{Local: true}.Append(nil))
	f.Add([]byte(signature + "\x21\x11\x00\x0c" + strings.Repeat("x", 12)))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		r := bytes.NewReader(b)
		rh, rerr := Read(r)
		if (err == nil) != (rerr == nil) {
			t.Fatalf("Parse says %v, Read %v", err, rerr)
		}
		if err != nil {
			return
		}
		if h != rh || len(b)-r.Len() != n || n > MaxHeader {
			t.Fatalf("Parse took %d bytes for %+v, Read %d for %+v", n, h, len(b)-r.Len(), rh)
		}
		if again, _, err := Parse(h.Append(nil)); err != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}
