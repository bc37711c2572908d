package command

import (
	"errors"
	"fmt"
	"strings"

	"hawser/tunnel/wire"
)

// errHelp is what [flagSet.parse] returns for --help and -h.
var errHelp = errors.New("help asked for")

// flagSet is the flags of one command by name. Each takes a value, as `--name value` or `--name=value`, but a switch may stand alone. It stands in for pflag, which with what it
// pulls in costs the agent tens of kilobytes.
type flagSet map[string]func(value string)

// switches are the flags that may stand alone, which is "on".
var switches = map[string]bool{"metered": true}

// text adds a flag whose last value counts.
func (f flagSet) text(p *string, name, otherwise string) {
	*p = otherwise
	f[name] = func(v string) { *p = v }
}

// list adds a flag that may be repeated; the first use drops otherwise.
func (f flagSet) list(p *[]string, name string, otherwise []string) {
	*p = otherwise
	given := false
	f[name] = func(v string) {
		if !given {
			*p, given = nil, true
		}
		*p = append(*p, v)
	}
}

// parse gives every flag its value and returns the arguments that are no flags. After `--` nothing is a flag.
func (f flagSet) parse(args []string) (rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			return append(rest, args...), nil
		}
		if arg == "--help" || arg == "-h" {
			return nil, errHelp
		}
		if len(arg) < 2 || arg[0] != '-' {
			rest = append(rest, arg)
			continue
		}
		name, value, given := strings.Cut(arg, "=")
		long, isLong := strings.CutPrefix(name, "--")
		set, known := f[long]
		switch {
		case !isLong || !known:
			return nil, fmt.Errorf("unknown flag: \"%s\"", wire.Quote(name, 80))
		case given:
		case switches[long]:
			value = "on"
		case len(args) == 0:
			return nil, fmt.Errorf("flag needs an argument: %s", name)
		default:
			value, args = args[0], args[1:]
		}
		set(value)
	}
	return rest, nil
}
