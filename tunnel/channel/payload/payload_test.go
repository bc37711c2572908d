package payload

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

type marshaler interface{ Marshal() []byte }

// cases holds each payload once, with its parser.
var cases = []struct {
	name  string
	value marshaler
	parse func([]byte) (marshaler, error)
}{
	{"pty-req", PtyRequest{"xterm", 80, 24, 640, 480, "\x00"}, wrap(ParsePtyRequest)},
	{"window-change", WindowChange{1, 2, 3, 4}, wrap(ParseWindowChange)},
	{"env", Env{"LANG", "C\x1b"}, wrap(ParseEnv)},
	{"exec", Exec{"exit 7"}, wrap(ParseExec)},
	{"subsystem", Subsystem{"sftp"}, wrap(ParseSubsystem)},
	{"signal", Signal{"TERM"}, wrap(ParseSignal)},
	{"break", Break{500}, wrap(ParseBreak)},
	{"exit-status", ExitStatus{255}, wrap(ParseExitStatus)},
	{"exit-signal", ExitSignal{"KILL", true, "gone", "en"}, wrap(ParseExitSignal)},
	{"direct-tcpip", DirectTCPIP{"h", 22, "::1", 65535}, wrap(ParseDirectTCPIP)},
	{"forwarded-tcpip", ForwardedTCPIP{"h", 22, "o", 1}, wrap(ParseForwardedTCPIP)},
	{"tcpip-forward", TCPIPForward{"", 0}, wrap(ParseTCPIPForward)},
	{"direct-streamlocal", DirectStreamlocal{"/run/x", "", 0}, wrap(ParseDirectStreamlocal)},
	{"forwarded-streamlocal", ForwardedStreamlocal{"/run/x", ""}, wrap(ParseForwardedStreamlocal)},
	{"streamlocal-forward", StreamlocalForward{"/run/x"}, wrap(ParseStreamlocalForward)},
	{"accept", Accept{1 << 40, "forwarded-tcpip", "o", 1, "c", 2}, wrap(ParseAccept)},
	{"guest", Guest{GuestTyped, 3, "bob", "peer", "hub h1", "ls\r", 0}, wrap(ParseGuest)},
	{"bound", Bound{8080}, wrap(ParseBound)},
	{"x11-req", X11Request{true, "MIT-MAGIC-COOKIE-1", "00ff", 1}, wrap(ParseX11Request)},
	{"x11", X11Open{"127.0.0.1", 40000}, wrap(ParseX11Open)},
}

func wrap[T marshaler](f func([]byte) (T, error)) func([]byte) (marshaler, error) {
	return func(b []byte) (marshaler, error) { return f(b) }
}

func TestRoundTripAndStrictness(t *testing.T) {
	for _, c := range cases {
		b := c.value.Marshal()
		got, err := c.parse(b)
		if err != nil || !reflect.DeepEqual(got, c.value) {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
		if _, err := c.parse(append(bytes.Clone(b), 0)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s with a byte more: %v", c.name, err)
		}
		for i := range b {
			if v, err := c.parse(b[:i]); !errors.Is(err, ErrMalformed) || !reflect.ValueOf(v).IsZero() {
				t.Errorf("%s cut to %d: %+v, %v", c.name, i, v, err)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	for name, f := range map[string]func() error{
		"length 0xFFFFFFFF": func() error { _, err := ParseExec([]byte{255, 255, 255, 255, 'x'}); return err },
		"port 65536":        func() error { _, err := ParseTCPIPForward(TCPIPForward{"", 65536}.Marshal()); return err },
		"NUL in a command":  func() error { _, err := ParseExec(Exec{"a\x00b"}.Marshal()); return err },
		"a line in a cookie": func() error {
			_, err := ParseX11Request(X11Request{Protocol: "MIT-MAGIC-COOKIE-1", Cookie: "00\nadd"}.Marshal())
			return err
		},
		"NUL in a path": func() error { _, err := ParseStreamlocalForward(StreamlocalForward{"/\x00"}.Marshal()); return err },
		"long term": func() error {
			_, err := ParsePtyRequest(PtyRequest{Term: strings.Repeat("x", maxTerm+1)}.Marshal())
			return err
		},
	} {
		if err := f(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What parses, and is marshalled again, is the input: there is one encoding of everything but booleans.
func FuzzParse(f *testing.F) {
	for i, c := range cases {
		f.Add(uint8(i), c.value.Marshal())
	}
	f.Add(uint8(3), []byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, i uint8, b []byte) {
		c := cases[int(i)%len(cases)]
		v, err := c.parse(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("error %v does not wrap ErrMalformed", err)
			}
			return
		}
		again, err := c.parse(v.Marshal())
		if err != nil || !reflect.DeepEqual(again, v) {
			t.Errorf("%+v became %+v, %v", v, again, err)
		}
	})
}
