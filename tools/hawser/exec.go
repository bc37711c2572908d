package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

// maxStdin is what --stdin gives to each device, in bytes: it is kept in memory.
const maxStdin = 16 << 20

func newExec() *cobra.Command {
	f := &fleet{}
	var stdin string
	c := &cobra.Command{
		Use:   "exec [DEVICE ...] [-l site=ber] -- COMMAND [ARG ...]",
		Short: "Run a command on many devices",
		Long: `Run a command on many devices, as ssh DEVICE@HUB would, several at a time. What devices print is shown a line at a time, after the
device's name. Before devices of more than one environment (label env) are touched it asks, unless --yes says so.

    hawser exec -l site=ber --parallel 50 -- uptime
    hawser exec -l site=ber --retry todo --wait 8h -- apt-get -y upgrade      # the same line again goes on with what is left

Exit code: 0 where it was 0 on all of them, else 1, of one DEVICE its own; 130 after Ctrl-C, which ends all that runs. On stderr is at the
end what failed, and how to go on with that. Devices that are away fail at once, or are waited for with --wait. Words after -- are the
command's, joined by spaces for the device's shell, as with ssh. Nobody is asked for a passphrase or a code meanwhile: a key that wants one
belongs into the ssh-agent, and a device whose role says mfa: session, which asks at each connection, is not reached so.`,
		ValidArgsFunction: completeFleet,
		RunE: func(c *cobra.Command, args []string) error {
			dash := c.ArgsLenAtDash()
			if dash < 0 || dash == len(args) {
				return usageError{errors.New("put -- in front of the command, as in: hawser exec -l site=ber -- uptime")}
			}
			f.names = append(f.names, args[:dash]...)
			command := args[dash:]
			if err := f.check(); err != nil {
				return err
			}
			input, err := f.input(stdin)
			if err != nil {
				return err
			}
			again := "exec " + againFlags(c.Flags()) + "%s -- " + percent.Replace(quoteWords(command))
			return f.run(c, strings.Join(command, " "), again, func(config string) (do, error) {
				path, err := exec.LookPath("ssh")
				if err != nil {
					return nil, fmt.Errorf("%w: install OpenSSH's client", err)
				}
				return func(ctx context.Context, name string, stdout, stderr io.Writer) (int, error) {
					args := append([]string{"-F", config, "-T", "-o", f.connectTimeout(), "-l", f.user(name), "hub", "--"}, command...)
					return f.process(ctx, input(), stdout, stderr, path, args...)
				}, nil
			})
		},
	}
	f.flags(c.Flags())
	c.Flags().StringVar(&stdin, "stdin", "",
		fmt.Sprintf("a file whose content is each command's input, at most %d MiB; -: standard input (default: none)", maxStdin>>20))
	_ = c.RegisterFlagCompletionFunc("devices", completeDeviceList)
	return c
}

func (f *fleet) connectTimeout() string {
	return fmt.Sprintf("ConnectTimeout=%d", int(f.connect.Seconds()))
}

// input returns what makes the commands' standard input.
func (f *fleet) input(name string) (func() io.Reader, error) {
	if name == "" {
		return func() io.Reader { return nil }, nil
	}
	from := os.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		from = file
	}
	b, err := io.ReadAll(io.LimitReader(from, maxStdin+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxStdin {
		return nil, fmt.Errorf("%s has more than %d MiB: copy it with hawser scp", name, maxStdin>>20)
	}
	return func() io.Reader { return bytes.NewReader(b) }, nil
}

// againFlags are the flags that were given and hold for another run too.
func againFlags(s *pflag.FlagSet) string {
	var b strings.Builder
	s.Visit(func(g *pflag.Flag) {
		switch g.Name {
		case "label", "devices", "retry", "list":
		case "yes":
			b.WriteString("--yes ")
		default:
			b.WriteString(percent.Replace("--" + g.Name + "=" + quoteWords([]string{g.Value.String()}) + " "))
		}
	})
	return b.String()
}

// percent keeps text as it is in a format.
var percent = strings.NewReplacer("%", "%%")

// harmless needs no quotes in a shell.
const harmless = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=,@%+"

// quoteWords writes words for a shell.
func quoteWords(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		if quoted[i] = w; w == "" || strings.TrimLeft(w, harmless) != "" {
			quoted[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return plain(strings.Join(quoted, " "))
}

// completeFleet offers the names of devices until the command.
func completeFleet(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if dash := c.ArgsLenAtDash(); dash >= 0 && dash < len(args) { // at the end there is one of the library's own
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, directive := completeDevices(c, nil, word)
	return slices.DeleteFunc(names, func(s string) bool { return slices.Contains(args, s) }), directive
}

// completeDeviceList completes the last of names with commas between.
func completeDeviceList(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	res, err := call(c.Context(), apiconnect.AdminServiceClient.ListDevices, &api.ListDevicesRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	given := word[:strings.LastIndexByte(word, ',')+1]
	var names []string
	for _, d := range res.Devices {
		if !slices.Contains(strings.Split(given, ","), d.Name) {
			names = append(names, given+d.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

const fleetCopyHelp = `To many devices, or from them, the devices' side is :PATH, and flags say which, as for hawser exec:

    hawser scp -l site=ber FILE ... :PATH
    hawser scp -l site=ber :PATH DIR              # into DIR/DEVICE/

-r copies directories, -p keeps times and modes. The other flags are:

`

func scpHelp() string {
	flags, _, _ := copyFlags(&fleet{})
	return "Run scp(1) with the profile's configuration; --wait, which comes first, as for hawser ssh.\n\n" + fleetCopyHelp + flags.FlagUsages()
}

// fleetCopies tells whether the words for scp mean many devices: there one names a host before each colon.
func fleetCopies(args []string) bool {
	return slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, ":") })
}

// copyFlags are those of a copy to many.
func copyFlags(f *fleet) (flags *pflag.FlagSet, recursive, preserve *bool) {
	flags = pflag.NewFlagSet("scp", pflag.ContinueOnError)
	flags.Usage = func() {}
	f.flags(flags)
	return flags, flags.BoolP("recursive", "r", false, "directories too"), flags.BoolP("preserve", "p", false, "keep times and modes")
}

// runFleetCopy is hawser scp for many devices.
func runFleetCopy(c *cobra.Command, args []string) error {
	f := &fleet{}
	flags, recursive, preserve := copyFlags(f)
	if err := flags.Parse(args); err != nil {
		return usageError{err}
	}
	paths := flags.Args()
	if err := f.check(); err != nil {
		return err
	}
	words := func(name string) (list []string, dir string, err error) { return copyWords(paths, name) }
	if _, _, err := words("device"); err != nil {
		return err
	}
	what := "copy " + strings.Join(paths, " ")
	again := "scp " + againFlags(flags) + "%s " + percent.Replace(quoteWords(paths))
	return f.run(c, what, again, func(config string) (do, error) {
		path, err := exec.LookPath("scp")
		if err != nil {
			return nil, fmt.Errorf("%w: install OpenSSH's client", err)
		}
		return func(ctx context.Context, name string, stdout, stderr io.Writer) (int, error) {
			options := []string{"-F", config, "-q", "-B", "-o", f.connectTimeout(), "-o", "User=" + f.user(name)}
			if *recursive {
				options = append(options, "-r")
			}
			if *preserve {
				options = append(options, "-p")
			}
			list, dir, err := words(name)
			if err != nil {
				return 0, err
			}
			if dir != "" {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					return 0, err
				}
			}
			return f.process(ctx, nil, stdout, stderr, path, slices.Concat(options, []string{"--"}, list)...)
		}, nil
	})
}

// copyWords are scp's sources and target for one device; dir is to be made before.
func copyWords(paths []string, device string) (words []string, dir string, err error) {
	far := func(s string) bool { return strings.HasPrefix(s, ":") }
	near := func(s string) string {
		if !filepath.IsAbs(s) {
			s = "./" + s // a colon or a dash in it is its own
		}
		return s
	}
	wrong := usageError{errors.New("copy FILE ... :PATH, or :PATH ... DIR")}
	if len(paths) < 2 {
		return nil, "", wrong
	}
	sources, target := paths[:len(paths)-1], paths[len(paths)-1]
	for _, s := range sources {
		switch {
		case far(s) == far(target):
			return nil, "", wrong
		case far(s):
			words = append(words, "hub"+s)
		default:
			words = append(words, near(s))
		}
	}
	if far(target) {
		return append(words, "hub"+target), "", nil
	}
	dir = filepath.Join(target, device)
	return append(words, near(dir)+"/"), dir, nil
}
