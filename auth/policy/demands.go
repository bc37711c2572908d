package policy

// demands are what roles ask of those who hold them, a bit each, so that merging is or: what one role asks for is asked.
type demands uint64

// On the wire too: TLV 6 of a role. A bit never changes its meaning.
const (
	demandStrictLocks demands = 1 << iota
	demandMFALogin
	demandMFASession
	demandCertificate // a registered key is not enough
	demandKey         // a certificate is not accepted
	demandUnexpired   // what is open ends when the certificate expires
	demandCounted     // the cluster counts what its holders open, so that no device admits them by itself
	demandModerated   // moderators are required for something, which the grant says, so likewise

	knownDemands = iota // so many bits
)

// unknown tells whether any is of a newer policy: nobody can be held to it here, so it opens nothing (see Access.voids).
func (d demands) unknown() bool { return d>>knownDemands != 0 }

func (o *Options) demands() demands {
	var d demands
	if o.LockMode == LockStrict {
		d |= demandStrictLocks
	}
	switch o.MFA {
	case MFALogin:
		d |= demandMFALogin
	case MFASession:
		d |= demandMFASession
	}
	if len(o.Credentials) > 0 {
		certificate, key := false, false
		for _, c := range o.Credentials {
			certificate = certificate || c == CredentialCertificate
			key = key || c == CredentialKey
		}
		if !key {
			d |= demandCertificate
		}
		if !certificate {
			d |= demandKey
		}
	}
	if o.DisconnectExpiredCert {
		d |= demandUnexpired
	}
	if o.MaxConnections > 0 || o.MaxSessions > 0 || o.counted {
		d |= demandCounted
	}
	if len(o.RequireModerators) > 0 {
		d |= demandModerated
	}
	return d
}

func (d demands) mfa() string {
	switch {
	case d&demandMFASession != 0:
		return MFASession
	case d&demandMFALogin != 0:
		return MFALogin
	}
	return MFANone
}

func (d demands) credentials() []string {
	var list []string
	if d&demandKey == 0 {
		list = append(list, CredentialCertificate)
	}
	if d&demandCertificate == 0 {
		list = append(list, CredentialKey)
	}
	return list
}

func (d demands) lockMode() string {
	if d&demandStrictLocks != 0 {
		return LockStrict
	}
	return LockBestEffort
}

// StrictLocks tells whether any role that allows something here has lock_mode strict: without news of locks for 5 minutes
// nothing is opened, and what is open ends.
func (a Access) StrictLocks() bool { return a.demands&demandStrictLocks != 0 }

// LockMode is StrictLocks in the words of a role: LockBestEffort or LockStrict.
func (a Access) LockMode() string { return a.demands.lockMode() }

// MFA is the strictest second factor that the roles which allow something here ask for: MFANone, MFALogin or MFASession.
func (a Access) MFA() string { return a.demands.mfa() }

// Credentials are what all roles that allow something here accept, of CredentialCertificate and CredentialKey; with none
// left nobody gets in.
func (a Access) Credentials() []string { return a.demands.credentials() }

// roleDemands is for where no device is known yet: a login, a connection to the hub itself.
func roleDemands(roles []Role) demands {
	var d demands
	for i := range roles {
		d |= roles[i].Options.demands()
	}
	return d
}

// MFA is the strictest second factor that any of roles asks for: for where no device is known yet, as at a login.
func MFA(roles []Role) string { return roleDemands(roles).mfa() }

// Credentials are what all of roles accept.
func Credentials(roles []Role) []string { return roleDemands(roles).credentials() }

// LockMode is the strictest of roles.
func LockMode(roles []Role) string { return roleDemands(roles).lockMode() }
