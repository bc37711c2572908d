package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
	"hawser/tools/hawser/profile"
	"hawser/tunnel/wire"
)

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Who you are, for how long, by which way, which hubs are up, and how much room recordings have",
		Args:  cobra.NoArgs,
		RunE:  func(c *cobra.Command, _ []string) error { return status(c) },
	}
}

func status(c *cobra.Command) error {
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	out := c.OutOrStdout()
	line := func(key, format string, args ...any) {
		fmt.Fprintf(out, "%-10s %s\n", key, fmt.Sprintf(format, args...))
	}
	res, err := admin.Whoami(c.Context(), connect.NewRequest(&api.WhoamiRequest{}))
	if err != nil {
		localStatus(out, admin.profile)
		return err
	}
	w := res.Msg
	line("user", "%s", w.User)
	line("roles", "%s", strings.Join(w.Roles, ","))
	line("cluster", "%s", w.Cluster)
	line("until", "%s (%s)", when(w.NotAfterUnix), remaining(time.Until(time.Unix(w.NotAfterUnix, 0))))
	line("key", "%s", keyPlace(admin.profile))
	if at := admin.profile.Addresses(); len(at) > 0 {
		line("reached by", "%s", wayTo(at[0], admin.profile.Settings, w.Hubs))
	}
	for _, h := range w.Hubs {
		state := "offline"
		if h.Online {
			state = "online"
		}
		line("hub", "%s %s ssh %s", wire.Quote(h.Name, maxCell), state, strings.Join(h.SshAddresses, " "))
	}
	// Who may not list recordings has no use for it either; an auth service of another release may not know it.
	if room, err := admin.conn.Recording.GetRecordingStore(c.Context(), connect.NewRequest(&api.GetRecordingStoreRequest{})); err == nil {
		line("recordings", "%s", roomForRecordings(room.Msg))
	}
	return nil
}

// roomForRecordings says how much recordings take and have; what is wrong comes first.
func roomForRecordings(r *api.GetRecordingStoreResponse) string {
	text := mebibytes(r.Bytes)
	if r.QuotaBytes > 0 {
		text += " of " + mebibytes(r.QuotaBytes)
	}
	text += ", " + mebibytes(r.FreeBytes) + " free"
	if r.Held > 0 {
		text += fmt.Sprintf(", %d held", r.Held)
	}
	switch r.State {
	case "full":
		text = "NO ROOM: nothing more is recorded until some is freed: " + text
	case "low":
		text = "LITTLE ROOM: " + text
	}
	return text
}

func mebibytes(n uint64) string {
	if n < 10<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d GiB", n>>30)
}

// localStatus is what is known without the auth service.
func localStatus(out io.Writer, p *profile.Profile) {
	cert, err := p.SSHCertificate()
	if err != nil {
		return
	}
	fmt.Fprintf(out, "%-10s %s\n%-10s %s\n%-10s %s\n%-10s %s\n", "user", wire.Quote(cert.KeyId, maxCell), "cluster", p.Settings.Cluster,
		"until", when(int64(min(cert.ValidBefore, 1<<40))), "key", keyPlace(p))
}

func remaining(d time.Duration) string {
	if d <= 0 {
		return "over"
	}
	return span(d) + " left"
}

func keyPlace(p *profile.Profile) string {
	switch {
	case p.Settings.SSHKey != "":
		return p.Settings.SSHKey
	case p.InAgent():
		return "in the ssh-agent"
	}
	return p.KeyPath()
}

// wayTo says whether an address is auth's own or a hub's, which passes on what it cannot read.
func wayTo(addr string, s profile.Settings, hubs []*api.Hub) string {
	for _, h := range hubs {
		if slices.Contains(h.TunnelAddresses, addr) {
			return fmt.Sprintf("%s, hub %s", addr, wire.Quote(h.Name, maxCell))
		}
	}
	if addr == s.APIAddr {
		return addr + ", the auth service itself"
	}
	return addr
}
