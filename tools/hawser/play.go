package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/recorder/play"
	"hawser/recorder/reader"
)

func newPlay() *cobra.Command {
	var o play.WatchOptions
	var raw, instant, text bool
	var ids identities
	c := &cobra.Command{
		Use:   "play ID|FILE",
		Short: "Play a recording: pause, seek, search; ? shows the keys",
		Long: `Play a recording at a terminal: space pauses, the arrows seek, / searches, c goes to the next command, ? shows all keys.

What was recorded reaches your terminal as characters in their places and nothing else. Where standard output is no terminal, what the
session printed is written with its timing, without what would drive a terminal. FILE is one that ` + "`hawser recordings export --chunks`" + ` wrote; one whose name could be an ID is ./NAME.

One that is encrypted to auditors is opened here, by an age identity of one of them: --identity FILE, as ` + "`age-keygen`" + ` makes it, also where that
file is encrypted itself.`,
		Example: "  hawser play 5f0c2a --from 12m --speed 2\n  hawser play 5f0c2a --search 'iptables -F'\n  hawser play 5f0c2a --text | less\n  hawser play 5f0c2a --identity ~/auditor.key",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if o.Speed <= 0 || math.IsNaN(o.Speed) {
				return usageError{fmt.Errorf("--speed %v: more than 0", o.Speed)}
			}
			if o.Idle < 0 || o.From < 0 {
				return usageError{errors.New("--idle and --from: 0 or more")}
			}
			if raw && text {
				return usageError{errors.New("--raw and --text: one of them")}
			}
			toTerminal := term.IsTerminal(int(os.Stdout.Fd()))
			if raw && toTerminal {
				return usageError{errors.New("--raw writes bytes that may drive your terminal: send them to a file")}
			}
			switch {
			case raw:
				return withRecording(c, args[0], &ids, func(r *reader.Reader) error { return play.WriteRaw(r, c.OutOrStdout()) })
			case text:
				return withRecording(c, args[0], &ids, func(r *reader.Reader) error { return play.Text(r, c.OutOrStdout()) })
			case toTerminal && !instant && term.IsTerminal(int(os.Stdin.Fd())) && os.Getenv("TERM") != "dumb":
				return watchRecording(c, args[0], &ids, o)
			}
			if o.From > 0 || o.Query != "" || o.Paused {
				return usageError{errors.New("--from, --search and --paused are for playing at a terminal")}
			}
			p := play.Options{Speed: o.Speed, IdleCap: o.Idle}
			if instant {
				p.Speed = math.Inf(1)
			}
			return withRecording(c, args[0], &ids, func(r *reader.Reader) error { return play.Play(c.Context(), r, c.OutOrStdout(), p) })
		},
	}
	ids.add(c)
	f := c.Flags()
	f.Float64Var(&o.Speed, "speed", 1, "2 is twice as fast")
	f.DurationVar(&o.Idle, "idle", 2*time.Second, "longest pause; 0 keeps all")
	f.DurationVar(&o.From, "from", 0, "begin so long after the start")
	f.StringVar(&o.Query, "search", "", "begin where this is shown first, standing still")
	f.BoolVar(&o.Paused, "paused", false, "begin standing still")
	f.BoolVar(&instant, "instant", false, "do not wait, and take no keys")
	f.BoolVar(&text, "text", false, "what the terminal showed, as lines of text")
	f.BoolVar(&raw, "raw", false, "the bytes as recorded; not at a terminal")
	return c
}

// recordingSource is a recording's chunks, from auth or from a file.
type recordingSource struct {
	next  func() ([]byte, error)
	title string
	index func(*play.Recording) error // gives the index that is there; may be nil
	close func() error

	open     reader.Opener  // of one that is encrypted, once unlock has found its key
	told     *api.Recording // what auth says of it; nil: a file
	evidence []byte         // what it is verified with
}

// isID tells whether a name is a recording's id, or its beginning, and no file: one that somebody put where it is looked for would else stand for the
// recording that auth keeps.
func isID(name string) bool {
	return len(name) >= 6 && len(name) <= 32 && strings.Trim(strings.ToLower(name), "0123456789abcdef") == ""
}

// openSource opens a recording: one that auth keeps, by its id, or a file.
func openSource(ctx context.Context, name string) (*recordingSource, error) {
	if !isID(name) {
		f, err := os.Open(name)
		if err == nil {
			return &recordingSource{next: reader.Chunks(f), title: name, close: f.Close}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	admin, err := dial()
	if err != nil {
		return nil, err
	}
	s, err := admin.recording(ctx, name)
	if err != nil {
		admin.close()
		return nil, err
	}
	end := s.close
	s.close = func() error {
		err := end()
		admin.close()
		return err
	}
	return s, nil
}

// recording opens one that auth keeps.
func (admin *client) recording(ctx context.Context, name string) (*recordingSource, error) {
	stream, err := admin.GetRecording(ctx, connect.NewRequest(&api.GetRecordingRequest{Id: name}))
	if err != nil {
		return nil, err
	}
	s := &recordingSource{close: stream.Close}
	var chunks []*api.Chunk
	s.next = func() ([]byte, error) {
		for len(chunks) == 0 {
			if !stream.Receive() {
				if err := stream.Err(); err != nil {
					return nil, err
				}
				return nil, io.EOF
			}
			chunks = stream.Msg().Chunks
		}
		b := chunks[0].Data
		chunks = chunks[1:]
		return b, nil
	}
	// The first message says which it is; what is not there is told now.
	if !stream.Receive() {
		err := errors.Join(stream.Err(), s.close())
		if err == nil {
			err = errors.New("auth sent nothing")
		}
		return nil, err
	}
	r := stream.Msg().Recording
	s.evidence, s.told = stream.Msg().Evidence, r
	chunks = stream.Msg().Chunks
	s.title = r.GetUser() + " on " + r.GetDevice()
	id := fmt.Sprintf("%x", r.GetId())
	s.index = func(l *play.Recording) error {
		stream, err := admin.conn.Search.GetRecordingIndex(ctx, connect.NewRequest(&api.GetRecordingIndexRequest{Id: id}))
		if err != nil {
			return err
		}
		defer stream.Close()
		var frames, text [][]byte
		finished := false
		for stream.Receive() {
			m := stream.Msg()
			frames, text, finished = append(frames, m.Keyframes...), append(text, m.Text...), m.Finished
		}
		if err := stream.Err(); err != nil || !finished {
			return err
		}
		return l.Index(frames, text)
	}
	return s, nil
}

// withRecording reads a recording.
func withRecording(c *cobra.Command, name string, ids *identities, use func(*reader.Reader) error) error {
	s, err := openSource(c.Context(), name)
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.unlock(c, ids); err != nil {
		return err
	}
	r := s.reader()
	if err := use(r); err != nil {
		return err
	}
	if !r.Complete() {
		fmt.Fprintln(c.ErrOrStderr(), "\nhawser: the recording ends here, but its session did not: it is incomplete")
	}
	return nil
}

// watchRecording plays at the terminal, which is as before when it returns.
func watchRecording(c *cobra.Command, name string, ids *identities, o play.WatchOptions) error {
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	s, err := openSource(ctx, name)
	if err != nil {
		return err
	}
	if err := s.unlock(c, ids); err != nil {
		return errors.Join(err, s.close())
	}
	l := play.NewRecording()
	if s.index != nil {
		if err := s.index(l); err != nil {
			l = play.NewRecording() // made anew here
		}
	}
	l.Unseal(s.open)
	o.Title = s.title
	var wg sync.WaitGroup
	loaded := make(chan error, 1)
	wg.Go(func() { loaded <- l.Load(s.next) })
	err = withTerminal(func(v play.Viewer) error { return play.Watch(ctx, l, v, o) })
	var broken error
	select {
	case broken = <-loaded:
	default: // he left before it was loaded
	}
	cancel()
	err = errors.Join(err, broken, s.close())
	wg.Wait()
	return errors.Join(err, l.Close())
}

// withTerminal gives a function the terminal in raw mode, and gives it back whatever happens.
func withTerminal(use func(play.Viewer) error) (err error) {
	in := int(os.Stdin.Fd())
	before, err := term.MakeRaw(in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, term.Restore(in, before)) }()
	var end [2]int
	if err := unix.Pipe2(end[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	keys, resized, changed := make(chan []byte), make(chan struct{}, 1), make(chan os.Signal, 1)
	stop := make(chan struct{})
	signal.Notify(changed, syscall.SIGWINCH, syscall.SIGCONT)
	var wg sync.WaitGroup
	defer func() {
		signal.Stop(changed)
		close(stop)
		_ = unix.Close(end[1])
		wg.Wait()
		_ = unix.Close(end[0])
	}()
	wg.Go(func() {
		for {
			select {
			case sig := <-changed:
				if sig == syscall.SIGCONT {
					_, _ = term.MakeRaw(in) // whoever stopped it may have changed the terminal
				}
				select {
				case resized <- struct{}{}:
				default:
				}
			case <-stop:
				return
			}
		}
	})
	wg.Go(func() {
		defer close(keys)
		buf := make([]byte, 256)
		for {
			fds := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}, {Fd: int32(end[0]), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) || fds[1].Revents != 0 {
				return
			}
			if fds[0].Revents == 0 {
				continue
			}
			n, err := unix.Read(in, buf)
			if n <= 0 || err != nil {
				return
			}
			select {
			case keys <- append([]byte(nil), buf[:n]...):
			case <-stop:
				return
			}
		}
	})
	return use(play.Viewer{
		Out: os.Stdout, Keys: keys, Resized: resized,
		Size: func() (int, int) {
			cols, rows, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 80, 24
			}
			return cols, rows
		},
		Suspend: func() error {
			if err := term.Restore(in, before); err != nil {
				return err
			}
			if err := unix.Kill(unix.Getpid(), unix.SIGTSTP); err != nil {
				return err
			}
			_, err := term.MakeRaw(in)
			return err
		},
	})
}
