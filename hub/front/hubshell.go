package front

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"hawser/hub/names"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/wire"
)

// serveHub answers a session addressed to the hub itself: its few commands, never a shell or a file.
func (x *session) serveHub() {
	for {
		r := x.requests.next(x.ctx)
		if r == nil {
			return
		}
		switch r.Type {
		case "pty-req":
			x.pty.Store(true)
			reply(r, true)
		case "env", "window-change":
			reply(r, true)
		case "shell":
			reply(r, true)
			x.finish(x.command(""))
			return
		case "exec":
			p, err := payload.ParseExec(r.Payload)
			reply(r, err == nil)
			if err == nil {
				x.finish(x.command(p.Command))
				return
			}
		case "subsystem":
			reply(r, true)
			x.say("the hub has no files; use DEVICE@" + x.c.s.c.HubName)
			x.finish(statusRefused)
			return
		default:
			reply(r, false)
		}
	}
}

// command runs one of the hub's own commands and returns its exit status. The words are never given to a shell.
func (x *session) command(line string) uint32 {
	words := strings.Fields(line)
	switch {
	case len(words) == 0, words[0] == "help" && len(words) == 1:
		x.print(x.help())
		return 0
	case words[0] == "ls" && len(words) == 1:
		x.print(table(x.c.s.c.Backend.List(x.c.identity)))
		return 0
	case words[0] == "ls" && len(words) == 2 && words[1] == "-q":
		var b strings.Builder
		for _, d := range x.c.s.c.Backend.List(x.c.identity) {
			fmt.Fprintln(&b, d.Name)
		}
		x.print(b.String())
		return 0
	case words[0] == "help" || words[0] == "ls":
		x.say(words[0] + ": too many words; `help` lists the commands")
		return 2
	}
	x.say(fmt.Sprintf("the hub has no command \"%s\"; `help` lists its commands, and DEVICE@%s is a device", wire.Quote(words[0], 64), x.c.s.c.HubName))
	return 127
}

func (x *session) help() string {
	hub := x.c.s.c.HubName
	return "This is the Hawser hub " + hub + ". You are " + x.c.identity.User + ".\n\n" +
		"  ssh " + names.Hub + "@HUB ls           the devices you may use, and which are connected; ls -q: names alone\n" +
		"  ssh " + names.Hub + "@HUB help         this\n" +
		"  ssh DEVICE@HUB              a shell on a device\n" +
		"  ssh LOGIN=DEVICE@HUB CMD    a command as a login of the device\n" +
		"  ssh -J " + names.Hub + "@HUB LOGIN@DEVICE   end to end, by certificate; the hub sees nothing\n"
}

// print writes a command's output to stdout, with the line ends of the client's terminal.
func (x *session) print(text string) {
	if x.pty.Load() {
		text = strings.ReplaceAll(text, "\n", "\r\n")
	}
	_, _ = io.WriteString(x.ch, text)
}

func table(list []Listed) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tSTATE\tLABELS")
	for _, d := range list {
		state := "offline"
		if d.Online {
			state = "online"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.Name, state, wire.Quote(strings.Join(d.Labels, ","), 256))
	}
	_ = w.Flush()
	return b.String()
}
