package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

type joinService struct{ *Server }

// JoinHub spends a token and makes a hub of the TLS peer's key.
func (s joinService) JoinHub(ctx context.Context, req *connect.Request[api.JoinHubRequest]) (*connect.Response[api.JoinHubResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if err := checkHub(r.SshAddresses, r.TunnelAddresses, r.Zone); err != nil {
		return nil, err
	}
	if err := s.lockedPart("", c.tlsKey(), c.addr); err != nil {
		return nil, err
	}
	source := hostOf(c.addr)
	var h hubRecord
	err := retryConflict(ctx, func() error {
		t, conds, ops, err := s.useToken(ctx, r.Secret, "hub", source)
		if err != nil {
			return err
		}
		now := s.cfg.Now()
		h = hubRecord{UUID: wire.NewUUID().String(), Key: c.tlsKey(), SSH: r.SshAddresses, Tunnel: r.TunnelAddresses, Version: clip(r.Version), Zone: r.Zone, Joined: now, Counter: 1}
		if h.Name, err = s.freeName(ctx, hubName(r.Name)); err != nil {
			return err
		}
		if err := s.issueHub(&h); err != nil {
			return err
		}
		conds = append(conds, store.IfAbsent(namePrefix+h.Name))
		ops = append(ops, store.Put(namePrefix+h.Name, []byte(h.UUID)), put(hubPrefix+h.UUID, h))
		if err := s.commit(ctx, conds, ops...); err != nil {
			return err
		}
		s.record(Event{Type: "hub.join", Hub: h.Name, Source: c.addr, Via: c.via, Object: t.ID})
		return nil
	})
	if err != nil {
		s.recordStranger(c.addr, Event{Type: "hub.join.refuse", Source: c.addr, Via: c.via, Reason: api.CodeOf(err).String()})
		return nil, err
	}
	return connect.NewResponse(s.hubResponse(&h)), nil
}

// RenewHub gives the hub new certificates for its key.
func (s joinService) RenewHub(ctx context.Context, req *connect.Request[api.RenewHubRequest]) (*connect.Response[api.JoinHubResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if err := checkHub(r.SshAddresses, r.TunnelAddresses, r.Zone); err != nil {
		return nil, err
	}
	if err := s.lockedPart("", c.tlsKey(), ""); err != nil {
		return nil, err
	}
	var h hubRecord
	err := retryConflict(ctx, func() error {
		h = hubRecord{}
		rev, err := s.get(ctx, hubPrefix+c.id.UUID, &h)
		if errors.Is(err, store.ErrNotFound) {
			return api.NewError(connect.CodeNotFound, api.Code_CODE_HUB_UNKNOWN, "the cluster no longer knows this hub; join it anew with a token")
		} else if err != nil {
			return err
		}
		switch r.Counter {
		case h.Counter:
		case h.Counter - 1:
			if s.cfg.Now().Before(h.NotAfter) {
				return nil // the reply was lost: the same answer again
			}
		default:
			if r.Counter < h.Counter || !s.restoredSince(ctx, h.NotAfter.Add(-s.cfg.HubTTL)) {
				return counterMismatch(h.Name)
			}
			h.Counter = r.Counter // it renewed after the backup was made
		}
		h.Counter++
		h.SSH, h.Tunnel, h.Version, h.Zone = r.SshAddresses, r.TunnelAddresses, clip(r.Version), r.Zone
		if err := s.issueHub(&h); err != nil {
			return err
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(hubPrefix+h.UUID, rev)}, put(hubPrefix+h.UUID, h))
	})
	if err != nil {
		s.record(Event{Type: "hub.renew.refuse", Hub: c.id.Name, Source: c.addr, Via: c.via, Reason: api.CodeOf(err).String()})
		return nil, err
	}
	s.record(Event{Type: "hub.renew", Hub: h.Name, Source: c.addr, Via: c.via})
	return connect.NewResponse(s.hubResponse(&h)), nil
}

func (s *Server) issueHub(h *hubRecord) error {
	now := s.cfg.Now()
	principals := []string{h.UUID, h.Name}
	for _, a := range h.SSH {
		host := hostOf(a)
		if host != "" {
			principals = append(principals, host)
		}
	}
	chain, cert, err := s.set.IssueHub(ca.HubRequest{UUID: h.UUID, Name: h.Name, Cluster: s.info.Cluster, Principals: principals, Key: h.Key, TTL: s.cfg.HubTTL, Now: now})
	if err != nil {
		return fmt.Errorf("issue hub certificates: %w", err)
	}
	h.Chain, h.SSHCert, h.NotAfter = chain, cert, now.Add(s.cfg.HubTTL)
	return nil
}

func (s *Server) hubResponse(h *hubRecord) *api.JoinHubResponse {
	return &api.JoinHubResponse{
		Uuid: h.UUID, Name: h.Name, Cluster: s.info.Cluster, Chain: h.Chain, SshCertificate: h.SSHCert,
		Trust: s.Trust(), Counter: h.Counter, NotAfterUnix: h.NotAfter.Unix(),
	}
}

type hubService struct{ *Server }

// JoinDevice makes a device of the key the hub saw in the handshake: by a token, by what was imported, or because a person approved it. Who
// asks again with the same key gets the same answer.
func (s hubService) JoinDevice(ctx context.Context, req *connect.Request[api.JoinDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.PublicKey) != ed25519.PublicKeySize {
		return nil, invalid("the device's key is not an Ed25519 key")
	}
	if err := s.lockedPart("", ed25519.PublicKey(r.PublicKey), r.Source); err != nil {
		return nil, err
	}
	if r.Name != "" {
		if err := wire.CheckDeviceName(r.Name); err != nil {
			return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "%w", err)
		}
	}
	labels, err := labelMap(r.Labels)
	if err != nil {
		return nil, err
	}
	evidence, err := evidenceMap(r.Evidence)
	if err != nil {
		return nil, err
	}
	j := joining{
		actor: c.String(), key: r.PublicKey, secret: r.Secret, name: r.Name, from: r.Source, source: hostOf(r.Source), hash: hashOf(r.PublicKey),
		rec: enrollRecord{
			UUID: wire.NewUUID().String(), Key: r.PublicKey, Fingerprint: devicePrint(r.PublicKey), Labels: labels, Evidence: evidence,
			Hostname: clip(r.Hostname), Arch: clip(r.Arch), OS: clip(r.Os), Version: clip(r.AgentVersion), Source: clip(r.Source),
		},
	}
	if j.source == "" {
		j.source = c.String()
	}
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	var d *deviceRecord
	err = retryConflict(ctx, func() (err error) {
		d, err = s.joinOnce(ctx, &j)
		return err
	})
	if err != nil {
		if !j.quiet {
			s.recordStranger(r.Source, Event{Type: "device.join.refuse", Actor: c.String(), Hub: c.id.Name, Source: r.Source, Method: "key " + j.rec.Fingerprint, Reason: api.CodeOf(err).String()})
		}
		return nil, err
	}
	return connect.NewResponse(s.deviceCredentials(d)), nil
}

// joining is one JoinDevice, and in the record what it would leave.
type joining struct {
	rec          enrollRecord
	key, secret  []byte
	name         string // wished
	actor, hash  string
	from, source string // host:port, and what is charged for wrong guesses
	quiet        bool   // the refusal is in the audit log, or need not be
}

// joinTurn waits for the right to take names and keys for devices.
func (s *Server) joinTurn(ctx context.Context) (done func(), err error) {
	return turn(ctx, s.joins)
}

func (s *Server) joinOnce(ctx context.Context, j *joining) (*deviceRecord, error) {
	j.quiet = false
	if d := s.view.deviceByKey(j.key); d != nil {
		return s.joinAgain(ctx, d.UUID, j)
	}
	if e := s.view.enroll(j.hash); e != nil {
		if e.State != stateImported {
			return nil, s.stillPending(ctx, e, j)
		}
		e.Key, e.Evidence, e.Hostname, e.Arch, e.OS, e.Version, e.Source = j.rec.Key, j.rec.Evidence, j.rec.Hostname, j.rec.Arch, j.rec.OS, j.rec.Version, j.rec.Source
		labels := maps.Clone(j.rec.Labels)
		maps.Copy(labels, e.Labels)
		e.Labels = labels
		return s.admitDevice(ctx, e, j.actor, "import", []store.Cond{store.IfExists(enrollPrefix + j.hash)}, nil)
	}
	if len(j.secret) == 0 {
		j.quiet = !s.strangers.take(j.source, s.cfg.Now())
		return nil, api.NewRetryError(connect.CodePermissionDenied, api.Code_CODE_PENDING, strangerWait,
			"the cluster was not told of the key %s; import it with `hawser device import`", j.rec.Fingerprint)
	}
	t, conds, ops, err := s.useToken(ctx, j.secret, "edge", j.source)
	if err != nil {
		return nil, err
	}
	e := j.rec
	e.Labels = maps.Clone(j.rec.Labels)
	maps.Copy(e.Labels, t.Labels) // what the token says about the device outweighs what it says about itself
	serial := j.rec.Evidence["serial"]
	if serial == "" {
		serial = j.rec.Evidence["dmi-serial"]
	}
	mac, _, _ := strings.Cut(j.rec.Evidence["mac"], " ")
	if e.Name, err = nameBy(t.Name, wish{name: j.name, hostname: j.rec.Hostname, serial: serial, mac: mac, labels: e.Labels, n: t.Uses - t.Left}); err != nil {
		return nil, api.NewError(connect.CodePermissionDenied, api.Code_CODE_BAD_NAME, "%w", err)
	}
	if t.Approve || s.view.cluster().Approve {
		e.By, e.Parent = t.ID, t.Parent
		return nil, s.makePending(ctx, &e, j, conds, ops)
	}
	return s.admitDevice(ctx, &e, j.actor, t.ID, conds, ops)
}

// joinAgain answers a key that is a device's already: the answer to its join was lost, a person approved it, or somebody has a copy of a key
// that has moved on.
func (s *Server) joinAgain(ctx context.Context, uuid string, j *joining) (*deviceRecord, error) {
	var d deviceRecord
	rev, err := s.get(ctx, devicePrefix+uuid, &d)
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.ErrConflict // it was removed in this moment
	} else if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	switch {
	case d.Quarantine != nil:
		j.quiet = true
		return nil, quarantined(&d)
	case s.set.Stranded(d.Chain):
		// All it knows of the cluster is a CA that was stolen, so a token has told it of the new one. It stays who it was.
		t, conds, ops, err := s.useToken(ctx, j.secret, "edge", j.source)
		if err != nil {
			return nil, err
		}
		d.Prev, d.Counter = 0, d.Counter+1
		if err := s.issueDevice(&d); err != nil {
			return nil, err
		}
		if err := s.commit(ctx, append(conds, store.IfModRev(devicePrefix+d.UUID, rev)), append(ops, put(devicePrefix+d.UUID, d))...); err != nil {
			return nil, err
		}
		s.record(Event{Type: "device.rejoin", Actor: j.actor, Device: d.Name, DeviceUUID: d.UUID, Source: j.from, Object: t.ID, Reason: "the CA it knew is compromised"})
		return &d, nil
	case d.Recovering:
		d.Prev, d.Counter, d.Recovering = 0, d.Counter+1, false
	case !d.Fresh && d.Counter > 1 && s.view.cluster().Clone == policy.CloneReplace:
		if s.clones.take(d.UUID, now) {
			s.tellClone(&d, policy.CloneReplace, counterReason(&d, 0), s.cloneSources(&d, j.from))
		}
		d.Prev, d.Counter = 0, d.Counter+1
	case !d.Fresh && d.Counter > 1:
		j.quiet = true
		return nil, s.clone(ctx, callerOf(ctx), &d, rev, 0, j.from)
	case now.Before(d.Issued.Add(s.cfg.DeviceTTL / 2)):
		s.recordRejoin(&d, j)
		return &d, nil
	}
	d.Evidence, d.Hostname, d.Arch, d.OS, d.Version, d.Source = j.rec.Evidence, j.rec.Hostname, j.rec.Arch, j.rec.OS, j.rec.Version, j.rec.Source
	if err := s.issueDevice(&d); err != nil {
		return nil, err
	}
	if err := s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, put(devicePrefix+d.UUID, d)); err != nil {
		return nil, err
	}
	s.recordRejoin(&d, j)
	return &d, nil
}

func (s *Server) recordRejoin(d *deviceRecord, j *joining) {
	s.record(Event{Type: "device.rejoin", Actor: j.actor, Device: d.Name, DeviceUUID: d.UUID, Source: j.from, Method: "key " + j.rec.Fingerprint})
}

// admitDevice makes a device of e, under a free name, in one transaction with conds and ops. by is the token, or what else let it in.
func (s *Server) admitDevice(ctx context.Context, e *enrollRecord, actor, by string, conds []store.Cond, ops []store.Op) (*deviceRecord, error) {
	d, more, writes, err := s.newDevice(ctx, e)
	if err != nil {
		return nil, err
	}
	if err := s.commit(ctx, append(conds, more...), append(ops, writes...)...); err != nil {
		return nil, err
	}
	s.record(Event{
		Type: "device.join", Actor: actor, Device: d.Name, DeviceUUID: d.UUID, Source: e.Source, Object: by, Method: "key " + e.Fingerprint, Reason: d.Note,
	})
	return d, nil
}

// newDevice makes the device of e, with the writes that make it one. An imported one has its name; others get theirs here.
func (s *Server) newDevice(ctx context.Context, e *enrollRecord) (*deviceRecord, []store.Cond, []store.Op, error) {
	now := s.cfg.Now()
	d := &deviceRecord{
		UUID: e.UUID, Name: e.Name, Key: e.Key, Labels: e.Labels, Evidence: e.Evidence, Hostname: e.Hostname, Arch: e.Arch, OS: e.OS, Version: e.Version,
		Source: e.Source, Joined: now, Counter: 1, Fresh: true,
	}
	var conds []store.Cond
	var ops []store.Op
	if e.State != stateImported {
		name, err := s.freeName(ctx, e.Name)
		if err != nil {
			return nil, nil, nil, err
		}
		if d.Name = name; name != e.Name {
			d.Note = fmt.Sprintf("wished the name %s, which was taken", e.Name)
		}
		if like := s.likeness(e); like != nil {
			d.Note = strings.TrimPrefix(d.Note+fmt.Sprintf("; looks like %s (%s)", like.Name, strings.Join(like.Evidence, ", ")), "; ")
		}
		conds = append(conds, store.IfAbsent(namePrefix+d.Name))
		ops = append(ops, store.Put(namePrefix+d.Name, []byte(d.UUID)))
	}
	if e.State != "" {
		ops = append(ops, store.Delete(enrollPrefix+hashOf(e.Key)))
	}
	if err := s.issueDevice(d); err != nil {
		return nil, nil, nil, err
	}
	return d, append(conds, store.IfAbsent(devicePrefix+d.UUID)), append(ops, put(devicePrefix+d.UUID, d)), nil
}

// RenewDevice compares and sets the generation counter and answers with new certificates.
func (s hubService) RenewDevice(ctx context.Context, req *connect.Request[api.RenewDeviceRequest]) (*connect.Response[api.DeviceCredentials], error) {
	c, r := callerOf(ctx), req.Msg
	if err := s.lockedPart(r.Uuid, ed25519.PublicKey(r.PublicKey), ""); err != nil {
		return nil, err
	}
	var d deviceRecord
	renewed := false
	err := retryConflict(ctx, func() error {
		d, renewed = deviceRecord{}, false
		rev, err := s.get(ctx, devicePrefix+r.Uuid, &d)
		if errors.Is(err, store.ErrNotFound) {
			return api.NewError(connect.CodeNotFound, api.Code_CODE_DEVICE_UNKNOWN, "the cluster no longer knows this device; join it anew with a token")
		} else if err != nil {
			return err
		}
		if !bytes.Equal(d.Key, r.PublicKey) {
			return api.NewError(connect.CodePermissionDenied, api.Code_CODE_KEY_MISMATCH, "the key is not that of device %s", d.Name)
		}
		now := s.cfg.Now()
		if d.Quarantine != nil {
			return quarantined(&d)
		}
		if r.Again {
			return nil
		}
		if now.After(d.NotAfter.Add(s.view.cluster().RejoinWindow)) && !d.Recovering {
			return s.waitForReturn(ctx, &d, rev, r.Source)
		}
		switch {
		case d.Recovering: // whatever it holds
			d.Prev, d.Counter = r.Counter, max(d.Counter, min(r.Counter, d.Counter+maxAhead))+1
		case r.Counter == d.Counter:
			d.Prev, d.Counter = r.Counter, d.Counter+1
		case r.Counter == d.before():
			// The reply was lost. The same answer again, for the one that was lost may still be on its way; much later another one, so
			// that a second machine that holds the first shows itself.
			if now.Before(d.Issued.Add(sameAnswer)) && now.Before(d.NotAfter) {
				return nil
			}
			d.Prev, d.Counter = r.Counter, d.Counter+1
		case r.Counter > d.Counter && r.Counter-d.Counter < maxAhead && s.restoredSince(ctx, d.Issued):
			d.Prev, d.Counter = r.Counter, r.Counter+1 // it renewed after the backup was made
		case s.view.cluster().Clone == policy.CloneReplace:
			if s.clones.take(d.UUID, now) {
				s.tellClone(&d, policy.CloneReplace, counterReason(&d, r.Counter), s.cloneSources(&d, r.Source))
			}
			d.Prev, d.Counter = r.Counter, max(d.Counter, min(r.Counter, d.Counter+maxAhead))+1
			d.Note = "its identity was seen on two machines on " + now.UTC().Format(time.DateOnly)
		default:
			return s.clone(ctx, c, &d, rev, r.Counter, r.Source)
		}
		renewed = true
		d.Fresh, d.Recovering, d.Waiting, d.Source = false, false, time.Time{}, clip(r.Source)
		if err := s.issueDevice(&d); err != nil {
			return err
		}
		return s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, put(devicePrefix+d.UUID, d))
	})
	e := Event{Type: "device.renew", Actor: c.String(), Hub: c.id.Name, Device: d.Name, DeviceUUID: clip(r.Uuid), Source: r.Source}
	if err != nil {
		e.Type, e.Reason = "device.renew.refuse", api.CodeOf(err).String()
		s.recordStranger(r.Source, e)
		return nil, err
	}
	if renewed {
		s.record(e)
	}
	return connect.NewResponse(s.deviceCredentials(&d)), nil
}

// before is the counter of who renews again, having had no answer.
func (d *deviceRecord) before() uint64 {
	if d.Prev == 0 && !d.Fresh {
		return d.Counter - 1 // as records were before Prev was kept
	}
	return d.Prev
}

// restoredSince tells whether the state was restored from a backup after at.
func (s *Server) restoredSince(ctx context.Context, at time.Time) bool {
	var r struct {
		At time.Time `json:"at"`
	}
	_, err := s.get(ctx, "meta/restored", &r)
	return err == nil && r.At.After(at)
}

func counterMismatch(name string) error {
	return api.NewError(connect.CodeAborted, api.Code_CODE_COUNTER_MISMATCH, "%s renews with a counter that is not its own: its files may have been copied; remove it and join it anew", name)
}

func (s *Server) issueDevice(d *deviceRecord) error {
	if d.Target != nil {
		return nil // it proves itself by its own host key
	}
	now := s.cfg.Now()
	chain, cert, err := s.set.IssueDevice(ca.DeviceRequest{UUID: d.UUID, Name: d.Name, Cluster: s.info.Cluster, Key: d.Key, TTL: s.cfg.DeviceTTL, Now: now})
	if err != nil {
		return fmt.Errorf("issue device certificates: %w", err)
	}
	d.Chain, d.SSHCert, d.NotAfter, d.Issued = chain, cert, now.Add(s.cfg.DeviceTTL), now
	return nil
}

func (s *Server) deviceCredentials(d *deviceRecord) *api.DeviceCredentials {
	return &api.DeviceCredentials{
		Uuid: d.UUID, Name: d.Name, Cluster: s.info.Cluster, Chain: d.Chain, SshCertificate: d.SSHCert,
		Trust: s.Trust(), Hubs: s.tunnelAddrs(), Counter: d.Counter, NotAfterUnix: d.NotAfter.Unix(),
	}
}

// freeName returns name, or name-2, name-3... where it is taken. The caller's transaction takes it, and comes
// here again if another was quicker.
func (s *Server) freeName(ctx context.Context, name string) (string, error) {
	try := func(i int) (string, bool, error) {
		text := name
		if i > 1 {
			suffix := fmt.Sprintf("-%d", i)
			text = strings.TrimRight(name[:min(len(name), 63-len(suffix))], "-_") + suffix
		}
		if text == s.info.Cluster {
			return text, false, nil // a device that is named as the cluster would be taken for it
		}
		_, err := s.state.Get(ctx, namePrefix+text)
		if errors.Is(err, store.ErrNotFound) {
			return text, true, nil
		}
		return text, false, err
	}
	// A thousand devices come as "openwrt": double until one is free, then halve. Gaps may be left, but none is asked for one by one.
	last, high := 0, 1
	for {
		text, free, err := try(high)
		if err != nil {
			return "", err
		}
		if free && high-last <= 1 {
			return text, nil
		}
		if free {
			break
		}
		last, high = high, 2*high
	}
	for high-last > 1 {
		mid := (last + high) / 2
		_, free, err := try(mid)
		if err != nil {
			return "", err
		}
		if free {
			high = mid
		} else {
			last = mid
		}
	}
	text, _, err := try(high)
	return text, err
}

// hubName is CleanName, but a hub may be called "hub".
func hubName(name string) string {
	if name == "" || name == "hub" {
		return "hub"
	}
	return wire.CleanName(name)
}

// checkHub holds what a hub says of itself against what others may hold.
func checkHub(ssh, tunnel []string, zone string) error {
	if len(zone) > maxZone || strings.ContainsFunc(zone, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return invalid("zone %q has other characters than printable ASCII, or more than %d", wire.Quote(zone, maxZone), maxZone)
	}
	return checkAddrs(ssh, tunnel)
}

func checkAddrs(lists ...[]string) error {
	for _, list := range lists {
		if len(list) > maxAddresses {
			return invalid("more than %d addresses", maxAddresses)
		}
		for _, a := range list {
			if err := checkPublic(a); err != nil {
				return invalid("%w", err)
			}
		}
	}
	return nil
}

// checkPublic is checkAddr for where others go: it stands in the ssh_config of every person, where "*:22" would be a pattern that all their
// hosts match, and "hub:" an error for which ssh goes nowhere.
func checkPublic(addr string) error {
	if err := checkAddr(addr); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	bad := strings.ContainsFunc(host, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-:%", r)
	})
	if n, err := strconv.ParseUint(port, 10, 16); bad || host == "" || host[0] == '-' || err != nil || n == 0 {
		return fmt.Errorf("%q is not a host's name or address with a port", addr)
	}
	return nil
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}

// clip bounds what a peer says about itself.
func clip(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "?") }
