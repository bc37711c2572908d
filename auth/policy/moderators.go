package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"hawser/auth/internal/tlv"
)

// Moderators is a requirement: so many different people, each with one of the roles and in the session in one of the modes, without whom nothing of the
// channels runs. Whose session it is does not count. One person may count for several requirements.
type Moderators struct {
	Count    int
	Roles    []string // globs
	Modes    []string // empty: moderator
	Channels []string // empty: all that can have moderators
	OnLeave  string   // what becomes of the session when there are too few; empty: OnLeaveTerminate
}

// What becomes of a session when the moderators that it requires are not in it any more.
const (
	OnLeaveTerminate = "terminate"
	OnLeavePause     = "pause"
)

// moderated are the channels that can require moderators. An agent and X11 belong to a session.
var moderated = []string{Exec, LocalForward, RemoteForward, SFTP, Shell, SocketForward}

// filled has what is left open filled, and lists in order.
func (m Moderators) filled() Moderators {
	m.Roles, m.Modes, m.Channels = sorted(m.Roles), sorted(m.Modes), sorted(m.Channels)
	if len(m.Modes) == 0 {
		m.Modes = []string{JoinModerator}
	}
	if len(m.Channels) == 0 {
		m.Channels = moderated
	}
	if m.OnLeave == "" {
		m.OnLeave = OnLeaveTerminate
	}
	return m
}

// together is what the requirements together ask for, each once, in an order that does not depend on theirs.
func together(list []Moderators) []Moderators {
	var out []Moderators
	var codes []string // of out, in order; by hand, for the agent links no sort of this type
	for _, m := range list {
		m = m.filled()
		code := string(m.Encode())
		at := len(codes)
		for at > 0 && codes[at-1] > code {
			at--
		}
		if at > 0 && codes[at-1] == code {
			continue
		}
		out, codes = append(out, m), append(codes, code)
		for i := len(codes) - 1; i > at; i-- {
			out[i], out[i-1], codes[i], codes[i-1] = out[i-1], out[i], codes[i-1], codes[i]
		}
	}
	return out
}

// ModeratorsFor are the requirements that are about one of the channels.
func ModeratorsFor(list []Moderators, channels ...string) []Moderators {
	return slices.DeleteFunc(slices.Clone(list), func(m Moderators) bool {
		return !slices.ContainsFunc(m.filled().Channels, func(c string) bool { return slices.Contains(channels, c) })
	})
}

// Counts tells whether somebody with the roles who is in a session in the mode is one of them.
func (m Moderators) Counts(roles []string, mode string) bool {
	return slices.Contains(m.filled().Modes, mode) && slices.ContainsFunc(roles, func(r string) bool { return matchAny(m.Roles, r) })
}

// Covers tells whether whoever meets m meets o too, for the channels that both are about.
func (m Moderators) Covers(o Moderators) bool {
	m, o = m.filled(), o.filled()
	within := func(a, b []string) bool {
		return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
	}
	return m.Count >= o.Count && within(m.Roles, o.Roles) && within(m.Modes, o.Modes) && within(o.Channels, m.Channels) &&
		(m.OnLeave == o.OnLeave || m.OnLeave == OnLeaveTerminate)
}

// Words says who they are, n of them: "1 moderator with the role lead".
func (m Moderators) Words(n int) string {
	m = m.filled()
	who, as := "moderator", ""
	if !slices.Equal(m.Modes, []string{JoinModerator}) {
		who, as = "person", " as "+strings.Join(m.Modes, " or ")
	}
	switch {
	case n == 1:
	case who == "person":
		who = "people"
	default:
		who += "s"
	}
	role := " with the role "
	if len(m.Roles) > 1 {
		role = " with one of the roles "
	}
	return fmt.Sprint(n, " ", who, role, strings.Join(m.Roles, ", "), as)
}

// ErrModerators is what Decode returns of what is no requirement.
var ErrModerators = errors.New("malformed requirement of moderators")

// Encode is m as TLV, for a grant: 1 count, integer; 2 role, 3 mode and 4 channel, strings, repeated; 5 on leave, integer: 1 pause, else terminate.
func (m Moderators) Encode() []byte {
	m = m.filled()
	b := tlv.AppendUint(nil, 1, uint64(m.Count))
	b = tlv.AppendStrings(b, 2, m.Roles)
	b = tlv.AppendStrings(b, 3, m.Modes)
	if !slices.Equal(m.Channels, moderated) {
		b = tlv.AppendStrings(b, 4, m.Channels)
	}
	if m.OnLeave == OnLeavePause {
		b = tlv.AppendUint(b, 5, 1)
	}
	return b
}

// DecodeModerators reads what Encode wrote. What nobody can meet is an error, and so is what everybody meets.
func DecodeModerators(b []byte) (Moderators, error) {
	var m Moderators
	err := tlv.Read(b, func(tag uint8, v []byte) error {
		switch tag {
		case 1:
			n, err := tlv.Uint(v)
			if err == nil && n > maxModerators {
				err = tlv.ErrLength
			}
			m.Count = int(n)
			return err
		case 2:
			return tlv.Element(&m.Roles, v, maxElement, maxList)
		case 3:
			return tlv.Element(&m.Modes, v, maxElement, maxList)
		case 4:
			return tlv.Element(&m.Channels, v, maxElement, maxList)
		case 5:
			n, err := tlv.Uint(v)
			if n == 1 {
				m.OnLeave = OnLeavePause
			}
			return err
		}
		return nil
	})
	if err == nil && (m.Count < 1 || len(m.Roles) == 0) {
		err = tlv.ErrLength
	}
	if err != nil {
		return Moderators{}, fmt.Errorf("%w: %w", ErrModerators, err)
	}
	return m.filled(), nil
}

func (v *validator) moderators(at string, list []Moderators) {
	if len(list) > maxModerators {
		v.add(at, "more than %d requirements", maxModerators)
	}
	for i, m := range list {
		at := at
		if len(list) > 1 {
			at = fmt.Sprintf("%s[%d]", at, i)
		}
		if m.Count < 1 || m.Count > maxModerators {
			v.add(at+".count", "1 to %d", maxModerators)
		}
		if len(m.Roles) == 0 {
			v.add(at+".roles", "name at least one role")
		}
		v.list(at+".roles", m.Roles)
		v.oneOf(at+".modes", m.Modes, joinModes)
		v.oneOf(at+".channels", m.Channels, moderated)
		v.choice(at+".on_leave", m.OnLeave, OnLeaveTerminate, OnLeavePause)
	}
}
