package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the vectors anew; what changes in them breaks the protocol")

const vectorFile = "../testdata/messages.txt"

func id(b byte) (a [16]byte) { return [16]byte(bytes.Repeat([]byte{b}, 16)) }

func nonce(b byte) [32]byte { return [32]byte(bytes.Repeat([]byte{b}, 32)) }

// examples has every message with every field set.
func examples() []decodable {
	info := Info{Name: "gw-1", Hostname: "gw-1.lan", AgentVersion: "0.1.0", Arch: "mipsle", OS: "linux",
		Labels: []Label{{"site", "ber"}, {"empty", ""}}, Addresses: []string{"10.0.0.7", "fe80::1"}, UID: 1000,
		Logins: []string{"root", "diag"}, Restart: true, Listen: "0.0.0.0:2222", TunnelOff: true}
	v4, v6 := netip.MustParseAddrPort("203.0.113.9:50123"), netip.MustParseAddrPort("[2001:db8::9]:22")
	open := OpenRequest{Grant: []byte("grant"), ClientAddr: v4, ServerAddr: v6, Target: "127.0.0.1:80",
		Network: NetworkTCP, Parent: id(8), Ticket: 9, RecordingID: id(10), Window: 2 << 20}
	return []decodable{
		&Challenge{Version, UUID(id(1)), "hub-1", "example", Incarnation(id(2)), nonce(3)},
		&Join{[]byte("secret"), "gw-1", "gw-1.lan", []Label{{"site", "ber"}}, []Label{{"mac", "02:00:00:00:00:01"}},
			"arm", "linux", "0.1.0"},
		&Joined{UUID(id(4)), "gw-1", "example", [][]byte{{1}, {2, 3}}, []byte{4}, []byte{5}, []string{"hub:443"}, 1},
		&Refused{CloseToken, "the token is spent", 90 * time.Second, []byte("order")},
		&Register{UUID(id(4)), UUID(id(1)), Incarnation(id(5)), 1, 7, bytes.Repeat([]byte{6}, 64), nonce(7), info},
		&info,
		&Ack{Incarnation(id(2)), 25 * time.Second, 5 * time.Second, 128, v4, 11, 12, []byte("time"), []string{"hub:443"}, id(13)},
		&Policy{[]byte("policy")}, &Locks{3, []byte("locks")}, &Trust{[]byte("trust")}, &Time{[]byte("time")},
		&PolicyHeld{12, 11, 13}, &Renew{1}, &Renewed{[][]byte{{1}}, []byte{2}, []byte{3}, 2},
		&PlaceRequest{1, PlaceSession, id(11), id(12), []byte("cert"), "root", v6, "shell", "id", true, "0b0b0b", "peer"},
		&PlaceReply{1, []byte("grant"), "no", 8, 13 * time.Second, true}, &Release{id(12), -1, "killed"}, &UploadWanted{id(10), []byte("grant")},
		&GoAway{CloseDrain, "upgrade", time.Second, 2 * time.Minute}, &HubList{[]byte("hubs")}, &Kill{id(12), "locked"}, &Tell{id(12), TellOut, "bob", "put out by alice"}, &Denial{netip.MustParseAddrPort("192.0.2.1:4711"), "alice", "root", "expired"}, &ControlWanted{},
		&LogHead{12345, nonce(3), 1800000000, bytes.Repeat([]byte{6}, 64), 12000, bytes.Repeat([]byte{7}, 64)}, &LogWanted{12000, 12345, true, nonce(3), 1790000000, bytes.Repeat([]byte{6}, 64)}, &Forwarded{id(13), []byte("sealed")},
		&HubQuery{UUID(id(1))}, &HubStatus{UUID(id(1)), HubGone, Incarnation(id(2)), 16 * time.Second},
		&History{[]ConnEvent{{EventDNS, 11 * time.Minute, 9 * time.Minute, 14, "hub-1", 1, CloseIdle, "no such host"}, {Kind: EventRegistered}}},
		&PeerHello{1, UUID(id(1)), "hub-1", "example", Incarnation(id(2)), 1 << 60},
		&Announce{UUID(id(4)), Incarnation(id(5)), 1, 7, nonce(3), bytes.Repeat([]byte{6}, 64), 1 << 60, 2,
			time.UnixMilli(1800000000123).UTC(), v4, true, 1000, []string{"root"}},
		&Withdraw{UUID(id(4)), Incarnation(id(5)), 1, 7, CloseIdle, "heartbeats stopped"}, &Announced{}, &PeerOpen{UUID(id(4)), 1},
		&Heartbeat{42, HeartbeatAnswerWanted, 25 * time.Second, false},
		&HeartbeatAnswer{42, v4, time.UnixMilli(1800000000123).UTC(), 55 * time.Second},
		&Attach{KindSession, StreamID(id(8)), 3, 1 << 33, 77, UUID(id(1)), Incarnation(id(2)), true, open.Append(nil)},
		&Attached{StreamDenied, "no such login", 77, 88}, &open,
	}
}

func name(m Message) string { return strings.TrimPrefix(fmt.Sprintf("%T", m), "*wire.") }

func TestVectorsOfEveryMessage(t *testing.T) {
	if *update {
		var b strings.Builder
		b.WriteString("# Every message of PROTOCOL.md with every field set: name, then the bytes in hexadecimal.\n")
		for _, m := range examples() {
			fmt.Fprintf(&b, "%s %x\n", name(m), m.Append(nil))
		}
		if err := os.WriteFile(vectorFile, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := examples()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		what, digits, _ := strings.Cut(lines.Text(), " ")
		b, err := hex.DecodeString(digits)
		if err != nil || len(want) == 0 {
			t.Fatalf("%s: %v, %d messages left", what, err, len(want))
		}
		got, err := Decode(b)
		if err != nil || name(got) != what || !reflect.DeepEqual(got, want[0]) {
			t.Errorf("%s: decoded %+v, %v; want %+v", what, got, err, want[0])
		}
		if again := want[0].Append(nil); !bytes.Equal(again, b) {
			t.Errorf("%s: encoded %x, want %x", what, again, b)
		}
		want = want[1:]
	}
	if len(want) > 0 {
		t.Errorf("%d messages without a vector", len(want))
	}
}

func TestUnknownFieldsAreIgnored(t *testing.T) {
	b := Renew{Counter: 5}.Append(nil)
	b = append(b, 200, 0, 0, 2, 'h', 'i')
	b[5] += 6
	got, err := Decode(b)
	if err != nil || *got.(*Renew) != (Renew{5}) {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := Decode([]byte{0x7f, 0xff, 0, 0, 0, 0}); !errors.Is(err, ErrUnknownType) {
		t.Errorf("unknown type: %v", err)
	}
}

func TestEveryTruncationIsAnError(t *testing.T) {
	for _, m := range examples() {
		b := m.Append(nil)
		for n := range b {
			if _, err := Decode(b[:n]); !errors.Is(err, ErrMalformed) {
				t.Fatalf("%s cut at %d: %v", name(m), n, err)
			}
		}
	}
}

func TestWhatAPeerWouldRefuseIsNotSent(t *testing.T) {
	long := strings.Repeat("x", 8<<10)
	for _, m := range []Message{
		Challenge{HubName: long}, Info{Name: long}, Info{Labels: []Label{{"k", long}}}, Info{Labels: []Label{{"", "v"}}},
		Info{Labels: make([]Label, maxLabels+1)}, Register{Info: Info{Name: long}}, Join{Name: "\xff"},
		Locks{Blob: make([]byte, MaxControl)},
	} {
		if b, err := Encode(m); err == nil {
			t.Errorf("%s: %d bytes and no error", name(m), len(b))
		}
	}
	if _, err := Encode(Kill{Reason: long + "\xff"}); err != nil {
		t.Errorf("words for people are cut and mended: %v", err)
	}
}

func TestRegisterSignatureCoversWhatOrdersRegistrations(t *testing.T) {
	base := Register{UUID: UUID(id(4)), Hub: UUID(id(1)), Incarnation: Incarnation(id(5)), Slot: 1, Counter: 7}
	seen := map[string]bool{string(RegisterTBS(nonce(1), base)): true, string(RegisterTBS(nonce(2), base)): true}
	for _, change := range []func(*Register){
		func(r *Register) { r.UUID[0]++ }, func(r *Register) { r.Hub[0]++ }, func(r *Register) { r.Incarnation[0]++ },
		func(r *Register) { r.Slot = 0 }, func(r *Register) { r.Counter++ },
	} {
		r := base
		change(&r)
		seen[string(RegisterTBS(nonce(1), r))] = true
	}
	if len(seen) != 7 {
		t.Errorf("%d different signed strings, want 7", len(seen))
	}
}

func TestUUIDText(t *testing.T) {
	u := NewUUID()
	got, err := ParseUUID(u.String())
	if err != nil || got != u || u[6]>>4 != 4 || u[8]>>6 != 2 {
		t.Errorf("%s: got %s, %v", u, got, err)
	}
	for _, bad := range []string{"", u.String()[1:], strings.ReplaceAll(u.String(), "-", "x"), u.String() + "0"} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestDeviceNames(t *testing.T) {
	for s, ok := range map[string]bool{
		"gw-17": true, "a": true, "0": true, "a_b": true, strings.Repeat("a", 63): true,
		"": false, strings.Repeat("a", 64): false, "-a": false, "a-": false, "_a": false, "A": false, "a.b": false,
		"hub": false, "localhost": false, "hawser": false, "e2e-a": false, "a\x1b[31m": false, "é": false, "a b": false,
	} {
		if err := CheckDeviceName(s); (err == nil) != ok {
			t.Errorf("%q: %v, want ok %v", s, err, ok)
		} else if err != nil && strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%q: the error drives a terminal", s)
		}
	}
	for in, want := range map[string]string{
		"GW-17.lan": "gw-17", "": "device", "...": "device", "hub": "hub-device", "e2e-e2e-x": "x", "My Box": "my-box",
	} {
		if got := CleanName(in); got != want {
			t.Errorf("CleanName(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzCleanName(f *testing.F) {
	f.Add("e2e--hub")
	f.Add("\x1b]0;x\x07")
	f.Fuzz(func(t *testing.T, s string) {
		if err := CheckDeviceName(CleanName(s)); err != nil {
			t.Errorf("CleanName(%q): %v", s, err)
		}
	})
}

func TestQuoteDrivesNoTerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü": "plain ü", "\x1b[2J": `\x1b[2J`, "a\nb\x7f": `a\x0ab\x7f`, "\u0085\u202e": `\u0085\u202e`,
		"\xff": `\xff`, `"\`: `\"\\`, "\U000e0041": `\U000e0041`,
	} {
		if got := Quote(in, 0); got != want {
			t.Errorf("Quote(%q) = %q, want %q", in, got, want)
		}
	}
	if got := Quote("aü", 2); got != "a…" {
		t.Errorf("cut inside a rune: %q", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range examples() {
		f.Add(m.Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Encode(m)
		if err != nil {
			t.Fatalf("%+v was decoded but cannot be encoded: %v", m, err)
		}
		if m2, err := Decode(again); err != nil || !reflect.DeepEqual(m, m2) {
			t.Errorf("%+v became %+v, %v", m, m2, err)
		}
	})
}
