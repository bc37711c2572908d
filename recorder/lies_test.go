package recorder_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"
	"testing"

	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/tunnel/channel/payload"
)

// shell is a session as its device saw it, and what the hub between makes of it, which has the device's true witness: passed goes into both.
type shell struct {
	header recorder.Header
	forced string // by the person's key
	steps  []string
	lies   map[string]func(w *recorder.Writer) // in place of what the step records
	lose   bool                                // the sink has no room for the second chunk
	w      *recorder.Writer
	sums   recorder.Sums
}

func request1(name string, body []byte, fromDevice bool) recorder.Request {
	return recorder.Request{Name: name, Payload: body, FromDevice: fromDevice}
}

var (
	ptyReq = payload.PtyRequest{Term: "xterm", Columns: 80, Rows: 24}.Marshal()
	early  = payload.WindowChange{Columns: 90, Rows: 25}.Marshal()
	larger = payload.WindowChange{Columns: 100, Rows: 30}.Marshal()
	joins  = payload.Guest{What: payload.GuestChanged, ID: 3, User: "bob", Mode: "peer", Way: "hub", Text: "joined"}.Marshal()
	types  = payload.Guest{What: payload.GuestTyped, ID: 3, Text: "rm -rf /srv\r"}.Marshal()
	keeps  = payload.Guest{What: payload.GuestEntered, ID: 3, Bytes: 7, Text: "redacted"}.Marshal()
	// Of what is typed only the hash is kept.
	typedRequest = recorder.Request{Name: payload.GuestRequest, Hash: recorder.PayloadHash(types), FromDevice: true}

	bobIs   = recorder.Participant{ID: 3, User: "bob", Mode: "peer", State: "joined", Way: "hub"}
	notKept = recorder.Withheld{Participant: 3, Bytes: 7, Reason: "redacted", Enter: true}
)

// step is what passed, and what an honest hub records of it.
func (s *shell) step(name string) {
	tell := func(fromDevice bool, name string, body []byte) {
		s.sums.Request(fromDevice, name, recorder.PayloadHash(body))
	}
	honest := func(w *recorder.Writer) {}
	switch name {
	case "begin":
		honest = func(w *recorder.Writer) { _ = w.Start(s.header.Kind, s.header.Command, s.header.Term, nil) }
	case "terminal":
		tell(false, "pty-req", ptyReq)
		honest = func(w *recorder.Writer) { w.Request(request1("pty-req", ptyReq, false)) }
	case "early":
		tell(false, "window-change", early)
		honest = func(w *recorder.Writer) { w.Request(request1("window-change", early, false)) }
	case "shell":
		tell(false, "shell", nil)
		honest = func(w *recorder.Writer) { w.Request(request1("shell", []byte{}, false)) }
	case "exec":
		body := payload.Exec{Command: s.header.Command}.Marshal()
		tell(false, "exec", body)
		honest = func(w *recorder.Writer) { w.Request(request1("exec", body, false)) }
	case "sftp":
		body := payload.Subsystem{Name: "sftp"}.Marshal()
		tell(false, "subsystem", body)
		honest = func(w *recorder.Writer) { w.Request(request1("subsystem", body, false)) }
	case "resize":
		tell(false, "window-change", larger)
		honest = func(w *recorder.Writer) {
			w.Resize(100, 30)
			w.Request(request1("window-change", larger, false))
		}
	case "input":
		s.sums.Pass(recorder.Stdin, []byte("ls\r"))
		honest = func(w *recorder.Writer) { w.Input([]byte("ls\r")) }
	case "output":
		s.sums.Pass(recorder.Stdout, []byte("what really happened\r\n"))
		honest = func(w *recorder.Writer) { w.Output(recorder.Stdout, []byte("what really happened\r\n")) }
	case "joined":
		tell(true, payload.GuestRequest, joins)
		honest = func(w *recorder.Writer) {
			w.Request(request1(payload.GuestRequest, joins, true))
			w.Participant(bobIs)
		}
	case "typed":
		tell(true, payload.GuestRequest, types)
		honest = func(w *recorder.Writer) {
			w.Request(typedRequest)
			w.InputFrom(3, []byte("rm -rf /srv\r"))
		}
	case "kept":
		tell(true, payload.GuestRequest, keeps)
		honest = func(w *recorder.Writer) {
			w.Request(request1(payload.GuestRequest, keeps, true))
			w.Withheld(notKept)
		}
	case "exit":
		body := payload.ExitStatus{Status: 3}.Marshal()
		tell(true, "exit-status", body)
		honest = func(w *recorder.Writer) { w.Request(request1("exit-status", body, true)) }
	case "end":
		honest = func(w *recorder.Writer) { w.Exit(3, "") }
	}
	if lie := s.lies[name]; lie != nil {
		honest = lie
	}
	honest(s.w)
}

var atATerminal = []string{"begin", "terminal", "early", "shell", "resize", "joined", "input", "typed", "kept", "output", "exit", "end"}

var lossy = slices.Concat([]string{"begin", "terminal", "early", "shell", "resize", "joined"}, slices.Repeat([]string{"output",
	"typed"}, 20), []string{"exit", "end"})

// judged is what a verifier says of it.
func (s *shell) judged(t *testing.T) (reader.Report, error) {
	t.Helper()
	h := s.header
	h.ID, h.User, h.Login = [16]byte{7}, "alice", "root"
	var chunks [][]byte
	o := recorder.Options{Digest: true, ChunkSize: 128, Sign: func(m []byte) []byte { return ed25519.Sign(recorderKey, m) }}
	if s.lose {
		o.Room = func() bool { return true }
	}
	o.Sink = func(_ context.Context, seq uint64, c []byte) error {
		if s.lose && seq == 5 {
			s.lose = false
			return recorder.ErrNoRoom
		}
		chunks = append(chunks, bytes.Clone(c))
		return nil
	}
	s.w = recorder.NewWriter(h, o)
	for _, step := range s.steps {
		s.step(step)
	}
	rule := h.Input
	if rule == "" {
		rule = recorder.InputFull
	}
	w := recorder.Testimony{Session: h.ID, User: h.User, Login: h.Login, Rule: rule, Input: s.sums.Bytes(recorder.Stdin), ForceCommand: s.forced}
	s.w.Witness(w.Sign(&s.sums, func(m []byte) []byte { return ed25519.Sign(deviceKey, m) }), "")
	if err := s.w.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	return verifyAll(bytes.Join(chunks, nil))
}

// A hub that relays what passes as it is has the device's true witness, and the true sums of it. What it records beside that is held against them, or it
// is not said to match.
func TestAHubWithATrueWitnessIsHeldToWhatItRecords(t *testing.T) {
	at := recorder.Header{Kind: "shell", Term: "xterm", Width: 90, Height: 25}
	type lies = map[string]func(w *recorder.Writer)
	instead := func(step string, f func(w *recorder.Writer)) lies { return lies{step: f} }
	changed := func(f func(h *recorder.Header)) recorder.Header {
		h := at
		f(&h)
		return h
	}
	// passes is a stream that the hub counts and does not keep.
	passes := func(step string, stream byte, b string) lies {
		return instead(step, func(w *recorder.Writer) { w.Passed(stream, []byte(b)) })
	}
	for _, c := range []struct {
		name  string
		s     shell
		fault string // "": none
		whole bool
	}{
		{"the truth", shell{header: at, steps: atATerminal}, "", true},
		{"of a command", shell{header: recorder.Header{Kind: "exec", Command: "id"},
			steps: []string{"begin", "exec", "input", "output", "exit", "end"}}, "", true},
		{"of a command of which only the hash is kept, for it is long", shell{header: recorder.Header{Kind: "exec", Command: strings.Repeat("x", 32<<10-2)},
			steps: []string{"begin", "exec", "output", "exit", "end"}}, "", true},
		{"of a command that is cut", shell{header: recorder.Header{Kind: "exec", Command: strings.Repeat("x", 40<<10)},
			steps: []string{"begin", "exec", "output", "exit", "end"}}, "", false},
		{"of a file transfer", shell{header: recorder.Header{Kind: "sftp", Unkept: recorder.UnkeptInput | recorder.UnkeptStdout},
			steps: []string{"begin", "sftp", "input", "output", "exit", "end"},
			lies: lies{"input": func(w *recorder.Writer) { w.Passed(recorder.Stdin, []byte("ls\r")) },
				"output": func(w *recorder.Writer) { w.Passed(recorder.Stdout, []byte("what really happened\r\n")) }}}, "", false},
		{"of a session that the hub refused to start", shell{header: at, steps: []string{"begin", "terminal", "early", "end"},
			lies: instead("end", func(w *recorder.Writer) { w.Exit(255, "") })}, "", true},
		{"of a key that runs one command", shell{header: recorder.Header{Kind: "exec", Command: "rm -rf /"}, forced: "backup",
			steps: []string{"begin", "exec", "output", "exit", "end"},
			lies:  instead("begin", func(w *recorder.Writer) { _ = w.Start("exec", "backup", "", nil) })}, "", true},
		{"of what lost a part", shell{header: at, steps: lossy, lose: true}, "", false},
		{"of what lost a part, and ended otherwise", shell{header: at, steps: lossy, lose: true,
			lies: instead("end", func(w *recorder.Writer) { w.Exit(0, "") })},
			"ended by status 3 is recorded as status 0", false},

		{"a shell's output that is not kept", shell{header: changed(func(h *recorder.Header) { h.Unkept = recorder.UnkeptStdout }), steps: atATerminal,
			lies: passes("output", recorder.Stdout, "what really happened\r\n")}, `as if it were a file transfer, and shell "" is none`, false},
		{"a shell's input that is not kept", shell{header: changed(func(h *recorder.Header) { h.Unkept = recorder.UnkeptInput }), steps: atATerminal,
			lies: passes("input", recorder.Stdin, "ls\r")}, "as if it were a file transfer", false},
		{"an exec that is said to be a transfer", shell{header: recorder.Header{Kind: "exec", Command: "id", Unkept: recorder.UnkeptStdout},
			steps: []string{"begin", "exec", "output", "exit", "end"},
			lies:  passes("output", recorder.Stdout, "what really happened\r\n")}, "as if it were a file transfer", false},
		{"scp that the key does not let run",
			shell{header: recorder.Header{Kind: "exec", Command: "scp -t /", Unkept: recorder.UnkeptInput | recorder.UnkeptStdout}, forced: "sh",
				steps: []string{"begin", "exec", "output", "exit", "end"}, lies: lies{
					"begin":  func(w *recorder.Writer) { _ = w.Start("exec", "sh", "", nil) },
					"output": func(w *recorder.Writer) { w.Passed(recorder.Stdout, []byte("what really happened\r\n")) }}}, "as if it were a file transfer", false},
		{"a command of which only the hash is kept", shell{header: recorder.Header{Kind: "exec", Command: "id"},
			steps: []string{"begin", "exec", "output", "exit", "end"},
			lies: instead("exec", func(w *recorder.Writer) {
				w.Request(recorder.Request{Name: "exec", Hash: recorder.PayloadHash(payload.Exec{Command: "rm -rf /"}.Marshal())})
			})}, "the requests in it are not", false},
		{"a shell of which only the hash is kept", shell{header: at, steps: atATerminal, lies: instead("shell", func(w *recorder.Writer) {
			w.Request(recorder.Request{Name: "shell", Hash: recorder.PayloadHash(nil)})
		})}, "only the hash is kept", false},
		{"another start", shell{header: at, steps: atATerminal,
			lies: instead("begin", func(w *recorder.Writer) { _ = w.Start("exec", "rm -rf /", "xterm", nil) })},
			`it says that exec "rm -rf /" was started, the device was asked for shell ""`, false},
		{"a second start", shell{header: at, steps: atATerminal, lies: instead("output", func(w *recorder.Writer) {
			_ = w.Start("exec", "rm -rf /", "", nil)
			w.Output(recorder.Stdout, []byte("what really happened\r\n"))
		})}, "twice that something was started", false},
		{"a start of what was asked for where the key runs another", shell{header: recorder.Header{Kind: "exec", Command: "rm -rf /"}, forced: "backup",
			steps: []string{"begin", "exec", "output", "exit", "end"}}, "the device ran the command that the key is for", false},
		{"a start that the device was never asked for", shell{header: at, steps: []string{"begin", "terminal", "early"}}, "asked to start nothing", false},
		{"another terminal", shell{header: changed(func(h *recorder.Header) { h.Width = 300 }),
			steps: atATerminal}, `a terminal "xterm" of 300x25, the device was asked for "xterm" of 90x25`, false},
		{"another resize", shell{header: at, steps: atATerminal, lies: instead("resize", func(w *recorder.Writer) {
			w.Resize(10, 3)
			w.Request(request1("window-change", larger, false))
		})}, "a resize to 100x30 is recorded as one to 10x3", false},
		{"no resize", shell{header: at, steps: atATerminal,
			lies: instead("resize", func(w *recorder.Writer) { w.Request(request1("window-change", larger, false)) })},
			"a resize to 100x30 is not recorded", false},
		{"a resize that nobody asked for", shell{header: at, steps: atATerminal, lies: instead("end", func(w *recorder.Writer) {
			w.Resize(1, 1)
			w.Exit(3, "")
		})}, "a resize to 1x1 is recorded that nobody asked for", false},
		{"another end", shell{header: at, steps: atATerminal,
			lies: instead("end", func(w *recorder.Writer) { w.Exit(0, "") })}, "ended by status 3 is recorded as status 0", false},
		{"no end", shell{header: at, steps: atATerminal,
			lies: instead("end", func(*recorder.Writer) {})}, "ended by status 3 is recorded as nothing", false},
		{"two ends", shell{header: at, steps: atATerminal,
			lies: instead("end", func(w *recorder.Writer) { w.Exit(3, ""); w.Exit(0, "") })}, "twice how it ended", false},
		{"an end that the device did not tell", shell{header: at,
			steps: []string{"begin", "terminal", "early", "shell", "output", "end"}}, "the device said nothing of the kind", false},
		{"somebody who never joined", shell{header: at, steps: atATerminal, lies: instead("input", func(w *recorder.Writer) {
			w.Participant(recorder.Participant{ID: 4, User: "eve", Mode: "peer", State: "joined"})
			w.Input([]byte("ls\r"))
		})}, `"eve" was "joined", and the device does not`, false},
		{"somebody else who joined", shell{header: at, steps: atATerminal, lies: instead("joined", func(w *recorder.Writer) {
			w.Request(request1(payload.GuestRequest, joins, true))
			w.Participant(recorder.Participant{ID: 3, User: "eve", Mode: "peer", State: "joined", Way: "hub"})
		})}, `"bob", as "peer", was "joined" is recorded as that "eve"`, false},
		{"nobody who joined", shell{header: at, steps: atATerminal,
			lies: instead("joined", func(w *recorder.Writer) { w.Request(request1(payload.GuestRequest, joins, true)) })},
			`"bob" was "joined" is not recorded`, false},
		{"what bob never typed", shell{header: at, steps: atATerminal, lies: instead("output", func(w *recorder.Writer) {
			w.InputFrom(3, []byte("reboot\r"))
			w.Output(recorder.Stdout, []byte("what really happened\r\n"))
		})}, "participant 3 typed something, and the device does not", false},
		{"what bob typed as another's", shell{header: at, steps: atATerminal, lies: instead("typed", func(w *recorder.Writer) {
			w.Request(typedRequest)
			w.InputFrom(2, []byte("rm -rf /srv\r"))
		})}, "typed by participant 2 is not what the device says", false},
		{"other keys of bob's", shell{header: at, steps: atATerminal, lies: instead("typed", func(w *recorder.Writer) {
			w.Request(typedRequest)
			w.InputFrom(3, []byte("ls -ltr /tm\r"))
		})}, "typed by participant 3 is not what the device says", false},
		{"nothing that bob typed", shell{header: at, steps: atATerminal, lies: instead("typed", func(w *recorder.Writer) { w.Request(typedRequest) })},
			"typed by participant 0 is not what the device says", false},
		{"what bob typed in a request that no view shows", shell{header: at, steps: atATerminal, lies: instead("typed", func(w *recorder.Writer) {
			w.Request(request1(payload.GuestRequest, types, true))
		})}, "what participant 3 typed is in a request", false},
		{"more than bob typed", shell{header: at, steps: atATerminal, lies: instead("typed", func(w *recorder.Writer) {
			w.Request(typedRequest)
			w.InputFrom(3, []byte("rm -rf /srv\r"))
			w.InputFrom(3, []byte("reboot\r"))
		})}, "typed by participant 3 is not what the device says", false},
		{"less that is not kept", shell{header: at, steps: atATerminal, lies: instead("kept", func(w *recorder.Writer) {
			w.Request(request1(payload.GuestRequest, keeps, true))
			w.Withheld(recorder.Withheld{Participant: 3, Bytes: 1, Reason: "redacted"})
		})}, "recorded otherwise than the device says", false},
		{"a command by its word alone", shell{header: at, steps: atATerminal, lies: instead("input", func(w *recorder.Writer) {
			w.Command(recorder.Command{Text: "reboot", Source: "screen", Confidence: 100})
			w.Input([]byte("ls\r"))
		})}, "a command by its recorder's word alone", false},
		{"input where none is kept", shell{header: changed(func(h *recorder.Header) { h.Input = recorder.InputOff }),
			steps: atATerminal}, "of which none is to be kept", false},
	} {
		lossy := c.s.lose
		rep, err := c.s.judged(t)
		if lossy && rep.Gaps == 0 {
			t.Errorf("%s: nothing is missing", c.name)
		}
		switch {
		case c.fault == "" && (err != nil || rep.Witnessed != c.whole || rep.Summed == c.whole):
			t.Errorf("%s: matches %v, in sums %v, %v", c.name, rep.Witnessed, rep.Summed, err)
		case c.fault != "" && (!errors.Is(err, reader.ErrWitness) || !strings.Contains(err.Error(), c.fault) || rep.Witnessed || rep.Summed):
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
