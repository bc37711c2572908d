// Authload loads the auth service as a hub and an admin do, over its API, and says on stdout what was acknowledged, a line each; `authload
// check` holds such lines, on stdin, against what the service knows now. It goes on through the service's death and return: what got no
// answer is asked again, as real parts do.
//
//	token ID USES     a join token was made
//	device UUID ID    a device joined by token ID
//	role NAME N       role NAME was applied with max_sessions N
//	serial HEX        a certificate was issued
//	grant HEX         a session was admitted
//	full              a write was refused because the disk is full
//	read              a list was answered
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/api/apiclient"
	"hawser/auth/ca"
	"hawser/tools/hawser/profile"
)

var (
	home = flag.String("home", "", "the admin's profile")
	addr = flag.String("addr", "", "host:port of the auth service")
	name = flag.String("name", "load", "of this run: roles and devices are named after it")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	run := load
	if flag.Arg(0) == "check" {
		run = check
	}
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "authload:", err)
		os.Exit(1)
	}
}

var out sync.Mutex

func say(format string, args ...any) {
	out.Lock()
	defer out.Unlock()
	fmt.Printf(format+"\n", args...)
}

// admin connects as the profile's person.
func admin() (*apiclient.Client, *profile.Profile, error) {
	p, err := profile.Open(*home)
	if err != nil {
		return nil, nil, err
	}
	c, err := apiclient.Dial(apiclient.Options{Addr: *addr, Verify: apiclient.ByPin(p.Settings.Cluster, p.Settings.CAPin, nil), Certificate: func() *tls.Certificate {
		cert, err := p.TLSCertificate()
		if err != nil {
			return nil
		}
		return &cert
	}})
	return c, p, err
}

// retry calls f until it is answered, and tells whether it was; what is refused by the service is not asked again. A call that was cut off may
// have been done.
func retry(ctx context.Context, what string, f func(ctx context.Context) error) bool {
	for {
		cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := f(cctx)
		cancel()
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		switch code := connect.CodeOf(err); {
		case api.CodeOf(err) == api.Code_CODE_READ_ONLY:
			say("full")
			if !sleep(ctx, 200*time.Millisecond) {
				return false
			}
		case code == connect.CodeUnavailable, code == connect.CodeDeadlineExceeded, code == connect.CodeCanceled, code == connect.CodeUnknown,
			code == connect.CodeAborted, code == connect.CodeInternal && strings.Contains(err.Error(), "EOF"):
			if !sleep(ctx, 10*time.Millisecond) {
				return false
			}
		default:
			fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
			return false
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func serial(chain [][]byte) {
	if len(chain) > 0 {
		if c, err := x509.ParseCertificate(chain[0]); err == nil {
			say("serial %x", c.SerialNumber)
		}
	}
}

func load(ctx context.Context) error {
	a, p, err := admin()
	if err != nil {
		return err
	}
	key, err := p.Key()
	if err != nil {
		return err
	}
	sshKey, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return err
	}
	h, err := joinHub(ctx, a, p)
	if err != nil {
		return err
	}
	device := make(chan string, 1) // a name that can be admitted to
	var wg sync.WaitGroup
	wg.Go(func() { watch(ctx, h) })
	wg.Go(func() { joins(ctx, a, h, device) })
	wg.Go(func() { roles(ctx, a) })
	wg.Go(func() { renewals(ctx, a) })
	wg.Go(func() { admits(ctx, h, sshKey.Marshal(), device) })
	wg.Wait()
	return nil
}

var here = []string{"127.0.0.1:1"}

func joinHub(ctx context.Context, a *apiclient.Client, p *profile.Profile) (*apiclient.Client, error) {
	text := ""
	retry(ctx, "hub token", func(ctx context.Context) error {
		res, err := a.Admin.CreateToken(ctx, connect.NewRequest(&api.CreateTokenRequest{Kind: "hub"}))
		if err == nil {
			text = res.Msg.Token
		}
		return err
	})
	token, err := ca.ParseToken(text)
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := ca.SelfSigned(key, time.Now())
	if err != nil {
		return nil, err
	}
	dial := func(chain [][]byte) (*apiclient.Client, error) {
		cert := &tls.Certificate{Certificate: chain, PrivateKey: key}
		return apiclient.Dial(apiclient.Options{Addr: *addr, Verify: apiclient.ByPin(p.Settings.Cluster, p.Settings.CAPin, nil), Certificate: func() *tls.Certificate { return cert }})
	}
	joiner, err := dial([][]byte{der})
	if err != nil {
		return nil, err
	}
	defer joiner.Close()
	res, err := joiner.Join.JoinHub(ctx, connect.NewRequest(&api.JoinHubRequest{Secret: token.Secret, Name: "hub", SshAddresses: here, TunnelAddresses: here}))
	if err != nil {
		return nil, err
	}
	serial(res.Msg.Chain)
	return dial(res.Msg.Chain)
}

func watch(ctx context.Context, h *apiclient.Client) {
	for sleep(ctx, 20*time.Millisecond) {
		stream, err := h.Hub.Watch(ctx, connect.NewRequest(&api.WatchRequest{SshAddresses: here, TunnelAddresses: here}))
		if err != nil {
			continue
		}
		for stream.Receive() {
			continue
		}
		stream.Close()
	}
}

// joins makes tokens of two uses and has three devices race for them.
func joins(ctx context.Context, a, h *apiclient.Client, device chan string) {
	const uses = 2
	for n := 0; sleep(ctx, 2*time.Millisecond); n++ {
		var token *api.CreateTokenResponse
		label := fmt.Sprintf("%s-%d", *name, n)
		if !retry(ctx, "token", func(ctx context.Context) error {
			res, err := a.Admin.CreateToken(ctx, connect.NewRequest(&api.CreateTokenRequest{Kind: "edge", Uses: uses, Labels: []*api.Label{{Key: "token", Value: label}}}))
			if err == nil {
				token = res.Msg
			}
			return err
		}) {
			continue
		}
		say("token %s %d %s", token.Id, uses, label)
		t, err := ca.ParseToken(token.Token)
		if err != nil {
			continue
		}
		var wg sync.WaitGroup
		for range uses + 1 { // at once, and one comes in vain
			wg.Go(func() { join(ctx, h, t.Secret, label, token.Id, device) })
		}
		wg.Wait()
	}
}

// join spends a use of a token, if there is one left.
func join(ctx context.Context, h *apiclient.Client, secret []byte, name, token string, device chan string) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	var d *api.DeviceCredentials
	retry(ctx, "join", func(ctx context.Context) error {
		res, err := h.Hub.JoinDevice(ctx, connect.NewRequest(&api.JoinDeviceRequest{Secret: secret, PublicKey: key.Public().(ed25519.PublicKey), Name: name, Source: "192.0.2.1:1"}))
		if api.CodeOf(err) == api.Code_CODE_TOKEN_SPENT {
			return nil
		}
		if err == nil {
			d = res.Msg
		}
		return err
	})
	if d == nil {
		return
	}
	serial(d.Chain)
	say("device %s %s", d.Uuid, token)
	select {
	case device <- d.Name:
	default:
	}
}

// roles applies one role again and again, each time with a number one higher.
func roles(ctx context.Context, a *apiclient.Client) {
	for n := 1; sleep(ctx, 2*time.Millisecond); n++ {
		yaml := fmt.Sprintf("kind: role\nname: %s\nallow:\n  devices: {site: [ber]}\n  logins: [root]\n  channels: [exec]\n  ways: [hub]\noptions: {max_sessions: %d}\n", *name, n)
		if retry(ctx, "role", func(ctx context.Context) error {
			_, err := a.Admin.Apply(ctx, connect.NewRequest(&api.ApplyRequest{Yaml: yaml}))
			return err
		}) {
			say("role %s %d", *name, n)
		}
	}
}

func renewals(ctx context.Context, a *apiclient.Client) {
	for n := 0; sleep(ctx, 5*time.Millisecond); n++ {
		if retry(ctx, "renew", func(ctx context.Context) error {
			res, err := a.Admin.RenewMyself(ctx, connect.NewRequest(&api.RenewMyselfRequest{}))
			if err == nil {
				serial(res.Msg.Chain)
				if c, err := ssh.ParsePublicKey(res.Msg.SshCertificate); err == nil {
					say("serial ssh-%x", c.(*ssh.Certificate).Serial)
				}
			}
			return err
		}) && n%10 == 0 && retry(ctx, "list", func(ctx context.Context) error {
			_, err := a.Admin.ListHubs(ctx, connect.NewRequest(&api.ListHubsRequest{}))
			return err
		}) {
			say("read")
		}
	}
}

func id16() []byte { return []byte(rand.Text())[:16] }

func admits(ctx context.Context, h *apiclient.Client, key []byte, device chan string) {
	var to string
	select {
	case to = <-device:
	case <-ctx.Done():
		return
	}
	for sleep(ctx, 2*time.Millisecond) {
		var session []byte
		if !retry(ctx, "admit", func(ctx context.Context) error {
			session = id16()
			res, err := h.Hub.Admit(ctx, connect.NewRequest(&api.AdmitRequest{PublicKey: key, ConnectionId: id16(), SessionId: session, Kind: api.Kind_KIND_SESSION, Device: to,
				Incarnation: id16(), Login: "root", Channel: "exec", Way: "hub", ClientAddress: "192.0.2.1:4711", Command: "id"}))
			if err != nil {
				return err
			}
			if len(res.Msg.Grant) > 0 {
				say("grant %x", sha256.Sum256(res.Msg.Grant))
			}
			return nil
		}) {
			continue
		}
		retry(ctx, "release", func(ctx context.Context) error {
			_, err := h.Hub.Release(ctx, connect.NewRequest(&api.ReleaseRequest{SessionId: session}))
			return err
		})
	}
}

// check holds what was acknowledged against what is there. What it finds begins with the word by which gotest knows what must never be.
func check(ctx context.Context) error {
	a, _, err := admin()
	if err != nil {
		return err
	}
	defer a.Close()
	type tokenUse struct {
		label string
		uses  int
	}
	tokens, devices, rolesAt := map[string]tokenUse{}, map[string]string{}, map[string]int{}
	seen := map[string]bool{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		switch {
		case len(f) == 4 && f[0] == "token":
			n, _ := strconv.Atoi(f[2])
			tokens[f[1]] = tokenUse{f[3], n}
		case len(f) == 3 && f[0] == "device":
			if devices[f[1]] != "" {
				err = errors.Join(err, fmt.Errorf("SAFETY: device %s was made twice", f[1]))
			}
			devices[f[1]] = f[2]
		case len(f) == 3 && f[0] == "role":
			rolesAt[f[1]], _ = strconv.Atoi(f[2])
		case len(f) == 2 && (f[0] == "serial" || f[0] == "grant"):
			if seen[lines.Text()] {
				err = errors.Join(err, fmt.Errorf("SAFETY: %s was given out twice", lines.Text()))
			}
			seen[lines.Text()] = true
		}
	}
	list, lerr := a.Admin.ListDevices(ctx, connect.NewRequest(&api.ListDevicesRequest{}))
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	there, byLabel, names := map[string]bool{}, map[string]int{}, map[string]bool{}
	for _, d := range list.Msg.Devices {
		there[d.Uuid] = true
		if names[d.Name] {
			err = errors.Join(err, fmt.Errorf("SAFETY: two devices are called %s", d.Name))
		}
		names[d.Name] = true
		for _, l := range d.Labels {
			if l.Key == "token" {
				byLabel[l.Value]++
			}
		}
	}
	for uuid := range devices {
		if !there[uuid] {
			err = errors.Join(err, fmt.Errorf("SAFETY: device %s was acknowledged and is gone", uuid))
		}
	}
	held, lerr := a.Admin.ListTokens(ctx, connect.NewRequest(&api.ListTokensRequest{}))
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	left := map[string]int{}
	for _, t := range held.Msg.Tokens {
		left[t.Id] = int(t.Left)
	}
	for id, t := range tokens {
		n, ok := left[id]
		switch {
		case !ok:
			err = errors.Join(err, fmt.Errorf("SAFETY: token %s was acknowledged and is gone", id))
		case byLabel[t.label] > t.uses:
			err = errors.Join(err, fmt.Errorf("SAFETY: token %s of %d uses made %d devices", id, t.uses, byLabel[t.label]))
		case byLabel[t.label] != t.uses-n:
			err = errors.Join(err, fmt.Errorf("SAFETY: token %s has %d of %d uses left and made %d devices", id, n, t.uses, byLabel[t.label]))
		}
	}
	for name, want := range rolesAt {
		res, gerr := a.Admin.Get(ctx, connect.NewRequest(&api.GetRequest{Kind: "role", Name: name}))
		if connect.CodeOf(gerr) == connect.CodeNotFound {
			err = errors.Join(err, fmt.Errorf("SAFETY: role %s was acknowledged and is gone", name))
			continue
		}
		if gerr != nil {
			err = errors.Join(err, fmt.Errorf("role %s: %w", name, gerr))
			continue
		}
		got := -1
		for line := range bytes.Lines([]byte(res.Msg.Yaml)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(string(line)), "max_sessions:"); ok {
				got, _ = strconv.Atoi(strings.TrimSpace(v))
			}
		}
		// One more may have been done that nobody was told of.
		if got != want && got != want+1 {
			err = errors.Join(err, fmt.Errorf("SAFETY: role %s has max_sessions %d, %d was acknowledged", name, got, want))
		}
	}
	fmt.Printf("checked %d tokens, %d devices, %d roles, %d serials and grants\n", len(tokens), len(devices), len(rolesAt), len(seen))
	return err
}
