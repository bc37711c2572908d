package session

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync/atomic"

	"hawser/edge/login"
	"hawser/edge/pty"
	"hawser/tunnel"
	"hawser/tunnel/channel"
)

// Config of an Engine.
type Config struct {
	// Device is the device's name, told to processes as HAWSER_DEVICE.
	Device string
	// System is where the account files are.
	System login.System
	// Logger takes what no person sees; nil discards.
	Logger tunnel.Logger
}

// Engine serves session channels. Safe for concurrent use.
type Engine struct {
	config Config
	reaper reaper
	// openPTY is pty.Open but for tests of a device that has none.
	openPTY func() (*pty.PTY, error)
}

// New makes an Engine. It starts nothing.
func New(c Config) *Engine { return &Engine{config: c, openPTY: pty.Open} }

// Close ends what outlives sessions: the watch over processes that ignored the HUP of a person who went away. Call it after the last Serve
// returned; those processes live on, as under sshd.
func (e *Engine) Close() { e.reaper.close() }

// Tap is told what passes, as it passes; *recorder.Writer is one. Its methods are called from several goroutines.
type Tap interface {
	Start(kind, command, term string, env []string)
	Input(b []byte)
	Output(stream byte, b []byte)
	Resize(width, height uint32)
	Exit(status uint32, signal string)
}

// Streams of Tap.Output.
const (
	stdoutStream = 1
	stderrStream = 2
)

// Params is what is known of a session when its channel opens.
type Params struct {
	SessionID, User, Login string
	// Allow is asked before each kind: "shell", "exec", "sftp", "agent". Its error is shown to the person. Nil allows all.
	Allow func(kind string) error
	// ForceCommand, where set, runs in place of whatever is asked for.
	ForceCommand string
	// Client and Server are the person's address and the one they connected to.
	Client, Server netip.AddrPort
	// OpenBack opens a channel of that kind to the person's client; nil where agents can not be forwarded.
	OpenBack func(ctx context.Context, kind string) (io.ReadWriteCloser, error)
	// Tap may be nil.
	Tap Tap
	// TTY, where given, learns the session's terminal.
	TTY *TTY
}

// TTY tells the state of a session's terminal from its beginning on, before there is one and after. The zero value is ready.
type TTY struct{ p atomic.Pointer[pty.PTY] }

// Withheld is the bit of Tag that says: input taken now answers a prompt that does not echo it.
const Withheld = 1

// Tag is the byte for channel.Options.Tag.
func (t *TTY) Tag() byte {
	if p := t.p.Load(); p != nil && p.Withheld() {
		return Withheld
	}
	return 0
}

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
	s := &session{engine: e, ch: ch, params: p, result: Result{Status: refused}}
	defer func() {
		if r := recover(); r != nil {
			tunnel.Error(e.config.Logger, "session panicked", "session", p.SessionID, "panic", fmt.Sprint(r))
			res = s.result
			res.Err = fmt.Errorf("internal error: %v", r)
		}
	}()
	defer s.end()
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
