package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// Servers without an agent: devices that another device, or a hub, reaches by SSH. They have a name, a UUID, labels and a history as others
// do, and no key of the cluster's.

// viaHub is targetRecord.Via of a server that the hubs themselves reach.
const viaHub = "hub"

const (
	maxTargets       = 2000 // in one AddTargets
	maxTargetLogins  = 16
	maxTargetKeys    = 1000
	maxTargetPrivate = 16 << 10 // bytes of a private key as given
	maxTargetKeyName = 64
)

// targetRecord is where a server without an agent is and how it is logged in to.
type targetRecord struct {
	Via     string   `json:"via"`     // UUID of the device that reaches it, or viaHub
	Address string   `json:"address"` // host:port
	Logins  []string `json:"logins,omitempty"`
	Key     string   `json:"key,omitempty"`   // name of the stored key; empty: certificates of the target CA
	Local   bool     `json:"local,omitempty"` // the address may be of the loopback or link-local
	// HostKey is what the server must prove, in SSH wire form; nil: the first that is seen. Offered is another, which was refused.
	HostKey   []byte    `json:"host_key,omitempty"`
	Pinned    time.Time `json:"pinned,omitzero"`
	Offered   []byte    `json:"offered,omitempty"`
	OfferedAt time.Time `json:"offered_at,omitzero"`
}

// targetKeyRecord is a key that logs in to servers. Nothing but a signature ever leaves this service of it.
type targetKeyRecord struct {
	Name   string    `json:"name"`
	Public []byte    `json:"public"` // SSH wire form
	Sealed []byte    `json:"sealed"` // the private half in PEM, with targetKeyContext and the name before it
	Added  time.Time `json:"added"`
	By     string    `json:"by"`
}

// targetKeyContext stands before what is sealed, so that a record under another name does not open.
const targetKeyContext = "hawser target key "

// via is what hubs are told of the way to it.
func (d *deviceRecord) via() string {
	if d.Target == nil {
		return ""
	}
	return d.Target.Via
}

// refuseBehind is why a server without an agent is not reached in that way or as that login; nil: it is, or has an agent.
func (d *deviceRecord) refuseBehind(way, login string) *refusal {
	switch t := d.Target; {
	case t == nil:
	case way != policy.WayHub:
		return &refusal{reason: "way", rule: "behind", message: fmt.Sprintf("%s has no agent: hubs log in to it for you, so it is not reached %s; use `ssh %s@HUB`", d.Name, way, d.Name)}
	case t.lacks(login):
		what := fmt.Sprintf("%s has no login %s", d.Name, wire.Quote(login, 64))
		if len(t.Logins) > 0 {
			what += "; it has " + strings.Join(t.Logins, ", ")
		}
		return &refusal{reason: "login", rule: "behind", message: what}
	}
	return nil
}

// lacks tells whether nobody logs in to the server by that name, whatever his roles say.
func (t *targetRecord) lacks(login string) bool {
	return strings.Contains(login, "@") || len(t.Logins) > 0 && !slices.Contains(t.Logins, login)
}

func printOfBlob(blob []byte) string {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// viaName is the name of what reaches a server.
func (s *Server) viaName(t *targetRecord) string {
	if t.Via == viaHub {
		return viaHub
	}
	if d := s.view.device(t.Via); d != nil {
		return d.Name
	}
	return t.Via + ", which was removed"
}

// behindOf is deviceOf for a server without an agent: it is online while what reaches it is.
func (s *Server) behindOf(d *deviceRecord, out *api.Device) *api.Device {
	t := d.Target
	out.CertificateNotAfterUnix, out.Note, out.FormerNames = 0, d.Note, d.Former
	out.Behind = &api.Behind{Via: t.Via, ViaName: s.viaName(t), Address: t.Address, Key: t.Key, Logins: t.Logins, Local: t.Local,
		HostKey: printOfBlob(t.HostKey), HostKeyUnix: unixOf(t.Pinned), Offered: printOfBlob(t.Offered), OfferedUnix: unixOf(t.OfferedAt)}
	if t.Via == viaHub {
		out.Online, out.LastSeenUnix = true, s.cfg.Now().Unix() // who asks has reached one
		return out
	}
	tunnels, last, online := s.hubs.device(t.Via)
	switch {
	case online:
		out.Online, out.Hub, out.Zone, out.Carrier = true, tunnels[0].hub.name, tunnels[0].hub.zone, tunnels[0].Carrier
		out.SinceUnix, out.LastSeenUnix = tunnels[0].SinceUnix, s.cfg.Now().Unix()
	case !last.At.IsZero():
		out.LastSeenUnix, out.SinceUnix = last.At.Unix(), last.At.Unix()
		out.LastHub, out.LastCarrier, out.LastReason = last.Hub, last.Carrier, last.Reason
	}
	if g := s.view.device(t.Via); g != nil && g.Quarantine != nil {
		out.Online = false
	}
	return out
}

// targetService administers servers without an agent and serves hubs that log in to them.
type targetService struct{ *Server }

// checkTargetAddress reads host:port. Where the host is an address of the loopback or link-local, local says that it is meant.
func checkTargetAddress(address string, local bool) error {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || len(address) > maxAddress {
		return fmt.Errorf("address %q is not HOST:PORT", wire.Quote(address, 80))
	}
	if _, err := policy.ParseTargets([]string{address}); err != nil || strings.Contains(host, "*") || strings.Contains(host, "/") {
		return fmt.Errorf("address %q is not one host and one port", wire.Quote(address, 80))
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		if host = strings.TrimSuffix(strings.ToLower(host), "."); !local && (host == "localhost" || strings.HasSuffix(host, ".localhost")) {
			return fmt.Errorf("%s is the loopback; --local says that this is meant", wire.Quote(host, 80))
		}
		return nil
	}
	ip = ip.Unmap()
	switch {
	case ip.IsMulticast() || ip.IsUnspecified() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return fmt.Errorf("%s is no address of one server", ip)
	case !local && (ip.IsLoopback() || ip.IsLinkLocalUnicast()):
		return fmt.Errorf("%s is of the loopback or link-local; --local says that this is meant", ip)
	}
	return nil
}

func checkTargetLogins(logins []string) error {
	if len(logins) > maxTargetLogins {
		return fmt.Errorf("more than %d logins", maxTargetLogins)
	}
	for _, l := range logins {
		if l == "" || len(l) > 64 || strings.ContainsFunc(l, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune(`:/@*?!,"'\`, c) }) {
			return fmt.Errorf("login %q is not a name of an account", wire.Quote(l, 64))
		}
	}
	return nil
}

// checkHostKey reads a host key in SSH wire form.
func checkHostKey(blob []byte) error {
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return errors.New("the host key cannot be read")
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return errors.New("a certificate is no host key; give the key itself")
	}
	return ca.CheckKey(key)
}

// resolveVia is the record's Via of what a person gave.
func (s *Server) resolveVia(c caller, via string) (string, error) {
	if via == viaHub {
		return viaHub, nil
	}
	d, _, err := s.visibleDevice(c, via)
	switch {
	case via == "" || err != nil:
		return "", fmt.Errorf("no device %q that could reach it; give one, or hub for what the hubs reach themselves", wire.Quote(via, 64))
	case d.Target != nil:
		return "", fmt.Errorf("%s has no agent that could reach it", d.Name)
	}
	return d.UUID, nil
}

// targetOf reads what a person gave; the error says what is wrong with it.
func (s *Server) targetOf(ctx context.Context, c caller, in *api.Target) (*targetRecord, error) {
	if err := checkTargetAddress(in.Address, in.Local); err != nil {
		return nil, err
	}
	if err := checkTargetLogins(in.Logins); err != nil {
		return nil, err
	}
	via, err := s.resolveVia(c, in.Via)
	if err != nil {
		return nil, err
	}
	if err := s.mayBeLocal(c, in.Local); err != nil {
		return nil, err
	}
	t := &targetRecord{Via: via, Address: in.Address, Logins: in.Logins, Key: in.Key, Local: in.Local}
	if in.Key != "" {
		if _, err := s.targetKey(ctx, in.Key); err != nil {
			return nil, err
		}
	}
	if len(in.HostKey) > 0 {
		if err := checkHostKey(in.HostKey); err != nil {
			return nil, err
		}
		t.HostKey, t.Pinned = in.HostKey, s.cfg.Now()
	}
	return t, nil
}

// mayBeLocal asks more of who lets people reach a hub's or a device's own loopback than of who adds a server.
func (s *Server) mayBeLocal(c caller, local bool) error {
	if local && !policy.MayAdmin(c.roles, "hub", "update").Allowed {
		return errors.New("to name an address of the loopback or link-local takes the right to update hubs")
	}
	return nil
}

func (t *targetRecord) same(o *targetRecord) bool {
	return t.Via == o.Via && t.Address == o.Address && slices.Equal(t.Logins, o.Logins) && t.Key == o.Key && t.Local == o.Local &&
		(len(t.HostKey) == 0 || bytes.Equal(t.HostKey, o.HostKey))
}

// AddTargets makes devices of servers.
func (s targetService) AddTargets(ctx context.Context, req *connect.Request[api.AddTargetsRequest]) (*connect.Response[api.AddTargetsResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.Targets) == 0 || len(r.Targets) > maxTargets {
		return nil, invalid("give 1 to %d servers at a time", maxTargets)
	}
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var p problems
	res := &api.AddTargetsResponse{}
	var added []*deviceRecord
	names := make(map[string]bool)
	for i, in := range r.Targets {
		line := i + 1
		if in.GetLine() != 0 {
			line = int(in.Line)
		}
		if err := wire.CheckDeviceName(in.GetName()); err != nil {
			p.add(line, "%v", err)
			continue
		}
		labels, err := givenLabels(in.Labels)
		if err != nil {
			p.add(line, "%s", api.MessageOf(err))
			continue
		}
		t, err := s.targetOf(ctx, c, in)
		if err != nil {
			p.add(line, "%s: %s", in.Name, api.MessageOf(err))
			continue
		}
		if names[in.Name] || in.Name == s.info.Cluster {
			p.add(line, "the name %s is taken", in.Name)
			continue
		}
		names[in.Name] = true
		if old := s.view.device(in.Name); old != nil && old.Target != nil && t.same(old.Target) && maps.Equal(old.Labels, labels) {
			res.Unchanged++
			continue
		}
		if _, err := s.state.Get(ctx, namePrefix+in.Name); err == nil {
			p.add(line, "the name %s is taken; `hawser device set` changes a server, `hawser device rm` removes it", in.Name)
			continue
		} else if !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		added = append(added, &deviceRecord{UUID: wire.NewUUID().String(), Name: in.Name, Labels: labels, Joined: s.cfg.Now(), Target: t})
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	res.Added = uint32(len(added))
	if r.DryRun {
		return connect.NewResponse(res), nil
	}
	// A few hundred in a transaction: who is interrupted repeats the file, and those that are there are unchanged.
	for part := range slices.Chunk(added, importOps/2) {
		var conds []store.Cond
		var ops []store.Op
		for _, d := range part {
			conds = append(conds, store.IfAbsent(namePrefix+d.Name))
			ops = append(ops, store.Put(namePrefix+d.Name, []byte(d.UUID)), put(devicePrefix+d.UUID, d))
		}
		if err := s.commit(ctx, conds, ops...); err != nil {
			return nil, fmt.Errorf("add servers: %w", err)
		}
	}
	for _, d := range added {
		s.record(Event{Type: "device.add", Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID, Object: s.viaName(d.Target) + " " + d.Target.Address})
		res.Devices = append(res.Devices, s.deviceOf(d, nil, nil))
	}
	return connect.NewResponse(res), nil
}

var errNoTarget = "%s has an agent and is reached by that"

// SetTarget changes where a server is.
func (s targetService) SetTarget(ctx context.Context, req *connect.Request[api.SetTargetRequest]) (*connect.Response[api.Device], error) {
	c, r := callerOf(ctx), req.Msg
	d, logins, err := s.visibleDevice(c, r.Device)
	if err != nil {
		return nil, err
	}
	if d.Target == nil {
		return nil, invalid(errNoTarget, d.Name)
	}
	if r.Key != "" && r.Certificates {
		return nil, invalid("either a key or certificates")
	}
	var via string
	if r.Via != "" {
		if via, err = s.resolveVia(c, r.Via); err != nil {
			return nil, invalid("%w", err)
		}
	}
	if r.Key != "" {
		if _, err := s.targetKey(ctx, r.Key); err != nil {
			return nil, err
		}
	}
	now, err := s.changeTarget(ctx, d, func(t *targetRecord) error {
		t.set(r, via)
		// What is local is of whoever connects to it: it is asked for anew wherever that, or the address, changes.
		asked := t.Local && (r.Local || r.Address != "" || via != "")
		if err := errors.Join(checkTargetAddress(t.Address, t.Local), checkTargetLogins(t.Logins), s.mayBeLocal(c, asked)); err != nil {
			return invalid("%w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	// Sessions are known here, forwards are not: the hubs end those, and no longer use a login that went to where it was.
	reason := "the way to " + d.Name + " was changed"
	s.hubs.killAll(&api.Kill{DeviceUuid: d.UUID, Reason: reason})
	s.killWhere(reason, func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID })
	s.record(Event{Type: "device.set", Actor: c.String(), Source: c.addr, Via: c.via, Device: now.Name, DeviceUUID: now.UUID, Object: s.viaName(now.Target) + " " + now.Target.Address})
	return connect.NewResponse(s.deviceOf(now, logins, s.hubs.counts())), nil
}

// set changes what a request names; via is the UUID of what it names, empty: nothing. The key that was pinned stays: it is the server's, wherever
// it is. That an address is local does not: it was said of the address, and of who connects to it.
func (t *targetRecord) set(r *api.SetTargetRequest, via string) {
	t.Local = r.Local || t.Local && r.Address == "" && via == ""
	if r.Address != "" {
		t.Address = r.Address
	}
	if len(r.Logins) > 0 {
		t.Logins = r.Logins
	}
	if via != "" {
		t.Via = via
	}
	switch {
	case r.Certificates:
		t.Key = ""
	case r.Key != "":
		t.Key = r.Key
	}
}

// changeTarget changes the way to a server in one transaction.
func (s *Server) changeTarget(ctx context.Context, d *deviceRecord, change func(*targetRecord) error) (*deviceRecord, error) {
	return s.changeDevice(ctx, d.UUID, func(rec *deviceRecord) error {
		if rec.Target == nil {
			return invalid(errNoTarget, rec.Name)
		}
		t := *rec.Target
		if err := change(&t); err != nil {
			return err
		}
		rec.Target = &t
		return nil
	})
}

// AcceptHostKey pins another host key.
func (s targetService) AcceptHostKey(ctx context.Context, req *connect.Request[api.AcceptHostKeyRequest]) (*connect.Response[api.Device], error) {
	c, r := callerOf(ctx), req.Msg
	d, logins, err := s.visibleDevice(c, r.Device)
	if err != nil {
		return nil, err
	}
	if d.Target == nil {
		return nil, invalid(errNoTarget, d.Name)
	}
	blob := r.HostKey
	switch {
	case len(blob) > 0:
		if err := checkHostKey(blob); err != nil {
			return nil, invalid("%w", err)
		}
	case len(d.Target.Offered) == 0:
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%s has offered no other key than the pinned one", d.Name)
	case printOfBlob(d.Target.Offered) != r.Fingerprint:
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED,
			"the key that %s offered last is %s; compare it with the server's and give that", d.Name, printOfBlob(d.Target.Offered))
	default:
		blob = d.Target.Offered
	}
	old := printOfBlob(d.Target.HostKey)
	now, err := s.changeTarget(ctx, d, func(t *targetRecord) error {
		t.HostKey, t.Pinned, t.Offered, t.OfferedAt = blob, s.cfg.Now(), nil, time.Time{}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "device.hostkey.accept", Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID, Method: "key " + printOfBlob(blob), Object: old})
	return connect.NewResponse(s.deviceOf(now, logins, s.hubs.counts())), nil
}

// targetKey reads a stored key.
func (s *Server) targetKey(ctx context.Context, name string) (*targetKeyRecord, error) {
	k := new(targetKeyRecord)
	if !targetKeyName(name) {
		return nil, invalid("key %q: a name has letters, digits, - and _", wire.Quote(name, 64))
	}
	if _, err := s.get(ctx, targetKeys+name, k); errors.Is(err, store.ErrNotFound) {
		return nil, notFound("no stored key %s; `hawser device key add %s` makes one", name, name)
	} else if err != nil {
		return nil, err
	}
	return k, nil
}

func targetKeyName(name string) bool {
	ok, _ := path.Match("[a-z0-9]*", name)
	return ok && len(name) <= maxTargetKeyName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// signer opens the private half.
func (s *Server) targetSigner(k *targetKeyRecord) (ssh.Signer, error) {
	plain, err := ca.Open(s.set.SecretKey(), k.Sealed)
	if err != nil {
		return nil, fmt.Errorf("key %s cannot be opened: it was sealed under another secret; remove it and add it anew", k.Name)
	}
	rest, ok := bytes.CutPrefix(plain, []byte(targetKeyContext+k.Name+" "))
	if !ok {
		return nil, fmt.Errorf("key %s is of another name", k.Name)
	}
	signer, err := ssh.ParsePrivateKey(rest)
	if err != nil {
		return nil, fmt.Errorf("key %s is damaged", k.Name) // not what the parser says of its bytes
	}
	if !bytes.Equal(signer.PublicKey().Marshal(), k.Public) {
		return nil, fmt.Errorf("key %s is damaged", k.Name)
	}
	return signer, nil
}

// AddTargetKey stores a key.
func (s targetService) AddTargetKey(ctx context.Context, req *connect.Request[api.AddTargetKeyRequest]) (*connect.Response[api.TargetKey], error) {
	c, r := callerOf(ctx), req.Msg
	if !targetKeyName(r.Name) {
		return nil, invalid("key %q: a name has letters, digits, - and _", wire.Quote(r.Name, 64))
	}
	if len(r.PrivateKey) > maxTargetPrivate {
		return nil, invalid("the private key has more than %d bytes", maxTargetPrivate)
	}
	k, err := s.newTargetKey(r.Name, r.PrivateKey)
	if err != nil {
		return nil, err
	}
	k.By = c.String()
	if all, err := list[targetKeyRecord](ctx, s.Server, targetKeys); err != nil {
		return nil, err
	} else if len(all) >= maxTargetKeys {
		return nil, invalid("%d keys are stored; remove some", len(all))
	}
	if err := s.commit(ctx, []store.Cond{store.IfAbsent(targetKeys + r.Name)}, put(targetKeys+r.Name, k)); errors.Is(err, store.ErrConflict) {
		return nil, api.NewError(connect.CodeAlreadyExists, api.Code_CODE_BAD_NAME, "there is a key %s; choose another name, or remove it", r.Name)
	} else if err != nil {
		return nil, err
	}
	s.record(Event{Type: "targetkey.add", Actor: c.String(), Source: c.addr, Via: c.via, Object: r.Name, Method: "key " + printOfBlob(k.Public)})
	return connect.NewResponse(s.targetKeyOf(k)), nil
}

// newTargetKey makes the record of a key; without a private half one is made.
func (s targetService) newTargetKey(name string, private []byte) (*targetKeyRecord, error) {
	if len(private) == 0 {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, "hawser "+name)
		if err != nil {
			return nil, err
		}
		private = pem.EncodeToMemory(block)
	}
	signer, err := ssh.ParsePrivateKey(private)
	if _, locked := errors.AsType[*ssh.PassphraseMissingError](err); locked {
		return nil, invalid("the private key has a passphrase; remove it from a copy with `ssh-keygen -p`: here it is sealed anew")
	}
	if err != nil {
		return nil, invalid("the private key cannot be read; give it as ssh-keygen writes it")
	}
	if err := ca.CheckKey(signer.PublicKey()); err != nil {
		return nil, invalid("%w", err)
	}
	return &targetKeyRecord{
		Name: name, Public: signer.PublicKey().Marshal(), Added: s.cfg.Now(),
		Sealed: ca.Seal(s.set.SecretKey(), append([]byte(targetKeyContext+name+" "), private...)),
	}, nil
}

func (s *Server) targetKeyOf(k *targetKeyRecord) *api.TargetKey {
	out := &api.TargetKey{Name: k.Name, PublicKey: k.Public, AddedUnix: k.Added.Unix(), By: k.By}
	for _, d := range s.view.allDevices() {
		if d.Target != nil && d.Target.Key == k.Name {
			out.Devices = append(out.Devices, d.Name)
		}
	}
	return out
}

// ListTargetKeys lists the stored keys.
func (s targetService) ListTargetKeys(ctx context.Context, _ *connect.Request[api.ListTargetKeysRequest]) (*connect.Response[api.ListTargetKeysResponse], error) {
	all, err := list[targetKeyRecord](ctx, s.Server, targetKeys)
	if err != nil {
		return nil, err
	}
	res := &api.ListTargetKeysResponse{}
	for _, k := range all {
		res.Keys = append(res.Keys, s.targetKeyOf(&k))
	}
	return connect.NewResponse(res), nil
}

// RemoveTargetKey forgets a key.
func (s targetService) RemoveTargetKey(ctx context.Context, req *connect.Request[api.RemoveTargetKeyRequest]) (*connect.Response[api.RemoveTargetKeyResponse], error) {
	c := callerOf(ctx)
	k, err := s.targetKey(ctx, req.Msg.Name)
	if err != nil {
		return nil, err
	}
	if used := s.targetKeyOf(k).Devices; len(used) > 0 {
		return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%d devices are logged in to with %s, such as %s; give them another with `hawser device set NAME --key`",
			len(used), k.Name, used[0])
	}
	if err := s.commit(ctx, []store.Cond{store.IfExists(targetKeys + k.Name)}, store.Delete(targetKeys+k.Name)); err != nil {
		return nil, err
	}
	s.record(Event{Type: "targetkey.remove", Actor: c.String(), Source: c.addr, Via: c.via, Object: k.Name, Method: "key " + printOfBlob(k.Public)})
	return connect.NewResponse(&api.RemoveTargetKeyResponse{}), nil
}
