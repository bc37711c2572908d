package edge

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hawser/auth/policy"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Words of who asks inside a session: `inside`, the session's id, one of these and what it is about, with tabs between them.
const (
	askInside = "inside"
	insideSay = "say" // a line for all
	insideOut = "out" // a guest's name
)

// maxSaid bounds a line that is said inside a session, in bytes.
const maxSaid = 300

// parseInside reads what is asked inside a session.
func parseInside(line string) (id, verb, about string, ok bool) {
	f := strings.Split(line, "\t")
	if len(f) != 4 || f[0] != askInside || len(f[1]) != 32 || strings.Trim(f[1], "0123456789abcdef") != "" || len(f[3]) > maxSaid ||
		strings.ContainsFunc(f[3], func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", "", "", false
	}
	return f[1], f[2], f[3], f[2] == "" && f[3] == "" || (f[2] == insideSay || f[2] == insideOut) && f[3] != ""
}

// answer is lines of a name and a text.
type answer []byte

// tell adds a line, and returns all of them.
func (b *answer) tell(name string, words ...string) string {
	*b = append(append(*b, name...), '\t')
	for _, w := range words {
		*b = append(*b, w...)
	}
	*b = append(*b, '\n')
	return string(*b)
}

// inside answers somebody of that uid about a session of his.
func (a *Agent) inside(line string, uid uint32) string {
	var b answer
	id, verb, about, ok := parseInside(line)
	if !ok || a.engine == nil {
		return b.tell(failed, "not understood")
	}
	in, ok := a.engine.Inside(id, uid)
	if !ok {
		return b.tell(failed, errAlone.Error())
	}
	switch verb {
	case insideSay:
		a.engine.Tell(id, wire.Tell{What: wire.TellAll, Text: in.User + "'s session: " + about})
		return b.tell("said", about)
	case insideOut:
		for _, g := range in.Guests {
			if g.User == about {
				tunnel.Info(a.log, "guest put out from inside", "session", id, "user", about)
				a.engine.Tell(id, wire.Tell{What: wire.TellOut, User: about, Text: "put out by " + in.User + "'s session"})
				return b.tell("out", about)
			}
		}
		return b.tell(failed, about, " is not in this session")
	}
	if in.Recorded == "" || in.Recorded == policy.RecordOff {
		b.tell("recorded", "no")
	} else {
		b.tell("recorded", "yes, ", in.Recorded)
	}
	for _, g := range in.Guests {
		b.tell("guest", wire.Quote(g.User, 64), ", ", g.Mode.String(), ", ", wire.Quote(g.Way, 80), ", for ", time.Since(g.Since).Round(time.Second).String())
	}
	b.tell("guests", strconv.Itoa(len(in.Guests)))
	if in.PausedBy != "" {
		b.tell("paused", "by ", wire.Quote(in.PausedBy, 64))
	}
	if in.Waits != "" {
		b.tell("waits for", wire.Quote(in.Waits, 200))
	}
	return b.tell("to join it", "hawser join ", id[:12], ", or ssh -t hawser@HUB join ", id[:12], "; --mode peer types, as ", wire.Quote(in.Login, 64))
}

// failed is the name of the one line that says why there is nothing else.
const failed = "error"

var (
	// errAgent: nobody answers who may be believed.
	errAgent = errors.New("the agent of this session does not answer")
	// errAlone: it is no session, or none of this login, or one without a screen.
	errAlone = errors.New("nobody can join: it has no terminal, or is not this login's")
)

// AskInside asks the agent of the session in which this process runs, or has it do something: put out a guest, say a line. agent is AgentVariable of the
// environment; empty: the agent of the state directory.
func AskInside(agent, path, session, out, say string, tell func(Check)) error {
	at := recallName(path)
	if agent != "" {
		at = &net.UnixAddr{Net: "unix", Name: agent}
	}
	verb, about := "", ""
	switch {
	case out != "":
		verb, about = insideOut, out
	case say != "":
		verb, about = insideSay, say
	}
	if strings.ContainsAny(about, "\t\n") {
		return errors.New("one line, without tabs")
	}
	why := errAlone
	if !ask(at, askInside+"\t"+session+"\t"+verb+"\t"+about, func(c Check) {
		if c.Name == failed {
			why = errors.New(c.Text)
			return
		}
		why = nil
		tell(c)
	}) {
		return errAgent
	}
	return why
}
