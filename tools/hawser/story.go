package main

import (
	"fmt"
	"strings"
	"time"

	"hawser/auth/api"
	"hawser/tunnel/wire"
)

// outage is a time in which a device had no tunnel, as it remembers.
type outage struct {
	began, ended time.Time // ended is zero: it is not over, as far as the device has told
	causes       []cause
}

type cause struct {
	kind   wire.EventKind
	lasted time.Duration
}

// causeWords are what people read for what kept a device away.
var causeWords = map[wire.EventKind]string{
	wire.EventRefused:      "refused by a hub",
	wire.EventDNS:          "DNS failed",
	wire.EventUDPBlocked:   "UDP blocked",
	wire.EventNoRoute:      "no network",
	wire.EventUnreachable:  "no hub answered",
	wire.EventIntercepted:  "a portal or middlebox answered",
	wire.EventProxy:        "the proxy failed",
	wire.EventCertificate:  "certificate not accepted",
	wire.EventUnauthorized: "authority said no",
}

// lastOutage finds the last time in which the device had no tunnel for as long as people notice, or for a reason it could tell.
func lastOutage(events []*api.DeviceEvent) (last outage, found bool) {
	up := make(map[string]bool)       // hubs it has a tunnel at
	silent := make(map[string]outage) // when theirs did not answer last
	var now *outage
	close := func(at time.Time) {
		if now == nil {
			return
		}
		now.ended = at
		if len(now.causes) > 0 || at.IsZero() || at.Sub(now.began) >= noticed {
			last, found = *now, true
		}
		now = nil
	}
	for i, e := range events {
		at, kind := time.Unix(0, e.AtUnixNano), wire.EventKind(e.Kind)
		switch kind {
		case wire.EventSilent:
			silent[e.Hub] = outage{began: at, ended: at.Add(time.Duration(e.LastedMs) * time.Millisecond)}
			o := silent[e.Hub]
			for hub := range up { // dark while all were silent; none was, of one that never was
				s := silent[hub]
				o.began, o.ended = latest(o.began, s.began), earliest(o.ended, s.ended)
			}
			if now != nil || o.ended.Sub(o.began) < noticed {
				continue
			}
			for _, f := range events[:i] { // what failed meanwhile stands before it, for it is told when it is over
				if f.AtUnixNano >= o.began.UnixNano() {
					o.add(f)
				}
			}
			last, found = o, true
		case wire.EventRegistered:
			close(at)
			up[e.Hub] = true
		case wire.EventStarted:
			clear(up)
			now = &outage{began: at}
		case wire.EventLost, wire.EventClosed:
			delete(up, e.Hub)
			if len(up) > 0 || now != nil {
				continue
			}
			now = &outage{began: at}
			if found && at.Sub(last.ended).Abs() < time.Second { // the end of a silence
				now.began, now.causes = last.began, last.causes
			}
		default:
			if len(up) > 0 {
				// That UDP is blocked is known once TCP got through where QUIC did not: it belongs to the outage that this ended.
				if kind == wire.EventUDPBlocked && found && at.Sub(last.ended) <= judged {
					last.add(e)
				}
				continue
			}
			if causeWords[kind] == "" {
				continue
			}
			if now == nil {
				now = &outage{began: at}
			}
			now.add(e)
		}
	}
	close(time.Time{})
	return last, found
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// add takes an event for a cause of the outage, if it is one.
func (o *outage) add(e *api.DeviceEvent) {
	kind, lasted := wire.EventKind(e.Kind), time.Duration(e.LastedMs)*time.Millisecond
	if causeWords[kind] == "" {
		return
	}
	if n := len(o.causes); n > 0 && o.causes[n-1].kind == kind {
		o.causes[n-1].lasted += lasted
	} else {
		o.causes = append(o.causes, cause{kind, lasted})
	}
}

const (
	// noticed is how long a device must be away without a reason to be told of.
	noticed = 5 * time.Second
	// judged is until when after its return a device has found that QUIC does not get through: QUIC's rest of the race, and room.
	judged = 15 * time.Second
)

// tell says an outage in one line: "dark 11 min: DNS failed 9 min, then UDP blocked".
func (o outage) tell(now time.Time) string {
	var b strings.Builder
	end, still := o.ended, ""
	if end.IsZero() {
		end, still = now, " so far"
	}
	fmt.Fprintf(&b, "dark %s%s", span(end.Sub(o.began)), still)
	for i, c := range o.causes {
		b.WriteString([]string{": ", ", then "}[min(i, 1)])
		b.WriteString(causeWords[c.kind])
		if c.lasted >= time.Second {
			b.WriteString(" " + span(c.lasted))
		}
	}
	if !o.ended.IsZero() {
		fmt.Fprintf(&b, "; back %s", ago(now, o.ended.Unix()))
	}
	return b.String()
}

// tellEvent says one event of a device's memory in one line.
func tellEvent(e *api.DeviceEvent, now time.Time) string {
	parts := []string{fmt.Sprintf("%-11s %s", ago(now, time.Unix(0, e.AtUnixNano).Unix()), e.Name)}
	if wire.EventKind(e.Kind).String() == "unknown" {
		parts[0] += fmt.Sprintf(" (%d)", e.Kind)
	}
	if e.LastedMs >= 1000 {
		parts = append(parts, "for "+span(time.Duration(e.LastedMs)*time.Millisecond))
	}
	if e.Times > 1 {
		parts = append(parts, fmt.Sprintf("%d times", e.Times))
	}
	if e.Hub != "" {
		parts = append(parts, e.Hub)
	}
	if e.Carrier != "" {
		parts = append(parts, e.Carrier)
	}
	if e.Code != 0 {
		parts = append(parts, wire.CloseCode(e.Code).String())
	}
	if e.Text != "" {
		parts = append(parts, e.Text)
	}
	return strings.Join(parts, " ")
}

// tellState says where a device is, or where and why it was last: "offline, last seen 3 h ago via hub-2, QUIC: heartbeats stopped".
func tellState(d *api.Device, now time.Time) string {
	if d.Online {
		return "online"
	}
	if d.LastSeenUnix == 0 {
		return "offline, never seen"
	}
	s := "offline, last seen " + ago(now, d.LastSeenUnix)
	if d.LastHub != "" {
		s += " via " + d.LastHub
	}
	if d.LastCarrier != "" {
		s += ", " + d.LastCarrier
	}
	if d.LastReason != "" {
		s += ": " + d.LastReason
	}
	return s
}

// tellTunnel says one tunnel: "hub-2, zone b, quic from 192.0.2.1:4711, for 3 h, active".
func tellTunnel(t *api.Tunnel, now time.Time) string {
	s := t.Hub
	if t.Zone != "" {
		s += ", zone " + t.Zone
	}
	s += ", " + t.Carrier + " from " + t.Observed
	if t.SinceUnix > 0 {
		s += ", for " + span(now.Sub(time.Unix(t.SinceUnix, 0)))
	}
	s += ", " + slotName(t.Slot)
	if t.Silent {
		s += ", silent"
	}
	return s
}

func slotName(slot uint32) string {
	if slot == 0 {
		return "active"
	}
	return "standby"
}
