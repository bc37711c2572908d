package session

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hawser/auth/policy"
	"hawser/edge/login"
	"hawser/edge/pty"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
)

// session is one Serve. Its fields belong to the goroutine of Serve.
type session struct {
	engine *Engine
	ch     channel.Channel
	params Params
	result Result

	account login.Account
	pty     *pty.PTY
	ptyErr  error
	term    string
	env     []string // NAME=value that the person may set
	agent   *agent
	x11     *x11
	entry   *login.Entry
	size    pty.Size             // of the person's terminal
	sized   bool                 // he has one
	painted bool                 // pictures of another session were shown on it
	room    *room                // nil: others cannot join
	shared  atomic.Pointer[room] // the same, for goroutines that are there before it
	process atomic.Pointer[running]
	reads   bool          // copyIn runs
	left    chan struct{} // the person went before anything was started; room for one
	cancel  context.CancelCauseFunc
	core    bool  // the process left a core file
	told    bool  // Ended was called
	joinErr error // why it does not join the session that it was to join

	wg sync.WaitGroup // every goroutine of the session
}

// serve takes requests until one of them starts something, and runs that.
func (s *session) serve(ctx context.Context) {
	account, err := s.engine.config.System.Lookup(s.params.Login)
	if err == nil && !account.IsSelf() && s.engine.config.System.Self().UID != 0 {
		err = fmt.Errorf("login %q: %w: the agent runs as %s and can become nobody else", account.Name, login.ErrRefused, s.engine.config.System.Self().Name)
	}
	s.account = account
	for {
		select {
		case <-ctx.Done():
			s.refuse(context.Cause(ctx))
			return
		case r, ok := <-s.ch.Requests():
			if !ok {
				return
			}
			kind, command, start := startRequest(r)
			if !start {
				_ = r.Reply(err == nil && s.prepare(ctx, r))
				continue
			}
			if kind == "" {
				_ = r.Reply(false)
				continue
			}
			_ = r.Reply(true)
			if err == nil {
				err = s.joinErr
			}
			if s.params.Join != nil {
				kind, command = joinKind, ""
			}
			s.result.Kind, s.result.Command = kind, command
			s.params.Witness.begin(kind)
			if err == nil {
				err = s.allow(kind)
			}
			switch {
			case err != nil:
			case s.params.Join != nil:
				err = s.join(ctx)
			default:
				err = s.run(ctx, kind, command)
			}
			if err != nil {
				s.refuse(err)
			}
			return
		}
	}
}

// startRequest recognizes the requests that start something. A malformed or unknown one has no kind.
func startRequest(r *channel.Request) (kind, command string, ok bool) {
	switch r.Type {
	case "shell":
		return "shell", "", true
	case "exec":
		p, err := payload.ParseExec(r.Payload)
		if err != nil {
			return "", "", true
		}
		return "exec", p.Command, true
	case "subsystem":
		if p, err := payload.ParseSubsystem(r.Payload); err == nil && p.Name == "sftp" {
			return "sftp", "", true
		}
		return "", "", true
	}
	return "", "", false
}

func (s *session) allow(kind string) error {
	if s.params.Allow == nil {
		return nil
	}
	return s.params.Allow(kind)
}

// prepare handles what may come before the start.
func (s *session) prepare(ctx context.Context, r *channel.Request) bool {
	switch r.Type {
	case "pty-req":
		p, err := payload.ParsePtyRequest(r.Payload)
		if err != nil || s.pty != nil {
			return false
		}
		s.sized, s.size = true, pty.Size{Columns: p.Columns, Rows: p.Rows, Width: p.Width, Height: p.Height}
		return s.params.Join != nil || s.openPTY(p)
	case "env":
		p, err := payload.ParseEnv(r.Payload)
		if err == nil && p.Name == JoinVariable && s.params.JoinAs != nil {
			return s.joinAs(ctx, p.Value)
		}
		if err == nil && p.Name == "HAWSER_NOTICE" && s.params.TTY != nil { // the hub's, where it is the hub that tells
			s.params.TTY.quiet.Store(p.Value == "off")
			return true
		}
		if err != nil || !mayset(p.Name, p.Value) || len(s.env) == maxEnv {
			return false
		}
		s.env = append(s.env, p.Name+"="+p.Value)
		return true
	case "auth-agent-req@openssh.com":
		if len(r.Payload) != 0 || s.params.OpenBack == nil || s.agent != nil || s.allow("agent") != nil {
			return false
		}
		a, err := forwardAgent(ctx, s.account, s.openAgent())
		s.agent = a
		return err == nil
	case "x11-req":
		p, err := payload.ParseX11Request(r.Payload)
		if err != nil || s.params.OpenBack == nil || s.x11 != nil || s.allow("x11") != nil {
			return false
		}
		// What is typed into a window comes by no terminal: no moderator sees it, or can stop it.
		if len(policy.ModeratorsFor(s.params.Moderators, policy.Shell, policy.Exec, policy.SFTP)) > 0 {
			return false
		}
		s.x11, err = forwardX11(ctx, p, s.params.OpenBack)
		return err == nil
	}
	return s.during(r, 0)
}

func (s *session) openPTY(r payload.PtyRequest) bool {
	modes, err := pty.ParseModes(string(r.Modes))
	if err != nil {
		return false
	}
	p, err := s.engine.openPTY()
	if err == nil && s.engine.config.System.Self().UID == 0 {
		group, ok := s.engine.config.System.GroupID("tty")
		if err = p.Own(s.account.UID, group, ok); err != nil {
			p.Close()
		}
	}
	if err != nil {
		s.ptyErr = err
		return false
	}
	_ = p.Apply(modes)
	_ = p.Resize(s.size)
	s.pty, s.term = p, cleanTerm(r.Term)
	if s.params.TTY != nil {
		s.params.TTY.p.Store(p)
	}
	if s.params.Tap != nil {
		s.params.Tap.Resize(r.Columns, r.Rows)
	}
	return true
}

// during handles what may come at any time. leader is the process group to signal, 0 before there is one.
func (s *session) during(r *channel.Request, leader int) bool {
	switch r.Type {
	case "window-change":
		p, err := payload.ParseWindowChange(r.Payload)
		if err != nil || s.pty == nil && s.params.Join == nil {
			return false
		}
		s.size = pty.Size{Columns: p.Columns, Rows: p.Rows, Width: p.Width, Height: p.Height}
		if s.pty == nil {
			return true
		}
		if s.room != nil {
			s.room.fit()
		}
		if s.params.Tap != nil {
			s.params.Tap.Resize(p.Columns, p.Rows)
		}
		return s.pty.Resize(s.size) == nil
	case "signal":
		if s.room.gate().Paused() {
			return false
		}
		p, err := payload.ParseSignal(r.Payload)
		return err == nil && leader > 0 && signalGroup(leader, p.Name) == nil
	case "break":
		_, err := payload.ParseBreak(r.Payload)
		return err == nil && !s.room.gate().Paused() && s.pty != nil && s.pty.Break() == nil
	}
	return false
}

// refuse ends a session that has not started, or could not, with the reason on the person's screen.
func (s *session) refuse(err error) {
	s.result.Err, s.result.Status = err, refused
	s.over()
	s.say(err)
	s.report()
}

// say shows err to the person, and gives up after a while: who reads nothing must not hold up a kill.
func (s *session) say(err error) {
	said := make(chan struct{})
	s.wg.Go(func() {
		defer close(said)
		if s.pty != nil || s.painted { // one stream, for of two the one may overtake the other
			_, _ = s.ch.Write([]byte(crlf("hawser: " + err.Error())))
			return
		}
		_, _ = s.ch.Stderr().Write([]byte(crlf("hawser: " + err.Error())[2:]))
	})
	select {
	case <-said:
	case <-time.After(sayWait):
	}
}

// report tells the client how it ended; all output is before it.
func (s *session) report() {
	s.over()
	if s.params.Tap != nil && s.result.Kind != "" {
		s.params.Tap.Exit(s.result.Status, s.result.Signal)
	}
	if s.result.Signal != "" {
		_, _ = s.ch.SendRequest("exit-signal", false, payload.ExitSignal{Signal: s.result.Signal, CoreDumped: s.core}.Marshal())
	} else {
		_, _ = s.ch.SendRequest("exit-status", false, payload.ExitStatus{Status: s.result.Status}.Marshal())
	}
	_ = s.ch.CloseWrite()
}

// over says, once, that nothing of the session runs any more.
func (s *session) over() {
	if !s.told && s.params.Ended != nil {
		s.told = true
		s.params.Ended(s.result)
	}
}

// end undoes what serve set up, in this order: the channel first, for goroutines wait in it.
func (s *session) end() {
	s.over()
	s.closeRoom()
	_ = s.ch.Close()
	if s.agent != nil {
		s.agent.close()
	}
	if s.x11 != nil {
		s.x11.close()
	}
	s.closePTY()
	s.wg.Wait()
	for range s.ch.Requests() { // a closed channel's last requests, so that its reader ends
	}
}

func (s *session) closePTY() {
	if s.pty == nil {
		return
	}
	if s.params.TTY != nil {
		s.params.TTY.p.Store(nil)
	}
	s.pty.Close()
}
