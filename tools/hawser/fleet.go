package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/tools/hawser/sshconfig"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

const (
	defaultParallel = 20
	// maxParallel bounds the ssh processes here: each has some 10 MB.
	maxParallel = 200
	// maxKept is what -o json keeps of each of a device's outputs, in bytes.
	maxKept = 1 << 20
	// maxLine is the longest line that is shown in one piece, in bytes.
	maxLine = 64 << 10
	// maxRetryFile bounds a file of device names, in bytes.
	maxRetryFile = 4 << 20
	// maxListed failures are named in words; a file has them all.
	maxListed = 20
	// saveEvery is how often the file of --retry is written while work goes on: kill -9 loses no more.
	saveEvery = time.Second
	// statusEvery is how often the line of progress is drawn.
	statusEvery = 200 * time.Millisecond
	// endGrace is what ssh gets to end by itself.
	endGrace = 2 * time.Second
	// fleetConfigFile of a profile knows the hubs alone: reading thousands of aliases would take each ssh longer than its work.
	fleetConfigFile = "ssh_config_fleet"
	formatText      = "text"
	// exitInterrupted is what shells give to a command that Ctrl-C ended.
	exitInterrupted = 130
)

// fleet is work on many devices, as the flags of exec and scp say.
type fleet struct {
	selectors, names       []string
	login, retry, dir      string
	format                 string
	parallel               int
	timeout, wait, connect time.Duration
	yes, list              bool
}

func (f *fleet) flags(s *pflag.FlagSet) {
	s.StringArrayVarP(&f.selectors, "label", "l", nil, "the devices with these labels: site=ber,role!=spare; '*' is every device")
	s.StringSliceVar(&f.names, "devices", nil, "these devices: a,b,c")
	s.StringVar(&f.retry, "retry", "",
		"a file of devices: if it is there, only those; at the end it has what failed or was not begun, or is gone")
	s.StringVar(&f.login, "login", "", "the login on the devices (default: as for ssh DEVICE@HUB)")
	s.IntVar(&f.parallel, "parallel", defaultParallel, fmt.Sprintf("devices at a time, at most %d; fewer where your roles cap your sessions lower", maxParallel))
	s.DurationVar(&f.timeout, "timeout", 0, "end it on a device after so long; 0: never")
	s.DurationVar(&f.connect, "connect-timeout", 30*time.Second, "give a hub up after so long")
	s.DurationVar(&f.wait, "wait", 0, "wait so long for devices that are away, at most 24h (default: HAWSER_WAIT)")
	s.StringVarP(&f.format, "output", "o", formatText, "text, or json: an object a device, a line each, as they end")
	s.StringVar(&f.dir, "output-dir", "", "write DEVICE.stdout and DEVICE.stderr there, byte for byte, instead of showing lines")
	s.BoolVar(&f.yes, "yes", false, "do not ask, whatever environments (label env) the devices are of")
	s.BoolVar(&f.list, "list", false, "only say which devices it would be")
}

func (f *fleet) check() error {
	if f.wait == 0 && os.Getenv(waitVariable) != "" {
		var err error
		if f.wait, _, err = waitFlag([]string{"the devices"}); err != nil {
			return err
		}
	}
	for _, s := range f.selectors { // as of a variable that is not set
		if len(splitSelectors([]string{s})) == 0 {
			return usageError{fmt.Errorf("-l %q names no label; -l '*' is every device", s)}
		}
	}
	switch {
	case f.format != formatText && f.format != formatJSON:
		return usageError{fmt.Errorf("unknown format %q: text or json", f.format)}
	case f.parallel < 1 || f.parallel > maxParallel:
		return usageError{fmt.Errorf("--parallel %d: 1 to %d", f.parallel, maxParallel)}
	case f.timeout < 0 || f.connect < time.Second || f.wait < 0 || f.wait > maxWait:
		return usageError{errors.New("--timeout, --connect-timeout and --wait are times such as 30s or 1h; a wait is at most 24h")}
	case strings.ContainsAny(f.login, "=+@ \t\r\n"):
		return usageError{fmt.Errorf("--login %q is not a login", f.login)}
	case len(f.selectors) == 0 && len(f.names) == 0 && f.retry == "":
		return usageError{errors.New("say which devices: their names, -l site=ber, --devices a,b or --retry FILE; -l '*' is every device")}
	}
	return nil
}

// retried are the devices that the file of --retry names; none: there is no such file.
func (f *fleet) retried() ([]string, error) {
	if f.retry == "" {
		return nil, nil
	}
	file, err := os.Open(f.retry)
	if errors.Is(err, fs.ErrNotExist) {
		if len(f.selectors) == 0 && len(f.names) == 0 {
			return nil, usageError{fmt.Errorf("%s is not there, so nothing is left to be done; name devices, or -l, to begin", f.retry)}
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, maxRetryFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRetryFile {
		return nil, fmt.Errorf("%s has more than %d bytes: it is no list of devices", f.retry, maxRetryFile)
	}
	var names []string
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		names = append(names, strings.Fields(line)...)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s names no device", f.retry)
	}
	return names, nil
}

// choose returns the devices of a list that were meant, each once, those that are there first: what can be done is done before what must be
// waited for.
func choose(all []*api.Device, names []string) ([]*api.Device, error) {
	chosen := slices.Clone(all)
	if len(names) > 0 {
		byName, taken := make(map[string]*api.Device, len(all)), make(map[string]bool)
		for _, d := range all {
			byName[d.Name] = d
		}
		chosen = chosen[:0:0]
		var unknown []string
		for _, name := range names {
			switch d := byName[name]; {
			case taken[name]:
			case d == nil:
				unknown = append(unknown, wire.Quote(name, 64))
			default:
				taken[name] = true
				chosen = append(chosen, d)
			}
		}
		if len(unknown) > 0 {
			return nil, connect.NewError(connect.CodeNotFound,
				fmt.Errorf("no such device that your roles allow: %s; `hawser ls` lists them", listed(unknown)))
		}
	}
	if len(chosen) == 0 {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no device that your roles allow has these labels; `hawser ls -l ...` tries them"))
	}
	slices.SortStableFunc(chosen, func(a, b *api.Device) int {
		switch {
		case a.Online != b.Online && a.Online:
			return -1
		case a.Online != b.Online:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return chosen, nil
}

// listed are some words, the first of many.
func listed(words []string) string {
	if len(words) > maxListed {
		return strings.Join(words[:maxListed], ", ") + fmt.Sprintf(" and %d more", len(words)-maxListed)
	}
	return strings.Join(words, ", ")
}

// environmentOf is what a device is for.
func environmentOf(d *api.Device) string {
	for _, key := range policy.EnvironmentLabels {
		for _, l := range d.Labels {
			if l.Key == key && l.Value != "" {
				return l.Value
			}
		}
	}
	return ""
}

// environmentsQuestion is what is asked before more than one environment is touched; empty: nothing is.
func environmentsQuestion(what string, devices []*api.Device) string {
	count := make(map[string]int)
	for _, d := range devices {
		count[environmentOf(d)]++
	}
	if len(count) < 2 {
		return ""
	}
	var parts []string
	for env, n := range count {
		word := "env=" + wire.Quote(env, 32)
		if env == "" {
			word = "without the label env"
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, word))
	}
	slices.Sort(parts)
	return fmt.Sprintf("%s: %d devices of %d environments (%s). Go on?", wire.Quote(what, maxCell), len(devices), len(count),
		strings.Join(parts, ", "))
}

// agreed asks where that is to be.
func (f *fleet) agreed(c *cobra.Command, what string, devices []*api.Device) error {
	q := environmentsQuestion(what, devices)
	if q == "" || f.yes {
		return nil
	}
	t, err := openTerminal(c)
	if err != nil {
		return usageError{fmt.Errorf("%s %w: --yes says so", q, err)}
	}
	defer t.close()
	yes, err := t.yes(c.Context(), q)
	if err != nil {
		return err
	}
	if !yes {
		return errors.New("nothing was done")
	}
	return nil
}

// places is how many sessions a person may begin at once: beyond that a hub would refuse them.
func places(caps []*api.CapUse, wanted int) int {
	for _, u := range caps {
		free := 1 // at least: the refusal then says what holds the place
		if u.Max > u.Held {
			free = int(u.Max - u.Held)
		}
		wanted = min(wanted, max(1, free))
	}
	return wanted
}

// outcome is what became of one device.
type outcome struct {
	Device    string  `json:"device"`
	Exit      *int    `json:"exit"` // null: it was not begun, or not to its end
	Stdout    *string `json:"stdout,omitempty"`
	Stderr    *string `json:"stderr,omitempty"`
	Truncated bool    `json:"truncated,omitempty"` // stdout or stderr went on
	Seconds   float64 `json:"duration_seconds"`
	Error     string  `json:"error,omitempty"`
	begun     bool
}

func (o outcome) ok() bool { return o.Exit != nil && *o.Exit == 0 && o.Error == "" }

// why is a failure in a few words.
func (o outcome) why() string {
	switch {
	case o.Exit == nil:
		return o.Error
	case o.Error != "":
		return fmt.Sprintf("exit %d: %s", *o.Exit, o.Error)
	}
	return fmt.Sprintf("exit %d", *o.Exit)
}

// do runs the work on one device and returns its exit code.
type do func(ctx context.Context, name string, stdout, stderr io.Writer) (exit int, err error)

var errNotBegun = errors.New("not begun")

// work does it on all devices, at most parallel at a time, and hands each outcome to done, one after the other. Those that are away are
// begun when come says that they are there, until the wait is over. ctx ends all; it returns when all have ended.
func (f *fleet) work(ctx context.Context, devices []*api.Device, parallel int, come func(context.Context, []string) []string,
	one func(context.Context, string) outcome, done func(outcome)) {
	queue, results := make(chan string), make(chan outcome)
	var feeding, working sync.WaitGroup
	feeding.Go(func() {
		defer close(queue)
		end := time.Now().Add(f.wait)
		var away []string
		put := func(name string) {
			select {
			case queue <- name:
			case <-ctx.Done():
				results <- outcome{Device: name, Error: errNotBegun.Error()}
			}
		}
		for _, d := range devices {
			if f.wait > 0 && !d.Online {
				away = append(away, d.Name)
				continue
			}
			put(d.Name)
		}
		for first := true; len(away) > 0 && ctx.Err() == nil && (first || time.Now().Before(end)); first = false {
			if !first {
				t := time.NewTimer(min(waitPoll, time.Until(end)))
				select {
				case <-t.C:
				case <-ctx.Done():
					t.Stop()
					continue
				}
			}
			for _, name := range come(ctx, away) {
				away = slices.DeleteFunc(away, func(s string) bool { return s == name })
				put(name)
			}
		}
		for _, name := range away {
			why := fmt.Sprintf("did not come within %v", f.wait)
			if ctx.Err() != nil {
				why = errNotBegun.Error()
			}
			results <- outcome{Device: name, Error: why}
		}
	})
	for range min(parallel, len(devices)) {
		working.Go(func() {
			for name := range queue {
				results <- one(ctx, name)
			}
		})
	}
	for range devices {
		done(<-results)
	}
	feeding.Wait()
	working.Wait()
}

// one does it on one device.
func (f *fleet) one(r *report, act do) func(context.Context, string) outcome {
	return func(ctx context.Context, name string) outcome {
		o := outcome{Device: name, begun: true}
		if ctx.Err() != nil {
			return outcome{Device: name, Error: errNotBegun.Error()}
		}
		if f.timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, f.timeout, fmt.Errorf("not done after %v", f.timeout))
			defer cancel()
		}
		stdout, stderr, finish, err := r.outputs(name)
		if err != nil {
			o.Error = err.Error()
			return o
		}
		r.begin()
		last := &lastLine{w: stderr}
		begun := time.Now()
		exit, err := act(ctx, name, stdout, last)
		o.Seconds = float64(time.Since(begun).Milliseconds()) / 1000
		switch {
		case ctx.Err() != nil && err != nil: // what ended in that moment has ended
			o.Error = cmp.Or(context.Cause(ctx), ctx.Err()).Error()
			if errors.Is(context.Cause(ctx), context.Canceled) {
				o.Error = "interrupted"
			}
		case err != nil:
			o.Error = err.Error()
		default:
			o.Exit = &exit
			if exit == sshFailed { // the command's own, or ssh could not reach it
				o.Error = last.text()
			}
		}
		if err := finish(&o); err != nil && o.Error == "" {
			o.Error = err.Error()
		}
		return o
	}
}

// sshFailed is the exit code of ssh where it is not the command's.
const sshFailed = 255

// lastLine passes on what is written and remembers the last line: of ssh's words the one that says why.
type lastLine struct {
	w    io.Writer
	tail []byte
}

func (l *lastLine) Write(p []byte) (int, error) {
	l.tail = append(l.tail, p[max(0, len(p)-maxCell):]...)
	l.tail = slices.Delete(l.tail, 0, max(0, len(l.tail)-maxCell))
	return l.w.Write(p)
}

func (l *lastLine) text() string {
	s := strings.TrimSpace(string(l.tail))
	return strings.TrimSpace(s[strings.LastIndexByte(s, '\n')+1:])
}

// report shows what happens. Its methods may be called at once.
type report struct {
	f     *fleet
	total int
	dir   *os.Root // of --output-dir
	safe  [2]bool  // stdout, and stderr, is a terminal, which nothing that a device prints may drive

	mu                    sync.Mutex // guards what follows, and is held for a line's time at the writers
	out, words            io.Writer
	running, ended, wrong int
	drawn                 bool
	at                    time.Time
}

// outputs are where a device's outputs go; finish is to be called when no more comes.
func (r *report) outputs(name string) (stdout, stderr io.Writer, finish func(*outcome) error, err error) {
	switch {
	case r.dir != nil:
		var files [2]*os.File
		for i, end := range []string{".stdout", ".stderr"} {
			if files[i], err = r.dir.OpenFile(name+end, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
				if i == 1 {
					_ = files[0].Close()
				}
				return nil, nil, nil, err
			}
		}
		return files[0], files[1], func(*outcome) error { return errors.Join(files[0].Close(), files[1].Close()) }, nil
	case r.f.format == formatJSON:
		a, b := &kept{}, &kept{}
		return a, b, func(o *outcome) error {
			so, se := a.String(), b.String()
			o.Stdout, o.Stderr, o.Truncated = &so, &se, a.more || b.more
			return nil
		}, nil
	}
	a, b := &lineWriter{r: r, to: r.out, name: name, safe: r.safe[0]}, &lineWriter{r: r, to: r.words, name: name, safe: r.safe[1]}
	return a, b, func(*outcome) error { a.rest(); b.rest(); return nil }, nil
}

// kept is the beginning of an output.
type kept struct {
	bytes.Buffer
	more bool
}

func (k *kept) Write(p []byte) (int, error) {
	n := min(len(p), maxKept-k.Len())
	k.more = k.more || n < len(p)
	k.Buffer.Write(p[:n])
	return len(p), nil
}

func jsonLine(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return append(unshaped(b), '\n'), err
}

// lineWriter shows whole lines, each after the device's name.
type lineWriter struct {
	r    *report
	to   io.Writer
	name string
	safe bool
	buf  []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			i = len(p)
		}
		take := min(i, maxLine-len(w.buf))
		w.buf = append(w.buf, p[:take]...)
		p = p[take:]
		switch {
		case len(p) > 0 && p[0] == '\n':
			p = p[1:]
		case len(w.buf) < maxLine:
			continue
		}
		if err := w.line(); err != nil {
			return n - len(p), err
		}
	}
	return n, nil
}

func (w *lineWriter) line() error {
	text := string(w.buf)
	w.buf = w.buf[:0]
	if w.safe {
		text = plain(strings.TrimSuffix(text, "\r"))
	}
	return w.r.say(w.to, w.name+": "+text+"\n")
}

func (w *lineWriter) rest() {
	if len(w.buf) > 0 {
		_ = w.line()
	}
}

// plain is a line without what drives a terminal; tabs stay.
func plain(line string) string {
	parts := strings.Split(line, "\t")
	for i, p := range parts {
		parts[i] = unquoted.Replace(wire.Quote(p, 0))
	}
	return strings.Join(parts, "\t")
}

// unquoted: quotes and backslashes do no harm here.
var unquoted = strings.NewReplacer(`\"`, `"`, `\\`, `\`)

func (r *report) say(to io.Writer, text string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wipeLocked()
	_, err := io.WriteString(to, text)
	r.drawLocked()
	return err
}

func (r *report) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running++
	r.drawLocked()
}

// progress draws the line until the function that it returns is called.
func (r *report) progress() (stop func()) {
	if !r.safe[1] {
		return func() {}
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(statusEvery)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				r.mu.Lock()
				r.drawLocked()
				r.mu.Unlock()
			case <-end:
				return
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
		r.mu.Lock()
		defer r.mu.Unlock()
		r.wipeLocked()
	}
}

// done tells of a device that has ended.
func (r *report) done(o outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if o.begun {
		r.running = max(0, r.running-1)
	}
	r.ended++
	if !o.ok() {
		r.wrong++
	}
	r.wipeLocked()
	switch {
	case r.f.format == formatJSON:
		if line, err := jsonLine(o); err == nil {
			_, _ = r.out.Write(line)
		}
	case !o.ok() && o.begun || r.dir != nil:
		took := time.Duration(o.Seconds * float64(time.Second)).Round(time.Millisecond)
		fmt.Fprintf(r.words, "%s: %s after %v\n", o.Device, plain(o.why()), took)
	}
	r.drawLocked()
}

func (r *report) wipeLocked() {
	if r.drawn {
		_, _ = io.WriteString(r.words, "\r\x1b[K")
		r.drawn = false
	}
}

// drawLocked draws the line of progress when it is time.
func (r *report) drawLocked() {
	now := time.Now()
	if !r.safe[1] || r.ended == r.total || now.Sub(r.at) < statusEvery {
		return
	}
	r.at, r.drawn = now, true
	fmt.Fprintf(r.words, "\r\x1b[K%d of %d done, %d failed, %d running", r.ended, r.total, r.wrong, r.running)
}

// left is the file of what is still to be done.
type left struct {
	path  string
	names map[string]string // and why, where it failed
	saved time.Time
}

func newLeft(path string, devices []*api.Device) *left {
	l := &left{path: path, names: make(map[string]string, len(devices))}
	for _, d := range devices {
		l.names[d.Name] = ""
	}
	return l
}

func (l *left) done(o outcome) {
	if o.ok() {
		delete(l.names, o.Device)
		return
	}
	l.names[o.Device] = o.why()
}

// save writes the file, or removes it where nothing is left.
func (l *left) save() error {
	l.saved = time.Now()
	if l.path == "" {
		return nil
	}
	if len(l.names) == 0 {
		if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	var b bytes.Buffer
	w := bufio.NewWriter(&b)
	for _, name := range l.sorted() {
		fmt.Fprint(w, name)
		if why := l.names[name]; why != "" {
			fmt.Fprint(w, " # ", wire.Quote(why, maxCell))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(l.path))
	if err != nil {
		return err
	}
	defer root.Close()
	return identity.WriteFileAtomic(root, filepath.Base(l.path), b.Bytes(), 0o600)
}

func (l *left) sorted() (names []string) {
	for name := range l.names {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// run does the work on the devices that were meant. what says it in words; again is the command line that begins it once more, a format for
// the flag that names the devices. with returns what does it, by a configuration of ssh's.
func (f *fleet) run(c *cobra.Command, what, again string, with func(config string) (do, error)) error {
	admin, err := dial()
	if err != nil {
		return err
	}
	defer admin.close()
	names, err := f.retried()
	if err != nil {
		return err
	}
	ask := &api.ListDevicesRequest{}
	if len(names) > 0 {
		fmt.Fprintf(c.ErrOrStderr(), "hawser: what is left in %s: %d devices\n", f.retry, len(names))
	} else {
		names = f.names
		ask.Selectors = slices.DeleteFunc(splitSelectors(f.selectors), func(s string) bool { return s == "*" })
	}
	res, err := admin.ListDevices(c.Context(), connect.NewRequest(ask))
	if err != nil {
		return err
	}
	devices, err := choose(res.Msg.Devices, names)
	if err != nil {
		return err
	}
	if f.list {
		return printDevices(c.OutOrStdout(), formatName, devices, time.Now())
	}
	if err := f.agreed(c, what, devices); err != nil {
		return err
	}
	if err := admin.renewIfDue(c); err != nil {
		return err
	}
	config, err := admin.fleetConfig(c)
	if err != nil {
		return err
	}
	act, err := with(config)
	if err != nil {
		return err
	}
	held, err := admin.ListSessions(c.Context(), connect.NewRequest(&api.ListSessionsRequest{User: "me"}))
	if err != nil {
		return err
	}
	parallel := places(held.Msg.Caps, f.parallel)
	if parallel < min(f.parallel, len(devices)) {
		fmt.Fprintf(c.ErrOrStderr(), "hawser: %d at a time: your roles allow no more sessions at once\n", parallel)
	}
	r := &report{f: f, total: len(devices), out: c.OutOrStdout(), words: c.ErrOrStderr(),
		safe: [2]bool{term.IsTerminal(int(os.Stdout.Fd())), term.IsTerminal(int(os.Stderr.Fd()))}}
	if f.dir != "" {
		if err := os.MkdirAll(f.dir, 0o700); err != nil {
			return err
		}
		if r.dir, err = os.OpenRoot(f.dir); err != nil {
			return err
		}
		defer r.dir.Close()
	}
	rest := newLeft(f.retry, devices)
	if err := rest.save(); err != nil {
		return err
	}
	var failed, notBegun []string
	var codes []*int
	stop := r.progress()
	come := func(ctx context.Context, names []string) []string {
		if err := admin.renewIfDue(c); err != nil && ctx.Err() == nil {
			_ = r.say(r.words, "hawser: "+api.MessageOf(err)+"\n")
		}
		return admin.cameOnline(ctx, names)
	}
	f.work(c.Context(), devices, parallel, come, f.one(r, act), func(o outcome) {
		r.done(o)
		rest.done(o)
		codes = append(codes, o.Exit)
		switch {
		case o.ok():
		case !o.begun && o.Error == errNotBegun.Error():
			notBegun = append(notBegun, o.Device)
		default:
			failed = append(failed, o.Device+" ("+plain(wire.Quote(o.why(), maxCell))+")")
		}
		if time.Since(rest.saved) > saveEvery {
			if err := rest.save(); err != nil {
				_ = r.say(r.words, "hawser: "+err.Error()+"\n")
			}
		}
	})
	stop()
	if err := rest.save(); err != nil {
		return err
	}
	slices.Sort(failed)
	f.sum(r.words, len(devices), failed, notBegun, rest, again)
	switch {
	case c.Context().Err() != nil:
		return silentError(exitInterrupted)
	case len(f.names) == 1 && f.retry == "" && len(codes) == 1 && codes[0] != nil && *codes[0] != 0:
		return silentError(*codes[0]) // as ssh to that one device would
	case len(rest.names) > 0:
		return silentError(exitFailed)
	}
	return nil
}

// sum says what was done and how to go on.
func (f *fleet) sum(words io.Writer, total int, failed, notBegun []string, rest *left, again string) {
	if total == 1 && f.retry == "" {
		return // what there is to say was said
	}
	if len(rest.names) == 0 {
		fmt.Fprintf(words, "hawser: done on %d devices\n", total)
		return
	}
	fmt.Fprintf(words, "hawser: done on %d of %d devices", total-len(rest.names), total)
	if len(failed) > 0 {
		fmt.Fprintf(words, "; %d failed: %s", len(failed), listed(failed))
	}
	if len(notBegun) > 0 {
		fmt.Fprintf(words, "; %d not begun", len(notBegun))
	}
	fmt.Fprintln(words)
	if f.retry != "" {
		fmt.Fprintf(words, "hawser: they are in %s: the same command goes on with them\n", f.retry)
		return
	}
	fmt.Fprintf(words, "hawser: on these again: hawser %s\n", fmt.Sprintf(again, "--devices "+strings.Join(rest.sorted(), ",")))
}

// cameOnline returns which of some devices are there.
func (c *client) cameOnline(ctx context.Context, names []string) (came []string) {
	if len(names) <= 8 { // one list of all costs more
		for _, name := range names {
			if res, err := c.GetDevice(ctx, connect.NewRequest(&api.GetDeviceRequest{Device: name})); err == nil && res.Msg.Online {
				came = append(came, name)
			}
		}
		return came
	}
	res, err := c.ListDevices(ctx, connect.NewRequest(&api.ListDevicesRequest{}))
	if err != nil {
		return nil // auth is away for a moment, or for good: the wait has an end
	}
	online := make(map[string]bool)
	for _, d := range res.Msg.Devices {
		online[d.Name] = d.Online
	}
	for _, name := range names {
		if online[name] {
			came = append(came, name)
		}
	}
	return came
}

// fleetConfig writes what ssh needs to know of the hubs.
func (c *client) fleetConfig(cmd *cobra.Command) (string, error) {
	more, err := c.chooseHub(cmd)
	if err != nil {
		return "", err
	}
	conf, known, err := sshConfigOf(c.profile.Dir, c.profile, more, "", nil)
	if err != nil {
		return "", err
	}
	root, err := os.OpenRoot(c.profile.Dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	return filepath.Join(filepath.Dir(conf.KnownHosts), fleetConfigFile), errors.Join(
		identity.WriteFileAtomic(root, knownHostsFile, known, 0o600),
		identity.WriteFileAtomic(root, fleetConfigFile, fleetRender(conf), 0o600),
	)
}

// fleetRender says the same as for a person's ssh, but that nobody is there to be asked, and a hub that has gone is noticed. Nothing is
// shared by ControlMaster: a hub takes a connection for one device.
func fleetRender(c sshconfig.Config) []byte {
	return append(c.Render(), `  BatchMode yes
  ServerAliveInterval 15
  ServerAliveCountMax 4
  ControlMaster no
  ControlPath none
  LogLevel ERROR
  RequestTTY no
`...)
}

// user is the name by which a hub knows the device, and the login on it.
func (f *fleet) user(device string) string {
	if f.login == "" {
		return device
	}
	return f.login + "=" + device
}

// process runs a program of OpenSSH's to its end.
func (f *fleet) process(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer, path string, args ...string) (int, error) {
	cmd := exec.Command(path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.Env = slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, waitVariable+"=") })
	if f.wait > 0 { // it may go again before ssh is there
		cmd.Env = append(cmd.Env, waitVariable+"="+f.wait.String())
	}
	// A group of its own: Ctrl-C at the terminal is for us, and scp's ssh ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err := ctx.Err()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return 0, err
	}
	// What it printed is ours to take however long our own reader takes for it: exec's WaitDelay would count from the program's end.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = ctx.Err()
		for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			_ = syscall.Kill(-cmd.Process.Pid, sig)
			select {
			case err = <-ended:
			case <-time.After(endGrace):
				continue
			}
			break
		}
		if err != nil {
			return 0, ctx.Err()
		}
	}
	if e, ok := errors.AsType[*exec.ExitError](err); ok && e.ExitCode() >= 0 {
		return e.ExitCode(), nil
	}
	return 0, err
}
