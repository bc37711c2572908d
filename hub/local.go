package hub

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"hawser/hub/authclient"
	"hawser/tunnel"
	"hawser/tunnel/identity"
	"hawser/tunnel/quicconn"
	"hawser/tunnel/wire"
)

// The hub's own machine talks to it over a socket in the state directory: one command a connection, a line, and an answer.
const (
	localSocket  = "control.sock"
	localTimeout = 10 * time.Second
	localClients = 16
	maxUnixPath  = 100 // bytes; the kernel's limit is 108 with its NUL
)

// Commands on the local socket.
const (
	localStatus = "status"     // answered by Status as JSON
	localAccept = "accept-log" // answered by "accepted"
	localDrain  = "drain"      // answered by "draining"; the connection ends with the hub
)

// socketPath is the path of the socket in a state directory, by way of a descriptor where the directory's own is too long.
func socketPath(data string) (path string, done func(), err error) {
	path = filepath.Join(data, localSocket)
	if len(path) <= maxUnixPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(data)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), localSocket), func() { _ = dir.Close() }, nil
}

// listenLocal makes the socket. The caller holds the directory's lock, so that one left there is nobody's.
func listenLocal(data string) (net.Listener, error) {
	path, done, err := socketPath(data)
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", data, err)
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen in %s: %w", data, err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", data, err)
	}
	// The directory is 0700: nobody else could have come before this.
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen in %s: %w", data, err)
	}
	return l, nil
}

func (h *Hub) serveLocal(ctx context.Context, l net.Listener) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, localClients)
	for {
		c, err := l.Accept()
		if err != nil {
			return // the hub ends, or there is no local socket any more, which ends nothing else
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				defer func() { _ = c.Close() }()
				h.answerLocal(ctx, c)
			})
		default:
			_ = c.Close()
		}
	}
}

func (h *Hub) answerLocal(ctx context.Context, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(localTimeout))
	line, err := bufio.NewReader(io.LimitReader(c, 256)).ReadString('\n')
	if err != nil {
		return
	}
	switch strings.TrimSpace(line) {
	case localStatus:
		_ = json.NewEncoder(c).Encode(h.live())
	case localAccept:
		h.auth.AcceptLog()
		_, _ = fmt.Fprintln(c, accepted)
	case localDrain:
		h.Drain()
		if _, err := fmt.Fprintln(c, "draining"); err != nil {
			return
		}
		<-ctx.Done() // the client sees the end of the hub by the end of this
	}
}

// askLocal sends a command to the hub that runs on a state directory.
func askLocal(data, command string) (net.Conn, error) {
	path, done, err := socketPath(data)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := net.Dial("unix", path)
	if err != nil {
		return nil, fmt.Errorf("no hub answers on %s: %w; is it running, and are you its user?", data, err)
	}
	_ = c.SetDeadline(time.Now().Add(localTimeout))
	if _, err := fmt.Fprintln(c, command); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("ask the hub: %w", err)
	}
	return c, nil
}

// DrainRunning tells the hub that runs on a state directory to drain, and returns when it has ended.
func DrainRunning(ctx context.Context, data string) error {
	c, err := askLocal(data, localDrain)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	r := bufio.NewReader(c)
	if line, err := r.ReadString('\n'); err != nil || line != "draining\n" {
		return fmt.Errorf("the hub did not take the command: %q, %w", line, err)
	}
	_ = c.SetDeadline(time.Time{})
	_, _ = r.ReadByte() // until it has ended
	return ctx.Err()
}

const accepted = "accepted"

// AcceptLog makes the hub on a state directory, whether it runs or not, take the next head of the audit log whatever it says.
func AcceptLog(data string) error {
	dir, err := identity.Open(data)
	if err != nil {
		return fmt.Errorf("open %s: %w", data, err)
	}
	defer func() { _ = dir.Close() }()
	if errors.Is(dir.Lock(), identity.ErrLocked) {
		c, err := askLocal(data, localAccept)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != accepted+"\n" {
			return fmt.Errorf("the hub did not take the command: %q, %w", line, err)
		}
		return nil
	}
	if err := dir.Remove(authclient.LogHeadFile); err != nil && !errors.Is(err, identity.ErrNotExist) {
		return fmt.Errorf("forget the head of the audit log: %w", err)
	}
	return nil
}

// LiveStatus is what a running hub tells of itself.
type LiveStatus struct {
	Version     string    `json:"version"`
	Incarnation string    `json:"incarnation"`
	Started     time.Time `json:"started"`
	Zone        string    `json:"zone,omitempty"`
	SSH         []string  `json:"ssh"`
	Tunnel      []string  `json:"tunnel"`
	AuthSynced  bool      `json:"auth_synced"`
	Tunnels     struct {
		Active  int `json:"active"`
		Standby int `json:"standby"`
		QUIC    int `json:"quic"`
		TLS     int `json:"tls"`
		Parked  int `json:"parked"`
		Silent  int `json:"silent"`
		Streams int `json:"streams"`
	} `json:"tunnels"`
	Refused uint64 `json:"refused_handshakes"`
	// Broken are tunnels that ended because the device's end did not keep to the protocol, by cause; at most 65.
	Broken      []tunnel.Counted `json:"broken_rules,omitempty"`
	Connections int              `json:"connections"`         // of people
	Sessions    int              `json:"sessions"`            // with a device, through this hub
	Passed      int              `json:"passed"`              // people's connections to auth that this hub passes on
	LogAlarm    string           `json:"log_alarm,omitempty"` // what is wrong with the audit log
	Spool       struct {
		Waiting    int   `json:"waiting"`    // recordings of which auth lacks something
		Recordings int   `json:"recordings"` // that are not closed at auth
		Bytes      int64 `json:"bytes"`
		Refused    int   `json:"refused"` // files of recordings that auth does not take, in DATA/spool
	} `json:"spool"`
	Hubs  []HubLine   `json:"hubs"`
	Drain *DrainState `json:"drain,omitempty"`
}

// HubLine is another hub of the cluster.
type HubLine struct {
	Name  string `json:"name"`
	Zone  string `json:"zone,omitempty"`
	State string `json:"state"` // up or gone
	// Heard is when it last said something; zero: never since this hub started.
	Heard     time.Time `json:"heard"`
	Announced uint64    `json:"announced"` // registrations told by it
	Relayed   uint64    `json:"relayed"`   // streams of its people taken to devices here
}

// DrainState is how far a drain is.
type DrainState struct {
	Deadline time.Time `json:"deadline"`
}

func (h *Hub) live() *LiveStatus {
	l := &LiveStatus{
		Version: tunnel.Version(), Incarnation: h.incarnation.String(), Started: h.started.UTC(), Zone: h.config.Zone,
		AuthSynced: h.auth.Cache.Synced(), Connections: h.front.Connections(), Sessions: len(h.front.Sessions()) - h.front.Connections(), Refused: h.admission.refusedSoFar(),
		Passed: h.passes.count(), Broken: h.broken.Counts(),
	}
	l.Spool.Waiting = h.deliveries.waiting()
	l.Spool.Recordings, l.Spool.Bytes = h.deliveries.spool.Usage()
	l.Spool.Refused = h.deliveries.spool.Refused()
	l.SSH, l.Tunnel = h.publicAddresses()
	for _, s := range h.tunnels.all() {
		n := &l.Tunnels
		if s.t.Slot == 0 {
			n.Active++
		} else {
			n.Standby++
		}
		switch s.t.Conn.Carrier() {
		case tunnel.CarrierQUIC:
			n.QUIC++
		case tunnel.CarrierTLS:
			n.TLS++
		}
		if s.parked.Load() {
			n.Parked++
		}
		s.mu.Lock()
		n.Streams += s.streams
		if !s.silent.IsZero() {
			n.Silent++
		}
		s.mu.Unlock()
	}
	_, l.LogAlarm = h.auth.LogHead()
	zones := make(map[wire.UUID]string)
	for _, x := range h.auth.Cache.Hubs() {
		zones[x.UUID] = x.Zone
	}
	for _, x := range h.mesh.Peers() {
		state := "up"
		if !x.Connected {
			state = "gone"
		}
		l.Hubs = append(l.Hubs, HubLine{
			Name: x.Hub.Name, Zone: zones[x.Hub.UUID], State: state, Heard: x.Heard.UTC(), Announced: x.Announced, Relayed: x.Relayed,
		})
	}
	if at := h.drainDeadline.Load(); at != 0 {
		l.Drain = &DrainState{Deadline: time.Unix(0, at).UTC()}
	}
	return l
}

const resetKeyFile = "reset.key"

// statelessResetKey is the key by which a restarted hub tells its devices that their QUIC tunnels are gone. It is made at the first run
// and kept for ever.
func statelessResetKey(dir *identity.Dir) (*quic.StatelessResetKey, error) {
	b, err := dir.Read(resetKeyFile)
	if err == nil && len(b) == len(quic.StatelessResetKey{}) {
		return (*quic.StatelessResetKey)(b), nil
	}
	if err != nil && !errors.Is(err, identity.ErrNotExist) && !errors.Is(err, identity.ErrDamaged) {
		return nil, fmt.Errorf("read the stateless reset key: %w", err)
	}
	// A damaged one costs devices a time-out at this restart, and no more.
	key := new(quic.StatelessResetKey)
	_, _ = rand.Read(key[:]) // never fails
	if err := dir.Write(resetKeyFile, key[:]); err != nil {
		return nil, fmt.Errorf("keep the stateless reset key: %w", err)
	}
	return key, nil
}

// readOther takes what comes beside QUIC on the tunnels' UDP port.
func (h *Hub) readOther(ctx context.Context, l *quicconn.Listener) {
	b := make([]byte, 2048)
	for {
		n, from, err := l.ReadOther(ctx, b)
		if err != nil {
			return
		}
		h.probes.take(b[:n], from, time.Now())
	}
}
