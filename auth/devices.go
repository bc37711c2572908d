package auth

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// Devices lists every device.
func (s *Server) Devices(context.Context) ([]*api.Device, error) {
	var out []*api.Device
	sessions := s.hubs.counts()
	for _, d := range s.view.allDevices() {
		out = append(out, s.deviceOf(d, nil, sessions))
	}
	return out, nil
}

func (s *Server) deviceOf(d *deviceRecord, logins []string, sessions map[string]uint32) *api.Device {
	out := &api.Device{
		Uuid: d.UUID, Name: d.Name, Labels: labelList(d.Labels), Evidence: labelList(d.Evidence), Hostname: d.Hostname, AgentVersion: d.Version,
		Arch: d.Arch, Os: d.OS, JoinedUnix: d.Joined.Unix(), CertificateNotAfterUnix: d.NotAfter.Unix(), Sessions: sessions[d.UUID], Logins: logins,
	}
	tunnels, last, online := s.hubs.device(d.UUID)
	if d.Target != nil {
		return s.behindOf(d, out)
	}
	out.ListenAddress, out.TunnelOff = d.listen().Address, d.listen().TunnelOff
	for _, t := range tunnels {
		out.Tunnels = append(out.Tunnels, &api.Tunnel{
			Hub: t.hub.name, Zone: t.hub.zone, Slot: t.Slot, Carrier: t.Carrier, Observed: t.Observed, SinceUnix: t.SinceUnix, Silent: t.Silent,
		})
	}
	if len(tunnels) > 0 {
		st := tunnels[0]
		out.Observed, out.Addresses = st.Observed, st.Addresses
		if st.Hostname != "" {
			out.Hostname, out.AgentVersion, out.Arch, out.Os = st.Hostname, st.AgentVersion, st.Arch, st.Os
		}
	}
	switch {
	case online:
		st := tunnels[0]
		out.Online, out.Hub, out.Zone, out.Carrier, out.SinceUnix = true, st.hub.name, st.hub.zone, st.Carrier, st.SinceUnix
		out.LastSeenUnix = s.cfg.Now().Unix()
	case !last.At.IsZero():
		out.LastSeenUnix, out.SinceUnix = last.At.Unix(), last.At.Unix()
		out.LastHub, out.LastCarrier, out.LastReason = last.Hub, last.Carrier, last.Reason
	}
	out.Note, out.FormerNames, out.Fingerprint, out.Generation, out.Recovering = d.Note, d.Former, devicePrint(d.Key), d.Counter, d.Recovering
	if q := d.Quarantine; q != nil {
		out.Quarantine, out.QuarantinedUnix, out.CloneSources = q.Reason, q.Since.Unix(), q.Sources
	}
	return out
}

// visible returns the logins the caller's roles allow on d; none means that for him it does not exist. Who
// administers devices sees them all.
func visible(c caller, d *deviceRecord) ([]string, bool) {
	logins := policy.Merge(c.roles, d.policy()).Logins
	return logins, len(logins) > 0 || policy.MayAdmin(c.roles, "device", "list").Allowed
}

// ListDevices lists what the caller's roles reach.
func (s adminService) ListDevices(ctx context.Context, req *connect.Request[api.ListDevicesRequest]) (*connect.Response[api.ListDevicesResponse], error) {
	c, res, sessions := callerOf(ctx), &api.ListDevicesResponse{}, s.hubs.counts()
	for _, d := range s.view.allDevices() {
		logins, ok := visible(c, d)
		if !ok {
			continue
		}
		match, err := selects(req.Msg.Selectors, d)
		if err != nil {
			return nil, err
		}
		if match {
			res.Devices = append(res.Devices, s.deviceOf(d, logins, sessions))
		}
	}
	return connect.NewResponse(res), nil
}

// selects holds a device against "key=glob" and "key!=glob".
func selects(selectors []string, d *deviceRecord) (bool, error) {
	return selectBy(selectors, func(key string) string {
		switch key {
		case "name":
			return d.Name
		case "uuid":
			return d.UUID
		}
		return d.Labels[key]
	})
}

func (s *Server) visibleDevice(c caller, name string) (*deviceRecord, []string, error) {
	d := s.view.device(name)
	if d != nil {
		if logins, ok := visible(c, d); ok {
			return d, logins, nil
		}
	}
	return nil, nil, notFound("no device %q that your roles let you see; `hawser ls` lists those they do", wire.Quote(name, 64))
}

// GetDevice answers one device.
func (s adminService) GetDevice(ctx context.Context, req *connect.Request[api.GetDeviceRequest]) (*connect.Response[api.Device], error) {
	d, logins, err := s.visibleDevice(callerOf(ctx), req.Msg.Device)
	if err != nil {
		return nil, err
	}
	out := s.deviceOf(d, logins, s.hubs.counts())
	out.History = s.hubs.historyOf(d.UUID)
	return connect.NewResponse(out), nil
}

// RemoveDevice makes the cluster forget a device; its certificates are refused from then on. A key that was imported and has not joined is
// forgotten by its name too.
func (s adminService) RemoveDevice(ctx context.Context, req *connect.Request[api.RemoveDeviceRequest]) (*connect.Response[api.RemoveDeviceResponse], error) {
	c, name := callerOf(ctx), req.Msg.Device
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	d, _, err := s.visibleDevice(c, name)
	if err != nil {
		if !policy.MayAdmin(c.roles, "device", "list").Allowed {
			return nil, err
		}
		for _, e := range s.view.allEnrolls() {
			if e.State == stateImported && (e.Name == name || e.UUID == name || e.Fingerprint == name) {
				return connect.NewResponse(&api.RemoveDeviceResponse{}), s.reject(ctx, e, c)
			}
		}
		return nil, err
	}
	err = retryConflict(ctx, func() error {
		var now deviceRecord
		rev, err := s.get(ctx, devicePrefix+d.UUID, &now)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("no device %q", wire.Quote(name, 64))
		} else if err != nil {
			return err
		}
		d = &now
		return s.commit(ctx, []store.Cond{store.IfModRev(devicePrefix+d.UUID, rev)}, store.Delete(devicePrefix+d.UUID), store.Delete(namePrefix+d.Name), store.Delete(seenPrefix+d.UUID))
	})
	if err != nil {
		return nil, err
	}
	s.hubs.forget(d.UUID)
	s.policies.forget(d.UUID)
	s.killWhere("the device was removed", func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID })
	s.record(Event{Type: "admin.device.remove", Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID})
	return connect.NewResponse(&api.RemoveDeviceResponse{}), nil
}

// changeDevice changes one record in one transaction.
func (s *Server) changeDevice(ctx context.Context, uuid string, change func(*deviceRecord) error) (*deviceRecord, error) {
	return s.changeDeviceWith(ctx, uuid, nil, nil, change)
}

// changeDeviceWith is changeDevice with more in the transaction.
func (s *Server) changeDeviceWith(ctx context.Context, uuid string, conds []store.Cond, ops []store.Op, change func(*deviceRecord) error) (*deviceRecord, error) {
	var d deviceRecord
	err := retryConflict(ctx, func() error {
		d = deviceRecord{}
		rev, err := s.get(ctx, devicePrefix+uuid, &d)
		if errors.Is(err, store.ErrNotFound) {
			return notFound("the device was removed")
		} else if err != nil {
			return err
		}
		if err := change(&d); err != nil {
			return err
		}
		return s.commit(ctx, append(slices.Clone(conds), store.IfModRev(devicePrefix+uuid, rev)), append(slices.Clone(ops), put(devicePrefix+uuid, d))...)
	})
	if err != nil {
		return nil, err
	}
	return &d, nil
}

// RenameDevice gives a device another name. Its certificates are made anew of the same generation; its hubs bring them.
func (s deviceService) RenameDevice(ctx context.Context, req *connect.Request[api.RenameDeviceRequest]) (*connect.Response[api.Device], error) {
	c, name := callerOf(ctx), req.Msg.Name
	if err := wire.CheckDeviceName(name); err != nil {
		return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "%w", err)
	}
	if name == s.info.Cluster {
		return nil, nameTaken(name)
	}
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	old, logins, err := s.visibleDevice(c, req.Msg.Device)
	if err != nil {
		return nil, err
	}
	if old.Name == name {
		return connect.NewResponse(s.deviceOf(old, logins, s.hubs.counts())), nil
	}
	if free, err := s.freeName(ctx, name); err != nil {
		return nil, err
	} else if free != name {
		return nil, nameTaken(name)
	}
	d, err := s.changeDeviceWith(ctx, old.UUID, []store.Cond{store.IfAbsent(namePrefix + name)},
		[]store.Op{store.Delete(namePrefix + old.Name), store.Put(namePrefix+name, []byte(old.UUID))}, func(d *deviceRecord) error {
			d.Former = append(slices.DeleteFunc(slices.Clone(d.Former), func(n string) bool { return n == name }), d.Name)
			d.Former = d.Former[max(0, len(d.Former)-maxFormer):]
			d.Name, d.Note = name, ""
			return s.issueDevice(d)
		})
	if err != nil {
		return nil, err
	}
	s.record(Event{Type: "device.rename", Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID, Object: old.Name})
	return connect.NewResponse(s.deviceOf(d, logins, s.hubs.counts())), nil
}

// LabelDevices sets and removes labels.
func (s deviceService) LabelDevices(ctx context.Context, req *connect.Request[api.LabelDevicesRequest]) (*connect.Response[api.LabelDevicesResponse], error) {
	c, r := callerOf(ctx), req.Msg
	set, err := givenLabels(r.Set)
	if err != nil {
		return nil, err
	}
	if len(set) == 0 && len(r.Remove) == 0 {
		return nil, invalid("say which labels: key=value to set, key- to remove")
	}
	var chosen []*deviceRecord
	for _, id := range r.Devices {
		d, _, err := s.visibleDevice(c, id)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(chosen, d) {
			chosen = append(chosen, d)
		}
	}
	if len(r.Selectors) > 0 {
		for _, d := range s.view.allDevices() {
			ok, err := selects(r.Selectors, d)
			if err != nil {
				return nil, err
			}
			if _, sees := visible(c, d); ok && sees && !slices.Contains(chosen, d) {
				chosen = append(chosen, d)
			}
		}
	}
	switch {
	case len(chosen) == 0:
		return nil, notFound("no device has these labels; `hawser ls` lists them")
	case len(chosen) > maxSelected:
		return nil, invalid("%d devices; %d at a time", len(chosen), maxSelected)
	}
	relabel := func(d *deviceRecord) error {
		labels := maps.Clone(d.Labels)
		if labels == nil {
			labels = make(map[string]string)
		}
		for _, k := range r.Remove {
			delete(labels, k)
		}
		maps.Copy(labels, set)
		d.Labels = labels
		if err := checkLabels(labels); err != nil {
			return invalid("%s: %w", d.Name, err)
		}
		return nil
	}
	for _, d := range chosen {
		own := *d
		if err := relabel(&own); err != nil {
			return nil, err
		}
	}
	res := &api.LabelDevicesResponse{}
	for _, d := range chosen {
		now, err := s.changeDevice(ctx, d.UUID, relabel)
		if err != nil {
			return nil, fmt.Errorf("label %s: %w", d.Name, err)
		}
		var text []string
		for _, l := range labelList(now.Labels) {
			text = append(text, l.Key+"="+l.Value)
		}
		s.record(Event{Type: "device.label", Actor: c.String(), Source: c.addr, Via: c.via, Device: now.Name, DeviceUUID: now.UUID, Reason: strings.Join(text, ",")})
		res.Devices = append(res.Devices, s.deviceOf(now, nil, nil))
	}
	return connect.NewResponse(res), nil
}
