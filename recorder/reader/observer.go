package reader

import (
	"crypto/sha256"
	"fmt"
	"hash"

	"hawser/recorder"
	"hawser/recorder/observe"
	"hawser/tunnel/channel/payload"
)

const (
	// maxUntaken is how much input may have been on its way to the device when the session ended: a channel's window.
	maxUntaken = 256 << 10
	// maxUnread is the same of requests.
	maxUnread = 256
	// maxHeaderText and maxCommand are where a recorder cuts the header's texts and a command.
	maxHeaderText, maxCommand = 1 << 10, 32 << 10
	// statusRefused is the exit status that a hub itself gives where it had the device start nothing.
	statusRefused = 255
)

// observer computes from a recording's records what a witness says, and holds those records that tell what the device or the person did against the
// requests that they are about. Where something is missing (a gap), that one of two is not there proves nothing.
type observer struct {
	sums     recorder.Sums
	input    tail
	requests [][32]byte // the hash after each of the last requests to the device, the newest last

	begins   int
	begun    ran          // as the first start record says
	asked    *ran         // by the first request that starts something; nil: there was none
	askedBy  *[32]byte    // hash of its payload, where that is not kept
	pty      bool         // it came with a terminal
	terminal terminalSize // as asked for before that
	resize   *terminalSize
	exits    int
	exit     ended
	told     *ended // by the device; the first
	guests   guests
	gapped   bool
	fault    error // what the records show to be false of each other
}

type ran struct{ kind, command string }

type terminalSize struct {
	term          string
	width, height uint32
}

type ended struct {
	status uint32
	signal string
}

// tail hashes all but the last bytes, so that it can tell the hash of a shorter stream too.
type tail struct {
	n    uint64
	h    hash.Hash
	last []byte
}

func (t *tail) write(b []byte) {
	t.n += uint64(len(b))
	t.last = append(t.last, b...)
	if len(t.last) > 2*maxUntaken {
		k := len(t.last) - maxUntaken
		t.front(k)
		t.last = append(t.last[:0], t.last[k:]...)
	}
}

func (t *tail) front(k int) {
	if t.h == nil {
		t.h = sha256.New()
	}
	t.h.Write(t.last[:k])
}

// at is the hash of the first n bytes; it can be asked once.
func (t *tail) at(n uint64) (sum [32]byte, ok bool) {
	if n > t.n || t.n-n > uint64(len(t.last)) {
		return sum, false
	}
	t.front(len(t.last) - int(t.n-n))
	return [32]byte(t.h.Sum(nil)), true
}

// wrong keeps the first fault.
func (o *observer) wrong(format string, args ...any) {
	if o.fault == nil {
		o.fault = fmt.Errorf(format, args...)
	}
}

func (o *observer) see(h *recorder.Header, e Event) {
	switch e.Type {
	case recorder.RecordStart:
		if o.begins++; o.begins > 1 {
			o.wrong("it says twice that something was started")
			return
		}
		o.begun = ran{e.Kind, e.Command}
	case recorder.RecordInput:
		if e.Participant != 0 {
			o.guests.input(o, e.Participant, e.Data)
			return
		}
		o.input.write(e.Data)
	case recorder.RecordStdout:
		o.sums.Pass(recorder.Stdout, e.Data)
	case recorder.RecordStderr:
		o.sums.Pass(recorder.Stderr, e.Data)
	case recorder.RecordResize:
		if o.resize != nil && !o.gapped {
			o.wrong("a resize to %dx%d is recorded that nobody asked for", o.resize.width, o.resize.height)
		}
		o.resize = &terminalSize{width: e.Width, height: e.Height}
	case recorder.RecordExit:
		if o.exits++; o.exits > 1 {
			o.wrong("it says twice how it ended")
			return
		}
		o.exit = ended{e.Status, e.Signal}
	case recorder.RecordGap:
		o.gapped, o.guests.due = true, nil
	case recorder.RecordParticipant:
		o.guests.changed(o, e.Joined)
	case recorder.RecordWithheld:
		o.guests.withheld(o, e.Withheld)
	case recorder.RecordCommand: // no recorder of what hubs see writes one: commands are found by who reads
		o.wrong("it lists a command by its recorder's word alone")
	case recorder.RecordRequest:
		o.sums.Request(e.Request.FromDevice, e.Request.Name, e.Request.Hash)
		if e.Request.FromDevice {
			o.answered(e.Request)
			return
		}
		_, hash := o.sums.Requests(false)
		if len(o.requests) > 2*maxUnread {
			o.requests = append(o.requests[:0], o.requests[maxUnread:]...)
		}
		o.requests = append(o.requests, hash)
		o.requested(h, e.Request)
	}
}

// requested takes a request to the device.
func (o *observer) requested(h *recorder.Header, r *recorder.Request) {
	var what ran
	switch r.Name {
	case "pty-req", "window-change", "shell", "subsystem":
		if r.Payload == nil {
			o.wrong("of a request %s only the hash is kept", r.Name)
			return
		}
	}
	switch r.Name {
	case "pty-req":
		if p, err := payload.ParsePtyRequest(r.Payload); err == nil && o.asked == nil {
			o.pty, o.terminal = true, terminalSize{p.Term[:min(len(p.Term), maxHeaderText)], p.Columns, p.Rows}
		}
		return
	case "window-change":
		if p, err := payload.ParseWindowChange(r.Payload); err == nil {
			o.resized(p)
		}
		return
	case "exec":
		what.kind = "exec"
		if r.Payload == nil {
			if o.asked == nil {
				hash := r.Hash
				o.askedBy = &hash
			}
			break
		}
		p, err := payload.ParseExec(r.Payload)
		if err != nil {
			return
		}
		what.command = p.Command
	case "subsystem":
		p, err := payload.ParseSubsystem(r.Payload)
		if err != nil {
			return
		}
		what.kind = p.Name
	case "shell":
		what.kind = r.Name
	default:
		return
	}
	if o.asked != nil {
		return
	}
	o.asked = &what
	if said := (terminalSize{h.Term, h.Width, h.Height}); said != o.terminal && !o.gapped {
		o.wrong("the header says a terminal %q of %dx%d, the device was asked for %q of %dx%d",
			said.term, said.width, said.height, o.terminal.term, o.terminal.width, o.terminal.height)
	}
}

// resized takes a window-change. One before the start is in the header, one after it has a record of its own before it.
func (o *observer) resized(p payload.WindowChange) {
	said := o.resize
	o.resize = nil
	switch {
	case o.asked == nil:
		o.terminal.width, o.terminal.height = p.Columns, p.Rows
		if said != nil && !o.gapped {
			o.wrong("a resize to %dx%d is recorded from before the start", said.width, said.height)
		}
	case o.gapped:
	case said == nil:
		o.wrong("a resize to %dx%d is not recorded", p.Columns, p.Rows)
	case said.width != p.Columns || said.height != p.Rows:
		o.wrong("a resize to %dx%d is recorded as one to %dx%d", p.Columns, p.Rows, said.width, said.height)
	}
}

// answered takes a request by the device.
func (o *observer) answered(r *recorder.Request) {
	switch r.Name {
	case payload.GuestRequest:
		o.guests.told(o, r)
		return
	case "exit-status", "exit-signal":
		if r.Payload == nil {
			o.wrong("of a request %s only the hash is kept", r.Name)
			return
		}
	}
	if o.told != nil {
		return
	}
	switch r.Name {
	case "exit-status":
		if p, err := payload.ParseExitStatus(r.Payload); err == nil {
			o.told = &ended{status: p.Status}
		}
	case "exit-signal":
		if p, err := payload.ParseExitSignal(r.Payload); err == nil {
			o.told = &ended{signal: p.Signal}
		}
	}
}

// facts is what is false of the records of start and end, and of what is not kept, once all are seen.
func (o *observer) facts(h *recorder.Header, w *Witness) error {
	o.guests.settle(o)
	if o.resize != nil && !o.gapped {
		o.wrong("a resize to %dx%d is recorded that nobody asked for", o.resize.width, o.resize.height)
	}
	o.start(h, w)
	switch {
	case o.told != nil && (o.exits == 0 || o.exit != *o.told):
		o.wrong("that it ended by %s is recorded as %s", o.told, o.recordedExit())
	case o.told == nil && o.exits > 0 && !o.gapped && !o.refused():
		o.wrong("it says that it ended by %s, and the device said nothing of the kind", o.recordedExit())
	}
	if inputRule(h) == recorder.InputOff && o.input.n > 0 && h.Unkept&recorder.UnkeptInput == 0 {
		o.wrong("there is input in it, of which none is to be kept")
	}
	return o.fault
}

// refused tells whether the recording is of a session that the hub ended itself before the device was asked to start anything.
func (o *observer) refused() bool { return o.asked == nil && o.exit == ended{status: statusRefused} }

func (o *observer) recordedExit() string {
	if o.exits == 0 {
		return "nothing"
	}
	return o.exit.String()
}

func (e ended) String() string {
	if e.signal != "" {
		return fmt.Sprintf("signal %q", e.signal)
	}
	return fmt.Sprintf("status %d", e.status)
}

// start holds what the header and the start record say against what the device was asked for.
func (o *observer) start(h *recorder.Header, w *Witness) {
	if o.asked == nil {
		if o.begins > 0 && !o.gapped && !o.refused() {
			o.wrong("it says that %s %q was started, and the device was asked to start nothing", o.begun.kind, o.begun.command)
		}
		return
	}
	asked := *o.asked
	if o.askedBy != nil { // too long to be kept
		asked.command = h.Command
		if len(h.Keys) > 0 {
			asked.command = o.begun.command
		}
		if len(asked.command) < maxCommand && recorder.PayloadHash(payload.Exec{Command: asked.command}.Marshal()) != *o.askedBy {
			o.wrong("the recording says exec %q, and the device was asked for another command", asked.command)
		}
	}
	asked.command = asked.command[:min(len(asked.command), maxCommand)]
	if said := (ran{h.Kind, h.Command}); said != asked && (len(h.Keys) == 0 || said.kind != asked.kind) {
		o.wrong("the recording says %s %q, the device was asked for %s %q", said.kind, said.command, asked.kind, asked.command)
	}
	allowed := observe.NewSession(asked.kind, asked.command, o.pty, h.Input).Unkept()
	switch {
	case w.Forced != nil:
		allowed = 0 // nobody goes by what was asked for
		if o.begins > 0 && (o.begun.kind != "exec" || recorder.PayloadHash([]byte(o.begun.command)) != *w.Forced) {
			o.wrong("it says that %s %q was started, the device ran the command that the key is for", o.begun.kind, o.begun.command)
		}
	case o.begins > 0 && o.begun != asked:
		o.wrong("it says that %s %q was started, the device was asked for %s %q", o.begun.kind, o.begun.command, asked.kind, asked.command)
	}
	if h.Unkept&^allowed != 0 {
		o.wrong("what passed is not in it, as if it were a file transfer, and %s %q is none", asked.kind, asked.command)
	}
}

// untold tells whether the bytes of a command are in the recording that cannot be compared.
func (o *observer) untold() bool { return o.askedBy != nil && len(o.begun.command) >= maxCommand }
