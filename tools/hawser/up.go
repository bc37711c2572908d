package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hawser/auth"
	"hawser/auth/api"
	"hawser/hub"
	"hawser/tools/hawser/profile"
	"hawser/tunnel/identity"
)

// upConfig is what `hawser up` is told.
type upConfig struct {
	Dir     string
	Bind    netip.Addr
	Devices int           // local agents, gw-1 to gw-N
	Hubs    int           // in zones of their own where there are several
	Cluster string        // name of a new cluster; empty: the hostname
	UserTTL time.Duration // life of the admin's certificate; 0: auth's default
	// DeviceTTL and HubTTL are the lives of their certificates; 0: auth's default.
	DeviceTTL, HubTTL        time.Duration
	SSHPort, TunnelPort, API uint16 // 0: as the last time, else free-chosen
	Log                      *slog.Logger
	Words                    io.Writer // for the person at the terminal
}

// maxLocalDevices bounds --devices: each is a process of some 10 MB.
const maxLocalDevices = 200

// maxLocalHubs bounds --hubs: a zone each, and they have letters.
const maxLocalHubs = 9

func newUp() *cobra.Command {
	var cfg upConfig
	var bind string
	var verbose bool
	c := &cobra.Command{
		Use:   "up --dir DIR",
		Short: "A whole cluster here and now: auth and hubs in this process, local agents as its children",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if cfg.Dir == "" {
				return usageError{errors.New("name the cluster's directory with --dir")}
			}
			if cfg.Devices < 0 || cfg.Devices > maxLocalDevices {
				return usageError{fmt.Errorf("--devices %d: 0 to %d", cfg.Devices, maxLocalDevices)}
			}
			if cfg.Hubs < 1 || cfg.Hubs > maxLocalHubs {
				return usageError{fmt.Errorf("--hubs %d: 1 to %d", cfg.Hubs, maxLocalHubs)}
			}
			var err error
			if cfg.Bind, err = netip.ParseAddr(bind); err != nil {
				return usageError{fmt.Errorf("--bind: %w", err)}
			}
			level := slog.LevelWarn
			if verbose {
				level = slog.LevelDebug
			}
			cfg.Log = slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			cfg.Words = c.ErrOrStderr()
			return up(c.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Dir, "dir", "", "directory of all the cluster's state")
	f.StringVar(&bind, "bind", "127.0.0.1", "address to listen on")
	f.IntVar(&cfg.Devices, "devices", 0, "local agents to run, gw-1 to gw-N")
	f.IntVar(&cfg.Hubs, "hubs", 1, "hubs to run in this process, the first on the ports below, each in a zone of its own: a, b, c...")
	f.StringVar(&cfg.Cluster, "cluster", "", "name of a new cluster (default: the hostname)")
	f.Uint16Var(&cfg.SSHPort, "ssh-port", 0, "port for ssh; 0: as the last time, or free-chosen")
	f.Uint16Var(&cfg.TunnelPort, "tunnel-port", 0, "port for devices, UDP and TCP; 0: likewise")
	f.Uint16Var(&cfg.API, "api-port", 0, "port of the auth service; 0: likewise")
	f.DurationVar(&cfg.UserTTL, "user-ttl", 0, "life of users' certificates (default 12h)")
	f.DurationVar(&cfg.DeviceTTL, "device-ttl", 0, "life of devices' certificates (default 90 days)")
	f.DurationVar(&cfg.HubTTL, "hub-ttl", 0, "life of the hub's certificate (default 7 days)")
	f.BoolVarP(&verbose, "verbose", "v", false, "log all that happens")
	return c
}

// ready is ready.json.
type ready struct {
	SSHAddr    string        `json:"ssh_addr"`
	TunnelAddr string        `json:"tunnel_addr"`
	APIAddr    string        `json:"api_addr"`
	CAPin      string        `json:"ca_pin"`
	Cluster    string        `json:"cluster"`
	Home       string        `json:"home"`
	SSHConfig  string        `json:"ssh_config"`
	Hubs       []readyHub    `json:"hubs"` // the first is that of ssh_addr and tunnel_addr
	Devices    []readyDevice `json:"devices"`
	PID        int           `json:"pid"`
}

type readyHub struct {
	Name       string `json:"name"`
	SSHAddr    string `json:"ssh_addr"`
	TunnelAddr string `json:"tunnel_addr"`
	UUID       string `json:"uuid"`
	Zone       string `json:"zone,omitempty"`
}

type readyDevice struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

const (
	readyFile = "ready.json"
	portsFile = "ports.json"
	adminName = "admin"
)

// ports are remembered so that devices that joined from elsewhere find the
// cluster again after a restart.
type ports struct {
	SSH    uint16 `json:"ssh"`
	Tunnel uint16 `json:"tunnel"`
	API    uint16 `json:"api"`
	// More are those of the second hub and on.
	More []hubPorts `json:"more,omitempty"`
}

type hubPorts struct {
	SSH    uint16 `json:"ssh"`
	Tunnel uint16 `json:"tunnel"`
}

// up runs the cluster until ctx ends. It returns when all that it started has.
func up(ctx context.Context, cfg upConfig) (err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make the cluster's directory: %w", err)
	}
	state, err := identity.Open(cfg.Dir)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := state.Lock(); err != nil {
		return fmt.Errorf("%s is in use by another `hawser up`: %w", cfg.Dir, err)
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	root.Remove(readyFile) // of a run that was killed

	g := newParts(ctx)
	defer func() {
		err = errors.Join(err, g.end())
		root.Remove(readyFile)
	}()
	c := cluster{cfg: cfg, root: root, group: g}
	if err := c.start(g.ctx); err != nil {
		return stopped(ctx, g, err)
	}
	fmt.Fprintf(cfg.Words, "ready: ssh -F %s gw-1    HAWSER_HOME=%s hawser ls\n", filepath.Join(cfg.Dir, sshConfigFile), filepath.Join(cfg.Dir, "home"))
	<-g.ctx.Done()
	return nil
}

// stopped replaces an error of starting that only says that the person asked to
// stop, or that follows from a part that failed and will be reported itself.
func stopped(ctx context.Context, g *parts, err error) error {
	if ctx.Err() != nil || g.ctx.Err() != nil {
		return nil
	}
	return err
}

// cluster is a running `hawser up`.
type cluster struct {
	cfg     upConfig
	root    *os.Root
	group   *parts
	auth    *auth.Server
	hubs    []*hub.Hub
	profile *profile.Profile
	ready   ready
	states  []string // of ready.Devices, their state directories
	moved   bool     // a port is another than in the last run: what agents hold of addresses is wrong
}

// start brings the parts up in the order in which they need each other, and
// writes ready.json last.
func (c *cluster) start(ctx context.Context) error {
	p := c.ports()
	if err := c.startAuth(p); err != nil {
		return fmt.Errorf("start auth: %w", err)
	}
	if err := c.startHubs(ctx, p); err != nil {
		return err
	}
	c.ready.Devices = []readyDevice{}
	c.ready.PID = os.Getpid()
	c.ready.SSHAddr, c.ready.TunnelAddr = c.ready.Hubs[0].SSHAddr, c.ready.Hubs[0].TunnelAddr
	c.ready.Cluster, c.ready.CAPin, c.ready.APIAddr = c.auth.Cluster(), c.auth.Pin(), c.auth.Addr()
	if err := c.savePorts(); err != nil {
		return err
	}
	if err := c.startProfile(ctx); err != nil {
		return fmt.Errorf("make the admin's profile: %w", err)
	}
	for i := 1; i <= c.cfg.Devices; i++ {
		if err := c.startDevice(ctx, fmt.Sprintf("gw-%d", i)); err != nil {
			return fmt.Errorf("start gw-%d: %w", i, err)
		}
	}
	if err := c.waitForDevices(ctx); err != nil {
		return err
	}
	c.group.run("ssh_config", c.followDevices)
	b, err := json.MarshalIndent(c.ready, "", "  ")
	if err != nil {
		return err
	}
	return identity.WriteFileAtomic(c.root, readyFile, append(b, '\n'), 0o600)
}

// reach is the address under which a listener on this machine is dialled.
func reach(a netip.AddrPort) netip.AddrPort {
	ip := a.Addr().Unmap()
	if ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(ip, a.Port())
}

// ports returns the ports to try: those asked for, then those of the last run.
func (c *cluster) ports() ports {
	p := ports{}
	if b, err := c.root.ReadFile(portsFile); err == nil {
		// A file that cannot be read costs the ports of the last run, no more.
		if err := json.Unmarshal(b, &p); err != nil {
			c.cfg.Log.Warn("ports of the last run cannot be read; choosing free ones", "error", err)
			p = ports{}
		}
	}
	type wish struct {
		asked uint16
		use   *uint16
	}
	wishes := []wish{{c.cfg.SSHPort, &p.SSH}, {c.cfg.TunnelPort, &p.Tunnel}, {c.cfg.API, &p.API}}
	p.More = append(p.More, make([]hubPorts, maxLocalHubs)...)[:c.cfg.Hubs-1]
	for i := range p.More {
		wishes = append(wishes, wish{0, &p.More[i].SSH}, wish{0, &p.More[i].Tunnel})
	}
	for _, f := range wishes {
		was := *f.use
		switch {
		case f.asked != 0:
			*f.use = f.asked
		case *f.use != 0 && !free(netip.AddrPortFrom(c.cfg.Bind, *f.use)):
			*f.use = 0
		}
		c.moved = c.moved || was != 0 && was != *f.use
	}
	return p
}

func (c *cluster) savePorts() error {
	api, err := netip.ParseAddrPort(c.auth.Addr())
	if err != nil {
		return err
	}
	p := ports{SSH: c.hubs[0].SSHAddr().Port(), Tunnel: c.hubs[0].TunnelAddr().Port(), API: api.Port()}
	for _, h := range c.hubs[1:] {
		p.More = append(p.More, hubPorts{h.SSHAddr().Port(), h.TunnelAddr().Port()})
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return identity.WriteFileAtomic(c.root, portsFile, b, 0o600)
}

func (c *cluster) at(port uint16) string { return netip.AddrPortFrom(c.cfg.Bind, port).String() }

func (c *cluster) startAuth(p ports) error {
	cfg := auth.Config{
		Data: filepath.Join(c.cfg.Dir, "auth"), Listen: c.at(p.API), Cluster: c.cfg.Cluster,
		UserTTL: c.cfg.UserTTL, DeviceTTL: c.cfg.DeviceTTL, HubTTL: c.cfg.HubTTL,
		Logger: c.cfg.Log.With("part", "auth"),
	}
	there, err := auth.Initialized(cfg.Data)
	if err != nil {
		return err
	}
	if !there {
		if err := auth.Init(cfg); err != nil {
			return err
		}
	}
	if c.auth, err = auth.New(cfg); err != nil {
		return err
	}
	c.group.next()
	c.group.run("auth", c.auth.Run)
	return c.group.until(c.auth.Ready())
}

// startHubs starts them one after the other; they end together.
func (c *cluster) startHubs(ctx context.Context, p ports) error {
	c.group.next()
	for i, at := range append([]hubPorts{{p.SSH, p.Tunnel}}, p.More...) {
		name := "hub"
		if i > 0 {
			name = fmt.Sprintf("hub-%d", i+1)
		}
		zone := ""
		if c.cfg.Hubs > 1 {
			zone = string(rune('a' + i))
		}
		if err := c.startHub(ctx, name, zone, at); err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
	}
	return nil
}

func (c *cluster) startHub(ctx context.Context, name, zone string, p hubPorts) error {
	cfg := hub.Config{
		Data: filepath.Join(c.cfg.Dir, name), Name: name, AuthAddr: c.auth.Addr(), Zone: zone,
		SSHListen: c.at(p.SSH), TunnelListen: c.at(p.Tunnel),
		Public: []string{reach(netip.AddrPortFrom(c.cfg.Bind, 0)).Addr().String(), "localhost"},
		Logger: c.cfg.Log.With("part", name),
	}
	joined, err := identity.Joined(cfg.Data)
	if err != nil {
		return err
	}
	if !joined {
		if cfg.Token, err = c.auth.CreateToken(ctx, &api.CreateTokenRequest{Kind: "hub", TtlSeconds: uint64(startTimeout / time.Second)}); err != nil {
			return err
		}
	}
	h, err := hub.New(cfg)
	if err != nil {
		return err
	}
	c.group.run(name, h.Run)
	if err := c.group.until(h.Ready()); err != nil {
		return err
	}
	dir, err := identity.Open(cfg.Data)
	if err != nil {
		return err
	}
	defer dir.Close()
	cred, err := identity.Load(dir)
	if err != nil {
		return fmt.Errorf("read its identity: %w", err)
	}
	c.hubs = append(c.hubs, h)
	c.ready.Hubs = append(c.ready.Hubs, readyHub{
		Name: cred.Name, SSHAddr: reach(h.SSHAddr()).String(), TunnelAddr: reach(h.TunnelAddr()).String(), UUID: cred.UUID, Zone: zone,
	})
	return nil
}

// startTimeout bounds how long a part may take to come up.
const startTimeout = time.Minute

// startProfile writes the admin's profile and keeps its certificates fresh.
func (c *cluster) startProfile(ctx context.Context) error {
	var err error
	if c.profile, err = profile.Create(filepath.Join(c.cfg.Dir, "home")); err != nil {
		return err
	}
	c.ready.Home = c.profile.Dir
	c.group.next()
	rotated := c.auth.Rotated() // before what it tells of is used
	notAfter, err := c.renewProfile(ctx)
	if err != nil {
		return err
	}
	c.group.run("profile", func(ctx context.Context) error {
		defer c.profile.Close()
		for {
			// Half of what is left: a certificate that is used has half its life
			// to go, and a failed renewal has time to be tried again.
			wait := max(time.Until(notAfter)/2, time.Second)
			select {
			case <-ctx.Done():
				return nil
			case <-rotated: // what it trusts is old, and another CA may sign
			case <-time.After(wait):
			}
			rotated = c.auth.Rotated()
			next, err := c.renewProfile(ctx)
			if err != nil {
				c.cfg.Log.Warn("the admin's certificate was not renewed; trying again", "error", err)
				continue
			}
			notAfter = next
		}
	})
	return nil
}

func (c *cluster) renewProfile(ctx context.Context) (time.Time, error) {
	key, err := c.profile.Key()
	if err != nil {
		return time.Time{}, err
	}
	cred, err := c.auth.IssueAdmin(ctx, adminName, key.Public().(ed25519.PublicKey))
	if err != nil {
		return time.Time{}, err
	}
	s := profile.Settings{Cluster: c.ready.Cluster, User: adminName, APIAddr: c.ready.APIAddr, CAPin: c.auth.Pin(), SSHAddr: c.ready.SSHAddr}
	err = c.profile.Save(s, profile.Credentials{SSHCert: cred.SshCertificate, Chain: cred.Chain, Trust: cred.Trust})
	return time.Unix(cred.NotAfterUnix, 0), err
}

// waitForDevices returns when every local agent has its tunnel.
func (c *cluster) waitForDevices(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("the local agents have no tunnel after %v: see their logs below %s", startTimeout, filepath.Join(c.cfg.Dir, "devices")))
	defer cancel()
	tick := time.NewTicker(pollDevices)
	defer tick.Stop()
	for {
		path, online, err := c.writeConfig(ctx)
		if err != nil {
			return err
		}
		c.ready.SSHConfig = path
		c.nameDevices()
		if !slices.ContainsFunc(c.ready.Devices, func(d readyDevice) bool { return !online[d.Name] }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// nameDevices puts into ready the names that local agents have joined by: one
// whose name was taken, by a device of an earlier run, has got another.
func (c *cluster) nameDevices() {
	for i, path := range c.states {
		dir, err := identity.Open(path)
		if err != nil {
			continue // not there yet, or its agent says what is wrong
		}
		if cred, err := identity.Load(dir); err == nil {
			c.ready.Devices[i].Name = cred.Name
		}
		dir.Close()
	}
}

// pollDevices is how often the list of devices is read to keep ssh_config true.
const pollDevices = 100 * time.Millisecond

// followDevices writes ssh_config again when devices join or leave.
func (c *cluster) followDevices(ctx context.Context) error {
	tick := time.NewTicker(5 * pollDevices)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, _, err := c.writeConfig(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("ssh_config was not written", "error", err)
		}
	}
}

// writeConfig writes ssh_config for the devices of now, and tells where it is
// and which are online.
func (c *cluster) writeConfig(ctx context.Context) (path string, online map[string]bool, err error) {
	devices, err := c.auth.Devices(ctx)
	if err != nil {
		return "", nil, err
	}
	online = map[string]bool{}
	for _, d := range devices {
		online[d.Name] = d.Online
	}
	slices.SortFunc(devices, func(a, b *api.Device) int { return strings.Compare(a.Name, b.Name) })
	var more []string
	for _, h := range c.ready.Hubs[1:] {
		more = append(more, h.SSHAddr)
	}
	path, err = writeSSHConfig(c.cfg.Dir, c.profile, more, localLogin(), devices)
	return path, online, err
}

// edgeToken makes a token for one local agent.
func (c *cluster) edgeToken(ctx context.Context) (string, error) {
	return c.auth.CreateToken(ctx, &api.CreateTokenRequest{
		Kind: "edge", TtlSeconds: uint64(startTimeout / time.Second),
		Labels: []*api.Label{{Key: "local", Value: "true"}},
	})
}
