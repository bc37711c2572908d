package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

// targetLines stand before the keys: the whole is good as it is for TrustedUserCAKeys, which skips comments.
const targetLines = `# Save this as /etc/ssh/hawser_target_ca.pub on the server, and add to its sshd_config:
#   TrustedUserCAKeys /etc/ssh/hawser_target_ca.pub
#   PasswordAuthentication no
#   KbdInteractiveAuthentication no
# To take no certificate that was made for another server, name LOGIN@DEVICE in a file for each account:
#   AuthorizedPrincipalsFile /etc/ssh/hawser_principals/%u
`

// callTarget makes one call of TargetService as the profile's person.
func callTarget[Req, Res any](
	ctx context.Context, method func(apiconnect.TargetServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c.conn.Target, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func newDeviceAdd() *cobra.Command {
	t := &api.Target{}
	var labelled []string
	var hostKey string
	c := &cobra.Command{
		Use:   "add NAME --via DEVICE|hub --address HOST:PORT",
		Short: "A server without an agent, that a device or the hubs reach by SSH",
		Long: "A server without an agent, that a device or the hubs reach by SSH. People use it as a device: `ssh NAME@HUB`.\n\n" +
			"The hub logs in for them: with a certificate of the target CA, where its sshd takes that (`hawser ca export --kind target` prints what it needs), or\n" +
			"with --key by a stored key (`hawser device key add`), which never leaves the auth service. Passwords are never offered. The host key that is seen first\n" +
			"is pinned, unless --host-key gives it; `hawser show NAME` shows it.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			t.Name = args[0]
			if t.Via == "" || t.Address == "" {
				return usageError{errors.New("give --via DEVICE or --via hub, and --address HOST:PORT as that reaches it")}
			}
			if t.Labels, err = readLabels(labelled); err != nil {
				return err
			}
			if t.HostKey, err = readHostKey(hostKey); err != nil {
				return err
			}
			res, err := callTarget(c.Context(), apiconnect.TargetServiceClient.AddTargets, &api.AddTargetsRequest{Targets: []*api.Target{t}})
			if err != nil {
				return err
			}
			if res.Added == 0 {
				fmt.Fprintf(c.ErrOrStderr(), "%s is there already, and as this says\n", wire.Quote(t.Name, maxCell))
			}
			fmt.Fprintln(c.OutOrStdout(), wire.Quote(t.Name, maxCell))
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&t.Via, "via", "", "the device that reaches it, or hub for what the hubs reach themselves")
	f.StringVar(&t.Address, "address", "", "HOST:PORT as that reaches it")
	f.StringArrayVar(&labelled, "label", nil, "key=value; may be repeated")
	f.StringArrayVar(&t.Logins, "login", nil, "an account it has, the usual one first; may be repeated (default: whatever roles allow is tried)")
	f.StringVar(&t.Key, "key", "", "name of the stored key that logs in (default: certificates of the target CA)")
	f.StringVar(&hostKey, "host-key", "", "file with its host key, as ssh_host_ed25519_key.pub or a line of ssh-keyscan")
	f.BoolVar(&t.Local, "local", false, "the address is of the loopback or link-local, and that is meant")
	_ = c.RegisterFlagCompletionFunc("via", completeDevices)
	return c
}

// readHostKey reads a public key from a file; the name is empty: none.
func readHostKey(path string) ([]byte, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(b) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		if key, _, _, _, err := ssh.ParseAuthorizedKey(line); err == nil {
			return key.Marshal(), nil
		}
		if _, _, key, _, _, err := ssh.ParseKnownHosts(line); err == nil {
			return key.Marshal(), nil
		}
		break
	}
	return nil, fmt.Errorf("%s begins with no public key; give the server's /etc/ssh/ssh_host_ed25519_key.pub, or what ssh-keyscan prints", path)
}

func newDeviceSet() *cobra.Command {
	r := &api.SetTargetRequest{}
	c := &cobra.Command{
		Use:               "set DEVICE [--via DEVICE|hub] [--address HOST:PORT] [--login NAME]... [--key NAME | --certificates]",
		Short:             "Change where a server without an agent is, or how it is logged in to",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			r.Device = args[0]
			_, err := callTarget(c.Context(), apiconnect.TargetServiceClient.SetTarget, r)
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&r.Via, "via", "", "the device that reaches it, or hub")
	f.StringVar(&r.Address, "address", "", "HOST:PORT as that reaches it")
	f.StringArrayVar(&r.Logins, "login", nil, "the accounts it has, instead of those that were given")
	f.StringVar(&r.Key, "key", "", "name of the stored key that logs in")
	f.BoolVar(&r.Certificates, "certificates", false, "certificates of the target CA log in, and no key")
	f.BoolVar(&r.Local, "local", false, "the address is of the loopback or link-local, and that is meant")
	return c
}

func newDeviceAcceptKey() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "accept-key DEVICE SHA256:... | DEVICE --file FILE",
		Short: "Take another host key of a server without an agent, after it was installed anew",
		Long: "Take another host key of a server without an agent, after it was installed anew. Compare the fingerprint with what `ssh-keygen -lf` says on the server\n" +
			"itself: a key that nobody expected may be that of somebody in its place.",
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) (err error) {
			r := &api.AcceptHostKeyRequest{Device: args[0]}
			if r.HostKey, err = readHostKey(file); err != nil {
				return err
			}
			if len(args) == 2 {
				r.Fingerprint = args[1]
			}
			if (r.Fingerprint == "") == (len(r.HostKey) == 0) {
				return usageError{errors.New("give the fingerprint of the key that was offered, or --file with the key")}
			}
			d, err := callTarget(c.Context(), apiconnect.TargetServiceClient.AcceptHostKey, r)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "the host key of %s is %s from now on\n", wire.Quote(d.Name, maxCell), wire.Quote(d.GetBehind().GetHostKey(), maxCell))
			return nil
		},
	}
	c.Flags().StringVar(&file, "file", "", "file with the key itself")
	return c
}

func newDeviceKey() *cobra.Command {
	return group("key", "Keys that log in to servers without an agent; none ever leaves the auth service", newDeviceKeyAdd(), newDeviceKeyList(), newDeviceKeyRemove())
}

func newDeviceKeyAdd() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "add NAME [--file PRIVATE]",
		Short: "Make a key, or store one, and print the line for authorized_keys",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			r := &api.AddTargetKeyRequest{Name: args[0]}
			if file != "" {
				if r.PrivateKey, err = readFile(c.InOrStdin(), file); err != nil {
					return err
				}
			}
			k, err := callTarget(c.Context(), apiconnect.TargetServiceClient.AddTargetKey, r)
			if err != nil {
				return err
			}
			_, err = io.WriteString(c.OutOrStdout(), keyLine(k)+"\n")
			return err
		},
	}
	c.Flags().StringVar(&file, "file", "", "the private key as ssh-keygen writes it, without a passphrase; - is standard input (default: one is made)")
	return c
}

// keyLine is a key as authorized_keys has it.
func keyLine(k *api.TargetKey) string {
	key, err := ssh.ParsePublicKey(k.PublicKey)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))) + " hawser-" + wire.Quote(k.Name, maxCell)
}

type targetKeyView struct {
	Name    string   `json:"name" yaml:"name"`
	Key     string   `json:"key" yaml:"key"`
	Added   string   `json:"added" yaml:"added"`
	By      string   `json:"by" yaml:"by"`
	Devices []string `json:"devices" yaml:"devices"`
}

func newDeviceKeyList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "The stored keys, their public halves, and which devices they log in to",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := callTarget(c.Context(), apiconnect.TargetServiceClient.ListTargetKeys, &api.ListTargetKeysRequest{})
			if err != nil {
				return err
			}
			out, now := c.OutOrStdout(), time.Now()
			views, rows := []targetKeyView{}, [][]string{}
			for _, k := range res.Keys {
				views = append(views, targetKeyView{k.Name, keyLine(k), stamp(k.AddedUnix), k.By, k.Devices})
				rows = append(rows, []string{k.Name, ago(now, k.AddedUnix), k.By, fmt.Sprint(len(k.Devices)), keyLine(k)})
			}
			switch format {
			case formatName:
				for _, k := range res.Keys {
					fmt.Fprintln(out, wire.Quote(k.Name, maxCell))
				}
				return nil
			case formatJSON, formatYAML:
				return data(out, format, views)
			}
			return table(out, []string{"NAME", "ADDED", "BY", "DEVICES", "KEY"}, rows)
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json, yaml or name")
	return c
}

func newDeviceKeyRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Forget keys that no device is logged in to with",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				if _, err := callTarget(c.Context(), apiconnect.TargetServiceClient.RemoveTargetKey, &api.RemoveTargetKeyRequest{Name: name}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// behindRows are what `hawser show` says of a server without an agent.
func behindRows(d *api.Device) [][2]string {
	b := d.Behind
	via := b.ViaName
	if b.Via == "hub" {
		via = "the hubs themselves"
	}
	login := "certificates of the target CA"
	if b.Key != "" {
		login = "the stored key " + b.Key
	}
	rows := [][2]string{{"reached by", via}, {"at", b.Address}, {"logged in to by", login}}
	if len(b.Logins) > 0 {
		rows = append(rows, [2]string{"its logins", strings.Join(b.Logins, " ")})
	}
	host := "none was seen yet: the first is pinned"
	if b.HostKey != "" {
		host = b.HostKey + ", pinned " + when(b.HostKeyUnix)
	}
	rows = append(rows, [2]string{"host key", host})
	if b.Offered != "" {
		rows = append(rows, [2]string{"refused", fmt.Sprintf("another host key, %s, offered %s", b.Offered, when(b.OfferedUnix))},
			[2]string{"to take it", "compare it on the server, then `hawser device accept-key " + d.Name + " " + b.Offered + "`"})
	}
	return rows
}

// behindView is where a server without an agent is, as data.
type behindView struct {
	Via     string   `json:"via" yaml:"via"`
	Address string   `json:"address" yaml:"address"`
	Key     string   `json:"key,omitempty" yaml:"key,omitempty"` // none: certificates
	Logins  []string `json:"logins,omitempty" yaml:"logins,omitempty"`
	HostKey string   `json:"host_key,omitempty" yaml:"host_key,omitempty"`
	Pinned  string   `json:"pinned,omitempty" yaml:"pinned,omitempty"`
	Offered string   `json:"offered_host_key,omitempty" yaml:"offered_host_key,omitempty"`
	Local   bool     `json:"local,omitempty" yaml:"local,omitempty"`
}

func viewBehind(b *api.Behind) *behindView {
	if b == nil {
		return nil
	}
	return &behindView{b.ViaName, b.Address, b.Key, b.Logins, b.HostKey, stamp(b.HostKeyUnix), b.Offered, b.Local}
}

// targetEntry is a server in a YAML file for `device import`.
type targetEntry struct {
	Name    string            `yaml:"name"`
	Via     string            `yaml:"via"`
	Address string            `yaml:"address"`
	Labels  map[string]string `yaml:"labels"`
	Logins  []string          `yaml:"logins"`
	Key     string            `yaml:"key"`
	HostKey string            `yaml:"host_key"` // a line as in ssh_host_ed25519_key.pub
	Local   bool              `yaml:"local"`
}

// readTargets reads a file of servers without an agent: a YAML list whose entries have via. nil: it is a file of keys.
func readTargets(path string, b []byte) ([]*api.Target, error) {
	if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" && !bytes.HasPrefix(bytes.TrimSpace(b), []byte("-")) {
		return nil, nil
	}
	var probe []struct {
		Via string `yaml:"via"`
	}
	if yaml.Unmarshal(b, &probe) != nil || !slices.ContainsFunc(probe, func(p struct {
		Via string `yaml:"via"`
	}) bool {
		return p.Via != ""
	}) {
		return nil, nil
	}
	var nodes []yaml.Node
	if err := yaml.Unmarshal(b, &nodes); err != nil {
		return nil, fmt.Errorf("nothing was imported: %w", err)
	}
	var out []*api.Target
	for _, n := range nodes {
		var e targetEntry
		var one bytes.Buffer
		enc := yaml.NewEncoder(&one)
		if err := errors.Join(enc.Encode(&n), enc.Close()); err != nil {
			return nil, err
		}
		dec := yaml.NewDecoder(&one)
		dec.KnownFields(true)
		if err := dec.Decode(&e); err != nil {
			return nil, fmt.Errorf("nothing was imported: line %d: %w; a server has name, via, address, labels, logins, key, host_key and local", n.Line, err)
		}
		t := &api.Target{Name: e.Name, Via: e.Via, Address: e.Address, Logins: e.Logins, Key: e.Key, Local: e.Local, Line: uint32(n.Line)}
		for k, v := range e.Labels {
			t.Labels = append(t.Labels, &api.Label{Key: k, Value: v})
		}
		if e.HostKey != "" {
			key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(e.HostKey))
			if err != nil {
				return nil, fmt.Errorf("nothing was imported: line %d: host_key is no public key", n.Line)
			}
			t.HostKey = key.Marshal()
		}
		out = append(out, t)
	}
	return out, nil
}

// importTargets adds the servers of a file.
func importTargets(c *cobra.Command, targets []*api.Target, dryRun bool) error {
	res, err := callTarget(c.Context(), apiconnect.TargetServiceClient.AddTargets, &api.AddTargetsRequest{Targets: targets, DryRun: dryRun})
	if err != nil {
		return err
	}
	would := ""
	if dryRun {
		would = "would be "
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s%d servers added, %d unchanged\n", would, res.Added, res.Unchanged)
	return nil
}
