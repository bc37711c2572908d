package ca

import "errors"

// Errors of the Verify functions. One certificate may be wrong in several ways; the first in the order of the
// function's doc is returned. None carries text of the peer's, so each may be logged as it is.
var (
	ErrNoCertificate  = errors.New("no certificate")
	ErrMalformed      = errors.New("certificate lacks or garbles what Hawser puts into it")
	ErrUnknownCA      = errors.New("certificate is signed by an unknown CA")
	ErrWrongCA        = errors.New("certificate is signed by a CA of this cluster that does not sign such certificates")
	ErrNested         = errors.New("certificate is signed by something that is no CA, or holds a certificate for a key")
	ErrBadSignature   = errors.New("certificate signature does not verify")
	ErrWrongType      = errors.New("host certificate in place of a user certificate, or the reverse")
	ErrWrongRole      = errors.New("certificate is for another role")
	ErrWrongCluster   = errors.New("certificate is for another cluster")
	ErrNoPrincipals   = errors.New("certificate names no principal")
	ErrWrongPrincipal = errors.New("certificate is for another principal")
	ErrNotYetValid    = errors.New("certificate is not valid yet")
	ErrExpired        = errors.New("certificate has expired")
	ErrCAExpired      = errors.New("CA certificate has expired")
	ErrCriticalOption = errors.New("certificate has an unknown critical option")
	ErrSourceAddress  = errors.New("certificate may not be used from this address")
	ErrKeyType        = errors.New("key is of a kind that is not accepted")
	ErrKeySize        = errors.New("RSA key is below 2048 or above 4096 bits")
)

// Errors of the decoders of signed and sealed blobs.
var (
	ErrBadTrust  = errors.New("malformed trust bundle")
	ErrUnpinned  = errors.New("trust bundle or chain has no tunnel CA that matches the pin")
	ErrOldTrust  = errors.New("trust bundle is older than the one in force")
	ErrTrustSign = errors.New("trust bundle is not signed by the pinned tunnel CA")
	ErrBadTime   = errors.New("malformed signed time")
	ErrTimeSign  = errors.New("time is not signed by a trusted time key")
	ErrBadSet    = errors.New("malformed set of authorities")
	ErrSealed    = errors.New("sealed blob is damaged or the key is wrong")
)

// Errors of names, which issuers and verifiers share.
var (
	ErrBadName = errors.New("name is not allowed")
	ErrBadUUID = errors.New("not a UUID")
)

// reasons are the words for each fault of a certificate in the audit log. They never change.
var reasons = []struct {
	err  error
	word string
}{
	{ErrNoCertificate, "no-certificate"}, {ErrMalformed, "malformed"}, {ErrUnknownCA, "unknown-ca"}, {ErrWrongCA, "wrong-ca"}, {ErrNested, "nested"},
	{ErrBadSignature, "bad-signature"}, {ErrWrongType, "wrong-type"}, {ErrWrongRole, "wrong-role"}, {ErrWrongCluster, "wrong-cluster"},
	{ErrNoPrincipals, "no-principals"}, {ErrWrongPrincipal, "wrong-principal"}, {ErrNotYetValid, "not-yet-valid"}, {ErrExpired, "expired"},
	{ErrCAExpired, "ca-expired"}, {ErrCriticalOption, "critical-option"}, {ErrSourceAddress, "source-address"}, {ErrKeyType, "key-type"},
	{ErrKeySize, "key-size"}, {ErrBadUUID, "malformed"}, {ErrBadName, "malformed"},
}

// Reason is the word for a fault of a certificate, empty where err is none of a Verify function.
func Reason(err error) string {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.word
		}
	}
	return ""
}
