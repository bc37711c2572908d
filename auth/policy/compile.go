package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"hawser/auth/internal/tlv"
)

// Errors of Compiled's codec.
var (
	ErrTooLarge  = errors.New("compiled policy of a device is larger than 16 KiB")
	ErrMalformed = errors.New("malformed compiled policy")
)

// Compiled is what a cluster's roles say about one device, users left out: roles that neither allow nor deny anything there
// are gone, and device matching is done.
//
// Encoded it is TLV, at most MaxCompiled bytes: 1 revision, integer; 2 role, repeated, in the order of names, itself TLV: 1
// name; 2 recording mode; 3 allow and 4 deny, each absent or a rule, itself TLV of repeated strings: 1 login, 2 channel, 3
// forward to, 4 way; 5 detached life, integer, milliseconds, absent: 10 minutes; 6 demands, integer, absent: 0, of the bits 1 strict
// locks, 2 second factor at login, 4 at each session, 8 certificates only, 16 registered keys only, 32 no longer than the
// certificate, 64 counted by the cluster, 128 moderators are required for something; 7 idle timeout and 8 longest duration of a session, integers, milliseconds, absent or 0: none; 9 what is recorded of
// stdin, absent: off. In a deny rule what is absent means any.
type Compiled struct {
	Revision uint64
	// Recipients are those that recordings are encrypted to where the device has no grant to say so. They are signed with the rest, and not in Encode.
	Recipients [][32]byte
	roles      []compiledRole // sorted by name
}

type compiledRole struct {
	name   string
	record string
	stdin  string // RecordStdin of what it allows; empty is off
	allow  *compiledRule
	deny   *compiledRule
	// detachedLife is in force where the role allows something.
	detachedLife time.Duration
	demands      demands // likewise
	// idle and duration likewise; with the demand they are the role's SessionLimits.
	idle, duration time.Duration
	// moderators and presence likewise. They are not encoded: what a device needs of them is in each grant.
	moderators []Moderators
	presence   time.Duration
	// The Decision.Rule texts, made once: decisions are hot.
	allowText, denyText string
}

type compiledRule struct {
	logins    []string
	channels  []string
	forwardTo []string
	ways      []string
	targets   Targets // of forwardTo
}

// Compile boils roles, which must be valid, down to what concerns dev. Duplicate names merge like different roles.
func Compile(revision uint64, roles []Role, dev Device) Compiled {
	c := Compiled{Revision: revision}
	for _, r := range roles {
		cr := compiledRole{name: r.Name, record: cmp.Or(r.Options.Record, RecordBestEffort), detachedLife: DefaultDetachedLife}
		cr.demands = r.Options.demands()
		if r.Options.RecordStdin != StdinOff {
			cr.stdin = r.Options.RecordStdin
		}
		cr.idle, cr.duration = r.Options.IdleTimeout, r.Options.MaxSessionDuration
		cr.moderators, cr.presence = r.Options.RequireModerators, r.Options.PresenceCheck
		if r.Options.DetachedLife != nil {
			cr.detachedLife = *r.Options.DetachedLife
		}
		if Match(r.Allow.Devices, dev) {
			cr.allow = newRule(r.Allow)
			if len(r.Allow.Join) > 0 {
				cr.allow.channels = sorted(append(cr.allow.channels, JoinSession))
			}
			if len(cr.allow.ways) == 0 {
				cr.allow.ways = allWays
			}
		}
		if r.Deny.deniesAccess() && (len(r.Deny.Devices) == 0 || Match(r.Deny.Devices, dev)) {
			cr.deny = newRule(r.Deny)
		}
		if cr.allow != nil || cr.deny != nil || cr.demands&demandCounted != 0 { // which holds for its holders everywhere
			c.roles = append(c.roles, cr.withTexts())
		}
	}
	slices.SortStableFunc(c.roles, func(a, b compiledRole) int { return cmp.Compare(a.name, b.name) })
	return c
}

// FitsAnyDevice reports whether the policy of a device that every one of roles concerns would fit: then that of any does.
func FitsAnyDevice(roles []Role) bool {
	all := slices.Clone(roles)
	for i := range all {
		for _, r := range []*Rule{&all[i].Allow, &all[i].Deny} {
			if len(r.Devices) > 0 {
				r.Devices = map[string][]string{"*": {"*"}}
			}
		}
	}
	_, err := Compile(0, all, Device{}).Encode()
	return err == nil
}

// deniesAccess reports whether the deny rule states anything about devices, rather than about recordings or admin alone. One that names join, and no
// channel, denies joining alone (see MayJoin).
func (r Rule) deniesAccess() bool {
	if len(r.Join) > 0 && len(r.Channels)+len(r.ForwardTo) == 0 {
		return false
	}
	return len(r.Devices)+len(r.Logins)+len(r.Channels)+len(r.ForwardTo)+len(r.Ways) > 0
}

// DeniesAccess reports whether the role denies anything of devices.
func (r Role) DeniesAccess() bool { return r.Deny.deniesAccess() || len(r.Deny.Join) > 0 }

// newRule copies and sorts, so that an encoding does not depend on the order a role's author chose. A target that cannot
// be read, which Validate refuses, allows nothing; in a deny rule it denies nothing.
func newRule(r Rule) *compiledRule {
	out := &compiledRule{
		logins:    sorted(r.Logins),
		channels:  sorted(r.Channels),
		forwardTo: sorted(r.ForwardTo),
		ways:      sorted(r.Ways),
	}
	out.parseTargets()
	return out
}

func (r *compiledRule) parseTargets() {
	var err error
	if r.targets, err = ParseTargets(r.forwardTo); err != nil {
		r.targets = Targets{list: []target{{from: 1, to: 0}}} // matches nothing, and is not the empty list, which is any
	}
}

func (r compiledRole) withTexts() compiledRole {
	r.allowText = "role " + r.name + " allows it"
	r.denyText = "role " + r.name + " denies it"
	return r
}

func sorted(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// Encode fails with ErrTooLarge above MaxCompiled bytes.
func (c Compiled) Encode() ([]byte, error) {
	b := tlv.AppendUint(nil, 1, c.Revision)
	for _, r := range c.roles {
		e := tlv.AppendString(nil, 1, r.name)
		e = tlv.AppendString(e, 2, r.record)
		if r.allow != nil {
			e = tlv.AppendBytes(e, 3, r.allow.encode())
		}
		if r.deny != nil {
			e = tlv.AppendBytes(e, 4, r.deny.encode())
		}
		if r.detachedLife != DefaultDetachedLife {
			e = tlv.AppendUint(e, 5, uint64(r.detachedLife.Milliseconds()))
		}
		if r.demands != 0 {
			e = tlv.AppendUint(e, 6, uint64(r.demands))
		}
		e = appendLimit(e, 7, r.idle)
		e = appendLimit(e, 8, r.duration)
		if r.stdin != "" {
			e = tlv.AppendString(e, 9, r.stdin)
		}
		b = tlv.AppendBytes(b, 2, e)
	}
	if len(b) > MaxCompiled || len(c.roles) > maxRoles {
		return nil, ErrTooLarge
	}
	return b, nil
}

func (r *compiledRule) encode() []byte {
	b := tlv.AppendStrings(nil, 1, r.logins)
	b = tlv.AppendStrings(b, 2, r.channels)
	b = tlv.AppendStrings(b, 3, r.forwardTo)
	return tlv.AppendStrings(b, 4, r.ways)
}

// Decode reads what Encode wrote.
func Decode(b []byte) (Compiled, error) {
	if len(b) > MaxCompiled {
		return Compiled{}, ErrTooLarge
	}
	var c Compiled
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		switch tag {
		case 1:
			c.Revision, err = tlv.Uint(v)
		case 2:
			if len(c.roles) == maxRoles {
				return tlv.ErrLength
			}
			var r compiledRole
			if r, err = decodeRole(v); err == nil {
				c.roles = append(c.roles, r)
			}
		}
		return err
	})
	if err != nil {
		return Compiled{}, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !slices.IsSortedFunc(c.roles, func(a, b compiledRole) int { return cmp.Compare(a.name, b.name) }) {
		return Compiled{}, fmt.Errorf("%w: roles out of order", ErrMalformed)
	}
	return c, nil
}

func decodeRole(b []byte) (compiledRole, error) {
	r := compiledRole{detachedLife: DefaultDetachedLife}
	err := tlv.Read(b, func(tag uint8, v []byte) (err error) {
		switch tag {
		case 1:
			err = tlv.String(&r.name, v, maxName)
		case 2:
			err = tlv.String(&r.record, v, maxName)
		case 3:
			r.allow, err = decodeRule(v)
		case 4:
			r.deny, err = decodeRule(v)
		case 5:
			var ms uint64
			if ms, err = tlv.Uint(v); err == nil && ms > uint64(MaxDetachedLife.Milliseconds()) {
				err = tlv.ErrLength
			}
			r.detachedLife = time.Duration(ms) * time.Millisecond
		case 6:
			var bits uint64
			bits, err = tlv.Uint(v)
			r.demands = demands(bits)
		case 7:
			r.idle, err = decodeLimit(v)
		case 8:
			r.duration, err = decodeLimit(v)
		case 9:
			err = tlv.String(&r.stdin, v, maxName)
		}
		return err
	})
	if err == nil && !validName(r.name) {
		err = errors.New("role without a proper name")
	}
	return r.withTexts(), err
}

func decodeRule(b []byte) (*compiledRule, error) {
	r := new(compiledRule)
	err := tlv.Read(b, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			return tlv.Element(&r.logins, v, maxElement, maxList)
		case 2:
			return tlv.Element(&r.channels, v, maxElement, maxList)
		case 3:
			return tlv.Element(&r.forwardTo, v, maxElement, maxList)
		case 4:
			return tlv.Element(&r.ways, v, maxElement, maxList)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := ParseTargets(r.forwardTo); err != nil {
		return nil, err // fail closed: a target of a newer policy, not understood, must not turn into none
	}
	r.parseTargets()
	return r, nil
}
