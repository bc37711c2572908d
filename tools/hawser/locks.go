package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/tunnel/wire"
)

// maxNamed is how many who have not confirmed a lock are named one by one.
const maxNamed = 20

func newLock() *cobra.Command {
	return group("lock", "Locks: refuse a user, role, login, device, key or network everywhere, at once", newLockAdd(), newLockList(), newLockRemove())
}

func newLockAdd() *cobra.Command {
	k := new(api.StandingLock)
	req := &api.AddLockRequest{Lock: k}
	var ttl, wait time.Duration
	c := &cobra.Command{
		Use:   "add [--user NAME] [--role NAME] [--login NAME] [--device NAME] [--key KEY] [--source NETWORK]",
		Short: "Put a lock in force, end what it refuses, and wait until every hub and device has it",
		Long: `Put a lock in force. It refuses whom all of the given flags are true of: new connections, sessions, joins and calls of the API,
and it ends what is live. A device that is locked has its tunnel closed.

The command waits for every hub and every connected device to confirm and names who has not. A device that is not connected
gets the lock before it serves anybody. Standard output has the lock's id alone. Exit code 7: someone who is connected has not confirmed in
time; the lock stands all the same.`,
		Example: "  hawser lock add --user alice --message 'left the company'\n  hawser lock add --device gw-17 --ttl 24h --message stolen\n  hawser lock add --role field --login root --ttl 1h",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case k.User == "" && k.Role == "" && k.Login == "" && k.Device == "" && k.Key == "" && k.Source == "":
				return usageError{errors.New("say what to lock: --user, --role, --login, --device, --key or --source")}
			case ttl != 0 && ttl < time.Second:
				return usageError{fmt.Errorf("--ttl %v: at least 1s, or none for a lock that stands until it is removed", ttl)}
			case wait < 0 || wait > time.Minute:
				return usageError{fmt.Errorf("--wait %v: from 0s to 1m", wait)}
			}
			req.TtlSeconds, req.WaitMs = uint64(ttl/time.Second), max(1, uint32(wait/time.Millisecond))
			if k.Key != "" {
				var err error
				if k.Key, err = keyFingerprint(k.Key); err != nil {
					return usageError{err}
				}
			}
			return addLock(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), req)
		},
	}
	f := c.Flags()
	f.StringVar(&k.User, "user", "", "a person")
	f.StringVar(&k.Role, "role", "", "everybody who has a role")
	f.StringVar(&k.Login, "login", "", "an account on devices")
	f.StringVar(&k.Device, "device", "", "a device, by name or UUID")
	f.StringVar(&k.Key, "key", "", "an SSH key: its fingerprint SHA256:..., a line of authorized_keys, or a file with one")
	f.StringVar(&k.Source, "source", "", "where people come from: an address or a network as 192.0.2.0/24")
	f.StringVar(&k.Message, "message", "", "what those whom it refuses are told")
	f.DurationVar(&ttl, "ttl", 0, "how long it stands; without it until it is removed")
	f.DurationVar(&wait, "wait", 10*time.Second, "how long to wait for the confirmations")
	f.BoolVar(&req.Force, "force", false, "lock yourself, all administrators, or a name nobody has, too")
	return c
}

func addLock(ctx context.Context, stdout, stderr io.Writer, req *api.AddLockRequest) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	stream, err := c.conn.Lock.AddLock(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	live := isTerminal(stderr)
	first := true
	for stream.Receive() {
		p := stream.Msg()
		if first { // whatever comes, the lock stands and can be taken back
			fmt.Fprintln(stdout, p.GetLock().GetId())
			first = false
		}
		if live && !p.Done {
			fmt.Fprintf(stderr, "\rlock %s: %s", p.GetLock().GetId(), held(p))
		}
		if p.Done {
			if live {
				fmt.Fprint(stderr, "\r")
			}
			return locked(stderr, p)
		}
	}
	if err := stream.Err(); err != nil {
		return err
	}
	return errors.New("the auth service ended the call early; `hawser lock ls` shows whether the lock stands")
}

// held says how far a lock is.
func held(p *api.LockProgress) string {
	return fmt.Sprintf("in force on %d of %d hubs and %d of %d devices", p.HubsConfirmed, p.Hubs, p.DevicesConfirmed, p.Devices)
}

// locked says how it came out.
func locked(w io.Writer, p *api.LockProgress) error {
	text := held(p)
	if p.SessionsEnded > 0 {
		text += fmt.Sprintf("; %d sessions and connections end", p.SessionsEnded)
	}
	if p.DevicesAway > 0 {
		text += fmt.Sprintf("; %d devices are not connected and get it before they serve anybody", p.DevicesAway)
	}
	fmt.Fprintf(w, "lock %s: %s\n", p.GetLock().GetId(), text)
	for i, u := range p.Unconfirmed {
		if i == maxNamed {
			fmt.Fprintf(w, "  and %d more\n", len(p.Unconfirmed)-i)
			break
		}
		fmt.Fprintf(w, "  %s %s: %s\n", u.Kind, wire.Quote(u.Name, 64), u.Why)
	}
	if p.HubsConfirmed < p.Hubs || p.DevicesConfirmed < p.Devices {
		return silentError(exitTimeout)
	}
	return nil
}

// keyFingerprint takes a fingerprint, a public key, or a file that holds one.
func keyFingerprint(text string) (string, error) {
	if strings.HasPrefix(text, "SHA256:") {
		return text, nil
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		b, rerr := os.ReadFile(text)
		if rerr != nil {
			return "", fmt.Errorf("--key is no fingerprint, no public key, and no file: %w", rerr)
		}
		if key, _, _, _, err = ssh.ParseAuthorizedKey(b); err != nil {
			return "", fmt.Errorf("--key: %s holds no public key as ssh-keygen writes it", text)
		}
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	return ssh.FingerprintSHA256(key), nil
}

// lockRow is a lock as -o json shows it.
type lockRow struct {
	ID         string     `json:"id" yaml:"id"`
	User       string     `json:"user,omitempty" yaml:"user,omitempty"`
	Role       string     `json:"role,omitempty" yaml:"role,omitempty"`
	Login      string     `json:"login,omitempty" yaml:"login,omitempty"`
	Device     string     `json:"device,omitempty" yaml:"device,omitempty"`
	DeviceUUID string     `json:"device_uuid,omitempty" yaml:"device_uuid,omitempty"`
	Key        string     `json:"key,omitempty" yaml:"key,omitempty"`
	Source     string     `json:"source,omitempty" yaml:"source,omitempty"`
	Message    string     `json:"message,omitempty" yaml:"message,omitempty"`
	By         string     `json:"by,omitempty" yaml:"by,omitempty"`
	Created    *time.Time `json:"created,omitempty" yaml:"created,omitempty"`
	Expires    *time.Time `json:"expires,omitempty" yaml:"expires,omitempty"`
}

func rowOf(k *api.StandingLock) lockRow {
	at := func(unix int64) *time.Time {
		if unix == 0 {
			return nil
		}
		t := time.Unix(unix, 0).UTC()
		return &t
	}
	return lockRow{
		ID: k.Id, User: k.User, Role: k.Role, Login: k.Login, Device: k.DeviceName, DeviceUUID: k.Device, Key: k.Key, Source: k.Source,
		Message: k.Message, By: k.By, Created: at(k.CreatedUnix), Expires: at(k.ExpiresUnix),
	}
}

// names says in one cell what a lock is about.
func names(k *api.StandingLock) string {
	var parts []string
	device := k.DeviceName
	if device == "" {
		device = k.Device
	}
	for _, f := range [][2]string{{"user", k.User}, {"role", k.Role}, {"login", k.Login}, {"device", device}, {"key", k.Key}, {"source", k.Source}} {
		if f[1] != "" {
			parts = append(parts, f[0]+"="+f[1])
		}
	}
	return strings.Join(parts, " ")
}

func newLockList() *cobra.Command {
	var format string
	c := &cobra.Command{
		Use:   "ls",
		Short: "Locks in force, and whose certificates of before are void",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := checkFormat(format); err != nil {
				return err
			}
			cl, err := dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.conn.Lock.ListLocks(c.Context(), connect.NewRequest(&api.ListLocksRequest{}))
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			switch format {
			case formatName:
				for _, k := range res.Msg.Locks {
					fmt.Fprintln(out, k.Id)
				}
				return nil
			case formatJSON, formatYAML:
				rows := []lockRow{}
				for _, k := range res.Msg.Locks {
					rows = append(rows, rowOf(k))
				}
				return data(out, format, rows)
			}
			var rows [][]string
			for _, k := range res.Msg.Locks {
				until := when(k.ExpiresUnix)
				if until == "" {
					until = "removed"
				}
				rows = append(rows, []string{k.Id, names(k), until, k.By, when(k.CreatedUnix), k.Message})
			}
			if err := table(out, []string{"ID", "LOCKS", "UNTIL", "BY", "SINCE", "MESSAGE"}, rows); err != nil {
				return err
			}
			for _, v := range res.Msg.Voids {
				user := "of " + wire.Quote(v.User, 64)
				if v.User == "*" {
					user = "of everybody"
				}
				fmt.Fprintf(c.ErrOrStderr(), "certificates %s from before %s are void\n", user, when(v.BeforeUnix))
			}
			return nil
		},
	}
	c.Flags().StringVarP(&format, "output", "o", formatTable, "table, json, yaml or name")
	return c
}

func newLockRemove() *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID",
		Short: "Lift a lock",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			cl, err := dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.conn.Lock.RemoveLock(c.Context(), connect.NewRequest(&api.RemoveLockRequest{Id: args[0]}))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "lock %s is lifted: %s\n", res.Msg.GetLock().GetId(), names(res.Msg.GetLock()))
			return nil
		},
	}
}
