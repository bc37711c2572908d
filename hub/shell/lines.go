package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// lines is the picker of a terminal that only writes lines.
type lines struct {
	t   Terminal
	m   *model
	ctx context.Context
}

func (l *lines) run() (Choice, error) {
	if l.m.joining.on {
		return l.sessions()
	}
	l.say("Hawser "+quote(l.m.c.Hub)+": your devices", "")
	found, near := l.m.shown, l.m.near
	if len(l.m.c.Devices) == 0 {
		return Choice{Why: "your roles reach no device"}, nil
	}
	for {
		l.show(found, near)
		name, ok, err := l.read("device, or part of its name (empty: leave): ")
		if err != nil || !ok || name == "" {
			return Choice{}, err
		}
		if found, near = l.m.find(name); name == "q" && (len(found) == 0 || l.m.c.Devices[found[0]].Name != name) {
			return Choice{}, nil
		}
		if len(found) == 0 || near || len(found) > 1 && l.m.c.Devices[found[0]].Name != name {
			continue
		}
		d := &l.m.c.Devices[found[0]]
		if l.m.look(found[0]) {
			return Choice{Name: d.Name}, nil
		}
		away := "offline"
		if l.m.c.Seen != nil {
			ctx, cancel := context.WithTimeout(l.ctx, seenWait)
			away = l.m.c.Seen(ctx, d)
			cancel()
		}
		answer, ok, err := l.read(d.Name + " is " + away + "; wait for it? (y) ")
		if err != nil || !ok {
			return Choice{}, err
		}
		if strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes") {
			return Choice{Name: d.Name, Wait: true}, nil
		}
	}
}

// show lists some devices.
func (l *lines) show(found []int32, near bool) {
	switch {
	case len(found) == 0:
		l.say("none of them")
	case near:
		l.say("nothing is called so; these are near")
	}
	for n, i := range found {
		if n == page {
			l.say(fmt.Sprintf("  and %d more", len(found)-n))
			break
		}
		d := &l.m.c.Devices[i]
		l.m.look(i)
		l.say(strings.TrimRight(l.m.row(d, false, 0), " "))
	}
}

func (l *lines) say(texts ...string) {
	for _, s := range texts {
		_, _ = io.WriteString(l.t.Out, s+"\r\n")
	}
}

// read reads a line, with an echo; not ok: the person left.
func (l *lines) read(prompt string) (line string, ok bool, err error) {
	_, _ = io.WriteString(l.t.Out, prompt)
	var typed, b []byte
	pressed := time.Now()
	for {
		more, err := l.t.Next(l.ctx, tick)
		switch {
		case errors.Is(err, io.EOF):
			return "", false, nil
		case err != nil:
			return "", false, err
		case len(more) > 0:
			pressed = time.Now()
		case time.Since(pressed) > idleAfter:
			l.say("")
			return "", false, nil
		}
		for b = append(b, more...); len(b) > 0; {
			k, n := decode(b, len(more) == 0)
			if n == 0 {
				break
			}
			b = b[n:]
			switch k.kind {
			case leave:
				l.say("")
				return "", false, nil
			case enter:
				l.say("")
				l.t.Unread(b)
				return strings.TrimSpace(string(typed)), true, nil
			case erase:
				if len(typed) > 0 {
					typed = typed[:len(typed)-1]
					_, _ = io.WriteString(l.t.Out, "\b \b")
				}
			case letter:
				if k.r < 0x7f && len(typed) < maxQuery {
					typed = append(typed, byte(k.r))
					_, _ = io.WriteString(l.t.Out, string(k.r))
				}
			}
		}
	}
}

// sessions lets him pick one to join.
func (l *lines) sessions() (Choice, error) {
	for {
		msg, _ := l.m.fetch()().(sessionsMsg)
		if msg.err != nil {
			return Choice{Why: msg.err.Error()}, nil
		}
		for line := range strings.Lines(Sessions(msg.list, time.Now())) {
			l.say(strings.TrimRight(line, "\n"))
		}
		if len(msg.list) == 0 {
			return Choice{}, nil
		}
		id, ok, err := l.read("id, or the beginning of it (empty: leave): ")
		if err != nil || !ok || id == "" {
			return Choice{}, err
		}
		list := slices.DeleteFunc(msg.list, func(s Session) bool { return !strings.HasPrefix(s.ID, strings.ToLower(id)) })
		if len(list) != 1 || len(list[0].Modes) == 0 {
			continue
		}
		s := list[0]
		mode := s.Modes[0]
		if len(s.Modes) > 1 {
			if mode, ok, err = l.read("as " + strings.Join(s.Modes, ", ") + "? "); err != nil || !ok {
				return Choice{}, err
			}
		}
		for _, m := range s.Modes {
			if mode != "" && strings.HasPrefix(m, strings.ToLower(mode)) {
				return Choice{Join: s.ID, Mode: m}, nil
			}
		}
	}
}
