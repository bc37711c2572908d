package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// What is not a device yet: keys that wait for approval, were rejected, or were imported and have not joined. They have no certificate, so a
// tunnel of theirs can only join.

// deviceService administers devices.
type deviceService struct{ *Server }

// enroll returns what is known of a key that is not a device's, nil if nothing; the caller's own copy.
func (v *view) enroll(hash string) *enrollRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.countsLocked(v.enrolls[hash])
}

// countsLocked is the record, or while its import is not complete what was before it.
func (v *view) countsLocked(e *enrollRecord) *enrollRecord {
	if e != nil && e.Import != "" && !v.imports[e.Import] {
		e = e.Before
	}
	if e == nil {
		return nil
	}
	own := *e
	return &own
}

// allEnrolls are those that count, by name.
func (v *view) allEnrolls() []*enrollRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []*enrollRecord
	for _, e := range v.enrolls {
		if e = v.countsLocked(e); e != nil {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b *enrollRecord) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.UUID, b.UUID))
	})
	return out
}

func (v *view) pendingCount() (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.enrolls {
		if e.State == statePending {
			n++
		}
	}
	return n
}

func (v *view) deviceByKey(key []byte) *deviceRecord {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.devices[v.keys[string(key)]]
}

// pendingWait is when one that has waited so long comes back: at once where somebody stands beside it, rarely where nobody does.
func pendingWait(waited time.Duration) time.Duration {
	return min(max(waited/4, pendingMin), pendingMax)
}

// makePending keeps a key until a person approves it, and returns the refusal.
func (s *Server) makePending(ctx context.Context, e *enrollRecord, j *joining, conds []store.Cond, ops []store.Op) error {
	if s.view.pendingCount() >= maxPending {
		return api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, pendingMax, "%d devices wait for approval; approve or reject some", maxPending)
	}
	now := s.cfg.Now()
	e.State, e.Created, e.Seen = statePending, now, now
	if err := s.commit(ctx, append(conds, store.IfAbsent(enrollPrefix+j.hash)), append(ops, put(enrollPrefix+j.hash, e))...); err != nil {
		return err
	}
	ev := Event{Type: "device.pending", Actor: j.actor, Device: e.Name, DeviceUUID: e.UUID, Source: e.Source, Object: e.By, Method: "key " + e.Fingerprint}
	if like := s.likeness(e); like != nil {
		ev.Reason = fmt.Sprintf("looks like %s (%s)", like.Name, strings.Join(like.Evidence, ", "))
	}
	s.record(ev)
	j.quiet = true
	return s.pendingError(e)
}

// stillPending answers one that came back.
func (s *Server) stillPending(ctx context.Context, e *enrollRecord, j *joining) error {
	j.quiet = true
	if now := s.cfg.Now(); now.Sub(e.Seen) > seenEvery || e.Source != j.rec.Source && now.Sub(e.Seen) > pendingMax {
		e.Seen, e.Source = now, j.rec.Source
		if err := s.commit(ctx, []store.Cond{store.IfExists(enrollPrefix + j.hash)}, put(enrollPrefix+j.hash, e)); err != nil {
			return err
		}
	}
	return s.pendingError(e)
}

func (s *Server) pendingError(e *enrollRecord) error {
	if e.State == stateRejected {
		return api.NewRetryError(connect.CodePermissionDenied, api.Code_CODE_PENDING, rejectedWait,
			"this device was rejected; `hawser device approve %s` lets it in all the same, `hawser-edge leave` gives it another key", e.Fingerprint)
	}
	return api.NewRetryError(connect.CodePermissionDenied, api.Code_CODE_PENDING, pendingWait(s.cfg.Now().Sub(e.Created)),
		"waits for approval: `hawser device approve %s` (key %s)", e.Name, e.Fingerprint)
}

// evidenceMap keeps what hardware says of itself; a key that comes several times has its values side by side.
func evidenceMap(list []*api.Label) (map[string]string, error) {
	if len(list) > maxLabels {
		return nil, invalid("more than %d kinds of evidence", maxLabels)
	}
	m := make(map[string]string, len(list))
	for _, l := range list {
		if key := clip(l.GetKey()); key != "" && len(m[key]) < maxEvidenced {
			m[key] = strings.TrimSpace(m[key] + " " + clip(strings.TrimSpace(l.GetValue())))
		}
	}
	return m, nil
}

// telling are the kinds of evidence by which hardware is known again, those that say the most first. What whole series say alike is none.
var telling = []string{"serial", "dmi-serial", "mac", "machine-id"}

func tellsNothing(value string) bool {
	return len(value) < 4 || strings.Trim(value, "0 :-.") == "" || strings.Trim(strings.ToLower(value), "f:") == "" ||
		slices.Contains([]string{"none", "unknown", "default string", "not specified", "to be filled by o.e.m.", "system serial number", "0123456789", "123456789"}, strings.ToLower(value))
}

// values are the pieces of evidence of one kind.
func values(kind, text string) []string {
	if kind == "mac" {
		return strings.Fields(text)
	}
	return []string{text}
}

// likenesses finds devices by their evidence.
type likenesses struct {
	s  *Server
	by map[string][]*deviceRecord // kind and value
}

func (s *Server) likenesses() *likenesses {
	l := &likenesses{s, make(map[string][]*deviceRecord)}
	for _, d := range s.view.allDevices() {
		for _, kind := range telling {
			for _, v := range values(kind, d.Evidence[kind]) {
				if !tellsNothing(v) {
					l.by[kind+" "+v] = append(l.by[kind+" "+v], d)
				}
			}
		}
	}
	return l
}

// of is the device that e says the most of; nil if there is none. A person decides what it is worth.
func (l *likenesses) of(e *enrollRecord) *api.Likeness {
	same := make(map[*deviceRecord][]string)
	for _, kind := range telling {
		for _, v := range values(kind, e.Evidence[kind]) {
			found := l.by[kind+" "+v]
			if len(found) > 3 {
				continue // so many share it that it says nothing
			}
			for _, d := range found {
				same[d] = append(same[d], kind+" "+v)
			}
		}
	}
	var best *deviceRecord
	for d, what := range same {
		if d.UUID == e.UUID {
			continue
		}
		if best == nil || len(what) > len(same[best]) || len(what) == len(same[best]) && d.Name < best.Name {
			best = d
		}
	}
	if best == nil {
		return nil
	}
	out := &api.Likeness{Uuid: best.UUID, Name: best.Name, Evidence: same[best]}
	_, last, online := l.s.hubs.device(best.UUID)
	if out.Online = online; online {
		out.LastSeenUnix = l.s.cfg.Now().Unix()
	} else if !last.At.IsZero() {
		out.LastSeenUnix = last.At.Unix()
	}
	return out
}

// likeness is likenesses for one: joins are many, and need no index of all.
func (s *Server) likeness(e *enrollRecord) *api.Likeness {
	l := &likenesses{s, make(map[string][]*deviceRecord)}
	s.view.mu.Lock()
	for _, kind := range telling {
		for _, v := range values(kind, e.Evidence[kind]) {
			if tellsNothing(v) {
				continue
			}
			for _, d := range s.view.devices {
				if had := d.Evidence[kind]; had == v || kind == "mac" && slices.Contains(strings.Fields(had), v) {
					l.by[kind+" "+v] = append(l.by[kind+" "+v], d)
				}
			}
		}
	}
	s.view.mu.Unlock()
	return l.of(e)
}

func (s *Server) pendingOf(e *enrollRecord, like *likenesses) *api.PendingDevice {
	out := &api.PendingDevice{
		Uuid: e.UUID, State: e.State, Name: e.Name, Fingerprint: e.Fingerprint, Labels: labelList(e.Labels), Evidence: labelList(e.Evidence),
		Hostname: e.Hostname, Arch: e.Arch, Os: e.OS, AgentVersion: e.Version, Source: e.Source, By: e.By, CreatedUnix: e.Created.Unix(),
	}
	if !e.Seen.IsZero() {
		out.SeenUnix = e.Seen.Unix()
	}
	if e.Parent != "" {
		out.Parent = e.Parent
		if d := s.view.device(e.Parent); d != nil {
			out.Parent = d.Name
		}
	}
	if like != nil {
		out.Like = like.of(e)
	}
	return out
}

// returning is a device that was away for too long, as one that waits.
func returning(d *deviceRecord) *enrollRecord {
	return &enrollRecord{
		UUID: d.UUID, State: "expired", Name: d.Name, Fingerprint: devicePrint(d.Key), Key: d.Key, Labels: d.Labels, Hostname: d.Hostname, Arch: d.Arch,
		OS: d.OS, Version: d.Version, Source: d.Source, By: "its certificate expired on " + d.NotAfter.UTC().Format(time.DateOnly), Created: d.Waiting, Seen: d.Waiting,
	}
}

// waiting are all that are not devices, and devices that wait to be let back.
func (s *Server) waiting() []*enrollRecord {
	out := s.view.allEnrolls()
	for _, d := range s.view.allDevices() {
		if !d.Waiting.IsZero() {
			out = append(out, returning(d))
		}
	}
	return out
}

// ListPending lists what is not a device yet.
func (s deviceService) ListPending(_ context.Context, req *connect.Request[api.ListPendingRequest]) (*connect.Response[api.ListPendingResponse], error) {
	states := req.Msg.States
	if len(states) == 0 {
		states = []string{statePending, "expired"}
	}
	res, like := &api.ListPendingResponse{}, s.likenesses()
	for _, e := range s.waiting() {
		if ok, err := e.selected(req.Msg.Selectors); err != nil {
			return nil, err
		} else if ok && slices.Contains(states, e.State) {
			res.Devices = append(res.Devices, s.pendingOf(e, like))
		}
	}
	return connect.NewResponse(res), nil
}

func (e *enrollRecord) selected(selectors []string) (bool, error) {
	return selectBy(selectors, func(key string) string {
		switch key {
		case "name":
			return e.Name
		case "uuid":
			return e.UUID
		case "hostname":
			return e.Hostname
		case "state":
			return e.State
		}
		return e.Labels[key]
	})
}

// selectBy holds values against "key=glob" and "key!=glob".
func selectBy(selectors []string, value func(key string) string) (bool, error) {
	for _, sel := range selectors {
		key, glob, ok := strings.Cut(sel, "=")
		if !ok || key == "" || key == "!" {
			return false, invalid("selector %q is not key=glob or key!=glob", wire.Quote(sel, 64))
		}
		key, not := strings.CutSuffix(key, "!")
		match, err := path.Match(glob, value(key))
		if err != nil {
			return false, invalid("selector %q: %w", wire.Quote(sel, 64), err)
		}
		if match == not {
			return false, nil
		}
	}
	return true, nil
}

// find resolves names, UUIDs and fingerprints, whole or their beginning, and selectors. A name that several wish stands for none of them.
func (s *Server) find(ids, selectors []string) ([]*enrollRecord, error) {
	if len(ids) == 0 && len(selectors) == 0 {
		return nil, invalid("say which: names, UUIDs, fingerprints, or --label")
	}
	all := s.waiting()
	var out []*enrollRecord
	for _, id := range ids {
		var found []*enrollRecord
		for _, e := range all {
			if e.Name == id || e.UUID == id || e.Fingerprint == id || len(id) >= len("SHA256:")+6 && strings.HasPrefix(e.Fingerprint, id) {
				found = append(found, e)
			}
		}
		// Of those with a wish and one who has the name, the name is the one's.
		if own := slices.DeleteFunc(slices.Clone(found), func(e *enrollRecord) bool { return e.State == statePending || e.State == stateRejected }); len(found) > 1 && len(own) == 1 {
			found = own
		}
		switch {
		case len(found) == 0:
			return nil, notFound("nothing waits under %q; `hawser device ls --pending` lists what does", wire.Quote(id, 80))
		case len(found) > 1:
			var prints []string
			for _, e := range found[:min(len(found), 5)] {
				prints = append(prints, e.Fingerprint)
			}
			return nil, invalid("%d wait as %q; name one by its key: %s", len(found), wire.Quote(id, 80), strings.Join(prints, ", "))
		}
		if !slices.Contains(out, found[0]) {
			out = append(out, found[0])
		}
	}
	if len(selectors) > 0 {
		for _, e := range all {
			ok, err := e.selected(selectors)
			if err != nil {
				return nil, err
			}
			if ok && (e.State == statePending || e.State == "expired") && !slices.Contains(out, e) {
				out = append(out, e)
			}
		}
		if len(out) == 0 {
			return nil, notFound("nothing that waits has these labels; `hawser device ls --pending` lists what does")
		}
	}
	if len(out) > maxSelected {
		return nil, invalid("%d devices; %d at a time", len(out), maxSelected)
	}
	return out, nil
}

// ApproveDevices makes devices of those that wait. What can be refused is, before the first is made.
func (s deviceService) ApproveDevices(ctx context.Context, req *connect.Request[api.ApproveDevicesRequest]) (*connect.Response[api.ApproveDevicesResponse], error) {
	c, r := callerOf(ctx), req.Msg
	labels, err := givenLabels(r.Labels)
	if err != nil {
		return nil, err
	}
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	chosen, err := s.find(r.Devices, r.Selectors)
	if err != nil {
		return nil, err
	}
	if len(chosen) != 1 && (r.As != "" || r.Name != "") {
		return nil, invalid("a name is for one device, and these are %d", len(chosen))
	}
	if r.As != "" {
		// It takes a device's identity from the key that has it: more than to let in what is new.
		if err := s.mayAdmin(c, "device", "update"); err != nil {
			return nil, err
		}
	}
	if r.As != "" && r.Name != "" {
		return nil, invalid("a device that goes on as %s keeps its name; `hawser device rename` gives it another", wire.Quote(r.As, 64))
	}
	if r.Name != "" {
		if err := wire.CheckDeviceName(r.Name); err != nil {
			return nil, api.NewError(connect.CodeInvalidArgument, api.Code_CODE_BAD_NAME, "%w", err)
		}
		if name, err := s.freeName(ctx, r.Name); err != nil {
			return nil, err
		} else if name != r.Name {
			return nil, nameTaken(r.Name)
		}
	}
	for _, e := range chosen {
		all := maps.Clone(e.Labels)
		if all == nil {
			all = make(map[string]string)
		}
		maps.Copy(all, labels)
		e.Labels = all
		if err := checkLabels(all); err != nil {
			return nil, invalid("%s: %w", e.Name, err)
		}
		switch {
		case e.State == stateImported:
			return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%s was imported: it needs no approval, and is a device as soon as it joins", e.Name)
		case e.State == "expired" && (r.As != "" || r.Name != ""):
			return nil, invalid("%s is a device already and keeps its name", e.Name)
		case len(labels) > 0 && (e.State == "expired" || r.As != ""):
			return nil, invalid("%s is a device already and keeps its labels; `hawser device label` changes them", cmp.Or(r.As, e.Name))
		}
		if r.Name != "" {
			e.Name = r.Name
		}
	}
	res := &api.ApproveDevicesResponse{}
	for _, e := range chosen {
		d, how, err := s.approve(ctx, e, r.As, c)
		if err != nil {
			return nil, fmt.Errorf("approve %s: %w", e.Name, err)
		}
		s.record(Event{
			Type: how, Actor: c.String(), Source: c.addr, Via: c.via, Device: d.Name, DeviceUUID: d.UUID, Method: "key " + e.Fingerprint, Reason: d.Note,
		})
		res.Devices = append(res.Devices, s.deviceOf(d, nil, nil))
	}
	return connect.NewResponse(res), nil
}

func nameTaken(name string) error {
	return api.NewError(connect.CodeAlreadyExists, api.Code_CODE_BAD_NAME, "the name %s is taken; choose another", name)
}

// approve makes one device, or gives a device another key, or lets one back.
func (s *Server) approve(ctx context.Context, e *enrollRecord, as string, c caller) (d *deviceRecord, how string, err error) {
	if e.State == "expired" {
		d, err := s.changeDevice(ctx, e.UUID, s.letBack)
		return d, "device.recover", err
	}
	if as == "" {
		err := retryConflict(ctx, func() error {
			var conds []store.Cond
			var ops []store.Op
			if d, conds, ops, err = s.newDevice(ctx, e); err != nil {
				return err
			}
			d.Evidence = e.Evidence
			return s.commit(ctx, append(conds, store.IfExists(enrollPrefix+hashOf(e.Key))), ops...)
		})
		return d, "device.approve", err
	}
	old, _, err := s.visibleDevice(c, as)
	if err != nil {
		return nil, "", err
	}
	enroll := enrollPrefix + hashOf(e.Key)
	d, err = s.changeDeviceWith(ctx, old.UUID, []store.Cond{store.IfExists(enroll)}, []store.Op{store.Delete(enroll)}, func(d *deviceRecord) error {
		// The old key is void from here on: hubs see another key and close its tunnels.
		d.Key, d.Evidence, d.Hostname, d.Arch, d.OS, d.Version, d.Source = e.Key, e.Evidence, e.Hostname, e.Arch, e.OS, e.Version, e.Source
		d.Counter, d.Prev, d.Fresh = d.Counter+1, 0, true
		d.Target = nil // a server that has got an agent is reached by that
		d.Quarantine, d.Waiting, d.Recovering = nil, time.Time{}, false
		d.Note = fmt.Sprintf("goes on with another key since %s", s.cfg.Now().UTC().Format(time.DateOnly))
		return s.issueDevice(d)
	})
	if err != nil {
		return nil, "", err
	}
	s.killWhere("the device goes on with another key", func(sess *session) bool { return sess.device != nil && sess.device.UUID == d.UUID })
	return d, "device.adopt", nil
}

// RejectDevices turns away those that wait.
func (s deviceService) RejectDevices(ctx context.Context, req *connect.Request[api.RejectDevicesRequest]) (*connect.Response[api.RejectDevicesResponse], error) {
	c := callerOf(ctx)
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	chosen, err := s.find(req.Msg.Devices, req.Msg.Selectors)
	if err != nil {
		return nil, err
	}
	for _, e := range chosen {
		if e.State == "expired" {
			return nil, api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "%s is a device; `hawser device rm %s` removes it", e.Name, e.Name)
		}
	}
	res := &api.RejectDevicesResponse{}
	for _, e := range chosen {
		if err := s.reject(ctx, e, c); err != nil {
			return nil, fmt.Errorf("reject %s: %w", e.Name, err)
		}
		res.Devices = append(res.Devices, s.pendingOf(e, nil))
	}
	return connect.NewResponse(res), nil
}

// reject turns one away; an imported one is forgotten, for nobody was there yet. The caller has the turn.
func (s *Server) reject(ctx context.Context, e *enrollRecord, c caller) error {
	key, err := e.storeKey()
	if err != nil {
		return err
	}
	if e.State == stateImported {
		err = s.commit(ctx, []store.Cond{store.IfExists(key)}, store.Delete(key), store.Delete(namePrefix+e.Name))
	} else {
		e.State, e.By, e.Seen = stateRejected, c.String(), s.cfg.Now()
		err = s.commit(ctx, []store.Cond{store.IfExists(key)}, put(key, e))
	}
	if err != nil {
		return err
	}
	s.record(Event{Type: "device.reject", Actor: c.String(), Source: c.addr, Via: c.via, Device: e.Name, DeviceUUID: e.UUID, Method: "key " + e.Fingerprint})
	return nil
}

// storeKey is where the record is.
func (e *enrollRecord) storeKey() (string, error) {
	hash, _, err := readKeyOrPrint(e.Fingerprint)
	return enrollPrefix + hash, err
}

// ImportDevices takes the keys of devices that are to join.
func (s deviceService) ImportDevices(ctx context.Context, req *connect.Request[api.ImportDevicesRequest]) (*connect.Response[api.ImportDevicesResponse], error) {
	c, r := callerOf(ctx), req.Msg
	entries, err := parseImport(r.Data, r.Format)
	if err != nil {
		return nil, err
	}
	done, err := s.joinTurn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	now := s.cfg.Now()
	id := wire.NewUUID().String()
	p, res, err := s.planImport(ctx, entries, id, c.String(), now)
	if err != nil || r.DryRun {
		return connect.NewResponse(res), err
	}
	if n := int(res.Added + res.Changed); n > 0 {
		if err := s.writeImport(ctx, p, id, importRecord{At: now, By: c.String(), Devices: n}); err != nil {
			return nil, fmt.Errorf("import: %w", err)
		}
		s.record(Event{Type: "device.import", Actor: c.String(), Source: c.addr, Via: c.via, Object: id, Count: uint64(n)})
	}
	return connect.NewResponse(res), nil
}

// importPlan is what an import writes, and what it takes away once it is complete.
type importPlan struct {
	writes []struct {
		ops  []store.Op // of one device
		size int
	}
	cleanup []store.Op
}

// planImport holds the file against what is there; it writes nothing.
func (s *Server) planImport(ctx context.Context, entries []importEntry, id, by string, now time.Time) (importPlan, *api.ImportDevicesResponse, error) {
	var plan importPlan
	var p problems
	res := &api.ImportDevicesResponse{}
	devices := make(map[string]*deviceRecord) // by the hash of the key
	for _, d := range s.view.allDevices() {
		if d.Target == nil {
			devices[hashOf(d.Key)] = d
		}
	}
	for _, e := range entries {
		if devices[e.hash] != nil {
			res.Joined++
			continue
		}
		had := s.view.enroll(e.hash)
		rec := &enrollRecord{UUID: wire.NewUUID().String(), Created: now, Fingerprint: e.fingerprint, Key: e.key}
		same := false
		if had != nil {
			own := *had
			rec = &own
			same = had.State == stateImported && had.Name == e.name && maps.Equal(had.Labels, e.labels)
			rec.Before, had.Before = had, nil
		}
		if same {
			res.Unchanged++
			continue
		}
		rec.State, rec.Name, rec.Labels, rec.Import, rec.By = stateImported, e.name, e.labels, id, by
		claimed, err := s.state.Get(ctx, namePrefix+e.name)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return plan, nil, err
		case string(claimed.Value) == rec.UUID:
		case s.view.inert(string(claimed.Value)) && had == nil:
			rec.UUID = string(claimed.Value) // of an import that did not complete
		default:
			p.add(e.line, "the name %s is taken by another device", e.name)
			continue
		}
		if e.name == s.info.Cluster {
			p.add(e.line, "%s is the cluster's name", e.name)
			continue
		}
		b, jerr := json.Marshal(rec)
		if jerr != nil {
			return plan, nil, jerr
		}
		ops := []store.Op{store.Put(enrollPrefix+e.hash, b)}
		if err != nil {
			ops = append(ops, store.Put(namePrefix+e.name, []byte(rec.UUID)))
		}
		if had != nil && had.State == stateImported && had.Name != e.name {
			plan.cleanup = append(plan.cleanup, store.Delete(namePrefix+had.Name))
		}
		if had != nil && had.State == stateImported {
			res.Changed++
		} else {
			res.Added++
		}
		plan.writes = append(plan.writes, struct {
			ops  []store.Op
			size int
		}{ops, len(b) + 2*store.MaxKey})
	}
	return plan, res, p.err()
}

// inert tells whether the UUID is of a record that an import left which did not complete.
func (v *view) inert(uuid string) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, e := range v.enrolls {
		if e.UUID == uuid {
			return v.countsLocked(e) == nil
		}
	}
	return v.devices[uuid] == nil && v.hubs[uuid] == nil // a claim alone
}

// writeImport writes what counts for nothing until its last transaction says that the import is complete.
func (s *Server) writeImport(ctx context.Context, plan importPlan, id string, rec importRecord) error {
	var batch []store.Op
	size := 0
	for _, ops := range plan.writes {
		n := ops.size
		if len(batch) > 0 && (len(batch)+len(ops.ops) > importOps || size+n > importBytes) {
			if err := s.commit(ctx, nil, batch...); err != nil {
				return err
			}
			batch, size = nil, 0
		}
		batch, size = append(batch, ops.ops...), size+n
	}
	if err := s.commit(ctx, nil, append(batch, put(importPrefix+id, rec))...); err != nil {
		return err
	}
	for ops := range slices.Chunk(plan.cleanup, importOps) {
		if err := s.commit(ctx, nil, ops...); err != nil {
			s.log.Warn("names of devices imported anew are not free yet", "error", err)
		}
	}
	return nil
}

// sweepJoins sweeps now and then until ctx ends.
func (s *Server) sweepJoins(ctx context.Context) {
	tick := time.NewTicker(inertLife)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.sweepEnrolls(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// sweepEnrolls forgets who has not come back, what an import left that did not complete, and tokens that expired long ago.
func (s *Server) sweepEnrolls(ctx context.Context) {
	done, err := s.joinTurn(ctx)
	if err != nil {
		return
	}
	defer done()
	now := s.cfg.Now()
	var ops []store.Op
	s.view.mu.Lock()
	for hash, e := range s.view.enrolls {
		inert := s.view.countsLocked(e) == nil
		switch {
		case inert && now.Sub(e.Created) > inertLife:
			ops = append(ops, store.Delete(enrollPrefix+hash))
			if s.view.devices[e.UUID] == nil {
				ops = append(ops, store.Delete(namePrefix+e.Name))
			}
		case !inert && e.State != stateImported && now.Sub(e.Seen) > pendingLife:
			ops = append(ops, store.Delete(enrollPrefix+hash))
		}
	}
	s.view.mu.Unlock()
	tokens, err := list[tokenRecord](ctx, s, tokenPrefix)
	for _, t := range tokens {
		if now.Sub(t.Expires) > spentLife {
			ops = append(ops, store.Delete(tokenPrefix+t.ID))
		}
	}
	for part := range slices.Chunk(ops, importOps) {
		if err == nil {
			err = s.commit(ctx, nil, part...)
		}
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrClosed) {
		s.log.Warn("what is over of joins was not swept", "error", err)
	}
}
