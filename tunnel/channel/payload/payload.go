// Package payload encodes and decodes the payloads of SSH requests and channel opens: RFC 4254 and PROTOCOL of OpenSSH. It is the one
// checked decoder for what a person's client sends, used by hub and edge alike.
//
// Each type has a Marshal method and a Parse function. A Parse function refuses a payload that is too short, too long, has a string past
// its limit or bytes behind its last field, with an error wrapping ErrMalformed; what it returns shares no memory with its input.
// Strings may hold any bytes, control characters too; only where a field goes to the operating system as a name or a path is a NUL refused.
package payload

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ErrMalformed is wrapped by all errors of this package.
var ErrMalformed = errors.New("malformed request payload")

// Limits of fields: bytes.
const (
	// MaxCommand is the longest command, what fits an SSH packet of OpenSSH.
	MaxCommand = 256 << 10
	maxTerm    = 256     // terminfo names are short
	maxModes   = 4 << 10 // about 60 modes of 5 bytes
	maxEnvName = 1 << 10
	maxEnv     = 32 << 10
	maxName    = 64 // RFC 4251, section 6
	maxText    = 8 << 10
	maxHost    = 1025 // NI_MAXHOST
	maxCookie  = 256  // hexadecimal; MIT-MAGIC-COOKIE-1 has 32
	maxPath    = 4096 // PATH_MAX; sun_path is shorter, which its user checks
	maxPort    = 65535
)

// reader takes the fields off a payload; the first error stays.
type reader struct {
	what string
	b    []byte
	err  error
}

func (r *reader) fail(format string, a ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s: %s", ErrMalformed, r.what, fmt.Sprintf(format, a...))
	}
}

func (r *reader) take(field string, n uint32) []byte {
	if r.err != nil {
		return nil
	}
	if uint64(n) > uint64(len(r.b)) {
		r.fail("%s: cut short", field)
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u32(field string) uint32 {
	b := r.take(field, 4)
	if b == nil {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func (r *reader) bool(field string) bool {
	b := r.take(field, 1)
	return b != nil && b[0] != 0 // RFC 4251, section 5: all other than 0 is true
}

func (r *reader) str(field string, limit int) string {
	n := r.u32(field)
	if r.err == nil && n > uint32(limit) {
		r.fail("%s: %d bytes, at most %d", field, n, limit)
	}
	return string(r.take(field, n))
}

// name is a string that reaches the operating system.
func (r *reader) name(field string, limit int) string {
	s := r.str(field, limit)
	if strings.IndexByte(s, 0) >= 0 {
		r.fail("%s: NUL byte", field)
	}
	return s
}

func (r *reader) port(field string) uint32 {
	p := r.u32(field)
	if p > maxPort {
		r.fail("%s: %d", field, p)
	}
	return p
}

func (r *reader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("%d bytes left over", len(r.b))
	}
	return r.err
}

// result returns v, or the zero value with the error.
func result[T any](r *reader, v T) (T, error) {
	if err := r.end(); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

func u32(b []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(b, v) }

func str(b []byte, s string) []byte { return append(u32(b, uint32(len(s))), s...) }

func boolean(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}
