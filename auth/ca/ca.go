// Package ca issues and verifies what Hawser's parts prove themselves with: the certificates of users, devices, hubs and
// auth, the signed bundle of trusted keys, signed time, and join tokens.
//
// Auth starts from NewSet or UnmarshalSet and calls the Set's Issue and Sign methods. Everyone else starts from a Trust
// (OpenTrust, or PinnedTrust for a joiner that has nothing but a token) and calls VerifyPeer, VerifyUserCert,
// VerifyHostCert and OpenTime. All keys of the Set are Ed25519. The package is pure: bytes and times in, values and
// errors out; nothing here reads a file, a socket or a clock. Its values are safe for concurrent use as long as nobody
// changes them.
//
// Issuers set NotBefore back by Backdate (devices: DeviceBackdate); verifiers add no slack. Each way a certificate can be
// wrong is a sentinel error of its own, so that an audit line can name it; see errors.go.
package ca

import "strings"

// Kind names an authority of the Set.
type Kind uint8

// The kinds of authority. Their numbers are stored and must not change.
const (
	UserCA       Kind = 1 // SSH, signs user certificates
	HubHostCA    Kind = 2 // SSH, signs hubs' host certificates
	DeviceHostCA Kind = 3 // SSH, signs devices' host certificates
	TargetCA     Kind = 4 // SSH, signs certificates for servers behind an edge
	TunnelCA     Kind = 5 // X.509, signs the TLS certificates of devices, hubs, auth and users, and the Trust
	GrantKey     Kind = 6 // signs grants and compiled policies
	TimeKey      Kind = 7 // signs time

	kinds = 7
)

var kindNames = [kinds + 1]string{"", "user CA", "hub host CA", "device host CA", "target CA", "tunnel CA", "grant key", "time key"}

func (k Kind) String() string {
	if k < 1 || k > kinds {
		return "unknown authority"
	}
	return kindNames[k]
}

// Role says what an X.509 certificate of the tunnel CA is for.
type Role string

// The roles of TLS peers.
const (
	RoleDevice Role = "device"
	RoleHub    Role = "hub"
	RoleAuth   Role = "auth"
	RoleUser   Role = "user"
)

// UserPrincipal is the only principal of a user's SSH certificate.
func UserPrincipal(name string) string { return userPrincipalPrefix + name }

const userPrincipalPrefix = "hawser:user:"

// Extensions of our SSH certificates (PROTOCOL.certkeys: unknown extensions are ignored by others).
const (
	extRoles    = "roles@hawser"     // comma-separated role names
	extIssuedAt = "issued-at@hawser" // RFC 3339, UTC: NotBefore lies back, so it cannot say this
	extCluster  = "cluster@hawser"
	extMFA      = "mfa@hawser"  // empty: a second factor was shown at the login the certificate rests on
	extRole     = "role@hawser" // host certificates: device or hub
)

// joinRoles and splitRoles are the value of extRoles.
func joinRoles(roles []string) string { return strings.Join(roles, ",") }

func splitRoles(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}
