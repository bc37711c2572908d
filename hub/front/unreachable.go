package front

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"hawser/hub/names"
	"hawser/hub/shell"
	"hawser/tunnel/wire"
)

// waitVariable is how long a person waits for a device that is not there.
const waitVariable = shell.WaitVariable

// RefusedDevice is the reason of a refusal of a device that is unknown or out of the person's reach.
const RefusedDevice = "device"

// unknown tells whether an error is that of a device that does not exist for the person. It looks the same where it does not exist at all.
func (c *conn) unknown(err error, device string) bool {
	r, ok := errors.AsType[*Refusal](err)
	return ok && r.Reason == RefusedDevice && !c.s.c.Backend.IsDevice(c.identity, device)
}

// unreachable goes on with a session whose device is not there: it waits for it, where the person said so; at a terminal without a command
// an unknown one is picked; and else it is refused. It returns the place where there is one in the end.
func (x *session) unreachable(err error) *Place {
	unknown := x.c.unknown(err, x.name.Device)
	if !unknown && !errors.Is(err, ErrOffline) {
		x.refuse(explain(err))
		return nil
	}
	ctx, cancel := context.WithTimeout(x.ctx, startWait)
	defer cancel()
	start := x.prepare(ctx)
	if start == nil {
		x.deny(err)
		return nil
	}
	wait, werr := shell.ParseWait(x.asked.wait)
	switch {
	case werr != nil:
		reply(start, true)
		x.deny(&Refusal{Message: werr.Error()})
	case wait > 0 && x.name.Device != "":
		if start.Type == "shell" { // some clients show nothing before
			start = begun(start)
		}
		place, err := x.await(wait)
		if err == nil {
			x.replay(start)
			return place
		}
		reply(start, true)
		x.deny(err)
	case unknown && start.Type == "shell" && x.pty.Load() && !x.c.forced:
		query := x.name.Device
		if query == "" {
			query = x.c.ssh.User()
		}
		return x.pick(query, false, begun(start))
	default:
		reply(start, true)
		x.deny(err)
	}
	return nil
}

// deny ends a session whose start was answered, with the reason.
func (x *session) deny(err error) {
	if x.killed() != nil { // which the caller tells
		return
	}
	x.say(x.c.explainDevice(x.ctx, err, x.name.Device, "ssh -o SetEnv="+waitVariable+"=1h ..."))
	x.finish(statusRefused)
}

// explainDevice is explain, with what of the device helps: names that are near, of those the person may reach; and of one of his that is
// away since when and why; wait is the command that waits for it.
func (c *conn) explainDevice(ctx context.Context, err error, device, wait string) string {
	switch {
	case errors.Is(err, ErrOffline):
		return wire.Quote(device, 64) + " is offline, " + c.seen(ctx, device) + "; `" + wait + "` waits for it"
	case c.unknown(err, device):
		return explain(err) + c.near(device)
	}
	return explain(err)
}

func (x *session) seen(ctx context.Context, device string) string { return x.c.seen(ctx, device) }

// seen says where and why a device of the person's was last.
func (c *conn) seen(ctx context.Context, device string) string {
	ctx, cancel := context.WithTimeout(ctx, seenTimeout)
	defer cancel()
	seen, err := c.s.c.Backend.LastSeen(ctx, c.identity, device)
	if err != nil {
		return "and auth cannot be asked since when"
	}
	return seen.Words(c.s.c.Now())
}

// errGaveUp is the cause of the end of a wait that the person ended himself.
var errGaveUp = errors.New("you ended the wait")

// await waits for a device until it is there and the person may use it. What he reads and how long it takes is the same for a device that
// is away, one that does not exist and one that is not for him.
func (x *session) await(d time.Duration) (*Place, error) {
	c := x.c
	if !c.s.waits.enter(c.identity.User, maxUserWaits, maxWaits) {
		return nil, &Refusal{Message: "too many sessions wait for devices already; end some of yours, or try again later"}
	}
	defer c.s.waits.leave(c.identity.User)
	x.waiting.Store(true)
	defer func() {
		x.meter.Touch()
		x.waiting.Store(false)
	}()
	end := c.s.c.Now().Add(d)
	ctx, cancel := context.WithCancelCause(x.ctx)
	defer cancel(nil)
	timeout := time.AfterFunc(d, func() { cancel(context.DeadlineExceeded) })
	defer timeout.Stop()
	c.s.c.Logger.Info("waiting for a device", "user", c.identity.User, "device", x.name.Device, "limit", d)
	x.say("waiting for " + x.name.Device + " until " + end.UTC().Format("15:04:05") + " UTC, at most " + d.String())
	followed, unfollow := x.follow(func(uint32, uint32) {})
	defer func() {
		unfollow()
		<-followed
	}()
	if x.pty.Load() {
		watched := make(chan struct{})
		defer func() { <-watched }()
		defer cancel(nil)
		c.goRun(func() {
			defer close(watched)
			x.watchWait(ctx, cancel)
		})
	}
	for pause := minAdmitPause; ; pause = min(2*pause, maxAdmitPause) {
		if err := c.s.c.Backend.Await(ctx, c.identity, x.name.Device); err != nil {
			return nil, x.waitEnded(ctx, d)
		}
		place, err := x.admit()
		if err == nil {
			return place, nil
		}
		if !errors.Is(err, ErrOffline) && !errors.Is(err, ErrUnavailable) && !c.unknown(err, x.name.Device) {
			return nil, err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, x.waitEnded(ctx, d)
		}
	}
}

func (x *session) waitEnded(ctx context.Context, d time.Duration) error {
	if errors.Is(context.Cause(ctx), errGaveUp) {
		return &Refusal{Message: errGaveUp.Error()}
	}
	return &Refusal{Message: x.name.Device + " did not come within " + d.String()}
}

// watchWait shows at a terminal that the wait goes on, and ends it when the person says so. What else he types is for the device.
func (x *session) watchWait(ctx context.Context, end context.CancelCauseFunc) {
	keys := x.keyboard()
	began, shown := time.Now(), time.Now()
	var typed []byte
	defer func() { keys.Unread(typed) }()
	dumb := x.asked.pty.Term == "" || x.asked.pty.Term == "dumb"
	for {
		wait := waitProgress
		if len(typed) >= maxTypedAhead { // no more is taken; Ctrl-C is not seen behind it
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
		} else {
			b, err := keys.Next(ctx, wait)
			switch {
			case ctx.Err() != nil:
				typed = append(typed, b...)
				return
			case err != nil: // no more will be typed
				select {
				case <-ctx.Done():
					return
				case <-time.After(wait):
				}
			}
			if strings.ContainsRune(string(b), 0x03) {
				typed = nil
				end(errGaveUp)
				return
			}
			typed = append(typed, b...)
		}
		if !dumb && time.Since(shown) >= waitProgress {
			shown = time.Now()
			_, _ = fmt.Fprintf(x.ch, "\r\x1b[Kwaiting for %s for %s, Ctrl-C ends it\r", x.name.Device, time.Since(began).Round(time.Second))
		}
	}
}

// watchUnknown ends a connection for a device that the person has not, when it opens nothing (ssh -N): nothing could be refused on it, and
// it would seem to work. The function it returns ends the watch.
func (c *conn) watchUnknown() (stop func() bool) {
	if c.name.Kind == names.OfHub || c.name.Kind == names.OfDevice && c.s.c.Backend.IsDevice(c.identity, c.name.Device) {
		return func() bool { return true }
	}
	return time.AfterFunc(unknownWait, func() {
		if !c.opened.Load() && !c.s.c.Backend.IsDevice(c.identity, c.name.Device) {
			c.s.c.Logger.Info("connection for no device ended", "user", c.identity.User, "client", c.client.String(),
				"name", wire.Quote(c.ssh.User(), 128))
			c.end(errNoDevice)
		}
	}).Stop
}

var errNoDevice = errors.New("it was for no device and opened nothing")

// quota bounds how many of something each person and all together have at once.
type quota struct {
	mu     sync.Mutex
	total  int
	byUser map[string]int
}

func (q *quota) enter(user string, each, all int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.total >= all || q.byUser[user] >= each {
		return false
	}
	if q.byUser == nil {
		q.byUser = make(map[string]int)
	}
	q.total++
	q.byUser[user]++
	return true
}

func (q *quota) leave(user string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.byUser[user]--; q.byUser[user] == 0 {
		delete(q.byUser, user)
	}
}

// recents remembers which devices people were on, as long as the server runs.
type recents struct {
	mu     sync.Mutex
	byUser map[string]map[wire.UUID]time.Time
}

// note forgets whom, or what, was not seen for longest where there are too many.
func (r *recents) note(user string, device wire.UUID, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byUser == nil {
		r.byUser = make(map[string]map[wire.UUID]time.Time)
	}
	used := r.byUser[user]
	if used == nil {
		if len(r.byUser) >= maxRecentUsers {
			for other := range r.byUser { // any: it is a convenience
				delete(r.byUser, other)
				break
			}
		}
		used = make(map[wire.UUID]time.Time)
		r.byUser[user] = used
	}
	used[device] = now
	if len(used) > maxRecent {
		oldest := device
		for id, at := range used {
			if at.Before(used[oldest]) {
				oldest = id
			}
		}
		delete(used, oldest)
	}
}

// of returns a copy.
func (r *recents) of(user string) map[wire.UUID]time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[wire.UUID]time.Time, len(r.byUser[user]))
	for id, at := range r.byUser[user] {
		out[id] = at
	}
	return out
}
