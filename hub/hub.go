package hub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hawser/hub/authclient"
	"hawser/hub/front"
	"hawser/hub/mesh"
	"hawser/hub/registry"
	"hawser/hub/target"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/proxyproto"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// Hub is one proxy. New makes it, Run runs it once.
type Hub struct {
	config      Config
	ready       chan struct{}
	incarnation wire.Incarnation

	// Set by Run before ready is closed.
	ssh, tcp net.Listener
	udp      *net.UDPConn
	auth     *authclient.Client
	front    *front.Server

	targets *target.Targets
	// deliveries are the recordings on their way to auth.
	deliveries *deliveries
	registry   registry.Registry
	mesh       *mesh.Mesh
	granted    grantedSessions
	told       toldSessions
	ending     map[[16]byte]bool // by lapsed
	controls   controls
	dials      dialOut
	changes    changedDevices
	early      earlyKills
	rechecks   coalesced

	tunnels   tunnelSet
	issuers   issuers
	ends      tunnelEnds
	admission admission
	probes    *natProbes
	passes    passes
	broken    tunnel.Tally // tunnels whose other end did not keep to the protocol
	logHeads  logHeads
	started   time.Time

	drain         chan struct{} // closed by Drain
	drainOnce     sync.Once
	draining      atomic.Bool
	drainDeadline atomic.Int64 // Unix nanoseconds; 0: not draining
}

// New checks the configuration; it starts nothing and touches nothing.
func New(c Config) (*Hub, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	h := &Hub{config: c.withDefaults(), ready: make(chan struct{}), incarnation: wire.NewIncarnation(), drain: make(chan struct{})}
	h.dials.wake = make(chan struct{}, 1)
	h.logHeads.proofs = make(chan struct{}, maxProofs)
	h.admission.rate, h.admission.now, h.admission.hubs = h.admitRate, time.Now, h.hubAddresses
	return h, nil
}

// admitRate is how many handshakes of devices are admitted in a second.
func (h *Hub) admitRate() float64 {
	if h.config.AdmitRate > 0 {
		return float64(h.config.AdmitRate)
	}
	online := 0
	for _, x := range h.auth.Cache.Hubs() {
		if x.Online {
			online++
		}
	}
	list, _ := h.auth.Cache.HubList()
	return fleetRate(h.auth.Cache.DeviceCount(), len(list.Hubs), online, h.retryWindow())
}

// hubAddresses are where the other hubs send from, as far as they are addresses and not names.
func (h *Hub) hubAddresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, x := range h.auth.Cache.Hubs() {
		for _, a := range x.Tunnel {
			if ap, err := netip.ParseAddrPort(a); err == nil && x.UUID != h.auth.UUID() {
				all = append(all, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
			}
		}
	}
	return all
}

// Ready is closed when people and devices can connect.
func (h *Hub) Ready() <-chan struct{} { return h.ready }

// SSHAddr is the address people connect to; valid after Ready.
func (h *Hub) SSHAddr() netip.AddrPort { return addrPort(h.ssh.Addr()) }

// TunnelAddr is the address devices connect to, UDP and TCP; valid after Ready.
func (h *Hub) TunnelAddr() netip.AddrPort { return addrPort(h.tcp.Addr()) }

func addrPort(a net.Addr) netip.AddrPort {
	ap, _ := netip.ParseAddrPort(a.String())
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// firstSync is how long Run waits for the first state from auth before it serves without.
const firstSync = 5 * time.Second

// Run serves until ctx ends, Drain has done its work, or something it cannot do without fails.
//
// It ends in this order: people's connections are told and cut, and their sessions' recordings closed, while tunnels and auth still
// work; then tunnels are closed with the code drain, so that edges take another hub; then the last reports and releases go to auth.
func (h *Hub) Run(ctx context.Context) error {
	dir, err := identity.Open(h.config.Data)
	if err != nil {
		return fmt.Errorf("open %s: %w", h.config.Data, err)
	}
	defer func() { _ = dir.Close() }()
	if err := dir.Lock(); err != nil {
		return fmt.Errorf("lock %s: %w", h.config.Data, err)
	}
	if err := h.listen(); err != nil {
		return err
	}
	defer h.unlisten()
	sshAddrs, tunnelAddrs := h.publicAddresses()
	h.auth, err = authclient.Open(ctx, authclient.Config{
		Dir: dir, Token: h.config.Token, AuthAddr: h.config.AuthAddr, Name: h.config.Name, SSHAddrs: sshAddrs, TunnelAddrs: tunnelAddrs,
		Zone: h.config.Zone, Version: tunnel.Version(), Incarnation: h.incarnation, Logger: h.config.Logger, Now: h.config.Now,
	})
	if err != nil {
		return err
	}
	signer, err := h.auth.Signer()
	if err != nil {
		return fmt.Errorf("ssh host key: %w", err)
	}
	spooled, left, err := openSpool(dir, h.config)
	if err != nil {
		return err
	}
	defer func() { _ = spooled.Close() }()
	h.deliveries = newDeliveries(h.auth, spooled, h.config.Logger)
	h.targets = h.newTargets()
	h.front = front.New(front.Config{
		Backend: &backend{h}, HostKey: signer, Certificate: h.auth.HostCertificate, HandshakeTimeout: h.config.HandshakeTimeout,
		MaxUnauthenticated: h.config.MaxUnauthenticated, MaxUnauthenticatedPerSource: h.config.MaxUnauthenticatedPerSource,
		Refused: h.reportRefused, NoNotice: h.config.NoLinkNotice, StatesChanged: h.auth.SessionsDirty, Denied: h.deniedLive, Limits: h.limitsNow, HubName: h.auth.Credentials().Name,
		Logger: h.config.Logger, Now: h.config.Now,
	})
	resetKey, err := statelessResetKey(dir)
	if err != nil {
		return err
	}
	quic, err := quicconn.Listen(h.udp, h.tlsConfig(true), quicconn.Options{
		Logger: slogLogger{h.config.Logger}, StatelessResetKey: resetKey, Verify: h.admission.verify,
		Admit: h.admission.admit,
	})
	if err != nil {
		return fmt.Errorf("listen for QUIC: %w", err)
	}
	h.probes = newNATProbes(func(id wire.UUID) bool { return h.registry.Lookup(id) != nil },
		func(b []byte, to netip.AddrPort) { _ = quic.WriteOther(b, to) })
	h.mesh = h.newMesh(quic)
	local, err := listenLocal(h.config.Data)
	if err != nil {
		return err
	}
	defer func() { _ = local.Close() }()
	h.started = time.Now()

	// What is stopped last is started first, each under a context of its own.
	authCtx, stopAuth := context.WithCancel(context.WithoutCancel(ctx))
	tunnelCtx, stopTunnels := context.WithCancel(context.WithoutCancel(ctx))
	meshCtx, stopMesh := context.WithCancel(context.WithoutCancel(ctx))
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var authWG, tunnelWG, meshWG sync.WaitGroup
	authWG.Go(func() { h.auth.Run(authCtx, h.events()) })
	authWG.Go(func() { spooled.Run(authCtx) })
	authWG.Go(func() { h.deliveries.resume(authCtx, left) })
	h.waitSynced(ctx)
	tunnelWG.Go(func() {
		if err := h.acceptQUIC(tunnelCtx, quic); err != nil {
			fail(fmt.Errorf("accept QUIC: %w", err))
		}
	})
	tunnelWG.Go(func() {
		if err := h.acceptTLS(tunnelCtx); err != nil {
			fail(fmt.Errorf("accept TLS: %w", err))
		}
	})
	meshWG.Go(func() { h.mesh.Run(meshCtx) })
	tunnelWG.Go(func() { h.readOther(tunnelCtx, quic) })
	tunnelWG.Go(func() { h.probes.run(tunnelCtx) })
	tunnelWG.Go(func() { h.serveLocal(tunnelCtx, local) })
	tunnelWG.Go(func() { h.watchStrict(tunnelCtx) })
	tunnelWG.Go(func() { h.dialDevices(tunnelCtx) })
	tunnelWG.Go(func() { h.followSessions(tunnelCtx) })
	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	tunnelWG.Go(func() {
		h.drained(ctx)
		stopServing()
	})
	h.config.Logger.Info("hub ready", "ssh", h.SSHAddr().String(), "tunnel", h.TunnelAddr().String())
	close(h.ready)
	err = h.front.Serve(serveCtx, h.ssh) // until ctx ends or the hub is drained
	h.Drain()                            // where the front failed

	_ = h.tcp.Close()
	h.targets.Close()
	h.closeControls()
	h.tunnels.closeAll(wire.CloseDrain, "the hub is stopping")
	stopMesh()
	meshWG.Wait()
	stopTunnels()
	_ = quic.Close()
	tunnelWG.Wait()
	h.tunnels.wait()
	stopAuth()
	authWG.Wait()
	h.deliveries.close()
	if cause := context.Cause(ctx); err == nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, context.DeadlineExceeded) {
		err = cause
	}
	return err
}

func (h *Hub) waitSynced(ctx context.Context) {
	t := time.NewTimer(firstSync)
	defer t.Stop()
	for {
		changed := h.auth.Cache.Changed()
		if h.auth.Cache.Synced() {
			return
		}
		select {
		case <-changed:
		case <-t.C:
			h.config.Logger.Warn("auth not reached yet; serving what the cache allows")
			return
		case <-ctx.Done():
			return
		}
	}
}

// portTries is how many times a port that is free for TCP is tried for UDP as well.
const portTries = 20

// listen binds all sockets. The tunnel's TCP and UDP share a port number.
func (h *Hub) listen() (err error) {
	defer func() {
		if err != nil {
			h.unlisten()
		}
	}()
	people, err := net.Listen("tcp", h.config.SSHListen)
	if err != nil {
		return fmt.Errorf("listen for SSH: %w", err)
	}
	h.ssh = h.proxied(people, "ssh")
	for try := 0; ; try++ {
		tcp, err := net.Listen("tcp", h.config.TunnelListen)
		if err != nil {
			return fmt.Errorf("listen for tunnels: %w", err)
		}
		h.tcp = h.proxied(tcp, "tunnel")
		t := h.tcp.Addr().(*net.TCPAddr)
		h.udp, err = net.ListenUDP("udp", &net.UDPAddr{IP: t.IP, Port: t.Port, Zone: t.Zone})
		if err == nil {
			return nil
		}
		_ = h.tcp.Close()
		if _, port, _ := net.SplitHostPort(h.config.TunnelListen); port != "0" || try == portTries {
			return fmt.Errorf("listen for tunnels: %w", err)
		}
	}
}

// proxied makes the addresses of l's connections those of the clients behind the load balancers.
func (h *Hub) proxied(l net.Listener, port string) net.Listener {
	return &proxyproto.Listener{Listener: l, From: h.config.ProxyFrom, Refused: func(from net.Addr, err error) {
		h.config.Logger.Info("connection refused", "port", port, "client", from.String(), "error", err)
		h.auth.ReportRefusal(authclient.Refusal{Type: "proxy", Reason: proxyReason(err), Client: from.String(), Detail: port})
	}}
}

func proxyReason(err error) string {
	switch {
	case errors.Is(err, proxyproto.ErrRefused):
		return "network-not-named"
	case errors.Is(err, proxyproto.ErrNoHeader):
		return "no-header"
	}
	return "malformed"
}

func (h *Hub) unlisten() {
	if h.ssh != nil {
		_ = h.ssh.Close()
	}
	if h.tcp != nil {
		_ = h.tcp.Close()
	}
	if h.udp != nil {
		_ = h.udp.Close()
	}
}

// publicAddresses are what the cluster tells people and devices.
func (h *Hub) publicAddresses() (ssh, tunnels []string) {
	sshPort, tunnelPort := strconv.Itoa(int(h.SSHAddr().Port())), strconv.Itoa(int(h.TunnelAddr().Port()))
	public := h.config.Public
	if len(public) == 0 {
		public = boundHosts(h.TunnelAddr().Addr())
	}
	for _, p := range public {
		host, port := hostPort(p, tunnelPort)
		ssh = append(ssh, net.JoinHostPort(host, sshPort))
		tunnels = append(tunnels, net.JoinHostPort(host, port))
	}
	if len(h.config.PublicSSH) > 0 {
		ssh = nil
		for _, p := range h.config.PublicSSH {
			ssh = append(ssh, net.JoinHostPort(hostPort(p, sshPort)))
		}
	}
	return ssh, tunnels
}

// hostPort splits host or host:port; an IPv6 address without a port may stand alone.
func hostPort(s, defaultPort string) (host, port string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return strings.Trim(s, "[]"), defaultPort
	}
	return host, port
}

// boundHosts is the address bound to, or all of this machine's where it is bound to all.
func boundHosts(bound netip.Addr) []string {
	if !bound.IsUnspecified() {
		return []string{bound.String()}
	}
	var hosts []string
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap().IsGlobalUnicast() && len(hosts) < 8 {
			hosts = append(hosts, p.Addr().Unmap().String())
		}
	}
	if len(hosts) == 0 {
		hosts = []string{"127.0.0.1"}
	}
	return hosts
}

func hostname() string {
	n, err := os.Hostname()
	if err != nil {
		return "hub"
	}
	return n
}
