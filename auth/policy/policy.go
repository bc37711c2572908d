// Package policy decides who may do what on which device: roles, how they merge, and the form in which a device holds what
// concerns it.
//
// FromMap reads a role; Compile boils a cluster's roles down to what concerns one device, and Compiled.Evaluate and
// Compiled.Access answer for a user who has some of them. Evaluate and Merge do the same straight from roles. The package
// is pure, so auth, hub and edge reach the same answer from the same roles.
//
// # How roles merge
//
// Something is allowed when at least one of the user's roles allows device, login, channel and way in, all four in that one
// role, and no role of the user denies it. The order of the roles never matters. Absent means no, except that a role that
// names no ways has them all (a role may demand a way; it need not).
//
// A deny rule denies where everything it states holds: {devices: {env: [prod]}} denies those devices altogether,
// {devices: {env: [prod]}, logins: [root]} denies root there, {channels: [agent]} denies agent forwarding everywhere. With
// forward_to it denies those targets only. An empty deny rule denies nothing.
//
// # Targets
//
// forward_to lists what local and socket forwards may reach: HOST:PORT, where HOST is an address, a network in CIDR form
// (IPv6 in brackets), a name with * as the only wildcard, or *, and PORT a number, a range a-b, or *; or an absolute path of
// a socket, with * likewise. With no forward_to at all any target is allowed that is not link-local (169.254.0.0/16, where
// clouds keep credentials, and fe80::/10), another of the clouds' addresses for that, multicast or broadcast; any absolute
// socket path too, for the login's own rights bound it. A rule with a name, or *, allows none of those either, whatever the
// name resolves to, and none of the loopback unless it is localhost or *: they take a rule with an address.
package policy

import "time"

// The channel kinds a role may allow.
const (
	Shell         = "shell"
	Exec          = "exec"
	SFTP          = "sftp"
	LocalForward  = "local-forward"
	RemoteForward = "remote-forward"
	SocketForward = "socket-forward"
	Agent         = "agent"
	X11           = "x11"
)

// JoinSession is the channel kind of who joins another's session. No role lists it among its channels: it comes with allow.join, which says
// whose sessions and in which modes (see MayJoin).
const JoinSession = "join"

// Modes of who joins.
const (
	JoinObserver  = "observer"
	JoinPeer      = "peer"
	JoinModerator = "moderator"
)

// JoinModes are all of them, the one without a say first.
func JoinModes() []string { return []string{JoinObserver, JoinPeer, JoinModerator} }

// The ways in.
const (
	WayHub      = "hub"
	WayEndToEnd = "end-to-end"
	WayDirect   = "direct" // to a port of the edge's own, where it has one
)

// The scopes of recordings and sessions.
const (
	ScopeNone = "none"
	ScopeOwn  = "own"
	ScopeAll  = "all"
)

// The recording modes. RecordBestEffort is that of a role that states none, where the cluster states none.
const (
	RecordOff        = "off"
	RecordBestEffort = "best-effort"
	RecordStrict     = "strict"
)

// What is recorded of stdin. StdinOff is that of a role that states none, where the cluster states none.
const (
	StdinOff      = "off"
	StdinRedacted = "redacted" // without what was typed where the terminal reads lines and does not echo them
	StdinFull     = "full"
)

// What roles ask of a person before something is opened. The first of each is that of a role that states none.
const (
	MFANone    = "none"
	MFALogin   = "login"
	MFASession = "session"

	LockBestEffort = "best-effort"
	LockStrict     = "strict"

	CredentialCertificate = "certificate"
	CredentialKey         = "key"
)

// Role is one resource of kind role.
type Role struct {
	Name    string
	Allow   Rule
	Deny    Rule
	Options Options
}

// Rule is one side of a role. Lists hold globs with * as the only wildcard where said so.
type Rule struct {
	Devices    map[string][]string // label: globs; all labels must match, each by any of its globs; {"*": {"*"}} is every device
	Logins     []string            // globs
	Channels   []string
	ForwardTo  []string // see Targets in the package doc
	Join       []Join
	Recordings string // none, own or all; empty is none
	Sessions   string // so for live sessions: list and watch
	Audit      string // so for the audit log
	Ways       []string
	Admin      []Admin
}

// Join lets its holder join sessions of users with certain roles.
type Join struct {
	Roles []string
	Modes []string
}

// Admin allows verbs over resources; "*" stands for all of either.
type Admin struct {
	Resources []string
	Verbs     []string
}

// Options are a role's limits. The zero value of each field is its default.
type Options struct {
	MaxConnections        int
	MaxSessions           int
	Reserved              bool
	DetachedLife          *time.Duration // 0..60m, 0: at once; nil: DefaultDetachedLife; the shortest of a user's roles counts
	PresenceCheck         time.Duration
	IdleTimeout           time.Duration
	MaxSessionDuration    time.Duration
	SessionTTL            time.Duration // of certificates; the shortest of a user's roles counts
	DisconnectExpiredCert bool
	Record                string
	RecordStdin           string
	MFA                   string
	LockMode              string
	CapMode               string
	Credentials           []string
	CreateHostUser        string
	HostGroups            []string
	Sudoers               []string
	RequireModerators     []Moderators

	counted bool // the cluster counts connections, whoever's: Cluster.Apply
}

// Device is what roles are matched against. Labels "name" and "uuid" are always the device's own, whatever Labels says.
type Device struct {
	UUID   string
	Name   string
	Labels map[string]string
}

// Decision is an answer and the rule it rests on, in words for an operator.
type Decision struct {
	Allowed bool
	Rule    string
}
