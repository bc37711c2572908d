package edge

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"hawser/auth/hublist"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// hubListFile holds the newest signed list of hubs.
const hubListFile = "hubs"

// hubTarget is a hub that may be dialled.
type hubTarget struct {
	id    wire.UUID // zero: known by address alone
	zone  string
	addrs []string // host:port
}

// key names the target where its rest is remembered.
func (t *hubTarget) key() string {
	if t.id != (wire.UUID{}) {
		return string(t.id[:])
	}
	return t.addrs[0]
}

// ranked is the hubs in this device's order: those of the signed list by rendezvous hashing, or, where the agent was told addresses or holds no
// list, those addresses one by one. Hubs that refused or go away come last.
func (a *Agent) ranked() []hubTarget {
	var all []hubTarget
	told := a.told()
	list := a.hubList()
	creds := a.state.get()
	if id, err := wire.ParseUUID(creds.UUID); err == nil && len(told) == 0 {
		for _, h := range hublist.Order(list, id) {
			if len(h.Tunnel) > 0 {
				all = append(all, hubTarget{id: h.UUID, zone: h.Zone, addrs: h.Tunnel})
			}
		}
	}
	if len(all) == 0 {
		if len(told) == 0 {
			told = creds.Hubs
		}
		for _, addr := range told {
			all = append(all, hubTarget{addrs: []string{addr}})
		}
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	var out, rest []hubTarget
	for _, t := range all {
		if now.Before(a.rests[t.key()]) {
			rest = append(rest, t)
		} else {
			out = append(out, t)
		}
	}
	return append(out, rest...)
}

// beginnings are the addresses this device joined by that no hub in order has: when every hub of the list is gone, as after a long sleep
// while all of them moved, they are what is left to try.
func (a *Agent) beginnings(order []hubTarget) []hubTarget {
	var out []hubTarget
	if len(a.told()) > 0 || len(order) == 0 || order[0].id == (wire.UUID{}) {
		return nil
	}
	for _, addr := range a.state.get().Hubs {
		if !slices.ContainsFunc(order, func(t hubTarget) bool { return slices.Contains(t.addrs, addr) }) {
			out = append(out, hubTarget{addrs: []string{addr}})
		}
	}
	return out
}

// first reports whether the signed list itself has the hub first.
func (a *Agent) first(t *hubTarget) bool {
	id, err := wire.ParseUUID(a.state.get().UUID)
	order := hublist.Order(a.hubList(), id)
	return err == nil && len(order) > 0 && order[0].UUID == t.id
}

// told is the addresses that the configuration names, read anew where they come from a file; none: the cluster's own are dialled.
func (a *Agent) told() []string {
	var out []string
	for _, h := range a.cfg.Hubs {
		path, ok := strings.CutPrefix(h, "@")
		if !ok {
			out = append(out, h)
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			tunnel.Warn(a.log, "could not read the hub addresses", "error", err)
			continue
		}
		for _, f := range strings.Fields(string(b)) {
			if _, _, err := splitHostPort(f); err != nil {
				tunnel.Warn(a.log, "not a hub address", "file", path, "address", wire.Quote(f, 80), "error", err)
			} else {
				out = append(out, f)
			}
		}
	}
	return out[:min(len(out), hublist.MaxHubs)]
}

// rest puts a hub last for a while: it said that it goes, is full, or lacks what it needs.
func (a *Agent) rest(key string, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for k, until := range a.rests { // bounded: what is over goes, and there are as many hubs as a list names
		if now.After(until) {
			delete(a.rests, k)
		}
	}
	if len(a.rests) < 2*hublist.MaxHubs {
		a.rests[key] = now.Add(min(max(d, restMin), restMax))
	}
}

// rest puts the hub of a tunnel last, by both its names: it may have been dialled before there was a list.
func (l *link) rest(d time.Duration) {
	l.a.rest(l.target, d)
	l.a.rest(string(l.challenge.HubUUID[:]), d)
}

// remembered is what resolve found last, without asking again; none where it is not complete.
func (r *resolver) remembered(hubs []string) []resolved {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []resolved
	for _, hub := range hubs {
		host, port, err := splitHostPort(hub)
		if err != nil || r.proxied {
			return nil
		}
		ips := r.last[host]
		if ip, err := netip.ParseAddr(host); err == nil {
			ips = []netip.Addr{ip}
		}
		if len(ips) == 0 {
			return nil
		}
		for _, ip := range ips {
			out = append(out, resolved{hub: hub, addr: netip.AddrPortFrom(ip.Unmap(), port)})
		}
	}
	return out
}

// hubList is the newest list held.
func (a *Agent) hubList() hublist.List {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.list
}

// loadHubList reads the stored list. One that does not verify is none: a hub brings another.
func (a *Agent) loadHubList() {
	b, err := a.state.read(hubListFile)
	trust := a.state.anchors()
	if err != nil || trust == nil {
		return
	}
	l, err := hublist.Open(b, trust.GrantKeys, trust.Cluster)
	if err != nil {
		tunnel.Warn(a.log, "the stored hub list does not hold", "error", err)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.Revision > a.list.Revision {
		a.list = l
	}
}

// adoptHubList takes a list that auth signed. An older one never replaces a newer; flash is written only when it changed.
func (l *link) adoptHubList(blob []byte) error {
	a := l.a
	trust := a.state.anchors()
	list, err := hublist.Open(blob, trust.GrantKeys, trust.Cluster)
	if err != nil {
		a.history.add(wire.ConnEvent{Kind: wire.EventRefused, Hub: l.challenge.HubName, Text: "hub list: " + err.Error()})
		return fmt.Errorf("hub list: %w", err)
	}
	if len(list.Hubs) == 0 {
		return errors.New("hub list: it names none")
	}
	held := a.hubList()
	if list.Revision < held.Revision {
		return fmt.Errorf("hub list: revision %d is older than %d, which is held", list.Revision, held.Revision)
	}
	p, locks, _ := a.held()
	a.mu.Lock()
	newer := list.Revision > a.list.Revision // also than one that the other tunnel brings in this moment
	if newer {
		a.list = list
	}
	a.mu.Unlock()
	if newer {
		if err := a.state.writeList(storedHubs, list.Revision, hubListFile, blob); err != nil {
			tunnel.Warn(a.log, "could not store the hub list", "error", err)
		}
		tunnel.Info(a.log, "hub list renewed", "revision", list.Revision, "hubs", len(list.Hubs))
		a.wakeKeepers()
	}
	return tunnel.Send(l.conn, wire.PolicyHeld{Policy: p.Revision, Locks: locks, Hubs: list.Revision})
}

// zone is that of a hub of the list; empty: not known.
func (a *Agent) zone(id wire.UUID) string {
	for _, h := range a.hubList().Hubs {
		if wire.UUID(h.UUID) == id {
			return h.Zone
		}
	}
	return ""
}
