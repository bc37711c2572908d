package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

// maxImportFile bounds what is read of a file of keys; the service takes less.
const maxImportFile = 16 << 20

func newDevice() *cobra.Command {
	return group("device", "Devices of the cluster: who waits, names, labels, clones", newDeviceList(), newDeviceApprove(), newDeviceReject(), newDeviceImport(),
		newDeviceRename(), newDeviceLabel(), newDeviceRecover(), newDeviceRemove(),
		newDeviceAdd(), newDeviceSet(), newDeviceAcceptKey(), newDeviceKey())
}

// callDevice makes one call of DeviceService as the profile's person.
func callDevice[Req, Res any](
	ctx context.Context, method func(apiconnect.DeviceServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req,
) (*Res, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	defer c.close()
	res, err := method(c.conn.Device, ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// labelsOf is labels as a map.
func labelsOf(list []*api.Label) map[string]string {
	m := make(map[string]string, len(list))
	for _, l := range list {
		m[l.Key] = l.Value
	}
	return m
}

func readLabels(list []string) ([]*api.Label, error) {
	var out []*api.Label
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, usageError{fmt.Errorf("label %q: want key=value", l)}
		}
		out = append(out, &api.Label{Key: k, Value: v})
	}
	return out, nil
}

// pendingView is what is not a device yet, as data.
type pendingView struct {
	Name        string            `json:"name" yaml:"name"`
	UUID        string            `json:"uuid" yaml:"uuid"`
	State       string            `json:"state" yaml:"state"`
	Fingerprint string            `json:"fingerprint" yaml:"fingerprint"`
	Labels      map[string]string `json:"labels" yaml:"labels"`
	Hostname    string            `json:"hostname,omitempty" yaml:"hostname,omitempty"`
	Evidence    map[string]string `json:"evidence,omitempty" yaml:"evidence,omitempty"`
	OS          string            `json:"os,omitempty" yaml:"os,omitempty"`
	Arch        string            `json:"arch,omitempty" yaml:"arch,omitempty"`
	Source      string            `json:"source,omitempty" yaml:"source,omitempty"`
	By          string            `json:"by" yaml:"by"`
	Created     string            `json:"created" yaml:"created"`
	Seen        string            `json:"seen,omitempty" yaml:"seen,omitempty"`
	CloneOf     string            `json:"clone_of,omitempty" yaml:"clone_of,omitempty"`
	LooksLike   *likeView         `json:"looks_like,omitempty" yaml:"looks_like,omitempty"`
}

type likeView struct {
	Name     string   `json:"name" yaml:"name"`
	UUID     string   `json:"uuid" yaml:"uuid"`
	Evidence []string `json:"evidence" yaml:"evidence"`
	Online   bool     `json:"online" yaml:"online"`
	LastSeen string   `json:"last_seen,omitempty" yaml:"last_seen,omitempty"`
}

func viewPending(d *api.PendingDevice) pendingView {
	v := pendingView{
		Name: d.Name, UUID: d.Uuid, State: d.State, Fingerprint: d.Fingerprint, Labels: labelsOf(d.Labels), Hostname: d.Hostname, Evidence: labelsOf(d.Evidence),
		OS: d.Os, Arch: d.Arch, Source: d.Source, By: d.By, Created: stamp(d.CreatedUnix), Seen: stamp(d.SeenUnix), CloneOf: d.Parent,
	}
	if l := d.Like; l != nil {
		v.LooksLike = &likeView{l.Name, l.Uuid, l.Evidence, l.Online, stamp(l.LastSeenUnix)}
	}
	return v
}

// tellPending says what a person should know before approving.
func tellPending(d *api.PendingDevice, now time.Time) string {
	var parts []string
	if d.State == "expired" {
		parts = append(parts, d.By)
	}
	if d.Parent != "" {
		parts = append(parts, "had a copy of the identity of "+d.Parent)
	}
	if l := d.Like; l != nil {
		seen := "never seen"
		switch {
		case l.Online:
			seen = "which is online"
		case l.LastSeenUnix != 0:
			seen = "last seen " + ago(now, l.LastSeenUnix)
		}
		parts = append(parts, fmt.Sprintf("looks like %s (%s), %s: --as %s", l.Name, strings.Join(l.Evidence, ", "), seen, l.Name))
	}
	return strings.Join(parts, "; ")
}

func newDeviceList() *cobra.Command {
	var format string
	var selectors []string
	var pending, imported, rejected bool
	c := &cobra.Command{
		Use:   "ls [--pending | --imported | --rejected]",
		Short: "The devices you may reach, or what is not a device yet",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			out, now := c.OutOrStdout(), time.Now()
			req := &api.ListPendingRequest{Selectors: splitSelectors(selectors)}
			if pending {
				req.States = append(req.States, "pending", "expired")
			}
			if imported {
				req.States = append(req.States, "imported")
			}
			if rejected {
				req.States = append(req.States, "rejected")
			}
			if len(req.States) == 0 {
				res, err := call(c.Context(), apiconnect.AdminServiceClient.ListDevices, &api.ListDevicesRequest{Selectors: req.Selectors})
				if err != nil {
					return err
				}
				return printDevices(out, format, res.Devices, now)
			}
			res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.ListPending, req)
			if err != nil {
				return err
			}
			return printPending(out, format, res.Devices, now)
		},
	}
	c.Flags().BoolVar(&pending, "pending", false, "who waits for approval")
	c.Flags().BoolVar(&imported, "imported", false, "keys that were imported and have not joined")
	c.Flags().BoolVar(&rejected, "rejected", false, "who was turned away")
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	c.Flags().StringArrayVarP(&selectors, "label", "l", nil, "only those with these labels: site=ber,role!=spare")
	return c
}

func printPending(out io.Writer, format string, devices []*api.PendingDevice, now time.Time) error {
	switch format {
	case formatName:
		for _, d := range devices {
			fmt.Fprintln(out, wire.Quote(d.Name, maxCell))
		}
		return nil
	case formatJSON, formatYAML:
		views := make([]pendingView, 0, len(devices))
		for _, d := range devices {
			views = append(views, viewPending(d))
		}
		return data(out, format, views)
	}
	head := []string{"NAME", "STATE", "SINCE", "FROM", "KEY", "LABELS", "NOTE"}
	if format == formatWide {
		head = append(head, "HOSTNAME", "MACHINE", "AGENT", "SEEN", "BY", "UUID")
	}
	var rows [][]string
	for _, d := range devices {
		row := []string{d.Name, d.State, ago(now, d.CreatedUnix), d.Source, d.Fingerprint, labels(d.Labels), tellPending(d, now)}
		if format == formatWide {
			row = append(row, d.Hostname, d.Os+"/"+d.Arch, d.AgentVersion, ago(now, d.SeenUnix), d.By, d.Uuid)
		}
		rows = append(rows, row)
	}
	return table(out, head, rows)
}

func newDeviceApprove() *cobra.Command {
	req := &api.ApproveDevicesRequest{}
	var selectors, labelled []string
	c := &cobra.Command{
		Use:               "approve NAME|UUID|FINGERPRINT... | -l key=glob",
		Short:             "Make devices of those that wait",
		Long:              "Make devices of those that wait.\n\nWith --as a device goes on with the key of the one approved: re-flashed hardware keeps its name, labels and history. Nothing but your word ties the two together.",
		ValidArgsFunction: completePending,
		RunE: func(c *cobra.Command, args []string) (err error) {
			req.Devices, req.Selectors = args, splitSelectors(selectors)
			if req.Labels, err = readLabels(labelled); err != nil {
				return err
			}
			if len(args) == 0 && len(req.Selectors) == 0 {
				return usageError{errors.New("say which: names, UUIDs, fingerprints, or -l; `hawser device ls --pending` lists them")}
			}
			res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.ApproveDevices, req)
			if err != nil {
				return err
			}
			for _, d := range res.Devices {
				fmt.Fprintln(c.OutOrStdout(), wire.Quote(d.Name, maxCell))
				if d.Note != "" {
					fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", wire.Quote(d.Name, maxCell), wire.Quote(d.Note, 400))
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&req.As, "as", "", "the device that goes on with this key")
	c.Flags().StringVar(&req.Name, "name", "", "the name it gets, instead of the one it wishes")
	c.Flags().StringArrayVar(&labelled, "set-label", nil, "label it gets, key=value")
	c.Flags().StringArrayVarP(&selectors, "label", "l", nil, "all that wait and match: site=ber,name=gw-*")
	return c
}

func newDeviceReject() *cobra.Command {
	var selectors []string
	c := &cobra.Command{
		Use:               "reject NAME|UUID|FINGERPRINT... | -l key=glob",
		Short:             "Turn away those that wait; approve lets them in all the same",
		ValidArgsFunction: completePending,
		RunE: func(c *cobra.Command, args []string) error {
			req := &api.RejectDevicesRequest{Devices: args, Selectors: splitSelectors(selectors)}
			if len(args) == 0 && len(req.Selectors) == 0 {
				return usageError{errors.New("say which: names, UUIDs, fingerprints, or -l; `hawser device ls --pending` lists them")}
			}
			res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.RejectDevices, req)
			if err != nil {
				return err
			}
			for _, d := range res.Devices {
				fmt.Fprintln(c.OutOrStdout(), wire.Quote(d.Name, maxCell))
			}
			return nil
		},
	}
	c.Flags().StringArrayVarP(&selectors, "label", "l", nil, "all that wait and match: site=ber,name=gw-*")
	return c
}

func newDeviceImport() *cobra.Command {
	req := &api.ImportDevicesRequest{}
	c := &cobra.Command{
		Use:   "import FILE",
		Short: "Take the keys of devices that are to join, or servers without an agent; all of the file or none",
		Long: "Take the keys of devices that are to join, all of the file or none; repeating it changes nothing.\n\nCSV: name,key,labels (labels as site=ber;role=gw), or with a first line that names the columns: name, key, labels, label:KEY.\n" +
			"YAML: a list of {name, key, labels}. JSON: such an object a line. A key is the fingerprint that `hawser-edge key` prints, or a line ssh-ed25519 ....\nServers without an agent (hawser device add) come as a YAML list of {name, via, address, labels, logins, key, host_key, local}.\nThe devices join with the string of `hawser token create --kind edge --factory`.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if req.Data, err = readFile(c.InOrStdin(), args[0]); err != nil {
				return err
			}
			if targets, err := readTargets(args[0], req.Data); err != nil {
				return err
			} else if targets != nil {
				return importTargets(c, targets, req.DryRun)
			}
			if req.Format == "" {
				switch ext := strings.TrimPrefix(filepath.Ext(args[0]), "."); ext {
				case "csv", "yaml", "json":
					req.Format = ext
				case "yml":
					req.Format = "yaml"
				case "jsonl", "ndjson":
					req.Format = "json"
				}
			}
			res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.ImportDevices, req)
			if err != nil {
				return err
			}
			would := ""
			if req.DryRun {
				would = "would be "
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s%d added, %d changed, %d unchanged, %d devices already\n", would, res.Added, res.Changed, res.Unchanged, res.Joined)
			return nil
		},
	}
	c.Flags().StringVar(&req.Format, "format", "", "csv, yaml or json; else by the file's name and content")
	c.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what is wrong with the file, or what it would do")
	return c
}

// readFile reads a file, or standard input for "-".
func readFile(stdin io.Reader, path string) ([]byte, error) {
	in := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxImportFile+1))
	if err == nil && len(b) > maxImportFile {
		err = fmt.Errorf("%s has more than %d MiB", path, maxImportFile>>20)
	}
	return b, err
}

func newDeviceRename() *cobra.Command {
	return &cobra.Command{
		Use:               "rename DEVICE NAME",
		Short:             "Give a device another name; its history stays, its certificate follows at once",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			_, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.RenameDevice, &api.RenameDeviceRequest{Device: args[0], Name: args[1]})
			return err
		},
	}
}

func newDeviceLabel() *cobra.Command {
	var selectors []string
	c := &cobra.Command{
		Use:               "label [DEVICE...] KEY=VALUE... KEY-...",
		Short:             "Set labels, and remove those with a - behind; what roles allow follows at once",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			req := &api.LabelDevicesRequest{Selectors: splitSelectors(selectors)}
			for _, a := range args {
				if k, v, ok := strings.Cut(a, "="); ok && k != "" {
					req.Set = append(req.Set, &api.Label{Key: k, Value: v})
				} else if k, ok := strings.CutSuffix(a, "-"); ok && k != "" { // no device's name ends so
					req.Remove = append(req.Remove, k)
				} else {
					req.Devices = append(req.Devices, a)
				}
			}
			if len(req.Devices) == 0 && len(req.Selectors) == 0 {
				return usageError{errors.New("say which devices: names, or -l")}
			}
			res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.LabelDevices, req)
			if err != nil {
				return err
			}
			for _, d := range res.Devices {
				fmt.Fprintf(c.OutOrStdout(), "%s %s\n", wire.Quote(d.Name, maxCell), wire.Quote(labels(d.Labels), 1000))
			}
			return nil
		},
	}
	c.Flags().StringArrayVarP(&selectors, "label", "l", nil, "all devices that match: site=ber,role!=spare")
	return c
}

func newDeviceRecover() *cobra.Command {
	return &cobra.Command{
		Use:   "recover DEVICE",
		Short: "Serve a device again that is in quarantine as a clone",
		Long: "Serve a device again that is in quarantine, because two machines had its identity. Switch the copy off first: the machine that renews first keeps the\n" +
			"identity, and the other is found out when it comes. The device comes back by itself within 15 minutes, or when its agent is restarted.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			d, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.RecoverDevice, &api.RecoverDeviceRequest{Device: args[0]})
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s renews its certificate when it comes next: within 15 minutes, or when its agent is restarted\n", wire.Quote(d.Name, maxCell))
			return nil
		},
	}
}

func newDeviceRemove() *cobra.Command {
	return &cobra.Command{
		Use:               "rm DEVICE...",
		Short:             "Take devices out of the cluster: their certificates are void at once",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			for _, name := range args {
				if _, err := call(c.Context(), apiconnect.AdminServiceClient.RemoveDevice, &api.RemoveDeviceRequest{Device: name}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// completePending offers the names of those that wait.
func completePending(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	res, err := callDevice(c.Context(), apiconnect.DeviceServiceClient.ListPending, &api.ListPendingRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, d := range res.Devices {
		names = append(names, d.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
