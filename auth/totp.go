package auth

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base32"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/pquerna/otp"
	"github.com/pquerna/otp/hotp"

	"hawser/auth/ca"
)

// RFC 6238 with what every authenticator can do: HMAC-SHA-1, 6 digits, 30 seconds; one step either way is accepted.
const (
	totpPeriod  = 30
	totpSkew    = 1
	totpSecret  = 20 // bytes
	totpContext = "totp "
)

var totpOptions = hotp.ValidateOpts{Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}

// newTOTP makes a secret in base32.
func newTOTP() string {
	b := make([]byte, totpSecret)
	rand.Read(b)
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b)
}

// otpauthURL is what an authenticator reads as a QR code.
func otpauthURL(cluster, user, secret string) string {
	q := url.Values{"secret": {secret}, "issuer": {"Hawser " + cluster}, "period": {"30"}, "digits": {"6"}, "algorithm": {"SHA1"}}
	u := url.URL{Scheme: "otpauth", Host: "totp", Path: "/Hawser " + cluster + ":" + user, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}
	return u.String()
}

// matchTOTP returns the time step a code is of, which must be later than last, the step of the last code accepted: each is
// good once. It looks at all steps, so that the answer takes the same time.
func matchTOTP(secret, code string, last uint64, now time.Time) (step uint64, ok bool) {
	current := uint64(max(0, now.Unix())) / totpPeriod
	code = strings.Map(func(r rune) rune {
		if r == ' ' || r == '-' {
			return -1
		}
		return r
	}, code[:min(len(code), 16)])
	for try := current - min(current, totpSkew); try <= current+totpSkew; try++ {
		want, err := hotp.GenerateCodeCustom(secret, try, totpOptions)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 && try > last && !ok {
			step, ok = try, true
		}
	}
	return step, ok
}

var errSecret = errors.New("the secret of an authenticator cannot be opened: it was sealed under another key; give the user a new one with `hawser user reset NAME`")

// sealTOTP seals a secret for one user; moved to another's record it does not open.
func (s *Server) sealTOTP(user, secret string) []byte {
	return ca.Seal(s.set.SecretKey(), []byte(totpContext+user+" "+secret))
}

func (s *Server) openTOTP(user string, sealed []byte) (string, error) {
	plain, err := ca.Open(s.set.SecretKey(), sealed)
	if err != nil {
		return "", errSecret
	}
	secret, ok := strings.CutPrefix(string(plain), totpContext+user+" ")
	if !ok {
		return "", errSecret
	}
	return secret, nil
}
