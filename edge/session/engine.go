package session

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"hawser/auth/policy"
	"hawser/edge/login"
	"hawser/edge/pty"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/channel"
	"hawser/tunnel/channel/payload"
)

// Config of an Engine.
type Config struct {
	// Device is the device's name as it is now, told to processes as HAWSER_DEVICE.
	Device func() string
	// Agent is told to processes as AgentVariable; empty: nothing is.
	Agent string
	// System is where the account files are.
	System login.System
	// ScreenCells bounds the screen of a session that others look at; 0: 13,500, for which a device of 64 MB has the memory (1 MiB).
	ScreenCells int
	// Logger takes what no person sees; nil discards.
	Logger tunnel.Logger
}

// Engine serves session channels. Safe for concurrent use.
type Engine struct {
	config Config
	reaper reaper
	rooms  rooms
	// openPTY is pty.Open but for tests of a device that has none.
	openPTY func() (*pty.PTY, error)
}

// New makes an Engine. It starts nothing.
func New(c Config) *Engine { return &Engine{config: c, openPTY: pty.Open} }

// Close ends what outlives sessions: the watch over processes that ignored the HUP of a person who went away. Call it after the last Serve
// returned; those processes live on, as under sshd.
func (e *Engine) Close() { e.reaper.close() }

// Tap is told what passes, before it passes; the agent's own recording is one. Its methods are called from several goroutines, and may hold things back.
type Tap interface {
	// Start is told what is about to start; after an error it does not.
	Start(kind, command, term string, env []string) error
	// Input and Output tell whether it may pass on. When it may not the session is about to be ended. Input comes with the verdict of
	// recorder/observe; of what was judged it is told after the process took it.
	Input(b []byte, verdict byte) bool
	// Ready waits until input may pass on, and tells whether it may.
	Ready() bool
	Output(stream byte, b []byte) bool
	Resize(width, height uint32)
	Exit(status uint32, signal string)
	// AgentUse is told what the device did with the person's agent.
	AgentUse(u recorder.AgentUse)
}

// Streams of Tap.Output.
const (
	stdoutStream = 1
	stderrStream = 2
)

// Params is what is known of a session when its channel opens.
type Params struct {
	SessionID, User, Login string
	// Allow is asked before each kind: "shell", "exec", "sftp", "agent", "x11". Its error is shown to the person. Nil allows all.
	Allow func(kind string) error
	// ForceCommand, where set, runs in place of whatever is asked for.
	ForceCommand string
	// Client and Server are the person's address and the one they connected to.
	Client, Server netip.AddrPort
	// OpenBack opens a channel to the person's client: of the kind, and for the connection, that the payload names. Nil where neither agents
	// nor X11 can be forwarded.
	OpenBack func(ctx context.Context, p payload.Accept) (io.ReadWriteCloser, error)
	// Tap may be nil.
	Tap Tap
	// Redact has input judged that goes to a terminal: what answers a prompt that does not echo it is not to be recorded, here or at the hub.
	Redact bool
	// TTY, where given, learns the session's terminal.
	TTY *TTY
	// Ended is called once, when nothing of the session runs any more: before the person is told so, who may come back at once, and whether he reads
	// what he is told or not. It must not block. Nil: nobody wants to know before Serve returns.
	Ended func(Result)
	// Witness, where a hub records, is that of the channel.
	Witness *Witness
	// There tells whether a tunnel carries what is written to the person: the channel outlives it. It may not block; nil: always.
	There func() bool
	// Via is how others are told that the person came.
	Via string
	// Say shows the person a line between what the process writes, when that spoils nothing. Nil: the hub says what is to be said.
	Say func(text string)
	// Join, where given: nothing is started, and the person joins another session of this engine.
	Join *Join
	// JoinAs finds, before anything is started, what Join is to be for somebody who asks by JoinVariable. Its error is shown to him. Nil: here nobody joins so.
	JoinAs func(ctx context.Context, what string) (*Join, error)
	// Moderators are those without whom nothing of the kinds that they name runs, and Presence how often each presses a key; 0: never.
	Moderators []policy.Moderators
	Presence   time.Duration
	// Recorded is the recording mode, as auth/policy names it, for who asks inside the session.
	Recorded string
	// Guests is told of those who join this one: share.Told where the hub records. May be nil.
	Guests Guests
}

// TTY tells the state of a session's terminal from its beginning on, before there is one and after. The zero value is ready.
type TTY struct {
	p       atomic.Pointer[pty.PTY]
	quiet   atomic.Bool
	verdict atomic.Uint32 // of recorder/observe
	// Part, where set, sends the verdict on what was read last, but for its last rest bytes: channel.Conn.Acknowledge. Those have another. Set before Serve.
	Part func(rest int)
}

// Open tells whether the session has a terminal.
func (t *TTY) Open() bool { return t.p.Load() != nil }

// Quiet tells whether the person wants no notices (HAWSER_NOTICE=off).
func (t *TTY) Quiet() bool { return t.quiet.Load() }

// Tag is the byte for channel.Options.Tag: the verdict on the input that was read last.
func (t *TTY) Tag() byte { return byte(t.verdict.Load()) }

// Result is how a session ended.
type Result struct {
	// Kind is "shell", "exec" or "sftp"; empty when nothing was started.
	Kind, Command string
	// Status is the exit status, 255 where there is none; Signal the one that ended the process, without SIG.
	Status uint32
	Signal string
	// Err is why it ended otherwise: a refusal, a failure, or the cause of a kill.
	Err error
}

// refused is the exit status of a session that was not served, OpenSSH's own for its failures.
const refused = 255

// Serve runs the session on ch until it ends, and returns when all it started has ended; ch is closed then. Cancelling ctx kills: the cause's
// text is shown to the person, and every process of the session ends. When the person goes away, processes get HUP, as under sshd.
func (e *Engine) Serve(ctx context.Context, ch channel.Channel, p Params) (res Result) {
	s := &session{engine: e, ch: ch, params: p, result: Result{Status: refused}, left: make(chan struct{}, 1)}
	defer func() {
		if r := recover(); r != nil {
			tunnel.Error(e.config.Logger, "session panicked", "session", p.SessionID, "panic", fmt.Sprint(r))
			res = s.result
			res.Err = fmt.Errorf("internal error: %v", r)
		}
	}()
	defer s.end()
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	s.serve(ctx)
	return s.result
}

// crlf makes text for a raw terminal, without anything that would drive it.
func crlf(text string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '\n' || r >= ' ' && (r < 0x7f || r > 0x9f) {
			return r
		}
		return -1
	}, text)
	return "\r\n" + strings.ReplaceAll(clean, "\n", "\r\n") + "\r\n"
}
