package front

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/auth/policy"
	"hawser/hub/names"
	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
	"hawser/tunnel/idle"
	"hawser/tunnel/resume"
	"hawser/tunnel/wire"
)

// Causes of a session's end.
var (
	errClientClosed = errors.New("the client closed the channel")
	errFlood        = errors.New("too many requests on one channel")
)

// killedError is the cause when an operator ended the session.
type killedError struct{ reason string }

func (e *killedError) Error() string { return "session ended: " + wire.Quote(e.reason, 512) }

// statusRefused is the exit status of everything that Hawser itself refused or broke, as ssh's own.
const statusRefused = 255

// session is one session channel of a person.
type session struct {
	c        *conn
	ch       ssh.Channel
	ctx      context.Context
	cancel   context.CancelCauseFunc
	id       [16]byte
	requests *requestQueue
	name     names.Name // whom it is for: as the connection said, or what the person picked
	typed    *input     // nil: nothing was read of the channel before the device was there
	asked    asked
	joins    Joining // another session, which the place is for; its zero: none
	guestLog int     // lines about guests in the log; of the goroutine that handles the device's requests

	wrongJoin bool // he asked to join one where that is not understood; owned by the goroutine that handles requests

	pty  atomic.Bool
	term ptySize // owned by the goroutine that handles requests

	place    *Place // set once, under mu, before the goroutines that read it without start
	streamID wire.StreamID
	stream   *resume.Stream
	dev      *channel.Conn
	notices  notices
	held     *observe.Held // input on its way to the recording; nil where there is none
	meter    *idle.Meter
	watch    *idle.Watch
	waiting  atomic.Bool                   // for its device to come: nobody is idle then
	why      atomic.Pointer[string]        // it is to end
	unstored atomic.Pointer[killedError]   // it is to end because it must be recorded and cannot be
	live     atomic.Pointer[resume.Stream] // stream, for others
	away     atomic.Int64                  // when the device was lost, in ns since 1970; 0: it is there
	begun    time.Time
	given    sync.Once   // the place was given back
	agent    atomic.Bool // the person asked for agent forwarding, and may
	x11      atomic.Bool // the same of X11

	mu       sync.Mutex
	inflight int                // requests whose reply is due
	idle     *sync.Cond         // on mu: inflight became 0
	tap      Recording          // nil before the start and where nothing is recorded
	facts    *observe.Session   // likewise: what takes facts out of what passes
	early    []recorder.Request // that passed before the start
	witness  []byte             // what the device says of the session
	started  bool
	what     [2]string // kind and command of what was started
	exit     *exitInfo
}

type ptySize struct {
	term          string
	width, height uint32
}

// exitInfo is how the process ended, as the device said it.
type exitInfo struct {
	name    string // exit-status or exit-signal
	payload []byte
	status  uint32
	signal  string
}

// session serves a session channel to its end.
func (c *conn) session(nch ssh.NewChannel) {
	c.acceptSession(nch, (*session).serve)
}

// acceptSession accepts a session channel and serves it.
func (c *conn) acceptSession(nch ssh.NewChannel, serve func(*session)) {
	ch, reqs, err := nch.Accept()
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(c.ctx)
	x := &session{c: c, ch: ch, ctx: ctx, cancel: cancel, id: wire.NewStreamID(), requests: newRequestQueue(), name: c.name}
	x.idle = sync.NewCond(&x.mu)
	x.meter = idle.NewMeter()
	x.ch = idle.Channel(ch, x.meter)
	x.notices.set(x)
	x.watch = x.watchIdle()
	closed := make(chan struct{}) // by the client
	defer c.awaitClose(closed)
	defer x.watch.Stop() // after the channel is closed, which ends a warning that is under way
	defer cancel(nil)
	defer func() { _ = ch.Close() }()
	c.mu.Lock()
	if c.sessions == nil {
		c.sessions = make(map[*session]struct{})
	}
	c.sessions[x] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.sessions, x)
		c.mu.Unlock()
		c.left()
	}()
	c.goRun(func() {
		defer close(closed)
		if x.requests.pump(reqs) {
			cancel(errClientClosed)
		} else {
			cancel(errFlood)
			_ = ch.Close()
			ssh.DiscardRequests(reqs)
		}
	})
	serve(x)
	if k := x.killed(); k != nil { // before there was a device to say it
		x.say(k.Error())
		x.finish(statusRefused)
	}
}

// awaitClose counts a channel that has ended here until the client has closed it too: it costs memory as long.
func (c *conn) awaitClose(closed <-chan struct{}) {
	select {
	case <-closed:
		return
	default:
	}
	c.unclosed.Add(1)
	c.goRun(func() {
		defer c.unclosed.Add(-1)
		<-closed
	})
}

func (x *session) serve() {
	switch x.c.name.Kind {
	case names.OfHub:
		x.serveHub()
	case names.OfDevice:
		x.serveDevice()
	default:
		x.serveUnknown()
	}
}

// UnknownDevice is auth's answer for a device that is unknown or out of reach, in the same words, for names auth is not asked about.
func UnknownDevice(name string) string {
	return fmt.Sprintf("no device %q that your roles allow; `ssh hub ls` shows those they do", wire.Quote(name, 64))
}

// serveDevice relays the channel to a stream of the device's tunnel.
func (x *session) serveDevice() {
	if why := x.c.late(); why != "" {
		x.refuse(why)
		return
	}
	place, err := x.admit()
	if err != nil {
		x.c.s.c.Logger.Warn("session refused", "user", x.c.identity.User, "device", x.name.Device, "login", x.name.Login, "error", err)
		if place = x.unreachable(err); place == nil {
			return
		}
	}
	x.serveOn(place)
}

// serveOn relays the channel to the device of its place.
func (x *session) serveOn(place *Place) {
	c := x.c
	c.s.recent.note(c.identity.User, place.Device, c.s.c.Now())
	x.id = place.SessionID
	x.mu.Lock()
	x.place = place
	x.mu.Unlock()
	x.limit(place)
	x.begun = c.s.c.Now()
	status := int32(statusRefused)
	reason := "failed"
	c.s.add(x.id, x)
	defer func() {
		c.s.remove(x.id)
		x.giveBack(status, reason)
	}()
	if why := c.s.denied(x.subject()); why != "" { // since it was admitted
		reason = wire.Quote(why, 256)
		x.refuse(why)
		return
	}

	a := wire.Attach{Kind: wire.KindSession, ID: wire.NewStreamID()}
	a.Open = wire.OpenRequest{Grant: place.Grant, ClientAddr: c.client, ServerAddr: c.server, Window: channel.DefaultWindow}.Append(nil)
	x.streamID = a.ID
	stream, err := c.openStream(x.ctx, place.Device, &a, place.DetachedLife, x.linkChanged)
	if err != nil {
		x.refuse(explain(err))
		return
	}
	defer x.notices.stop()
	x.live.Store(stream)
	if place.Recorded {
		x.held = observe.NewHeld()
	}
	x.stream, x.dev = stream, channel.New(leaving{stream}, channel.Options{Drain: true, OnTag: x.judged})
	c.s.c.Logger.Info("session opened", "user", c.identity.User, "device", place.DeviceName, "login", place.Login,
		"session", hex.EncodeToString(x.id[:]), "client", c.client.String())

	exit, err := x.relay()
	status, reason = outcome(exit, err)
	if why := x.why.Load(); why != nil {
		reason = wire.Quote(*why, 256)
		defer c.s.settle()()
		x.giveBack(status, reason) // before its recording is closed, which says how it ended
	}
	x.closeRecording(exit)
	c.s.c.Logger.Info("session closed", "user", c.identity.User, "device", place.DeviceName, "login", place.Login,
		"session", hex.EncodeToString(x.id[:]), "status", status, "reason", reason)
}

func (x *session) admit() (*Place, error) {
	c := x.c
	ctx, cancel := context.WithTimeout(x.ctx, admitTimeout)
	defer cancel()
	return c.s.c.Backend.Admit(ctx, Claim{
		Kind: Session, Identity: c.identity, ConnectionID: c.id, SessionID: x.id,
		Device: x.name.Device, Login: x.name.Login, Joins: x.joins, ClientAddr: c.client,
		UserAgent: wire.Quote(string(c.ssh.ClientVersion()), 128),
	})
}

// openStream opens a resumable stream on a device's tunnel; it does not wait for the device's answer.
func (c *conn) openStream(ctx context.Context, device wire.UUID, a *wire.Attach, life time.Duration, watch func(bool)) (*resume.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return c.s.startStream(ctx, device, a, life, watch)
}

// linkChanged is told when the device is lost and when it is back.
func (x *session) linkChanged(there bool) {
	away := int64(0)
	if !there {
		away = x.c.s.c.Now().UnixNano()
	}
	x.away.Store(away)
	x.c.s.statesChanged()
	x.notices.link(there)
}

// state is what Server.States says of the session.
func (x *session) state() State {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := State{
		ID: x.id, Connection: x.c.id, Kind: Session, User: x.c.identity.User, Device: x.place.Device, Login: x.place.Login,
		Client: x.c.client, Started: x.begun, Channel: x.what[0], Command: x.what[1], Recorded: x.tap != nil, Identity: x.c.identity,
		Joins: x.place.Joins, JoinMode: x.place.JoinMode,
	}
	counted(&s, x.meter, x.pty.Load())
	if away := x.away.Load(); away != 0 {
		s.DetachedSince = time.Unix(0, away)
	}
	return s
}

// relay moves everything in both directions until the device closed the channel and all of its output was written, then ends the
// person's channel. It returns how the process ended, or why that is not known.
func (x *session) relay() (*exitInfo, error) {
	var out, rest sync.WaitGroup
	guard := func(wg *sync.WaitGroup, f func()) {
		wg.Go(func() {
			defer x.c.s.recovered(x.c)
			f()
		})
	}
	// The end of the session's context breaks every Read and Write below.
	stop := context.AfterFunc(x.ctx, func() {
		cause := context.Cause(x.ctx)
		if _, killed := errors.AsType[*killedError](cause); killed || errors.Is(cause, errStopping) {
			x.stream.Reset(wire.StreamCancelled) // the device's goodbye is not waited for
		}
		_ = x.dev.Close()
	})
	var outErr [2]error
	copyOut := func(i int, t *tapped, from io.WriterTo) {
		_, err := from.WriteTo(t)
		t.end()
		outErr[i] = errors.Join(err, t.err)
	}
	guard(&out, func() { copyOut(0, &tapped{x: x, stream: recorder.Stdout, w: x.ch}, x.dev) })
	guard(&out, func() {
		copyOut(1, &tapped{x: x, stream: recorder.Stderr, w: x.ch.Stderr()}, x.dev.StderrReader().(io.WriterTo))
	})
	input := x.stdin()
	if x.held != nil {
		input = recordedInput{x, input}
		guard(&rest, x.held.Run)
	}
	guard(&rest, func() {
		// The end of input is the client's EOF or CLOSE; the latter also ends the context.
		_, _ = x.dev.ReadFrom(input)
		_ = x.dev.CloseWrite()
	})
	guard(&rest, x.relayRequests)
	x.deviceRequests() // until the device closed the channel or the stream broke
	out.Wait()
	exit, err := x.result(errors.Join(outErr[:]...))
	if x.why.Load() == nil { // of one that the hub ended serveOn does it, when the person has been told
		x.giveBack(outcome(exit, err))
	}
	x.waitReplies() // after what may wait: a request that comes meanwhile is answered too

	switch {
	case errors.Is(context.Cause(x.ctx), errClientClosed):
	case exit != nil:
		if why := x.why.Load(); why != nil && x.place.Recorded && x.recording() == nil { // the device's own words are not shown
			x.say((&killedError{*why}).Error())
		}
		x.end(exit)
	default:
		x.say(sayBroken(err))
		x.finish(statusRefused)
	}
	_ = x.ch.Close() // ends the two below, which read from it
	stop()
	_ = x.dev.Close()
	if x.held != nil {
		x.held.End() // the device says nothing more of the input
	}
	rest.Wait()
	return exit, err
}

// waitReplies waits until every request taken has its reply: CLOSE would overtake it, and a client that waits for the reply to exec would
// see the channel end instead. The answers come, for the device's channel has ended.
func (x *session) waitReplies() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for x.inflight > 0 {
		x.idle.Wait()
	}
}

func (x *session) due(n int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.inflight += n; x.inflight == 0 {
		x.idle.Broadcast()
	}
}

// result is the exit the device told, or the reason that there is none.
func (x *session) result(outErr error) (*exitInfo, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if k := x.unstored.Load(); k != nil {
		return nil, k
	}
	if x.exit != nil {
		return x.exit, nil
	}
	if cause := context.Cause(x.ctx); cause != nil {
		return nil, cause
	}
	if err := x.dev.Err(); err != nil {
		return nil, err
	}
	if outErr != nil {
		return nil, outErr
	}
	return nil, errors.New("the device closed the session without an exit status")
}

func sayBroken(err error) string {
	switch {
	case errors.Is(err, errStopping):
		return "this hub is going down; connect again, and you reach another"
	case errors.Is(err, resume.ErrGone):
		return "the device has lost this session: it, or the agent on it, was restarted"
	case errors.Is(err, ErrRemoved):
		return "the device was removed from the cluster"
	case errors.Is(err, resume.ErrDetached):
		return "the device was away for longer than your roles let a session wait"
	}
	if r, ok := errors.AsType[*resume.RefusedError](err); ok {
		return "the device refused: " + printable(r.Message)
	}
	if k, ok := errors.AsType[*killedError](err); ok {
		return k.Error()
	}
	return "the connection to the device is lost: " + wire.Quote(err.Error(), 256)
}

// tapped writes output to the person, recorded first: what was shown is recorded.
type tapped struct {
	x      *session
	stream byte
	w      io.Writer
	err    error // of the person's side; what the device sent until it heard of that is recorded all the same
	early  []byte
}

// maxEarlyOutput of what a device sends before it was asked to start anything is kept until then, on each stream.
const maxEarlyOutput = 4 << 10

func (t *tapped) Write(p []byte) (int, error) {
	n := len(p)
	if t.x.place.Recorded && t.x.recording() == nil { // nothing is shown that is not recorded
		t.early = append(t.early, p[:min(n, maxEarlyOutput-len(t.early))]...)
		return n, nil
	}
	if len(t.early) > 0 {
		p, t.early = append(t.early, p...), nil
	}
	t.pass(p)
	return n, nil
}

// end shows what came early and was followed by nothing.
func (t *tapped) end() {
	if len(t.early) > 0 && t.x.recording() != nil {
		_, _ = t.Write(nil)
	}
}

func (t *tapped) pass(p []byte) {
	if _, seen := t.x.sawSession(); seen != nil && !seen.Output(t.stream, p) {
		return // the session is about to be ended
	}
	if t.err == nil {
		_, t.err = t.x.notices.output(t.w, p)
	}
}

func (x *session) recording() Recording {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tap
}

// relayRequests passes the person's requests on, in order, and their answers back, in order; several may be on their way at once.
func (x *session) relayRequests() {
	answers := make(chan pendingAnswer, maxQueued)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer x.c.s.recovered(x.c)
		for p := range answers {
			ok, told := <-p.answer
			if !told { // the channel ended first: as in refuse, the client is not to give up before it has read why
				ok = p.request.Type == "pty-req" || startsSomething(p.request.Type)
			}
			reply(p.request, ok)
			x.due(-1)
		}
	})
	defer wg.Wait()
	defer close(answers)
	for {
		r := x.requests.next(x.ctx)
		if r == nil {
			return
		}
		if !r.WantReply {
			if forward, _ := x.examine(r); forward && x.passes(r.Type, r.Payload, false) {
				_, _ = x.dev.SendRequest(r.Type, false, r.Payload) // an error is the channel's end, which relay sees
			}
			continue
		}
		x.due(1)
		forward, ok := x.examine(r)
		answer := answered(ok)
		if forward && x.passes(r.Type, r.Payload, false) {
			var err error
			if answer, err = x.dev.StartRequest(r.Type, r.Payload); err != nil {
				answer = unanswered
			}
		}
		answers <- pendingAnswer{r, answer}
	}
}

// passes records a request that goes to the device, or came from it. False: it must not go, for too many came before the start.
func (x *session) passes(name string, body []byte, fromDevice bool) bool {
	r := recorder.Request{Name: name, Payload: body, FromDevice: fromDevice}
	switch {
	case secretRequest(name):
		r.Payload, r.Hash = nil, recorder.PayloadHash(body)
	case fromDevice && name == payload.GuestRequest:
		r = x.guestRequest(r)
	}
	if w := x.recording(); w != nil {
		w.Request(r)
		return true
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.started || !x.place.Recorded {
		return true
	}
	if len(x.early) == maxEarly {
		return false
	}
	x.early = append(x.early, r)
	return true
}

// secretRequest tells what is recorded by its hash alone: it has a ticket, or a cookie, in it.
func secretRequest(name string) bool { return name == payload.AcceptRequest || name == "x11-req" }

type pendingAnswer struct {
	request *ssh.Request
	answer  <-chan bool
}

// unanswered is the answer of a channel that has ended.
var unanswered = func() chan bool { c := make(chan bool); close(c); return c }()

func startsSomething(request string) bool {
	return request == "shell" || request == "exec" || request == "subsystem"
}

func answered(ok bool) <-chan bool {
	c := make(chan bool, 1)
	c <- ok
	return c
}

// examine checks a request before it goes to the device. Without forward, answer is the reply.
func (x *session) examine(r *ssh.Request) (forward, answer bool) {
	switch r.Type {
	case "pty-req":
		p, err := payload.ParsePtyRequest(r.Payload)
		if err != nil {
			return false, false
		}
		x.pty.Store(true)
		x.term = ptySize{p.Term, p.Columns, p.Rows}
		return true, false
	case "window-change":
		p, err := payload.ParseWindowChange(r.Payload)
		if err != nil {
			return false, false
		}
		x.term.width, x.term.height = p.Columns, p.Rows
		if w := x.recording(); w != nil {
			w.Resize(p.Columns, p.Rows)
		}
		return true, false
	case "env":
		p, err := payload.ParseEnv(r.Payload)
		if err == nil && p.Name == noticeVariable {
			x.notices.wanted(p.Value != "off")
			return false, true
		}
		if err == nil && p.Name == waitVariable { // it was there
			return false, true
		}
		if err == nil && p.Name == joinVariable {
			x.wrongJoin = true
			return false, false
		}
		return err == nil, false
	case "signal":
		_, err := payload.ParseSignal(r.Payload)
		return err == nil, false
	case "break":
		_, err := payload.ParseBreak(r.Payload)
		return err == nil, false
	case "shell", "exec", "subsystem":
		return x.examineStart(r)
	case "auth-agent-req@openssh.com":
		if len(r.Payload) != 0 || !x.place.Permits("agent") {
			return false, false
		}
		x.agent.Store(true)
		return true, false
	case "x11-req":
		if _, err := payload.ParseX11Request(r.Payload); err != nil || !x.place.Permits("x11") {
			return false, false
		}
		x.x11.Store(true)
		return true, false
	case "eow@openssh.com":
		return true, false
	case "keepalive@openssh.com": // the hub's to answer: it is there when the device is not
		return false, true
	}
	return false, false
}

// examineStart checks what is to run against the place and begins the recording.
func (x *session) examineStart(r *ssh.Request) (forward, answer bool) {
	kind, command := r.Type, ""
	switch r.Type {
	case "exec":
		p, err := payload.ParseExec(r.Payload)
		if err != nil {
			return false, false
		}
		command = p.Command
	case "subsystem":
		p, err := payload.ParseSubsystem(r.Payload)
		if err != nil || p.Name != "sftp" {
			return false, false
		}
		kind = "sftp"
	}
	if x.joins.Session != "" {
		kind = policy.JoinSession
	}
	x.mu.Lock()
	again := x.started
	x.started = true
	if !again {
		x.what = [2]string{kind, command}
	}
	x.mu.Unlock()
	if again {
		return false, false
	}
	if x.wrongJoin { // a shell of his own is not what he wanted
		x.notStarted(joinVariable + " is for a device's own SSH server (end to end, direct); by a hub it is `ssh -t " + x.c.s.c.HubName + " join ID`")
		return false, true
	}
	if !x.place.Permits(kind) {
		x.notStarted("your roles do not allow " + kind + " on " + x.place.DeviceName + " as " + x.place.Login)
		return false, true
	}
	if x.place.Recorded {
		header := recorder.Header{
			ID: x.id, User: x.c.identity.User, Device: x.place.DeviceName, DeviceUUID: x.place.Device.String(),
			Login: x.place.Login, Way: "hub", ClientAddr: x.c.client.String(), Kind: kind, Command: command,
			Term: x.term.term, Width: x.term.width, Height: x.term.height, Start: x.c.s.c.Now(),
		}
		seen := x.observed(kind, command, &header)
		w := x.c.s.c.Backend.Record(x.place, header, Recorded{Terminal: x.pty.Load(), Away: func() bool { return x.away.Load() != 0 }, End: x.unrecorded})
		if w != nil {
			seen.Attach(w)
			runs, what := x.runs(kind, command)
			err := w.Start(runs, what, x.term.term, nil)
			x.mu.Lock()
			x.tap, x.facts = w, seen
			early := x.early
			x.early = nil
			x.mu.Unlock()
			for _, r := range early {
				w.Request(r)
			}
			x.held.Begin(seen)
			if err != nil {
				x.c.s.c.Logger.Warn("session not started", "session", hex.EncodeToString(x.id[:]), "error", err)
				why := err.Error()
				x.why.CompareAndSwap(nil, &why)
				x.notStarted(wire.Quote(why, 512) + "; try again later")
				return false, true
			}
		}
	}
	return true, false
}

// notStarted ends a session of which the device has started nothing.
func (x *session) notStarted(why string) {
	x.say(why)
	x.mu.Lock()
	x.exit = newExit(statusRefused)
	x.mu.Unlock()
	// Closing the device's channel ends the relay, which then sends the status.
	x.c.goRun(func() { _ = x.dev.Close() })
}

// unrecorded ends the session because it must be recorded and cannot be. What the device says of that is not shown, for nothing is that is not
// recorded; the hub's own words are, when the device has had its time to end the processes.
func (x *session) unrecorded(why error) {
	x.c.s.c.Logger.Warn("session ends", "user", x.c.identity.User, "session", hex.EncodeToString(x.id[:]), "error", why)
	reason := why.Error()
	x.why.CompareAndSwap(nil, &reason)
	killed := &killedError{reason}
	x.unstored.Store(killed)
	x.c.s.c.Backend.KillOnDevice(x.place.Device, x.place.SessionID, reason)
	time.AfterFunc(killGrace, func() {
		x.cancel(killed)
		time.AfterFunc(killWords, func() { _ = x.ch.Close() }) // a client that reads nothing
	})
}

func newExit(status uint32) *exitInfo {
	return &exitInfo{name: "exit-status", payload: payload.ExitStatus{Status: status}.Marshal(), status: status}
}

// deviceRequests handles what the device asks until it closed the channel. The exit is only kept: relay sends it after all output.
func (x *session) deviceRequests() {
	for r := range x.dev.Requests() {
		if r.Type == recorder.WitnessRequest {
			x.witness = r.Payload
			continue
		}
		x.passes(r.Type, r.Payload, true)
		ok := false
		switch r.Type {
		case "exit-status":
			if p, err := payload.ParseExitStatus(r.Payload); err == nil {
				x.setExit(&exitInfo{name: r.Type, payload: r.Payload, status: p.Status})
			}
		case "exit-signal":
			if p, err := payload.ParseExitSignal(r.Payload); err == nil {
				x.setExit(&exitInfo{name: r.Type, payload: r.Payload, signal: p.Signal})
			}
		case "eow@openssh.com":
			_, _ = x.ch.SendRequest(r.Type, false, nil)
		case payload.GuestRequest:
			x.guest(r.Payload)
		case payload.AcceptRequest:
			p, err := payload.ParseAccept(r.Payload)
			var extra []byte
			switch {
			case err == nil && p.Kind == payload.AgentChannel && x.agent.Load():
			case err == nil && p.Kind == payload.X11Channel && x.x11.Load() && len(p.OriginHost) <= 255:
				extra = payload.X11Open{OriginHost: p.OriginHost, OriginPort: p.OriginPort}.Marshal()
			default:
				_ = r.Reply(false)
				continue
			}
			x.c.goRun(func() { x.c.acceptBack(x.ctx, x.place, x.streamID, p, p.Kind, extra, x) })
			ok = true
		}
		_ = r.Reply(ok)
	}
}

func (x *session) setExit(e *exitInfo) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.exit == nil {
		x.exit = e
	}
}

// kill ends the session because somebody said so. The device shows the reason and ends the processes; should it not answer, the hub does
// both.
func (x *session) kill(reason string) {
	x.mu.Lock()
	place := x.place
	x.mu.Unlock()
	x.why.CompareAndSwap(nil, &reason)
	if place == nil {
		x.cancel(&killedError{reason})
		time.AfterFunc(killWords, func() { _ = x.ch.Close() })
		return
	}
	x.c.s.c.Backend.KillOnDevice(place.Device, place.SessionID, reason)
	time.AfterFunc(killGrace, func() { x.cancel(&killedError{reason}) })
	// A client that reads nothing holds up the relay's last words.
	time.AfterFunc(2*killGrace, func() { _ = x.ch.Close() })
}

// killed is why the session was ended; nil: nobody ended it.
func (x *session) killed() *killedError {
	k, _ := errors.AsType[*killedError](context.Cause(x.ctx))
	return k
}

// closeRecording writes the end of the recording and waits until it is stored.
func (x *session) closeRecording(exit *exitInfo) {
	w, seen := x.sawSession()
	if w == nil {
		return
	}
	seen.End()
	if exit != nil {
		w.Exit(exit.status, exit.signal)
	}
	w.Witness(x.witnessed())
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.ctx), recordingWait)
	defer cancel()
	if err := w.Close(ctx); err != nil {
		x.c.s.c.Logger.Error("recording incomplete", "session", hex.EncodeToString(x.id[:]), "error", err)
	}
}

// witnessed is the device's witness, or why there is none.
func (x *session) witnessed() (blob []byte, without string) {
	cause := context.Cause(x.ctx)
	_, killed := errors.AsType[*killedError](cause)
	switch {
	case x.unstored.Load() != nil:
		return nil, recorder.WithoutUnstored
	case len(x.witness) > 0:
		return x.witness, ""
	case killed, errors.Is(cause, errStopping):
		return nil, recorder.WithoutEnded
	case x.dev.Err() != nil:
		return nil, recorder.WithoutLost
	}
	return nil, recorder.WithoutNone
}

// refuse tells the person why there is no session, on stderr of a channel that was accepted and with exit status 255, once the client has
// asked for something to run: only then does it show both.
func (x *session) refuse(message string) {
	parent, wait := x.ctx, startWait
	if k := x.killed(); k != nil {
		message, parent, wait = k.Error(), x.c.ctx, killWords
	}
	ctx, cancel := context.WithTimeout(parent, wait)
	defer cancel()
	for started := false; !started; {
		r := x.requests.next(ctx)
		if r == nil {
			break
		}
		switch r.Type {
		case "pty-req":
			x.pty.Store(true)
			reply(r, true)
		case "env":
			reply(r, true)
		case "shell", "exec", "subsystem":
			started = true
			reply(r, true)
		default:
			reply(r, false)
		}
	}
	x.say(message)
	x.finish(statusRefused)
}

// say shows a line of the hub's own on stderr. With a pty the client's terminal is raw.
func (x *session) say(message string) {
	end := "\n"
	if x.pty.Load() {
		end = "\r\n"
	}
	_, _ = io.WriteString(x.ch.Stderr(), "hawser: "+message+end)
}

// finish sends the status and EOF and closes the channel.
func (x *session) finish(status uint32) {
	x.end(newExit(status))
	_ = x.ch.Close()
}

// end sends how the process ended, and EOF: in this order, for at EOF the client may close the channel, and a status that comes after that goes nowhere.
func (x *session) end(e *exitInfo) {
	_, _ = x.ch.SendRequest(e.name, false, e.payload)
	x.notices.closeWrite()
}
