package auth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// argonParams are argon2id's (RFC 9106); a PHC string states those a hash was made with.
type argonParams struct {
	memory uint32 // KiB
	passes uint32
	lanes  uint8
	salt   int // bytes
	key    int // bytes
}

// passwordParams are those of new hashes, RFC 9106's second recommended choice: 64 MiB, 3 passes, 4 lanes, a salt of 128
// and a tag of 256 bits. A hash made with others is made anew at the next login.
var passwordParams = argonParams{memory: 64 << 10, passes: 3, lanes: 4, salt: 16, key: 32}

var (
	errPHC   = errors.New("not an argon2id hash in PHC form")
	errBusy  = errors.New("too many logins at once")
	rawPHC64 = base64.RawStdEncoding.Strict()
)

// newHash returns the PHC string of a password: $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH.
func newHash(password string, p argonParams) string {
	salt := make([]byte, p.salt)
	rand.Read(salt)
	return phc(p, salt, argon2.IDKey([]byte(password), salt, p.passes, p.memory, p.lanes, uint32(p.key)))
}

func phc(p argonParams, salt, tag []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		rawPHC64.EncodeToString(salt), rawPHC64.EncodeToString(tag))
}

// parseHash reads a PHC string. Its numbers are bounded: a damaged record must not take the memory of the machine.
func parseHash(s string) (p argonParams, salt, tag []byte, err error) {
	fields := strings.Split(s, "$")
	if len(s) > 512 || len(fields) != 6 || fields[0] != "" || fields[1] != "argon2id" || fields[2] != "v="+strconv.Itoa(argon2.Version) {
		return p, nil, nil, errPHC
	}
	var n [3]uint64
	params := strings.Split(fields[3], ",")
	if len(params) != len(n) {
		return p, nil, nil, errPHC
	}
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(params[i], name)
		if n[i], err = strconv.ParseUint(digits, 10, 32); !ok || err != nil {
			return p, nil, nil, errPHC
		}
	}
	if n[0] < 8*n[2] || n[0] > 1<<20 || n[1] < 1 || n[1] > 64 || n[2] < 1 || n[2] > 64 {
		return p, nil, nil, errPHC
	}
	salt, err1 := rawPHC64.DecodeString(fields[4])
	tag, err2 := rawPHC64.DecodeString(fields[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(salt) > 64 || len(tag) < 16 || len(tag) > 64 {
		return p, nil, nil, errPHC
	}
	return argonParams{memory: uint32(n[0]), passes: uint32(n[1]), lanes: uint8(n[2]), salt: len(salt), key: len(tag)}, salt, tag, nil
}

// hasher makes and checks hashes, a few at a time: each takes 64 MiB and all of a core or more. Those that wait are
// bounded too; beyond, errBusy is the answer at once.
type hasher struct {
	slots chan struct{}
	queue chan struct{}
	dummy string // what a password is held against where there is none, so that the answer takes as long

	mu sync.Mutex
	of map[string]int // places in the queue by source, so that one does not take all
}

func newHasher() *hasher {
	random := make([]byte, passwordParams.salt+passwordParams.key)
	rand.Read(random)
	return &hasher{
		slots: make(chan struct{}, maxHashes), queue: make(chan struct{}, maxHashes+maxHashQueue),
		of:    make(map[string]int),
		dummy: phc(passwordParams, random[:passwordParams.salt], random[passwordParams.salt:]),
	}
}

func (h *hasher) enter(ctx context.Context, source string) (leave func(), err error) {
	h.mu.Lock()
	if h.of[source] >= maxHashesFrom {
		h.mu.Unlock()
		return nil, errBusy
	}
	select {
	case h.queue <- struct{}{}:
		h.of[source]++
	default:
		err = errBusy
	}
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case h.slots <- struct{}{}:
		return func() { <-h.slots; h.unqueue(source) }, nil
	case <-ctx.Done():
		h.unqueue(source)
		return nil, context.Cause(ctx)
	}
}

func (h *hasher) unqueue(source string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	<-h.queue
	if h.of[source]--; h.of[source] == 0 {
		delete(h.of, source)
	}
}

// make hashes a new password.
func (h *hasher) make(ctx context.Context, source, password string) (string, error) {
	leave, err := h.enter(ctx, source)
	if err != nil {
		return "", err
	}
	defer leave()
	return newHash(password, passwordParams), nil
}

// check tells whether password is that of hash; an empty or damaged hash is nobody's, found out after the same work. old
// is set where the hash was made with other parameters than new ones are.
func (h *hasher) check(ctx context.Context, source, password, hash string) (ok, old bool, err error) {
	leave, err := h.enter(ctx, source)
	if err != nil {
		return false, false, err
	}
	defer leave()
	p, salt, tag, bad := parseHash(hash)
	if bad != nil {
		p, salt, tag, _ = parseHash(h.dummy)
	}
	got := argon2.IDKey([]byte(password), salt, p.passes, p.memory, p.lanes, uint32(p.key))
	ok = subtle.ConstantTimeCompare(got, tag) == 1 && bad == nil
	return ok, ok && p != passwordParams, nil
}

// checkPassword says what is wrong with a new password. Length is what counts (NIST SP 800-63B); no classes of characters are
// asked for.
func checkPassword(password, user, cluster string) error {
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password) || len(password) > maxPassword:
		return fmt.Errorf("the password has more than %d bytes, or is not UTF-8", maxPassword)
	case n < minPassword:
		return fmt.Errorf("the password has %d characters; give %d or more, such as four words", n, minPassword)
	}
	distinct := make(map[rune]bool)
	for _, r := range password {
		distinct[r] = true
	}
	rest := strings.ToLower(password)
	for _, word := range []string{user, cluster, "password", "passwort", "hawser", "1234567890", "123456789", "12345678", "123456", "qwertyuiop", "qwerty", "abcdef", "letmein", "welcome"} {
		rest = strings.ReplaceAll(rest, word, "")
	}
	if len(distinct) < 5 || utf8.RuneCountInString(rest) < 6 {
		return errors.New("the password is one of the first that are guessed; choose words that have nothing to do with your name")
	}
	return nil
}
