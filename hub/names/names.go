// Package names reads what a person types as the SSH user name: which device, which login, or the hub itself.
//
// It is pure and total: every string gives an answer, and no string that is not a well-formed name ever comes back as one, so
// that what it returns in Device and Login may go to logs, paths and policies. DESIGN of the grammar: see Parse.
package names

import "strings"

// Hub is the reserved user name that means the hub itself.
const Hub = "hawser"

// EndToEndPrefix marks a host name that means "the device's own SSH server, end to end".
const EndToEndPrefix = "e2e-"

// MaxLength bounds a user name that is looked at; anything longer is Unknown. Login (64), separator, device (63).
const MaxLength = 128

// maxDevice and maxLogin are in bytes. A Linux login has at most 32; other systems go higher.
const (
	maxDevice = 63
	maxLogin  = 64
)

// Kind says what a name means.
type Kind uint8

// Kinds of a parsed name.
const (
	Unknown Kind = iota // not a name of anything; Device and Login are empty
	OfHub               // the hub itself
	OfDevice
)

// Name is a parsed SSH user name.
type Name struct {
	Kind   Kind
	Device string // set for OfDevice
	Login  string // set if the name carried one
}

// Parse reads the forms `device`, `login=device`, `login+device`, `login@device` and the reserved `hawser`.
// The device is what follows the last separator; no device name contains one.
func Parse(user string) Name {
	if user == Hub {
		return Name{Kind: OfHub}
	}
	if len(user) > MaxLength {
		return Name{}
	}
	device, login := user, ""
	if i := strings.LastIndexAny(user, "=+@"); i >= 0 {
		login, device = user[:i], user[i+1:]
		if !ValidLogin(login) {
			return Name{}
		}
	}
	if !ValidDevice(device) {
		return Name{}
	}
	return Name{Kind: OfDevice, Device: device, Login: login}
}

// Resolve is Parse with the one thing that depends on who asks: a person's own name means the hub where it is no device.
func Resolve(user, own string, isDevice func(string) bool) Name {
	n := Parse(user)
	if own != "" && user == own && (n.Kind != OfDevice || !isDevice(n.Device)) {
		return Name{Kind: OfHub}
	}
	return n
}

// EndToEnd reads the target of a direct-tcpip: DEVICE:22 and e2e-DEVICE:22 name a device's own SSH server. Explicit tells that
// the prefix was there, so that nothing else can be meant.
func EndToEnd(host string, port uint32) (device string, explicit, ok bool) {
	if port != 22 {
		return "", false, false
	}
	device, explicit = strings.CutPrefix(host, EndToEndPrefix)
	if !ValidDevice(device) {
		return "", false, false
	}
	return device, explicit, true
}

// ValidDevice tells whether s is a device name: [a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?, and not reserved.
func ValidDevice(s string) bool {
	if len(s) == 0 || len(s) > maxDevice || !lowerOrDigit(s[0]) || !lowerOrDigit(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !lowerOrDigit(c) && c != '-' && c != '_' {
			return false
		}
	}
	switch s {
	case Hub, "hub", "cluster", "localhost":
		return false
	}
	return !strings.HasPrefix(s, EndToEndPrefix)
}

// ValidLogin tells whether s may be an account's name: letters, digits, `_`, and after the first character `.` and `-`;
// a last `$` as Samba's machine accounts have it.
func ValidLogin(s string) bool {
	if len(s) == 0 || len(s) > maxLogin {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case lowerOrDigit(c), c >= 'A' && c <= 'Z', c == '_':
		case (c == '.' || c == '-') && i > 0:
		case c == '$' && i > 0 && i == len(s)-1:
		default:
			return false
		}
	}
	return true
}

func lowerOrDigit(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
