package auth

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"reflect"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/ca"
	"hawser/auth/hublist"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// The window over which a fleet returns after a loss. A hub that goes sends its devices to all the others within it, and one that
// restarts has them all back: at returnRate a second 10,000 are there in 40 s, and with uniformly random times no second has more
// than half as many again as the mean. A hub admits ten times that, which leaves room for uneven hubs.
const (
	returnRate = 250 // devices of one hub a second
	minWindow  = 5 * time.Second
	maxWindow  = 45 * time.Second // all are back within a minute, the dials included
	// windowStep: every device stores the list when it changes, so that it must not change with each device that joins.
	windowStep = 5 * time.Second

	// listedFor is how long a hub that is down stays in the list.
	listedFor = 7 * 24 * time.Hour
	// listEvery is how often it is looked whether one has been down for that long.
	listEvery = time.Hour
)

// hubLists holds the signed list of hubs.
type hubLists struct {
	making sync.Mutex        // held while a new one is made and stored
	signer ed25519.PublicKey // of the list: when another signs, the list is made anew; guarded by making

	mu      sync.Mutex
	list    hublist.List
	blob    []byte
	changed chan struct{} // closed and replaced when the list changes
}

// hubListRecord is the list as it is stored: its revision must never be another list's.
type hubListRecord struct {
	Blob []byte `json:"blob"`
}

func (l *hubLists) get() (hublist.List, []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list, l.blob
}

func (l *hubLists) moved() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

func (l *hubLists) set(list hublist.List, blob []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list, l.blob = list, blob
	close(l.changed)
	l.changed = make(chan struct{})
}

func (s *Server) loadHubList(ctx context.Context) error {
	var r hubListRecord
	_, err := s.get(ctx, hubListKey, &r)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	list, err := hublist.Open(r.Blob, s.set.Ever(ca.GrantKey), s.info.Cluster)
	if err != nil {
		s.log.Warn("the stored hub list cannot be read; making it anew", "error", err)
		return nil
	}
	s.lists.set(list, r.Blob)
	signer := s.signer()
	if _, err := hublist.Open(r.Blob, []ed25519.PublicKey{signer}, s.info.Cluster); err == nil {
		s.lists.signer = signer
	}
	return nil
}

// keepHubList makes the list anew whenever something it depends on changes.
func (s *Server) keepHubList(ctx context.Context) {
	for {
		changed, rotated := s.view.moved(), s.rotated()
		wait := listEvery
		if err := s.updateHubList(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("hub list not made", "error", err)
			wait = 10 * time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-rotated:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// updateHubList signs and stores the list if it is to be another. Its revision is at least the time in seconds, so that it grows
// over what devices hold even after a backup was restored.
func (s *Server) updateHubList(ctx context.Context) error {
	s.lists.making.Lock()
	defer s.lists.making.Unlock()
	now := s.cfg.Now()
	old, blob := s.lists.get()
	list := hublist.List{Cluster: s.info.Cluster, Hubs: listed(s.view.allHubs(), now)}
	list.Window = cmp.Or(s.view.cluster().HubList.Window, window(old.Window, s.view.deviceCount(), len(list.Hubs)))
	list.Revision = old.Revision
	signer := s.signer()
	if blob != nil && reflect.DeepEqual(list, old) && signer.Equal(s.lists.signer) || blob == nil && len(list.Hubs) == 0 {
		return nil
	}
	list.Revision = max(old.Revision+1, uint64(max(0, now.Unix())))
	blob, err := hublist.Sign(list, s.set.GrantKey())
	if err != nil {
		return err
	}
	if _, err := s.state.Txn(ctx, nil, []store.Op{put(hubListKey, hubListRecord{Blob: blob})}); err != nil {
		return err
	}
	s.lists.signer = signer
	s.lists.set(list, blob)
	s.log.Info("hub list changed", "revision", list.Revision, "hubs", len(list.Hubs), "window", list.Window)
	return nil
}

// listed are the hubs that go into the list: those that were up not long ago. One that is down for a moment stays, for its devices
// must find it again. Where there are too many, those that were up last count.
func listed(hubs []*hubRecord, now time.Time) []hublist.Hub {
	hubs = slices.DeleteFunc(slices.Clone(hubs), func(h *hubRecord) bool { return h.Up.IsZero() || now.Sub(h.Up) > listedFor || len(h.Tunnel) == 0 })
	if len(hubs) > hublist.MaxHubs {
		slices.SortStableFunc(hubs, func(a, b *hubRecord) int { return b.Up.Compare(a.Up) })
		hubs = hubs[:hublist.MaxHubs]
	}
	slices.SortFunc(hubs, func(a, b *hubRecord) int { return cmp.Compare(a.Name, b.Name) })
	var out []hublist.Hub
	for _, h := range hubs {
		if id, err := wire.ParseUUID(h.UUID); err == nil {
			out = append(out, hublist.Hub{UUID: id, Name: h.Name, Zone: h.Zone, Tunnel: h.Tunnel, SSH: h.SSH})
		}
	}
	return out
}

// window is how long devices spread their return. It stays as it was while that is about right.
func window(was time.Duration, devices, hubs int) time.Duration {
	want := time.Duration(devices/max(1, hubs)) * time.Second / returnRate
	want = min(maxWindow, max(minWindow, (want+windowStep-1)/windowStep*windowStep))
	if want < was && was-want <= windowStep {
		return was
	}
	return want
}

// ListHubs lists the hubs.
func (s adminService) ListHubs(context.Context, *connect.Request[api.ListHubsRequest]) (*connect.Response[api.ListHubsResponse], error) {
	res := &api.ListHubsResponse{Hubs: s.hubList()}
	tunnels := s.hubs.tunnelsOf()
	list, _ := s.lists.get()
	for _, out := range res.Hubs {
		out.Tunnels = tunnels[out.Uuid]
		id, _ := wire.ParseUUID(out.Uuid)
		out.Listed = slices.ContainsFunc(list.Hubs, func(h hublist.Hub) bool { return h.UUID == id })
		h := s.view.hub(out.Uuid)
		if h == nil {
			continue
		}
		out.JoinedUnix, out.CertificateNotAfterUnix = h.Joined.Unix(), h.NotAfter.Unix()
		switch up, seen := s.hubs.up(h.UUID); {
		case up:
			out.LastSeenUnix = s.cfg.Now().Unix()
		case !seen.IsZero():
			out.LastSeenUnix = seen.Unix()
		case !h.Up.IsZero():
			out.LastSeenUnix = h.Up.Unix()
		}
	}
	return connect.NewResponse(res), nil
}

// RemoveHub makes the cluster forget a hub. Its sessions count as ended; its devices hear of it by the next list.
func (s adminService) RemoveHub(ctx context.Context, req *connect.Request[api.RemoveHubRequest]) (*connect.Response[api.RemoveHubResponse], error) {
	c := callerOf(ctx)
	hubs := s.view.allHubs()
	i := slices.IndexFunc(hubs, func(h *hubRecord) bool { return h.UUID == req.Msg.Hub || h.Name == req.Msg.Hub })
	if i < 0 {
		return nil, notFound("no hub %q; `hawser hub ls` lists them", wire.Quote(req.Msg.Hub, 64))
	}
	h := hubs[i]
	err := s.commit(ctx, []store.Cond{store.IfExists(hubPrefix + h.UUID)}, store.Delete(hubPrefix+h.UUID), store.Delete(namePrefix+h.Name))
	if errors.Is(err, store.ErrConflict) {
		return nil, notFound("no hub %q; it was removed a moment ago", h.Name)
	}
	if err != nil {
		return nil, err
	}
	s.places.remove(h.UUID)
	for _, sess := range s.hubs.remove(h.UUID, s.cfg.Now()) {
		s.recordEnd(sess, "the hub was removed", nil)
	}
	s.record(Event{Type: "admin.hub.remove", Actor: c.String(), Source: c.addr, Via: c.via, Hub: h.Name})
	if err := s.updateHubList(ctx); err != nil {
		s.log.Error("hub list not made", "error", err)
	}
	return connect.NewResponse(&api.RemoveHubResponse{}), nil
}
