package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hawser/auth/api"
	"hawser/tunnel/wire"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func event(kind wire.EventKind, ago, lasted time.Duration, hub string) *api.DeviceEvent {
	return &api.DeviceEvent{Kind: uint32(kind), Name: kind.String(), AtUnixNano: noon.Add(-ago).UnixNano(), LastedMs: uint64(lasted.Milliseconds()), Hub: hub}
}

func TestStoryOfTheLastOutage(t *testing.T) {
	const m = time.Minute
	for name, tt := range map[string]struct {
		events []*api.DeviceEvent
		want   string
	}{
		"DNS, then UDP": {[]*api.DeviceEvent{
			event(wire.EventStarted, 60*m, 0, ""), event(wire.EventRegistered, 60*m, 0, "hub-1"), event(wire.EventLost, 13*m, 0, "hub-1"),
			event(wire.EventDNS, 13*m, 9*m, ""), event(wire.EventRegistered, 2*m, 0, "hub-1"), event(wire.EventUDPBlocked, 2*m-2*time.Second, 0, "hub-1"),
		}, "dark 11 min: DNS failed 9 min, then UDP blocked; back 2 min ago"},
		"UDP is blocked later": {[]*api.DeviceEvent{
			event(wire.EventLost, 13*m, 0, "hub-1"), event(wire.EventDNS, 13*m, 9*m, ""), event(wire.EventRegistered, 2*m, 0, "hub-1"), event(wire.EventUDPBlocked, m, 0, "hub-1"),
		}, "dark 11 min: DNS failed 9 min; back 2 min ago"},
		"silent, then UDP is blocked": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "hub-1"), event(wire.EventNoRoute, 9*m, 2*m, ""), event(wire.EventRegistered, 4*m, 0, "hub-1"),
			event(wire.EventSilent, 10*m, 6*m, "hub-1"), event(wire.EventUDPBlocked, 4*m-2*time.Second, 0, "hub-1"),
		}, "dark 6 min: no network 2 min, then UDP blocked; back 4 min ago"},
		"silent, then lost": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "hub-1"), event(wire.EventUnreachable, 9*m, 2*m, ""), event(wire.EventSilent, 10*m, 6*m, "hub-1"),
			event(wire.EventLost, 4*m, 0, "hub-1"), event(wire.EventDNS, 4*m, 0, ""), event(wire.EventRegistered, 3*m, 0, "hub-1"),
		}, "dark 7 min: no hub answered 2 min, then DNS failed; back 3 min ago"},
		"both were silent": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "a"), event(wire.EventRegistered, 59*m, 0, "b"), event(wire.EventNoRoute, 9*m, m, ""),
			event(wire.EventSilent, 10*m, 6*m, "a"), event(wire.EventSilent, 9*m, 6*m, "b"),
		}, "dark 5 min: no network 1 min; back 4 min ago"},
		"one of two was silent": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "a"), event(wire.EventRegistered, 59*m, 0, "b"), event(wire.EventSilent, 10*m, 6*m, "a"),
		}, ""},
		"the same cause again adds up": {[]*api.DeviceEvent{
			event(wire.EventLost, 10*m, 0, "h"), event(wire.EventNoRoute, 10*m, 2*m, ""), event(wire.EventNoRoute, 8*m, 3*m, ""), event(wire.EventRegistered, 5*m, 0, "h"),
		}, "dark 5 min: no network 5 min; back 5 min ago"},
		"a standby tunnel stood": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "a"), event(wire.EventRegistered, 59*m, 0, "b"), event(wire.EventLost, 13*m, 0, "a"),
			event(wire.EventUnreachable, 12*m, 9*m, "a"), event(wire.EventRegistered, 2*m, 0, "a"),
		}, ""},
		"both lost": {[]*api.DeviceEvent{
			event(wire.EventRegistered, 60*m, 0, "a"), event(wire.EventRegistered, 59*m, 0, "b"), event(wire.EventLost, 13*m, 0, "a"), event(wire.EventLost, 12*m, 0, "b"),
			event(wire.EventRegistered, 2*m, 0, "b"), event(wire.EventRegistered, 1*m, 0, "a"),
		}, "dark 10 min; back 2 min ago"},
		"the last of two": {[]*api.DeviceEvent{
			event(wire.EventLost, 60*m, 0, "a"), event(wire.EventProxy, 60*m, 0, ""), event(wire.EventRegistered, 50*m, 0, "a"),
			event(wire.EventClosed, 9*m, 0, "a"), event(wire.EventIntercepted, 9*m, 0, ""), event(wire.EventRegistered, 8*m, 0, "a"),
		}, "dark 1 min: a portal or middlebox answered; back 8 min ago"},
		"a blink": {[]*api.DeviceEvent{event(wire.EventLost, 10*time.Second, 0, "a"), event(wire.EventRegistered, 9*time.Second, 0, "a")}, ""},
		"slow to come up": {[]*api.DeviceEvent{
			event(wire.EventStarted, 4*m, 0, ""), event(wire.EventCertificate, 4*m, 0, ""), event(wire.EventRegistered, m, 0, "a"),
		}, "dark 3 min: certificate not accepted; back 1 min ago"},
		"not over": {[]*api.DeviceEvent{event(wire.EventLost, 4*m, 0, "a"), event(wire.EventUnreachable, 4*m, 0, "")}, "dark 4 min so far: no hub answered"},
		"nothing":  {nil, ""},
		"a kind of a later version": {[]*api.DeviceEvent{event(wire.EventLost, 4*m, 0, "a"), event(200, 4*m, 0, ""), event(wire.EventRegistered, m, 0, "a")},
			"dark 3 min; back 1 min ago"},
	} {
		got := ""
		if o, ok := lastOutage(tt.events); ok {
			got = o.tell(noon)
		}
		if got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func sampleDevice() *api.Device {
	return &api.Device{
		Name: "gw-17", Uuid: "u", Online: true, Hub: "hub-2", Zone: "b", Carrier: "quic", SinceUnix: noon.Add(-3 * time.Hour).Unix(), LastSeenUnix: noon.Unix(),
		Tunnels: []*api.Tunnel{
			{Hub: "hub-2", Zone: "b", Carrier: "quic", Observed: "192.0.2.1:4711", SinceUnix: noon.Add(-3 * time.Hour).Unix()},
			{Hub: "hub-1", Zone: "a", Slot: 1, Carrier: "tls", Observed: "192.0.2.1:40000", SinceUnix: noon.Add(-2 * time.Hour).Unix(), Silent: true},
		},
		History: []*api.DeviceEvent{event(wire.EventLost, 13*time.Minute, 0, "hub-2"), event(wire.EventDNS, 13*time.Minute, 9*time.Minute, ""), event(wire.EventRegistered, 2*time.Minute, 0, "hub-2")},
	}
}

func TestShowSaysWhereAndWhy(t *testing.T) {
	var out bytes.Buffer
	d := sampleDevice()
	d.History[0].Text = "\x1b[2J"
	if err := printDevice(&out, formatTable, d, noon); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"state              online\n",
		"tunnel             hub-2, zone b, quic from 192.0.2.1:4711, for 3 h, active\n",
		"                   hub-1, zone a, tls from 192.0.2.1:40000, for 2 h, standby, silent\n",
		"last outage        dark 11 min: DNS failed 9 min; back 2 min ago\n",
		"history            13 min ago  lost hub-2 \\x1b[2J\n",
		"                   13 min ago  dns-failed for 9 min\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("lacks %q in\n%s", want, out.String())
		}
	}
	d.Online, d.LastSeenUnix, d.LastHub, d.LastCarrier, d.LastReason = false, noon.Add(-3*time.Hour).Unix(), "hub-2", "quic", "heartbeats stopped"
	if got, want := tellState(d, noon), "offline, last seen 3 h ago via hub-2, quic: heartbeats stopped"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := tellState(&api.Device{}, noon); got != "offline, never seen" {
		t.Errorf("a device that never came: %q", got)
	}
}

func TestShowAsDataKeepsItsKeys(t *testing.T) {
	var out bytes.Buffer
	if err := printDevice(&out, formatJSON, sampleDevice(), noon); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Hub, Carrier, Zone string
		Outage             string `json:"last_outage"`
		Tunnels            []struct {
			Hub, Carrier string
			Slot         int
			Active       bool
		}
		History []struct {
			Event   string
			Seconds float64
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Hub != "hub-2" || got.Carrier != "quic" || got.Zone != "b" || len(got.Tunnels) != 2 || !got.Tunnels[0].Active || got.Tunnels[1].Active ||
		got.Tunnels[1].Slot != 1 || len(got.History) != 3 || got.History[1].Seconds != 540 || got.Outage == "" {
		t.Errorf("got %+v of %s", got, out.Bytes())
	}
}

func TestListSaysWhichHub(t *testing.T) {
	var out bytes.Buffer
	gone := &api.Device{Name: "gw-2", LastSeenUnix: noon.Add(-time.Minute).Unix()}
	if err := printDevices(&out, formatWide, []*api.Device{sampleDevice(), gone}, noon); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if f := strings.Fields(lines[1]); strings.Join(f[:8], " ") != "gw-17 online now - tunnel hub-2 b quic" {
		t.Errorf("online: %q", lines[1])
	}
	if f := strings.Fields(lines[2]); strings.Join(f[:9], " ") != "gw-2 offline 1 min ago - tunnel - -" {
		t.Errorf("offline: %q", lines[2])
	}
}

func TestSessionsSayWhetherTheyAreDetached(t *testing.T) {
	list := []*api.Session{
		{Id: []byte("0123456789abcdef"), User: "ann", Device: "gw", Kind: "session", StartUnixNano: noon.UnixNano(), Hub: "hub-1"},
		{Id: []byte("fedcba9876543210"), User: "bob", Device: "gw", Kind: "session", StartUnixNano: noon.UnixNano(), DetachedSinceUnixNano: noon.Add(-12400 * time.Millisecond).UnixNano()},
	}
	lost := &api.Session{Id: []byte("0000000000000000"), HubGoneSinceUnixNano: noon.Add(-70 * time.Second).UnixNano(), DetachedSinceUnixNano: 1}
	var out bytes.Buffer
	if err := printSessions(&out, formatTable, append(list, lost), nil, noon); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); !strings.Contains(s, "STATE") || !strings.Contains(s, "  attached ") || !strings.Contains(s, "  detached 12s ") || !strings.Contains(s, "  hub gone 1m10s ") {
		t.Errorf("got\n%s", s)
	}
	out.Reset()
	if err := printSessions(&out, formatJSON, list, nil, noon); err != nil {
		t.Fatal(err)
	}
	var got []struct {
		ID, State string
		Detached  float64 `json:"detached_seconds"`
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got) != 2 || got[0].State != "attached" || got[1].State != "detached" || got[1].Detached != 12.4 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestHubsAreListedWithZoneAndTunnels(t *testing.T) {
	var out bytes.Buffer
	err := printHubs(&out, formatTable, []*api.Hub{
		{Name: "hub-1", Online: true, Zone: "a", Tunnels: 7, SshAddresses: []string{"h:22"}, TunnelAddresses: []string{"h:443"}},
		{Name: "hub-2", LastSeenUnix: noon.Add(-3 * time.Hour).Unix()},
	}, noon)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if got := strings.Join(strings.Fields(lines[1]), " "); got != "hub-1 online now a 7 h:22 h:443" {
		t.Errorf("up: %q", got)
	}
	if got := strings.Join(strings.Fields(lines[2]), " "); got != "hub-2 offline 3 h ago - 0 - -" {
		t.Errorf("down: %q", got)
	}
}
