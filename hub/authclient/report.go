package authclient

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

const (
	// maxHistories devices' histories wait at most for auth, each of at most maxEvents, the newest; one more is dropped.
	maxHistories = 4096
	maxEvents    = 32
	// historyBatch of them go in one call.
	historyBatch = 256
	// maxIncidents wait at most; one more is dropped: the log has it, and the first ones tell the most.
	maxIncidents = 64
	// maxDetail bounds an incident's detail in bytes.
	maxDetail = 512
)

// Dirty says that Events.Report has something new.
func (x *Client) Dirty() { wake(x.dirty) }

// SessionsDirty says that Events.SessionStates has something new.
func (x *Client) SessionsDirty() { wake(x.sessionsDirty) }

func wake(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

func (x *Client) reportDevices(e Events) func(context.Context, bool) error {
	return func(ctx context.Context, full bool) error {
		states := e.Report(full)
		if !full && len(states) == 0 {
			return nil
		}
		_, err := x.api.Hub.ReportDevices(ctx, connect.NewRequest(&api.ReportDevicesRequest{Full: full, Devices: states}))
		return err
	}
}

func (x *Client) reportSessions(e Events) func(context.Context, bool) error {
	return func(ctx context.Context, full bool) error {
		full = x.allSessions.Swap(false) || full
		states := e.SessionStates(full)
		if !full && len(states) == 0 {
			return nil
		}
		for _, s := range states {
			// What a person types may be anything; one message with a bad string would keep auth from hearing of all the others.
			s.Login, s.Channel, s.Command = strings.ToValidUTF8(s.Login, "?"), strings.ToValidUTF8(s.Channel, "?"), strings.ToValidUTF8(s.Command, "?")
		}
		_, err := x.api.Hub.ReportSessions(ctx, connect.NewRequest(&api.ReportSessionsRequest{Full: full, Sessions: states}))
		return err
	}
}

// report tells auth everything, then each change, until the watch ends. After a failure it tells everything again.
func (x *Client) report(ctx context.Context, dirty <-chan struct{}, send func(ctx context.Context, full bool) error) {
	full, wait := true, retryMin
	for {
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		err := send(cctx, full)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			x.c.Logger.Warn("report failed", "error", fail(err))
			full, wait = true, backoff(wait)
			if !sleep(ctx, wait) {
				return
			}
			continue
		}
		full, wait = false, retryMin
		select {
		case <-dirty:
		case <-ctx.Done():
			return
		}
	}
}

// outbox is what auth is told when it can be reached, and what is lost if it is away for long.
type outbox struct {
	mu        sync.Mutex
	histories map[wire.UUID]history
	incidents []*api.ReportIncidentRequest
	wake      chan struct{} // a token: something is in it
}

type history struct {
	events []wire.ConnEvent
	at     time.Time // when the device told the last of it
}

// then appends what the device told later: it tells a hub each event once.
func (h history) then(next history) history {
	all := make([]wire.ConnEvent, 0, len(h.events)+len(next.events))
	for _, e := range h.events {
		e.Ago += next.at.Sub(h.at)
		all = append(all, e)
	}
	all = append(all, next.events...)
	return history{all[max(0, len(all)-maxEvents):], next.at}
}

func (o *outbox) init() {
	o.histories, o.wake = make(map[wire.UUID]history), make(chan struct{}, 1)
}

// ReportHistory passes on what a device newly tells of its connections. It does not wait.
func (x *Client) ReportHistory(device wire.UUID, events []wire.ConnEvent) {
	o := &x.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	held, ok := o.histories[device]
	if !ok && len(o.histories) >= maxHistories {
		return
	}
	o.histories[device] = held.then(history{events, x.c.Now()})
	wake(o.wake)
}

// ReportIncident puts what went wrong into the audit log: kind is one word, peerHub and device say whom it concerns, where that is known. It
// does not wait.
func (x *Client) ReportIncident(kind, peerHub string, device wire.UUID, detail string) {
	r := &api.ReportIncidentRequest{Kind: kind, PeerHub: peerHub, Detail: wire.Quote(detail, maxDetail)}
	if !device.IsZero() {
		r.Device = device.String()
	}
	o := &x.outbox
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.incidents) >= maxIncidents {
		return
	}
	o.incidents = append(o.incidents, r)
	wake(o.wake)
}

// telling empties the outbox until ctx ends.
func (x *Client) telling(ctx context.Context) {
	wait := retryMin
	for {
		select {
		case <-x.outbox.wake:
		case <-ctx.Done():
			return
		}
		for {
			more, err := x.tell(ctx)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				wait = backoff(wait)
				if !sleep(ctx, wait) {
					return
				}
				continue
			}
			wait = retryMin
			if !more {
				break
			}
		}
	}
}

// tell makes one call. What could not be told because nobody answered stays in the outbox; what auth refuses is dropped.
func (x *Client) tell(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if r := x.outbox.incident(); r != nil {
		_, err := x.api.Hub.ReportIncident(ctx, connect.NewRequest(r))
		if err != nil && errors.Is(unavailable(err), ErrUnavailable) {
			return true, err
		}
		if err != nil {
			x.c.Logger.Warn("incident not reported", "kind", r.Kind, "error", fail(err))
		}
		x.outbox.incidentTold()
		return true, nil
	}
	batch := x.outbox.take()
	if len(batch) == 0 {
		return false, nil
	}
	r := &api.ReportHistoryRequest{}
	for id, h := range batch {
		r.Histories = append(r.Histories, &api.DeviceHistory{Uuid: id.String(), Events: events(h.events, x.c.Now().Sub(h.at))})
	}
	if _, err := x.api.Hub.ReportHistory(ctx, connect.NewRequest(r)); err != nil {
		if errors.Is(unavailable(err), ErrUnavailable) {
			x.outbox.putBack(batch)
			return true, err
		}
		x.c.Logger.Warn("histories not reported", "error", fail(err))
	}
	return true, nil
}

// incident is the oldest, which stays until it is told: only the goroutine of telling takes any away.
func (o *outbox) incident() *api.ReportIncidentRequest {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.incidents) == 0 {
		return nil
	}
	return o.incidents[0]
}

func (o *outbox) incidentTold() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.incidents = o.incidents[1:]
}

func (o *outbox) take() map[wire.UUID]history {
	o.mu.Lock()
	defer o.mu.Unlock()
	batch := make(map[wire.UUID]history)
	for id, h := range o.histories {
		if len(batch) == historyBatch {
			break
		}
		batch[id] = h
		delete(o.histories, id)
	}
	return batch
}

func (o *outbox) putBack(batch map[wire.UUID]history) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id, h := range batch {
		if newer, ok := o.histories[id]; ok {
			o.histories[id] = h.then(newer)
		} else if len(o.histories) < maxHistories {
			o.histories[id] = h
		}
	}
}

// events says each as so long before now; waited is how long ago the device told them.
func events(list []wire.ConnEvent, waited time.Duration) []*api.DeviceEvent {
	out := make([]*api.DeviceEvent, 0, len(list))
	for _, e := range list {
		d := &api.DeviceEvent{
			Kind: uint32(e.Kind), AgoMs: uint64(max(0, e.Ago+waited).Milliseconds()), LastedMs: uint64(max(0, e.Lasted).Milliseconds()), Times: e.Times,
			Hub: e.Hub, Code: uint32(e.Code), Text: e.Text,
		}
		if e.Carrier != 0 {
			d.Carrier = tunnel.Carrier(e.Carrier).String()
		}
		out = append(out, d)
	}
	return out
}
