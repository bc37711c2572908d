package shell

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"hawser/tunnel/wire"
)

// Options are of the command ls.
type Options struct {
	Quiet     bool // names alone
	selectors []selector
}

// ErrUsage is wrapped by what is wrong with a command's words.
var ErrUsage = errors.New("`help` lists the commands")

// ParseList reads the words after ls.
func ParseList(args []string) (o Options, err error) {
	for i := 0; i < len(args); i++ {
		switch arg := args[i]; {
		case arg == "-q" || arg == "--quiet":
			o.Quiet = true
		case arg == "-l" || arg == "--label":
			if i++; i == len(args) {
				return o, fmt.Errorf("ls: %s wants labels, as -l site=ber,role!=spare; %w", arg, ErrUsage)
			}
			if err = o.add(args[i]); err != nil {
				return o, err
			}
		case strings.HasPrefix(arg, "-l"):
			if err = o.add(strings.TrimPrefix(arg, "-l")); err != nil {
				return o, err
			}
		case strings.HasPrefix(arg, "--label="):
			if err = o.add(strings.TrimPrefix(arg, "--label=")); err != nil {
				return o, err
			}
		default:
			return o, fmt.Errorf("ls: \"%s\" is not known; %w", wire.Quote(arg, 64), ErrUsage)
		}
	}
	return o, nil
}

func (o *Options) add(text string) error {
	more, err := parseSelectors(text)
	if err != nil {
		return fmt.Errorf("ls: %w", err)
	}
	if o.selectors = append(o.selectors, more...); len(o.selectors) > maxSelectors {
		return fmt.Errorf("ls: more than %d selectors", maxSelectors)
	}
	return nil
}

// List is what ls prints, sorted by name.
func List(devices []Device, o Options) string {
	devices = slices.DeleteFunc(devices, func(d Device) bool {
		return slices.ContainsFunc(o.selectors, func(s selector) bool { return !s.matches(&d) })
	})
	slices.SortFunc(devices, func(a, b Device) int { return strings.Compare(a.Name, b.Name) })
	var b strings.Builder
	if o.Quiet {
		for _, d := range devices {
			b.WriteString(d.Name + "\n")
		}
		return b.String()
	}
	w := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "DEVICE\tSTATE\tLABELS")
	for _, d := range devices {
		fmt.Fprintf(w, "%s\t%s\t%s\n", d.Name, state(d.Online), words(d.Labels))
	}
	_ = w.Flush()
	return b.String()
}

func state(online bool) string {
	if online {
		return "online"
	}
	return "offline"
}

// Help is what help prints.
func Help(hub, user string) string {
	return "This is the Hawser hub " + wire.Quote(hub, 128) + ". You are " + wire.Quote(user, 128) + ".\n\n" +
		"  ssh -t hawser@HUB             picks one of your devices, at a terminal\n" +
		"  ssh hawser@HUB ls             the devices you may use, and which are connected\n" +
		"                                -q: names alone; -l site=ber,role!=spare: only those\n" +
		"  ssh -t hawser@HUB join ID     joins a live session, as observer; --mode peer types, --mode moderator may end it\n" +
		"  ssh hawser@HUB join           the live sessions you may join or were invited to; with -t to pick from\n" +
		"  ssh -t hawser@HUB play ID     plays a recording that you may see; --from 12m, --speed 2, --text\n" +
		"  ssh hawser@HUB help           this\n" +
		"  ssh DEVICE@HUB                a shell on a device\n" +
		"  ssh LOGIN=DEVICE@HUB CMD      a command as a login of the device\n" +
		"  ssh -o SetEnv=HAWSER_WAIT=1h DEVICE@HUB\n" +
		"                                waits for a device that is away; scp and sftp too\n" +
		"  ssh -J hawser@HUB LOGIN@DEVICE   end to end, by certificate; the hub sees nothing\n\n" +
		"In the picker: type to search, / first where the name begins with j or q; arrows, Enter; Tab or j shows the live sessions you may join; Esc, q or Ctrl-C leaves.\n"
}
