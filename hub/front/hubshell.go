package front

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/hub/names"
	"hawser/hub/shell"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// asked is what a client said before the request that starts something, where no device was there to hear it.
type asked struct {
	held  []*ssh.Request // for the device; a reply is due to none of them
	bytes int
	pty   payload.PtyRequest // with the size of now
	plain bool               // NO_COLOR
	wait  string             // HAWSER_WAIT
}

// prepare takes the requests until one that starts something, which it returns without a reply; nil: none came.
func (x *session) prepare(ctx context.Context) *ssh.Request {
	for {
		r := x.requests.next(ctx)
		if r == nil || startsSomething(r.Type) {
			return r
		}
		reply(r, x.hold(r))
	}
}

// hold keeps a request for the device, and takes from it what concerns the hub.
func (x *session) hold(r *ssh.Request) bool {
	a := &x.asked
	switch r.Type {
	case "pty-req":
		p, err := payload.ParsePtyRequest(r.Payload)
		if err != nil || x.pty.Load() {
			return false
		}
		a.pty = p
		x.pty.Store(true)
		return true // made anew by replay
	case "window-change":
		p, err := payload.ParseWindowChange(r.Payload)
		if err != nil {
			return false
		}
		a.pty.Columns, a.pty.Rows, a.pty.Width, a.pty.Height = p.Columns, p.Rows, p.Width, p.Height
		return true
	case "env":
		p, err := payload.ParseEnv(r.Payload)
		if err != nil {
			return false
		}
		switch p.Name {
		case waitVariable:
			a.wait = p.Value
			return true
		case "NO_COLOR":
			a.plain = p.Value != ""
		}
	case "auth-agent-req@openssh.com", "x11-req":
	case "keepalive@openssh.com":
		return true
	default:
		return false
	}
	if len(a.held) >= maxQueued || a.bytes+len(r.Payload) > maxQueuedBytes {
		return false
	}
	a.held, a.bytes = append(a.held, &ssh.Request{Type: r.Type, Payload: r.Payload}), a.bytes+len(r.Payload)
	return true
}

// replay puts what was held back in front of the queue, for the device, and start behind it.
func (x *session) replay(start *ssh.Request) {
	all := x.asked.held
	if x.pty.Load() {
		all = append([]*ssh.Request{{Type: "pty-req", Payload: x.asked.pty.Marshal()}}, all...)
	}
	x.requests.unread(append(slices.Clip(all), start))
}

// begun is a request to start something that has its reply already. Whether a device can, it says on the screen.
func begun(r *ssh.Request) *ssh.Request {
	reply(r, true)
	return &ssh.Request{Type: r.Type, Payload: r.Payload}
}

// stdin is what the person types.
func (x *session) stdin() io.Reader {
	if x.typed != nil {
		return x.typed
	}
	return x.ch
}

// keyboard is stdin as the hub itself reads it.
func (x *session) keyboard() *input {
	if x.typed == nil {
		x.typed = x.c.newInput(x.ctx, x.ch)
	}
	return x.typed
}

// serveHub answers a session addressed to the hub itself: its few commands, never a shell or a file.
func (x *session) serveHub() {
	if x.c.forced {
		x.refuse("this key runs one command on devices and opens nothing else; use another key, or `hawser login`")
		return
	}
	start := x.prepare(x.ctx)
	if start == nil {
		return
	}
	switch {
	case start.Type == "shell" && x.pty.Load():
		if place := x.pick("", false, begun(start)); place != nil {
			x.serveOn(place)
		}
	case start.Type == "shell":
		reply(start, true)
		x.finish(x.command("ls"))
	case start.Type == "exec":
		p, err := payload.ParseExec(start.Payload)
		if reply(start, err == nil); err != nil {
			x.finish(statusRefused)
			return
		}
		switch words := strings.Fields(p.Command); {
		case len(words) == 1 && words[0] == "join" && x.pty.Load():
			if place := x.pick("", true, &ssh.Request{Type: "shell"}); place != nil {
				x.serveOn(place)
			}
			return
		case len(words) > 1 && words[0] == "join":
			x.join(words[1:])
			return
		case len(words) > 0 && words[0] == "play":
			x.play(words[1:])
			return
		}
		x.finish(x.command(p.Command))
	default:
		reply(start, true)
		x.say("the hub has no files; use DEVICE@" + x.c.s.c.HubName)
		x.finish(statusRefused)
	}
}

// serveUnknown is for a name that is none of anything.
func (x *session) serveUnknown() {
	if place := x.unreachable(&Refusal{Reason: RefusedDevice, Message: UnknownDevice(x.c.ssh.User())}); place != nil {
		x.serveOn(place)
	}
}

// command runs one of the hub's own commands and returns its exit status. The words are never given to a shell.
func (x *session) command(line string) uint32 {
	words := strings.Fields(line)
	switch {
	case len(words) == 0, words[0] == "help" && len(words) == 1:
		x.print(shell.Help(x.c.s.c.HubName, x.c.identity.User))
		return 0
	case words[0] == "ls":
		o, err := shell.ParseList(words[1:])
		if err != nil {
			x.say(err.Error())
			return 2
		}
		x.print(shell.List(x.devices(), o))
		return 0
	case words[0] == "join":
		list, err := x.joinable(x.ctx)
		if err != nil {
			x.say(explain(err))
			return statusRefused
		}
		x.print(shell.Sessions(list, x.c.s.c.Now()))
		return 0
	case words[0] == "help":
		x.say("help takes no words; " + shell.ErrUsage.Error())
		return 2
	}
	x.say(fmt.Sprintf("the hub has no command \"%s\"; `help` lists its commands, and DEVICE@%s is a device", wire.Quote(words[0], 64), x.c.s.c.HubName))
	return 127
}

// print writes a command's output to stdout, with the line ends of the client's terminal.
func (x *session) print(text string) {
	if x.pty.Load() {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, _ = io.WriteString(x.ch, text)
}

// devices are those the person may reach, with when he was on them.
func (x *session) devices() []Listed {
	all := x.c.list(x.ctx)
	if used := x.c.s.recent.of(x.c.identity.User); len(used) > 0 {
		for i := range all {
			all[i].Used = used[all[i].UUID]
		}
	}
	return all
}

// joinable is what the person may join.
func (x *session) joinable(ctx context.Context) ([]shell.Session, error) {
	c := x.c
	return c.s.c.Backend.Joinable(ctx, Claim{Kind: Session, Identity: c.identity, ConnectionID: c.id, ClientAddr: c.client})
}

// pick lets the person pick a device, or a session to join, which is what is shown first where joining, and returns the place on it; start is put in front of
// it, in the pty of now. nil: the session is over.
func (x *session) pick(query string, joining bool, start *ssh.Request) *Place {
	c := x.c
	if !c.s.pickers.enter(c.identity.User, maxUserPickers, maxPickers) {
		x.say("too many pickers are open; close one of yours, or say `ssh DEVICE@" + c.s.c.HubName + "`")
		x.finish(statusRefused)
		return nil
	}
	choice, err := x.runPicker(query, joining)
	c.s.pickers.leave(c.identity.User)
	switch {
	case x.ctx.Err() != nil: // a kill is told by the caller
		return nil
	case err != nil:
		x.c.s.c.Logger.Warn("picker failed", "user", c.identity.User, "error", err)
		x.finish(statusRefused)
		return nil
	case choice.Join != "":
		x.name, x.joins = names.Name{Kind: names.OfHub}, Joining{choice.Join, choice.Mode}
		place, err := x.admit()
		if err != nil {
			x.deny(err)
			return nil
		}
		x.replay(&ssh.Request{Type: "shell"})
		return place
	case choice.Name == "":
		if choice.Why != "" {
			x.say(choice.Why)
		}
		x.finish(0)
		return nil
	}
	x.name = names.Name{Kind: names.OfDevice, Device: choice.Name, Login: x.name.Login}
	var place *Place
	if choice.Wait {
		place, err = x.await(shell.PickedWait)
	} else {
		place, err = x.admit()
	}
	if err != nil {
		x.deny(err)
		return nil
	}
	x.replay(start)
	return place
}

// runPicker shows it, and follows the window.
func (x *session) runPicker(query string, joining bool) (shell.Choice, error) {
	c, b := x.c, x.c.s.c.Backend
	keys, pty := x.keyboard(), x.asked.pty
	p := shell.New(shell.Config{
		Hub: c.s.c.HubName, User: c.identity.User, Devices: x.devices(), Query: query, Login: x.name.Login,
		Online: func(d *Listed) bool { return b.Online(d.UUID) },
		Seen:   func(ctx context.Context, d *Listed) string { return "offline, " + x.seen(ctx, d.Name) },
		Go:     c.goRun, Sessions: x.joinable, Joining: joining,
	}, shell.Terminal{
		Next: keys.Next, Unread: keys.Unread, Out: x.ch, Term: pty.Term, Plain: x.asked.plain, Columns: pty.Columns, Rows: pty.Rows,
	})
	// A client that reads nothing holds up the end.
	stop := context.AfterFunc(x.ctx, func() { time.AfterFunc(killGrace, func() { _ = x.ch.Close() }) })
	defer stop()
	followed, unfollow := x.follow(p.Resize)
	defer func() {
		unfollow()
		<-followed
	}()
	return p.Run(x.ctx)
}

// follow takes the requests of a session that has no device yet, until the function it returns is called.
func (x *session) follow(resize func(columns, rows uint32)) (ended <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(x.ctx)
	done := make(chan struct{})
	x.c.goRun(func() {
		defer close(done)
		for {
			r := x.requests.next(ctx)
			if r == nil {
				return
			}
			switch r.Type {
			case "window-change", "keepalive@openssh.com":
				reply(r, x.hold(r))
				if r.Type == "window-change" {
					resize(x.asked.pty.Columns, x.asked.pty.Rows)
				}
			default:
				reply(r, false)
			}
		}
	})
	return done, cancel
}
