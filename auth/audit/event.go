package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Event is one line of the audit log. Empty fields are left away; the fields mean the same in every type of event.
// docs/audit.md has a table of the types.
type Event struct {
	Time          time.Time `json:"time"`                     // by auth's clock
	Type          string    `json:"type"`                     // NOUN.VERB, or NOUN.VERB.refuse
	Actor         string    `json:"actor,omitempty"`          // who asked: "user:NAME", "hub:NAME", "local"
	User          string    `json:"user,omitempty"`           // whom it concerns
	Issuer        string    `json:"issuer,omitempty"`         // who vouches for the user, where it is not this cluster
	Subject       string    `json:"subject,omitempty"`        // the user's name there
	Email         string    `json:"email,omitempty"`          // where there is one
	Roles         []string  `json:"roles,omitempty"`          // in force at the time
	Method        string    `json:"method,omitempty"`         // certificate or key, with its serial or fingerprint; password, totp
	Way           string    `json:"way,omitempty"`            // hub, end-to-end, direct
	Connection    string    `json:"connection,omitempty"`     // hex id
	Session       string    `json:"session,omitempty"`        // hex id
	Client        string    `json:"client,omitempty"`         // the person's address, as the hub claims it
	Source        string    `json:"source,omitempty"`         // the caller's own address, where the actor is the caller
	Via           string    `json:"via,omitempty"`            // the hub that passed the caller's connection on, and whose claim source is
	Device        string    `json:"device,omitempty"`         // name
	DeviceUUID    string    `json:"device_uuid,omitempty"`    // its identity, which a new name does not change
	DeviceAddress string    `json:"device_address,omitempty"` // outer: as the hub sees it
	DeviceInner   []string  `json:"device_inner,omitempty"`   // inner: as the device says
	Hub           string    `json:"hub,omitempty"`            // where it happened
	Carrier       string    `json:"carrier,omitempty"`        // of the device's tunnel: quic, tls
	Login         string    `json:"login,omitempty"`          // the account on the device
	Kind          string    `json:"kind,omitempty"`           // of what the type names: session, forwards, connection; edge, hub
	Channel       string    `json:"channel,omitempty"`        // shell, exec, sftp, local-forward…
	Command       string    `json:"command,omitempty"`        // what runs, or a forward's target
	CommandSource string    `json:"command_source,omitempty"` // request: as the person asked; key: forced by his key
	Object        string    `json:"object,omitempty"`         // the token, role, user, lock or recording acted on
	Rule          string    `json:"rule,omitempty"`           // of the policy, that decided
	Reason        string    `json:"reason,omitempty"`         // why it was refused or ended
	Message       string    `json:"message,omitempty"`        // what a person wrote beside it, such as a lock's
	Count         uint64    `json:"count,omitempty"`          // how many it stands for, where it is more than one
	ExitStatus    *int32    `json:"exit_status,omitempty"`
	BytesIn       uint64    `json:"bytes_in,omitempty"`  // from the person
	BytesOut      uint64    `json:"bytes_out,omitempty"` // to him
	Commands      []Command `json:"commands,omitempty"`  // that were run in the session, oldest first, as far as they are known
}

// Command is one that was run in a session.
type Command struct {
	Time       time.Time `json:"time"`
	Text       string    `json:"text"`
	Source     string    `json:"source"`         // exec: asked for by a request; screen: read off the screen; input: a line sent to a shell without a terminal
	Confidence uint8     `json:"confidence"`     // 0..100
	User       string    `json:"user,omitempty"` // the guest who gave it; empty: whose session it is
}

// Entry is one line of the log.
type Entry struct {
	Seq  int64  // its place in the tree
	Body []byte // the event with its seq, without the salt
	Salt [saltBytes]byte
}

// Leaf is the entry's leaf in the tree, before the tree's own hash of a record.
func (e Entry) Leaf() [32]byte {
	h := sha256.New()
	h.Write(e.Salt[:])
	h.Write(e.Body)
	return [32]byte(h.Sum(nil))
}

// Line is the entry as it is stored, without a newline.
func (e Entry) Line() []byte { return appendLine(nil, e) }

func appendLine(b []byte, e Entry) []byte {
	b = append(b, e.Body[:len(e.Body)-1]...)
	b = append(b, saltMember...)
	b = base64.RawURLEncoding.AppendEncode(b, e.Salt[:])
	return append(b, `"}`...)
}

const (
	seqMember  = `{"seq":`
	saltMember = `,"salt":"`
	saltText   = 22 // characters of 16 bytes in base64
)

// ErrLine: not a line of an audit log.
var ErrLine = errors.New("not a line of an audit log")

// ParseLine splits a line. It does not look into the event.
func ParseLine(line []byte) (Entry, error) {
	var e Entry
	cut := len(line) - len(saltMember) - saltText - 2
	if cut < len(seqMember) || len(line) > maxLine || !bytes.HasPrefix(line, []byte(seqMember)) || !bytes.HasSuffix(line, []byte(`"}`)) ||
		string(line[cut:cut+len(saltMember)]) != saltMember || bytes.IndexByte(line, '\n') >= 0 {
		return e, ErrLine
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(e.Salt[:], line[cut+len(saltMember):len(line)-2]); err != nil || n != saltBytes {
		return e, ErrLine
	}
	digits, _, ok := bytes.Cut(line[len(seqMember):cut], []byte(","))
	seq, err := strconv.ParseInt(string(digits), 10, 64)
	if !ok || err != nil || seq < 0 || strconv.FormatInt(seq, 10) != string(digits) {
		return e, ErrLine
	}
	e.Seq = seq
	e.Body = append(append(make([]byte, 0, cut+1), line[:cut]...), '}')
	return e, nil
}

// Event decodes the entry's event.
func (e Entry) Event() (Event, error) {
	var ev Event
	if err := json.Unmarshal(e.Body, &ev); err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrLine, err)
	}
	return ev, nil
}

// encode makes the event's JSON without its seq, and the event as that JSON says it. Strings are cut to their bound, and everything in them that could
// drive a terminal or turn text around is escaped.
func encode(e Event) (Event, []byte, error) {
	e.Time = e.Time.UTC()
	for _, s := range e.texts() {
		*s = clean(*s, maxText)
	}
	for _, s := range []*string{&e.Command, &e.Reason, &e.Message} {
		*s = clean(*s, maxLong)
	}
	e.Roles, e.DeviceInner = cleanAll(e.Roles), cleanAll(e.DeviceInner)
	e.Commands = append([]Command(nil), e.Commands[:min(len(e.Commands), MaxCommands)]...)
	for i := range e.Commands {
		c := &e.Commands[i]
		c.Time, c.Text, c.User = c.Time.UTC(), clean(c.Text, MaxCommandText), clean(c.User, maxGuest)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(&e); err != nil {
		return e, nil, err
	}
	return e, escape(bytes.TrimSuffix(b.Bytes(), []byte("\n"))), nil
}

// texts are the short fields.
func (e *Event) texts() []*string {
	return []*string{
		&e.Type, &e.Actor, &e.User, &e.Issuer, &e.Subject, &e.Email, &e.Method, &e.Way, &e.Connection, &e.Session, &e.Client, &e.Source, &e.Via,
		&e.Device, &e.DeviceUUID, &e.DeviceAddress, &e.Hub, &e.Carrier, &e.Login, &e.Kind, &e.Channel, &e.CommandSource, &e.Object, &e.Rule,
	}
}

// clean cuts s to limit bytes, and writes each byte that is no UTF-8 as \xNN: encoding/json would make every one the
// same replacement character.
func clean(s string, limit int) string {
	s = cut(s, limit)
	if utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			fmt.Fprintf(&b, `\x%02x`, s[i])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return cut(b.String(), limit)
}

// cut shortens s to limit bytes, and to whole characters where it has any.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	const more = "…"
	n := limit - len(more)
	for k := 0; k < utf8.UTFMax-1 && n > 0 && !utf8.RuneStart(s[n]); k++ {
		n--
	}
	return s[:n] + more
}

func cleanAll(list []string) []string {
	if len(list) == 0 {
		return nil
	}
	out := make([]string, 0, min(len(list), maxList))
	for _, s := range list[:min(len(list), maxList)] {
		out = append(out, clean(s, maxText))
	}
	return out
}

// escape writes what is in JSON's strings and does not stay where it is printed as \uXXXX: the C1 controls and DEL,
// which encoding/json lets through, marks that change the direction of text, and what has no shape of its own.
func escape(b []byte) []byte {
	i := 0
	for i < len(b) && b[i] < 0x7f {
		i++
	}
	if i == len(b) {
		return b
	}
	out := append(make([]byte, 0, len(b)+32), b[:i]...)
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		switch {
		case unicode.IsPrint(r):
			out = append(out, b[i:i+n]...)
		case r > 0xffff:
			r -= 0x10000
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		i += n
	}
	return out
}

// entryOf puts an encoded event at its place in the log.
func entryOf(seq int64, event []byte, salt [saltBytes]byte) Entry {
	b := make([]byte, 0, len(seqMember)+20+len(event)+len(saltMember)+saltText+3)
	b = append(b, seqMember...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, ',')
	b = append(b, event[1:]...)
	return Entry{Seq: seq, Body: b, Salt: salt}
}
