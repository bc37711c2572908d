// Package command is the command line of hawser-edge: flags to Config, Run, exit code. `hawser up` uses it too, for the agents it starts.
//
// Start from [Main]. stdout is data, stderr is words. Exit codes: 0, 1 failed, 2 usage.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hawser/edge"
	"hawser/edge/session"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const usage = `hawser-edge keeps this device reachable through its cluster.

  hawser-edge run    --state DIR [--token TOKEN] [--name NAME] [--label k=v]... [--hub ADDR]...
                     joins first if DIR holds no identity, then serves until it is told to stop
  hawser-edge join   --state DIR --token TOKEN [--name NAME] [--label k=v]...    only joins
  hawser-edge key    --state DIR      makes the device's key, if there is none, and prints its fingerprint, for hawser device import
  hawser-edge status [--state DIR]    says who this device is; inside a session, which session that is, who is in it, whether it is recorded, how others join
              [--out USER | --say TEXT]    inside a session: puts out a guest, shows a line to all who are in it
  hawser-edge leave  --state DIR      forgets the identity and the key
  hawser-edge doctor [--state DIR] [--hub ADDR]... [--proxy URL]    checks what an agent needs, and asks the running one
  hawser-edge version

  --hub ADDR, --hub @FILE    hub addresses instead of the cluster's; a file of them is read anew at each attempt, and so is a token's: --token @FILE
  --carrier any|quic|tls     what is dialled; any: QUIC, and TLS where UDP is blocked
  --standby on|off           a second tunnel at another hub, where there is one; on unless told
  --metered                  bytes are paid for: one tunnel, idle on TCP, on QUIC while somebody works
  --listen ADDR              serve people on a port of this device's own, too: IP:PORT, or :PORT for all its addresses; none unless told
  --tunnel on|off            off: no tunnel from here; hubs dial --listen, and this device only tells them where; on unless told
  --reprobe 5m               when QUIC is tried again while UDP seems blocked, and then ever more rarely
  --proxy http://[USER:PASSWORD@]HOST[:PORT]    the HTTP proxy that TCP goes through; "env": that of HTTPS_PROXY. None unless told

Every flag may also come from the environment: HAWSER_STATE, HAWSER_TOKEN, HAWSER_NAME, HAWSER_LABEL, HAWSER_HUB,
HAWSER_CARRIER, HAWSER_LISTEN, HAWSER_TUNNEL, HAWSER_STANDBY, HAWSER_METERED, HAWSER_REPROBE, HAWSER_PROXY, HAWSER_LOG_LEVEL (lists separated by commas). A flag wins.
`

// DefaultState is where the identity lives unless told otherwise; packages keep it across upgrades.
const DefaultState = "/etc/hawser-edge"

// buildTime is when this program was linked, Unix seconds: -ldflags "-X hawser/edge/command.buildTime=1763683200". It is the floor of the clock.
var buildTime string

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// errUsage wraps what is wrong with the command line.
var errUsage = errors.New("usage")

// options are the flags of all commands.
type options struct {
	state, token, name, carrier, logLevel, proxy string
	standby, metered, reprobe, listen, tunnel    string
	labels, hubs                                 []string
	out, say                                     string
}

// Main runs one command and returns the exit code of the process.
func Main(args []string, stdout, stderr io.Writer) int {
	if code, ok := session.RunHelper(append([]string{"hawser-edge"}, args...)); ok {
		return code
	}
	err := run(args, stdout, stderr)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errUsage):
		fmt.Fprintf(stderr, "hawser-edge: %v\nTry `hawser-edge help`.\n", strings.TrimPrefix(err.Error(), errUsage.Error()+": "))
		return exitUsage
	default:
		fmt.Fprintf(stderr, "hawser-edge: %v\n", err)
		return exitFailed
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return fmt.Errorf("%w: no command given", errUsage)
	}
	name := args[0]
	var do func(o *options, stdout, stderr io.Writer) error
	switch name {
	case "run":
		do = runAgent
	case "join":
		do = join
	case "status":
		do = status
	case "leave":
		do = leave
	case "key":
		do = key
	case "doctor":
		do = doctor
	case "version", "--version":
		fmt.Fprintln(stdout, tunnel.Version())
		return nil
	case "help", "--help", "-h":
		fmt.Fprint(stdout, usage)
		return nil
	default:
		return fmt.Errorf("%w: unknown command \"%s\"", errUsage, wire.Quote(name, 80))
	}
	o, err := parse(name, args[1:])
	if errors.Is(err, errHelp) {
		fmt.Fprint(stdout, usage)
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	return do(o, stdout, stderr)
}

// parse reads flags and environment; each command knows only the flags that mean something to it.
func parse(command string, args []string) (*options, error) {
	o := &options{}
	fs := flagSet{}
	fs.text(&o.state, "state", env("STATE", DefaultState))
	switch command {
	case "run", "join":
		fs.text(&o.token, "token", os.Getenv("HAWSER_TOKEN"))
		fs.text(&o.name, "name", os.Getenv("HAWSER_NAME"))
		fs.list(&o.labels, "label", list("LABEL"))
		fs.list(&o.hubs, "hub", list("HUB"))
		fs.text(&o.carrier, "carrier", env("CARRIER", "any"))
		fs.text(&o.logLevel, "log-level", env("LOG_LEVEL", "info"))
		fs.text(&o.standby, "standby", env("STANDBY", "on"))
		fs.text(&o.metered, "metered", os.Getenv("HAWSER_METERED"))
		fs.text(&o.reprobe, "reprobe", os.Getenv("HAWSER_REPROBE"))
		fs.text(&o.listen, "listen", os.Getenv("HAWSER_LISTEN"))
		fs.text(&o.tunnel, "tunnel", env("TUNNEL", "on"))
	case "status":
		fs.text(&o.out, "out", "")
		fs.text(&o.say, "say", "")
	case "doctor":
		fs.list(&o.hubs, "hub", list("HUB"))
	}
	if command == "run" || command == "join" || command == "doctor" {
		fs.text(&o.proxy, "proxy", os.Getenv("HAWSER_PROXY"))
	}
	rest, err := fs.parse(args)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("unexpected argument \"%s\"", wire.Quote(rest[0], 80))
	}
	return o, nil
}

func env(name, otherwise string) string {
	if v := os.Getenv("HAWSER_" + name); v != "" {
		return v
	}
	return otherwise
}

func list(name string) []string {
	var out []string
	for s := range strings.SplitSeq(os.Getenv("HAWSER_"+name), ",") {
		if s = strings.TrimSpace(s); s != "" {
			out = append(out, s)
		}
	}
	return out
}

// config makes the agent's configuration of the options.
func (o *options) config(stderr io.Writer) (edge.Config, error) {
	c := edge.Config{State: o.state, Token: o.token, Name: o.name, Hubs: o.hubs, Proxy: o.proxy, Version: tunnel.Version(), BuildTime: built()}
	switch o.carrier {
	case "any", "":
	case "quic":
		c.Carriers = edge.OnlyQUIC
	case "tls":
		c.Carriers = edge.OnlyTLS
	default:
		return c, fmt.Errorf("%w: --carrier \"%s\" is none of any, quic, tls", errUsage, wire.Quote(o.carrier, 80))
	}
	for _, l := range o.labels {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return c, fmt.Errorf("%w: --label \"%s\" is not key=value", errUsage, wire.Quote(l, 80))
		}
		c.Labels = append(c.Labels, wire.Label{Key: key, Value: value})
	}
	var err error
	if c.Metered, err = onOff("metered", o.metered); err != nil {
		return c, err
	}
	standby, err := onOff("standby", o.standby)
	if err != nil {
		return c, err
	}
	c.NoStandby = !standby
	tunnelled, err := onOff("tunnel", o.tunnel)
	if err != nil {
		return c, err
	}
	c.Listen, c.TunnelOff = o.listen, !tunnelled
	if o.reprobe != "" {
		if c.Reprobe, err = time.ParseDuration(o.reprobe); err != nil || c.Reprobe < time.Second {
			return c, fmt.Errorf("%w: --reprobe \"%s\" is no duration of a second or more, such as 5m", errUsage, wire.Quote(o.reprobe, 80))
		}
	}
	level, err := logLevel(o.logLevel)
	if err != nil {
		return c, err
	}
	c.Logger = tunnel.NewTextLogger(stderr, level)
	if err := c.Validate(); err != nil {
		return c, fmt.Errorf("%w: %w", errUsage, err)
	}
	return c, nil
}

// onOff reads a switch; nothing is off.
func onOff(name, s string) (bool, error) {
	switch s {
	case "1", "on", "true", "yes":
		return true, nil
	case "", "0", "off", "false", "no":
		return false, nil
	}
	return false, fmt.Errorf("%w: --%s \"%s\" is neither on nor off", errUsage, name, wire.Quote(s, 80))
}

func logLevel(s string) (tunnel.Level, error) {
	for _, l := range []tunnel.Level{tunnel.LevelDebug, tunnel.LevelInfo, tunnel.LevelWarn, tunnel.LevelError} {
		if s == l.String() {
			return l, nil
		}
	}
	return 0, fmt.Errorf("%w: --log-level \"%s\" is none of debug, info, warn, error", errUsage, wire.Quote(s, 80))
}

// built is the link's time, or zero.
func built() time.Time {
	n, err := strconv.ParseInt(buildTime, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.Unix(n, 0)
}

// untilSignal is a context that a SIGTERM, SIGINT or SIGHUP ends.
func untilSignal() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
}

func runAgent(o *options, _, stderr io.Writer) error {
	cfg, err := o.config(stderr)
	if err != nil {
		return err
	}
	edge.TuneMemory()
	ctx, stop := untilSignal()
	defer stop()
	for {
		a, err := edge.New(cfg)
		if err != nil {
			return err
		}
		if err = a.Run(ctx); !errors.Is(err, edge.ErrSplit) {
			return err
		}
		tunnel.Warn(cfg.Logger, err.Error())
	}
}

func join(o *options, stdout, stderr io.Writer) error {
	cfg, err := o.config(stderr)
	if err != nil {
		return err
	}
	a, err := edge.New(cfg)
	if err != nil {
		return err
	}
	ctx, stop := untilSignal()
	defer stop()
	if err := a.Join(ctx); err != nil {
		return err
	}
	name, uuid, cluster := a.Identity()
	fmt.Fprintf(stdout, "name: %s\nuuid: %s\ncluster: %s\n", name, uuid, cluster)
	return nil
}
