package policy

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hawser/recorder/seal"
)

// Cluster is the resource of kind cluster: what holds for all of it. WithDefaults fills what the zero value leaves open; its
// result is what is in force.
type Cluster struct {
	// Name is the cluster's, which Init fixed; a resource may leave it away and cannot change it.
	Name string
	// Record, RecordStdin, IdleTimeout and MFA are for roles that state none. Empty: best-effort, off, no limit and none.
	Record      string
	RecordStdin string
	IdleTimeout time.Duration
	MFA         string
	// Ways are those there are at all: a role may have fewer, never others. Empty: all.
	Ways []string
	// RecordingRecipients are the age recipients, X25519, that recordings are encrypted to. Empty: not encrypted.
	RecordingRecipients []string
	Retention           Retention
	// RecordingQuota bounds how much recordings take, such as 50GiB. Empty: none.
	RecordingQuota string
	Caps           Caps
	HubList        HubList
	// Clone is what happens to an identity of which there are two: CloneQuarantine (default), CloneReplace or CloneSplit.
	Clone string
	// RejoinWindow is how long after its expiry a known key's certificate still renews itself. Zero: a year.
	RejoinWindow time.Duration
	// Approve: a device that joins waits until it is approved, whatever its token says.
	Approve bool
}

// Retention is how long things are kept. Zero: for ever.
type Retention struct {
	Recordings time.Duration // those that no rule is for
	Audit      time.Duration
	Rules      []RetentionRule
}

// RetentionRule says how long recordings of some devices and of people with some roles are kept, both as they were when the session began. Of
// several that are for a recording the one that keeps it longest counts.
type RetentionRule struct {
	Devices    map[string][]string // as in Rule; empty: all
	Roles      []string            // any of these; globs; empty: whoever
	Recordings time.Duration       // zero: for ever
}

// Caps are how much there may be at once. Zero: as much as the limits built in let through.
type Caps struct {
	PerSource     int // connections from one IPv4 address, or one /64 of IPv6
	PerDevice     int // sessions on one device
	PerHub        int // connections to one hub
	PerConnection int // channels of one connection, of all kinds
}

// HubList is what the signed list of hubs tells edges.
type HubList struct {
	// Window is the time over which the fleet comes back after a loss. Zero: sized to the fleet.
	Window time.Duration
}

// What happens when an identity is held twice.
const (
	CloneQuarantine = "quarantine" // neither serves, until one is let back
	CloneReplace    = "replace"    // the newer one stays
	CloneSplit      = "split"      // the newer one joins as another device
)

// DefaultRejoinWindow is that of a cluster that states none.
const DefaultRejoinWindow = 365 * 24 * time.Hour

func (c *Cluster) fields() []field {
	return []field{
		{"name", &c.Name}, {"record", &c.Record}, {"record_stdin", &c.RecordStdin}, {"idle_timeout", &c.IdleTimeout}, {"mfa", &c.MFA},
		{"ways", &c.Ways}, {"recording_recipients", &c.RecordingRecipients}, {"retention", &c.Retention},
		{"recording_quota", &c.RecordingQuota}, {"caps", &c.Caps},
		{"hub_list", &c.HubList}, {"clone", &c.Clone}, {"rejoin_window", &c.RejoinWindow}, {"approve", &c.Approve},
	}
}

func (r *Retention) fields() []field {
	return []field{{"recordings", &r.Recordings}, {"audit", &r.Audit}, {"rules", &r.Rules}}
}

func (r *RetentionRule) fields() []field {
	return []field{{"devices", &r.Devices}, {"roles", &r.Roles}, {"recordings", &r.Recordings}}
}

// Keeps tells how long a recording of a session is kept, of a person with those roles on that device, and by which key of the resource that
// is. Zero: for ever.
func (r *Retention) Keeps(roles []string, dev Device) (keep time.Duration, key string) {
	for i, rule := range r.Rules {
		if !rule.matches(roles, dev) || key != "" && (keep == 0 || rule.Recordings != 0 && rule.Recordings <= keep) {
			continue
		}
		keep, key = rule.Recordings, fmt.Sprintf("retention.rules[%d]", i)
	}
	if key == "" {
		return r.Recordings, "retention.recordings"
	}
	return keep, key
}

func (r *RetentionRule) matches(roles []string, dev Device) bool {
	if len(r.Devices) > 0 && !Match(r.Devices, dev) {
		return false
	}
	return len(r.Roles) == 0 || slices.ContainsFunc(roles, func(role string) bool { return matchAny(r.Roles, role) })
}

// Periods are all for which a recording may be kept, the shortest first; for ever, which is zero, is the last.
func (r *Retention) Periods() []time.Duration {
	all := []time.Duration{r.Recordings}
	for _, rule := range r.Rules {
		all = append(all, rule.Recordings)
	}
	slices.SortFunc(all, func(a, b time.Duration) int { return cmp.Compare(uint64(a-1), uint64(b-1)) }) // zero behind all others
	return slices.Compact(all)
}

func (c *Caps) fields() []field {
	return []field{{"per_source", &c.PerSource}, {"per_device", &c.PerDevice}, {"per_hub", &c.PerHub}, {"per_connection", &c.PerConnection}}
}

func (h *HubList) fields() []field { return []field{{"window", &h.Window}} }

// ClusterFromMap is FromMap for a resource of kind cluster. The result has its defaults filled.
func ClusterFromMap(m map[string]any) (Cluster, error) {
	var c Cluster
	d := &decoder{}
	rest := maps.Clone(m)
	if kind, ok := rest["kind"]; !ok || kind != "cluster" {
		d.add("kind", "is not cluster")
	}
	delete(rest, "kind")
	d.object("", rest, c.fields())
	if len(d.problems) == 0 {
		d.problems = ValidateCluster(c)
	}
	if len(d.problems) > 0 {
		return Cluster{}, errors.Join(d.problems...)
	}
	return c.WithDefaults(), nil
}

// ToMap is the reverse of ClusterFromMap. It holds every key, those with a zero value too: a cluster is read to learn what is
// in force.
func (c Cluster) ToMap() map[string]any {
	c = c.WithDefaults()
	m := toWholeMap(c.fields())
	m["kind"] = "cluster"
	return m
}

// WithDefaults fills in what is left open, and puts lists in order.
func (c Cluster) WithDefaults() Cluster {
	fill := func(at *string, standard string) {
		if *at == "" {
			*at = standard
		}
	}
	fill(&c.Record, RecordBestEffort)
	fill(&c.RecordStdin, StdinOff)
	fill(&c.MFA, MFANone)
	fill(&c.Clone, CloneQuarantine)
	fill(&c.RecordingQuota, QuotaNone)
	if c.RejoinWindow == 0 {
		c.RejoinWindow = DefaultRejoinWindow
	}
	if len(c.Ways) == 0 {
		c.Ways = allWays
	}
	c.Ways, c.RecordingRecipients = sorted(c.Ways), sorted(c.RecordingRecipients)
	return c
}

// ValidateCluster returns every problem, each beginning with the path of the key.
func ValidateCluster(c Cluster) []error {
	v := &validator{}
	v.choice("record", c.Record, RecordBestEffort, RecordOff, RecordStrict)
	v.choice("record_stdin", c.RecordStdin, StdinOff, StdinRedacted, StdinFull)
	v.limit("idle_timeout", c.IdleTimeout)
	v.choice("mfa", c.MFA, MFANone, MFALogin, MFASession)
	v.choice("clone", c.Clone, CloneQuarantine, CloneReplace, CloneSplit)
	v.oneOf("ways", c.Ways, rolesWays)
	if len(c.RecordingRecipients) > MaxRecipients {
		v.add("recording_recipients", "more than %d; several people may share a key", MaxRecipients)
	}
	for _, r := range c.RecordingRecipients {
		if _, err := seal.ParseRecipient(r); err != nil {
			v.add("recording_recipients", "%.16q...: %v", r, err) // no more of it: it may be a secret
		}
	}
	if c.RejoinWindow != 0 && (c.RejoinWindow < minRetention || c.RejoinWindow > DefaultRejoinWindow) {
		v.add("rejoin_window", "%s to %s: retired CAs are kept no longer", durationText(minRetention), durationText(DefaultRejoinWindow))
	}
	for _, r := range []struct {
		key string
		d   time.Duration
	}{{"recordings", c.Retention.Recordings}, {"audit", c.Retention.Audit}} {
		if r.d != 0 && r.d < minRetention || r.d > maxRetention {
			v.add("retention."+r.key, "0, which is for ever, or %s to %s", durationText(minRetention), durationText(maxRetention))
		}
	}
	if len(c.Retention.Rules) > maxList {
		v.add("retention.rules", "more than %d elements", maxList)
	}
	for i, r := range c.Retention.Rules {
		at := fmt.Sprintf("retention.rules[%d]", i)
		if len(r.Devices) == 0 && len(r.Roles) == 0 {
			v.add(at, "names neither devices nor roles; what holds for all is retention.recordings")
		}
		v.devices(at+".devices", r.Devices)
		v.list(at+".roles", r.Roles)
		if r.Recordings != 0 && r.Recordings < minRetention || r.Recordings > maxRetention {
			v.add(at+".recordings", "0, which is for ever, or %s to %s", durationText(minRetention), durationText(maxRetention))
		}
	}
	if _, err := parseSize(c.RecordingQuota); err != nil {
		v.add("recording_quota", "%.100q is neither none nor a size from 1GiB on, such as 50GiB or 2TiB", c.RecordingQuota)
	}
	if w := c.HubList.Window; w != 0 && (w < time.Second || w > 10*time.Minute) {
		v.add("hub_list.window", "0, which sizes it to the fleet, or 1s to 10m")
	}
	return v.problems
}

// Recipients are the RecordingRecipients as keys.
func (c Cluster) Recipients() [][32]byte {
	var list [][32]byte
	for _, r := range c.RecordingRecipients {
		if key, err := seal.ParseRecipient(r); err == nil {
			list = append(list, key)
		}
	}
	return list
}

// QuotaNone is the recording_quota of a cluster that has none.
const QuotaNone = "none"

// QuotaBytes is the recording_quota; 0: none.
func (c Cluster) QuotaBytes() uint64 {
	n, _ := parseSize(c.RecordingQuota)
	return n
}

// parseSize reads a size in GiB or TiB; 0 is none.
func parseSize(s string) (uint64, error) {
	if s == "" || s == QuotaNone {
		return 0, nil
	}
	for unit, shift := range map[string]uint{"GiB": 30, "TiB": 40} {
		if digits, ok := strings.CutSuffix(s, unit); ok {
			n, err := strconv.ParseUint(digits, 10, 20)
			if err == nil && (n == 0 || digits[0] == '0') {
				err = strconv.ErrRange
			}
			return n << shift, err
		}
	}
	return 0, strconv.ErrSyntax
}

// Apply returns roles with the cluster's defaults where they state none, and without the ways that the cluster does not have.
// Compile wants roles that went through it; resources are stored as they were given.
func (c Cluster) Apply(roles []Role) []Role {
	c = c.WithDefaults()
	out := slices.Clone(roles)
	for i := range out {
		r := &out[i]
		r.Options.counted = c.Caps.PerSource+c.Caps.PerDevice+c.Caps.PerHub > 0
		if r.Options.Record == "" {
			r.Options.Record = c.Record
		}
		if r.Options.RecordStdin == "" {
			r.Options.RecordStdin = c.RecordStdin
		}
		if r.Options.IdleTimeout == 0 {
			r.Options.IdleTimeout = c.IdleTimeout
		}
		if r.Options.MFA == "" {
			r.Options.MFA = c.MFA
		}
		ways := r.Allow.Ways
		if len(ways) == 0 {
			ways = allWays
		}
		ways = slices.DeleteFunc(slices.Clone(ways), func(w string) bool { return !slices.Contains(c.Ways, w) })
		if len(ways) == 0 {
			ways = []string{wayNone}
		}
		r.Allow.Ways = ways
	}
	return out
}

// wayNone stands in the list of a role that is left no way: an empty list means every way.
const wayNone = "none"
