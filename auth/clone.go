package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// Two machines with one identity show themselves by the generation counter, at the latest when both have renewed and one renews again, or by
// taking turns at a hub. The cluster's resource says what follows: quarantine (nobody is served until a person says so), replace (who came last
// is served), or split (who came last joins anew, with a key of its own, and waits for approval).

// clone acts on who renews, or joins, as d with a counter that is not d's, and returns the refusal. What it presented is hub's word, of which a hub
// has so many.
func (s *Server) clone(ctx context.Context, hub caller, d *deviceRecord, rev, presented uint64, source string) error {
	if !s.incidents.take(hub.id.UUID, s.cfg.Now()) {
		return mismatch(d.Name, nil)
	}
	reason, sources := counterReason(d, presented), s.cloneSources(d, source)
	if s.view.cluster().Clone == policy.CloneSplit {
		order, err := s.orderSplit(ctx, d, reason, sources)
		if err != nil {
			return err
		}
		return mismatch(d.Name, order)
	}
	return s.quarantine(ctx, d, rev, reason, sources)
}

func counterReason(d *deviceRecord, presented uint64) string {
	if presented == 0 {
		return fmt.Sprintf("the key of %s joins again, though it has renewed since", d.Name)
	}
	return fmt.Sprintf("generation %d of the certificates of %s was presented, and %d is the newest", presented, d.Name, d.Counter)
}

// cloneSources are where the machines are: the one that came now, then where the identity was seen beside.
func (s *Server) cloneSources(d *deviceRecord, now string) []string {
	sources := []string{clip(now)}
	tunnels, _, _ := s.hubs.device(d.UUID)
	for _, t := range tunnels {
		sources = append(sources, t.Observed)
	}
	return distinct(append(sources, d.Source))
}

// distinct drops what is empty or named before.
func distinct(list []string) []string {
	var out []string
	for _, s := range list {
		if s != "" && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// tellClone alerts: in the audit log, and in the service's own.
func (s *Server) tellClone(d *deviceRecord, acted, reason string, sources []string) {
	e := Event{Type: "device.clone", Device: d.Name, DeviceUUID: d.UUID, Method: "key " + devicePrint(d.Key), Rule: acted}
	e.Reason = fmt.Sprintf("%s; seen at %s", reason, strings.Join(sources, " and "))
	if len(sources) > 0 {
		e.Source = sources[0]
	}
	if len(sources) > 1 {
		e.DeviceAddress = sources[1]
	}
	s.record(e)
	s.log.Error("two machines use one identity", "device", d.Name, "uuid", d.UUID, "policy", acted, "reason", reason, "seen", sources)
}

// quarantine stops a device from being served, tells, and returns the refusal.
func (s *Server) quarantine(ctx context.Context, d *deviceRecord, rev uint64, reason string, sources []string) error {
	d.Quarantine = &quarantine{Since: s.cfg.Now(), Reason: reason, Sources: sources}
	d.Recovering = false
	if err := s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, put(devicePrefix+d.UUID, d)); err != nil {
		return err
	}
	s.tellClone(d, policy.CloneQuarantine, reason, sources)
	s.killWhere(quarantineText(d), func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID })
	return quarantined(d)
}

// quarantineText tells people, and the device's log.
func quarantineText(d *deviceRecord) string {
	if d.Quarantine == nil {
		return ""
	}
	return fmt.Sprintf("%s is in quarantine, for two machines have its identity (%s); switch the copy off, then `hawser device recover %s`",
		d.Name, strings.Join(d.Quarantine.Sources, " and "), d.Name)
}

func quarantined(d *deviceRecord) error {
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_QUARANTINED, "%s", quarantineText(d))
}

// mismatch is the refusal of the machine that is to split, or would be if it had not been told too often.
func mismatch(name string, order []byte) error {
	err := connect.NewError(connect.CodeAborted, errors.New(splitText(name)))
	if detail, derr := connect.NewErrorDetail(&api.Problem{Code: api.Code_CODE_COUNTER_MISMATCH, Order: order}); derr == nil {
		err.AddDetail(detail)
	}
	return err
}

func splitText(name string) string {
	return fmt.Sprintf("another machine has the identity of %s; this one is to join as a device of its own, and a person approves it", name)
}

// orderSplit makes a token and the order for who holds a copy of d's identity; nil where that was done too often of late. It tells.
func (s *Server) orderSplit(ctx context.Context, d *deviceRecord, reason string, sources []string) ([]byte, error) {
	now := s.cfg.Now()
	if !s.clones.take(d.UUID, now) {
		return nil, nil
	}
	addresses := s.tunnelAddrs()
	if len(addresses) == 0 {
		return nil, nil
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	text, err := ca.Token{Kind: ca.TokenEdge, Cluster: s.info.Cluster, Addresses: addresses[:min(len(addresses), 16)], Pin: s.Pin(), Secret: secret}.Reveal()
	if err != nil {
		return nil, fmt.Errorf("make the token: %w", err)
	}
	id, hash := tokenID(secret)
	t := tokenRecord{
		ID: id, Hash: hash, Kind: "edge", Uses: 1, Left: 1, Expires: now.Add(splitLife), Labels: d.Labels, By: "clone of " + d.Name,
		Approve: true, Parent: d.UUID, Pin: s.Pin(),
	}
	if err := s.commit(ctx, []store.Cond{store.IfAbsent(tokenPrefix + id)}, put(tokenPrefix+id, t)); err != nil {
		return nil, err
	}
	s.tellClone(d, policy.CloneSplit, reason, sources)
	return ca.SignSplit(s.set.GrantKey(), d.UUID, text), nil
}

// ReportClone decides what becomes of a device whose identity two machines use, by the word of the hub they took turns at.
func (s hubService) ReportClone(ctx context.Context, req *connect.Request[api.ReportCloneRequest]) (*connect.Response[api.ReportCloneResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if !s.incidents.take(c.id.UUID, s.cfg.Now()) {
		return nil, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, "this hub has reported too many incidents")
	}
	sources := make([]string, 0, maxAddresses)
	for _, a := range r.Sources[:min(len(r.Sources), maxAddresses)] {
		sources = append(sources, wire.Quote(a, maxText))
	}
	sources = distinct(sources)
	reason := fmt.Sprintf("two machines took turns at hub %s", c.id.Name)
	res := &api.ReportCloneResponse{}
	err := retryConflict(ctx, func() error {
		var d deviceRecord
		rev, err := s.get(ctx, devicePrefix+r.Uuid, &d)
		if errors.Is(err, store.ErrNotFound) || err == nil && !bytes.Equal(d.Key, r.PublicKey) {
			return api.NewError(connect.CodeNotFound, api.Code_CODE_DEVICE_UNKNOWN, "no device has this identity")
		} else if err != nil {
			return err
		}
		switch acted := s.view.cluster().Clone; {
		case d.Quarantine != nil:
			res.Message = quarantineText(&d)
		case acted == policy.CloneReplace:
			res.Serve = true
			if s.clones.take(d.UUID, s.cfg.Now()) {
				s.tellClone(&d, acted, reason, sources)
			}
		case acted == policy.CloneSplit:
			res.Message = splitText(d.Name)
			res.Order, err = s.orderSplit(ctx, &d, reason, sources)
		default:
			err = s.quarantine(ctx, &d, rev, reason, sources)
			if api.CodeOf(err) == api.Code_CODE_QUARANTINED {
				res.Message, err = quarantineText(&d), nil
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// waitForReturn keeps a device whose certificate expired too long ago until a person approves it, and returns the refusal.
func (s *Server) waitForReturn(ctx context.Context, d *deviceRecord, rev uint64, source string) error {
	now := s.cfg.Now()
	if d.Waiting.IsZero() {
		d.Waiting, d.Source = now, clip(source)
		if err := s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, put(devicePrefix+d.UUID, d)); err != nil {
			return err
		}
		s.record(Event{Type: "device.pending", Device: d.Name, DeviceUUID: d.UUID, Source: source, Reason: "its certificate expired on " + d.NotAfter.UTC().Format(time.DateOnly)})
	}
	return api.NewRetryError(connect.CodePermissionDenied, api.Code_CODE_PENDING, pendingWait(now.Sub(d.Waiting)),
		"%s was away for too long to be let back by itself; `hawser device approve %s`", d.Name, d.Name)
}

// RecoverDevice ends a quarantine. The key is still on two flashes, so certificates of before have to be renewed: who is first has the identity, and the
// other shows itself by its counter or by taking turns.
func (s deviceService) RecoverDevice(ctx context.Context, req *connect.Request[api.RecoverDeviceRequest]) (*connect.Response[api.Device], error) {
	c := callerOf(ctx)
	seen, logins, err := s.visibleDevice(c, req.Msg.Device)
	if err != nil {
		return nil, err
	}
	d, err := s.changeDevice(ctx, seen.UUID, func(d *deviceRecord) error { return s.letBack(d) })
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "device.recover", Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID})
	return connect.NewResponse(s.deviceOf(d, logins, s.hubs.counts())), nil
}

func (s *Server) letBack(d *deviceRecord) error {
	if d.Quarantine == nil && d.Waiting.IsZero() {
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%s is not in quarantine", d.Name)
	}
	d.Quarantine, d.Waiting, d.Recovered, d.Recovering = nil, time.Time{}, s.cfg.Now(), true
	return nil
}
