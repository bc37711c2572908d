package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
	"hawser/tunnel/wire"
)

// deviceView is how a device is printed as data.
type deviceView struct {
	Name         string            `json:"name" yaml:"name"`
	UUID         string            `json:"uuid" yaml:"uuid"`
	Online       bool              `json:"online" yaml:"online"`
	Labels       map[string]string `json:"labels" yaml:"labels"`
	Hub          string            `json:"hub,omitempty" yaml:"hub,omitempty"`
	Zone         string            `json:"zone,omitempty" yaml:"zone,omitempty"`
	Carrier      string            `json:"carrier,omitempty" yaml:"carrier,omitempty"`
	Since        string            `json:"since,omitempty" yaml:"since,omitempty"` // of the tunnel in use; offline since
	Tunnels      []tunnelView      `json:"tunnels,omitempty" yaml:"tunnels,omitempty"`
	Address      string            `json:"address,omitempty" yaml:"address,omitempty"`
	Addresses    []string          `json:"addresses,omitempty" yaml:"addresses,omitempty"`
	Hostname     string            `json:"hostname,omitempty" yaml:"hostname,omitempty"`
	AgentVersion string            `json:"agent_version,omitempty" yaml:"agent_version,omitempty"`
	OS           string            `json:"os,omitempty" yaml:"os,omitempty"`
	Arch         string            `json:"arch,omitempty" yaml:"arch,omitempty"`
	LastSeen     string            `json:"last_seen,omitempty" yaml:"last_seen,omitempty"`
	LastHub      string            `json:"last_hub,omitempty" yaml:"last_hub,omitempty"`
	LastCarrier  string            `json:"last_carrier,omitempty" yaml:"last_carrier,omitempty"`
	LastReason   string            `json:"last_reason,omitempty" yaml:"last_reason,omitempty"`
	Outage       string            `json:"last_outage,omitempty" yaml:"last_outage,omitempty"`
	History      []eventView       `json:"history,omitempty" yaml:"history,omitempty"`
	Joined       string            `json:"joined,omitempty" yaml:"joined,omitempty"`
	CertNotAfter string            `json:"certificate_not_after,omitempty" yaml:"certificate_not_after,omitempty"`
	Logins       []string          `json:"logins,omitempty" yaml:"logins,omitempty"`
	Sessions     uint32            `json:"sessions" yaml:"sessions"`
	Mode         string            `json:"mode" yaml:"mode"`                         // tunnel, direct (hubs dial it), both, or via another device
	Listen       string            `json:"listen,omitempty" yaml:"listen,omitempty"` // ip:port of its own port
	State        string            `json:"state" yaml:"state"`                       // online, offline, quarantined or recovering
	Quarantine   string            `json:"quarantine,omitempty" yaml:"quarantine,omitempty"`
	Quarantined  string            `json:"quarantined,omitempty" yaml:"quarantined,omitempty"` // since
	CloneSources []string          `json:"clone_sources,omitempty" yaml:"clone_sources,omitempty"`
	Note         string            `json:"note,omitempty" yaml:"note,omitempty"`
	FormerNames  []string          `json:"former_names,omitempty" yaml:"former_names,omitempty"`
	Fingerprint  string            `json:"fingerprint,omitempty" yaml:"fingerprint,omitempty"`
	Generation   uint64            `json:"generation,omitempty" yaml:"generation,omitempty"`
	Behind       *behindView       `json:"behind,omitempty" yaml:"behind,omitempty"`
}

// deviceState is a device's state in a word.
func deviceState(d *api.Device) string {
	switch {
	case d.Quarantine != "":
		return "quarantined"
	case d.Online:
		return "online"
	case d.Recovering:
		return "recovering"
	}
	return "offline"
}

// deviceMode is how a device is reached: by tunnels it keeps, at a port of its own, where hubs dial it too, both, or through another.
func deviceMode(d *api.Device) string {
	switch {
	case d.Behind != nil:
		return "via " + cmp.Or(d.Behind.ViaName, d.Behind.Via)
	case d.TunnelOff:
		return "direct"
	case d.ListenAddress != "":
		return "both"
	}
	return "tunnel"
}

// tunnelView is one of a device's tunnels as data.
type tunnelView struct {
	Hub     string `json:"hub" yaml:"hub"`
	Zone    string `json:"zone,omitempty" yaml:"zone,omitempty"`
	Carrier string `json:"carrier" yaml:"carrier"`
	Slot    uint32 `json:"slot" yaml:"slot"`
	Active  bool   `json:"active" yaml:"active"` // slot 0
	Silent  bool   `json:"silent" yaml:"silent"`
	Address string `json:"address" yaml:"address"`
	Since   string `json:"since" yaml:"since"`
}

// eventView is one entry of a device's memory of its connections as data.
type eventView struct {
	Time    string  `json:"time" yaml:"time"`
	Event   string  `json:"event" yaml:"event"`
	Seconds float64 `json:"seconds,omitempty" yaml:"seconds,omitempty"`
	Times   uint32  `json:"times,omitempty" yaml:"times,omitempty"`
	Hub     string  `json:"hub,omitempty" yaml:"hub,omitempty"`
	Carrier string  `json:"carrier,omitempty" yaml:"carrier,omitempty"`
	Code    uint32  `json:"code,omitempty" yaml:"code,omitempty"`
	Text    string  `json:"text,omitempty" yaml:"text,omitempty"`
}

func viewDevice(d *api.Device, now time.Time) deviceView {
	v := deviceView{
		Name: d.Name, UUID: d.Uuid, Online: d.Online, Labels: map[string]string{},
		Hub: d.Hub, Carrier: d.Carrier, Address: d.Observed, Addresses: d.Addresses, Hostname: d.Hostname,
		AgentVersion: d.AgentVersion, OS: d.Os, Arch: d.Arch,
		LastSeen: stamp(d.LastSeenUnix), Joined: stamp(d.JoinedUnix), CertNotAfter: stamp(d.CertificateNotAfterUnix),
		Logins: d.Logins, Sessions: d.Sessions,
		Zone: d.Zone, Since: stamp(d.SinceUnix), LastHub: d.LastHub, LastCarrier: d.LastCarrier, LastReason: d.LastReason,
		Mode: deviceMode(d), Listen: d.ListenAddress, State: deviceState(d), Quarantine: d.Quarantine, Quarantined: stamp(d.QuarantinedUnix), CloneSources: d.CloneSources, Note: d.Note,
		FormerNames: d.FormerNames, Fingerprint: d.Fingerprint, Generation: d.Generation, Behind: viewBehind(d.Behind),
	}
	for _, t := range d.Tunnels {
		v.Tunnels = append(v.Tunnels, tunnelView{t.Hub, t.Zone, t.Carrier, t.Slot, t.Slot == 0, t.Silent, t.Observed, stamp(t.SinceUnix)})
	}
	for _, e := range d.History {
		v.History = append(v.History, eventView{
			time.Unix(0, e.AtUnixNano).UTC().Format(time.RFC3339), e.Name, time.Duration(e.LastedMs * uint64(time.Millisecond)).Seconds(), e.Times, e.Hub, e.Carrier,
			e.Code, e.Text,
		})
	}
	if o, ok := lastOutage(d.History); ok {
		v.Outage = o.tell(now)
	}
	for _, l := range d.Labels {
		v.Labels[l.Key] = l.Value
	}
	return v
}

// stamp is RFC 3339 in UTC, for data; empty when not known.
func stamp(unix int64) string {
	if unix == 0 {
		return ""
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

func labels(list []*api.Label) string {
	var parts []string
	for _, l := range list {
		parts = append(parts, l.Key+"="+l.Value)
	}
	return strings.Join(parts, ",")
}

func newList() *cobra.Command {
	var format string
	var selectors []string
	c := &cobra.Command{
		Use:   "ls",
		Short: "The devices you may reach",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.ListDevices, &api.ListDevicesRequest{Selectors: splitSelectors(selectors)})
			if err != nil {
				return err
			}
			return printDevices(c.OutOrStdout(), format, res.Devices, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, wide, json, yaml or name")
	c.Flags().StringArrayVarP(&selectors, "label", "l", nil, "only devices with these labels: site=ber,role!=spare")
	return c
}

func splitSelectors(in []string) []string {
	var out []string
	for _, s := range in {
		for part := range strings.SplitSeq(s, ",") {
			if part != "" {
				out = append(out, part)
			}
		}
	}
	return out
}

func printDevices(out io.Writer, format string, devices []*api.Device, now time.Time) error {
	switch format {
	case formatName:
		for _, d := range devices {
			fmt.Fprintln(out, wire.Quote(d.Name, maxCell))
		}
		return nil
	case formatJSON, formatYAML:
		views := make([]deviceView, 0, len(devices))
		for _, d := range devices {
			views = append(views, viewDevice(d, now))
		}
		return data(out, format, views)
	}
	head := []string{"NAME", "STATE", "SEEN", "LABELS"}
	if format == formatWide {
		head = append(head, "MODE", "HUB", "ZONE", "CARRIER", "TUNNELS", "ADDRESS", "MACHINE", "AGENT", "SESSIONS", "UUID", "NOTE")
	}
	var rows [][]string
	for _, d := range devices {
		seen := ago(now, d.LastSeenUnix)
		if d.Online {
			seen = "now"
		}
		row := []string{d.Name, deviceState(d), seen, labels(d.Labels)}
		if format == formatWide {
			row = append(row, deviceMode(d), d.Hub, d.Zone, d.Carrier, fmt.Sprint(len(d.Tunnels)), d.Observed, d.Os+"/"+d.Arch, d.AgentVersion, fmt.Sprint(d.Sessions), d.Uuid, d.Note)
		}
		rows = append(rows, row)
	}
	return table(out, head, rows)
}

func newShow() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:               "show DEVICE",
		Short:             "All that is known of one device",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeDevices,
		RunE: func(c *cobra.Command, args []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			res, err := call(c.Context(), apiconnect.AdminServiceClient.GetDevice, &api.GetDeviceRequest{Device: args[0]})
			if err != nil {
				return err
			}
			return printDevice(c.OutOrStdout(), format, res, time.Now())
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json or yaml")
	return c
}

func printDevice(out io.Writer, format string, d *api.Device, now time.Time) error {
	v := viewDevice(d, now)
	if format == formatJSON || format == formatYAML {
		return data(out, format, v)
	}
	rows := [][2]string{{"name", v.Name}, {"uuid", v.UUID}, {"state", tellState(d, now)}, {"labels", labels(d.Labels)}}
	if d.Quarantine != "" {
		rows = append(rows, [2]string{"quarantine", fmt.Sprintf("since %s: %s", when(d.QuarantinedUnix), d.Quarantine)},
			[2]string{"seen at", strings.Join(d.CloneSources, " and ")}, [2]string{"to end it", "switch the copy off, then `hawser device recover " + d.Name + "`"})
	}
	if d.Note != "" {
		rows = append(rows, [2]string{"note", d.Note})
	}
	if d.Behind != nil {
		rows = append(append(rows, behindRows(d)...), [][2]string{
			{"added", when(d.JoinedUnix)}, {"former names", strings.Join(d.FormerNames, " ")}, {"your logins", strings.Join(v.Logins, " ")}, {"sessions", fmt.Sprint(v.Sessions)},
		}...)
		return printRows(out, rows)
	}
	switch {
	case d.TunnelOff:
		rows = append(rows, [2]string{"mode", "direct: people and hubs come to " + d.ListenAddress})
	case d.ListenAddress != "":
		rows = append(rows, [2]string{"mode", "both: people come by its tunnels and to " + d.ListenAddress})
	}
	for i, t := range d.Tunnels {
		rows = append(rows, [2]string{[]string{"tunnel", ""}[min(i, 1)], tellTunnel(t, now)})
	}
	rows = append(rows, [][2]string{
		{"own addresses", strings.Join(v.Addresses, " ")}, {"hostname", v.Hostname}, {"machine", v.OS + "/" + v.Arch}, {"agent", v.AgentVersion},
		{"joined", when(d.JoinedUnix)}, {"certificate until", when(d.CertificateNotAfterUnix)}, {"generation", fmt.Sprint(d.Generation)}, {"key", d.Fingerprint},
		{"former names", strings.Join(d.FormerNames, " ")}, {"your logins", strings.Join(v.Logins, " ")},
		{"sessions", fmt.Sprint(v.Sessions)},
	}...)
	if v.Outage != "" {
		rows = append(rows, [2]string{"last outage", v.Outage})
	}
	for i, e := range d.History {
		rows = append(rows, [2]string{[]string{"history", ""}[min(i, 1)], tellEvent(e, now)})
	}
	return printRows(out, rows)
}

func printRows(out io.Writer, rows [][2]string) error {
	for _, row := range rows {
		if _, err := fmt.Fprintf(out, "%-18s %s\n", row[0], dash(wire.Quote(row[1], 1000))); err != nil {
			return err
		}
	}
	return nil
}

// group is a command that only holds others.
func group(use, short string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(subs...)
	return c
}

// completeDevices offers the names of the devices one may reach.
func completeDevices(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	res, err := call(c.Context(), apiconnect.AdminServiceClient.ListDevices, &api.ListDevicesRequest{})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, d := range res.Devices {
		names = append(names, d.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
