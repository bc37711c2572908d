package policy

import (
	"fmt"
	"slices"
	"strings"
)

// Question is what is asked about one device. What is empty is asked of all there is.
type Question struct{ Login, Channel, Way string }

// Line says what one side of one role has to do with a question.
type Line struct {
	Role   string
	Effect string
	Text   string
}

// What a Line's role does. Of a question that leaves nothing open, it is allowed when some line allows it and none denies it,
// which is what Evaluate says.
const (
	EffectAllows = "allows"
	EffectDenies = "denies"
	EffectLimits = "limits" // denies some of what was asked for
	EffectNone   = "none"   // does not concern it
)

// Explain says of each role why it allows, denies or does not concern what is asked, in the order of their names. Roles went
// through Cluster.Apply.
func Explain(roles []Role, dev Device, q Question) []Line {
	var lines []Line
	for _, r := range byName(roles) {
		if r.Deny.deniesAccess() {
			effect, text := r.Deny.explainDeny(dev, q)
			lines = append(lines, Line{r.Name, effect, text})
		}
		if r.Allow.deniesAccess() || !r.Deny.deniesAccess() {
			effect, text := r.Allow.explainAllow(dev, q)
			lines = append(lines, Line{r.Name, effect, text})
		}
	}
	return lines
}

func (r Rule) explainAllow(dev Device, q Question) (effect, text string) {
	if len(r.Devices) == 0 {
		return EffectNone, "allows no device"
	}
	if why := mismatch(r.Devices, dev); why != "" {
		return EffectNone, "allows devices " + Labels(r.Devices) + ", and " + why
	}
	var not []string
	if q.Login != "" && !matchAny(r.Logins, q.Login) || len(r.Logins) == 0 {
		not = append(not, "logins "+brackets(r.Logins))
	}
	if q.Channel != "" && !slices.Contains(r.Channels, q.Channel) || len(r.Channels) == 0 {
		not = append(not, "channels "+brackets(r.Channels))
	}
	if ways := r.ways(); q.Way != "" && !slices.Contains(ways, q.Way) || slices.Equal(ways, []string{wayNone}) {
		not = append(not, "ways "+brackets(ways))
	}
	if len(not) > 0 {
		return EffectNone, "allows the device, but only " + strings.Join(not, " and ")
	}
	text = fmt.Sprintf("allows it: devices %s, logins %s, channels %s, ways %s",
		Labels(r.Devices), brackets(r.Logins), brackets(r.Channels), brackets(r.ways()))
	if len(r.ForwardTo) > 0 {
		text += ", forward_to " + brackets(r.ForwardTo)
	}
	return EffectAllows, text
}

func (r Rule) ways() []string {
	if len(r.Ways) == 0 {
		return allWays
	}
	return r.Ways
}

func (r Rule) explainDeny(dev Device, q Question) (effect, text string) {
	stated := r.stated()
	if len(r.Devices) > 0 {
		if why := mismatch(r.Devices, dev); why != "" {
			return EffectNone, "denies " + stated + ", and " + why
		}
	}
	for _, e := range []bool{
		q.Login != "" && len(r.Logins) > 0 && !matchAny(r.Logins, q.Login),
		q.Channel != "" && len(r.Channels) > 0 && !slices.Contains(r.Channels, q.Channel),
		q.Way != "" && len(r.Ways) > 0 && !slices.Contains(r.Ways, q.Way),
	} {
		if e {
			return EffectNone, "denies only " + stated
		}
	}
	if len(r.ForwardTo) > 0 || q.Login == "" && len(r.Logins) > 0 || q.Channel == "" && len(r.Channels) > 0 || q.Way == "" && len(r.Ways) > 0 {
		return EffectLimits, "denies " + stated
	}
	return EffectDenies, "denies it: " + stated
}

// stated is what a deny rule states, in words.
func (r Rule) stated() string {
	var parts []string
	if len(r.Devices) > 0 {
		parts = append(parts, "devices "+Labels(r.Devices))
	}
	for _, l := range []struct {
		key  string
		list []string
	}{{"logins", r.Logins}, {"channels", r.Channels}, {"ways", r.Ways}, {"forward_to", r.ForwardTo}} {
		if len(l.list) > 0 {
			parts = append(parts, l.key+" "+brackets(l.list))
		}
	}
	return strings.Join(parts, ", ")
}

// mismatch says why a device is not among devices; empty: it is.
func mismatch(devices map[string][]string, dev Device) string {
	if Match(devices, dev) {
		return ""
	}
	for _, key := range sortedKeys(devices) {
		value, ok := dev.label(key)
		switch {
		case key == "*" && matchAny(devices[key], "*"):
		case key == "*" || !ok:
			return fmt.Sprintf("%s has no label %s", dev.Name, key)
		case !matchAny(devices[key], value):
			return fmt.Sprintf("%s has %s=%s", dev.Name, key, value)
		}
	}
	return "that is none"
}

// Labels writes what a rule says of devices as in YAML: {env: [test], site: [ber, ams-*]}.
func Labels(devices map[string][]string) string {
	var parts []string
	for _, key := range sortedKeys(devices) {
		parts = append(parts, key+": "+brackets(devices[key]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func brackets(list []string) string { return "[" + strings.Join(list, ", ") + "]" }

// Channels returns the channel kinds a role may name.
func Channels() []string { return slices.Clone(rolesChannels) }

// Ways returns the ways in that a role may name.
func Ways() []string { return slices.Clone(rolesWays) }
