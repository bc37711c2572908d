package play

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"hawser/recorder/commands"
	"hawser/recorder/index"
	"hawser/recorder/paint"
	"hawser/recorder/term"
)

// A Viewer is a person at a terminal.
type Viewer struct {
	Out io.Writer
	// Keys is what he types, as his terminal sends it; closed when he is gone.
	Keys <-chan []byte
	// Size is his terminal's, in characters; Resized has something when it has changed.
	Size    func() (cols, rows int)
	Resized <-chan struct{}
	// Suspend, if set, stops the program until he goes on with it. The terminal is as it was before meanwhile.
	Suspend func() error
}

// WatchOptions are of Watch.
type WatchOptions struct {
	From   time.Duration // begin here
	Speed  float64       // 1 is as recorded
	Idle   time.Duration // pauses are cut to that; 0: not
	Paused bool
	Query  string // the first match of it, from From on, is gone to
	Title  string // who and where, in the last row
}

// Bounds and steps of Watch.
const (
	minSpeed, maxSpeed = 1.0 / 64, 1024
	stepShort          = 5 * time.Second
	stepLong           = time.Minute
	stepFar            = 10 * time.Minute
	clockEvery         = 250 * time.Millisecond
	frameEvery         = 15 * time.Millisecond // no more pictures than that
	defaultIdle        = 2 * time.Second
)

var help = []string{
	"space      pause, go on            .          one step",
	"left right 5 s back, forward       up down    1 min forward, back",
	"PgUp PgDn  10 min forward, back    0 to 9     to a tenth of it all",
	"g G        to the beginning, end   + -        faster, slower",
	"i          pauses cut short or not f          fitted to your terminal or not",
	"c C        next, last command      /          search",
	"n N        next, last match        q          leave",
}

// watch is one viewing.
type watch struct {
	v    Viewer
	p    *Player
	l    *Recording
	o    WatchOptions
	pen  *paint.Painter
	cols int
	rows int

	playing bool
	speed   float64
	idle    time.Duration // 0: not cut
	since   time.Time     // playing since then,
	base    time.Duration // from this time of the recording
	shown   time.Duration // of the last event that was shown
	helping bool
	fitted  bool
	asking  bool
	typed   []byte
	query   *index.Query
	matches []index.Line
	note    string // told once
}

// Watch plays a recording to a person until he leaves, or ctx ends. What is recorded reaches his terminal as characters in their places and
// nothing else. The terminal is given back as it was.
func Watch(ctx context.Context, l *Recording, v Viewer, o WatchOptions) (err error) {
	p, err := NewPlayer(ctx, l)
	if err != nil {
		return err
	}
	w := &watch{v: v, p: p, l: l, o: o, speed: o.Speed, idle: o.Idle, playing: !o.Paused}
	if w.speed <= 0 {
		w.speed = 1
	}
	w.speed = min(max(w.speed, minSpeed), maxSpeed)
	w.cols, w.rows = v.Size()
	w.pen = paint.New(w.cols, w.rows)
	if _, err := io.WriteString(v.Out, paint.Enter); err != nil {
		return err
	}
	defer func() {
		if _, e := io.WriteString(v.Out, paint.Leave); err == nil {
			err = e
		}
	}()
	if err := w.seek(ctx, o.From); err != nil {
		return err
	}
	if o.Query != "" {
		w.search(ctx, o.Query)
	}
	return w.run(ctx)
}

func (w *watch) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := w.draw(); err != nil {
			return err
		}
		wait, err := w.wait()
		if err != nil {
			return err
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
			if err := w.tick(ctx); err != nil {
				return err
			}
		case keys, ok := <-w.v.Keys:
			if !ok {
				return nil
			}
			if left, err := w.keys(ctx, keys); left || err != nil {
				return err
			}
		case <-w.v.Resized:
			w.cols, w.rows = w.v.Size()
			w.pen.Resize(w.cols, w.rows)
			if w.fitted {
				if err := w.fit(ctx); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// moves tells whether time goes on.
func (w *watch) moves() bool { return w.playing && !w.asking && !w.helping }

// due is how long until the next event is shown, and whether there is one.
func (w *watch) due() (time.Duration, bool, error) {
	e, err := w.p.Peek()
	if e == nil || err != nil {
		return 0, false, err
	}
	d := e.Time - w.base
	if w.idle > 0 {
		d = min(d, w.shown+w.idle-w.base)
	}
	return max(0, time.Duration(float64(d)/w.speed)-time.Since(w.since)), true, nil
}

func (w *watch) wait() (time.Duration, error) {
	if !w.moves() {
		return time.Hour, nil // only a key, or the window's size, changes anything
	}
	d, more, err := w.due()
	if err != nil {
		return 0, err
	}
	if !more {
		w.stop()
		return 0, nil
	}
	return min(d, clockEvery), nil
}

// stop stands still where the recording is now.
func (w *watch) stop() {
	w.base = w.now()
	w.playing = false
}

// now is the time that is played.
func (w *watch) now() time.Duration {
	if !w.moves() {
		return w.base
	}
	t := w.base + time.Duration(float64(time.Since(w.since))*w.speed)
	if e, err := w.p.Peek(); err == nil && e != nil {
		t = min(t, e.Time)
	} else {
		t = max(w.p.Now(), w.base)
	}
	return t
}

// tick shows what is due.
func (w *watch) tick(ctx context.Context) error {
	if !w.moves() {
		return ctx.Err()
	}
	d, more, err := w.due()
	if err != nil || !more || d > 0 {
		return errors.Join(err, ctx.Err())
	}
	e, _ := w.p.Peek()
	w.base, w.shown, w.since = e.Time, e.Time, time.Now()
	// All of this picture, for terminals take only so many.
	end := e.Time + time.Duration(float64(frameEvery)*w.speed)
	for e != nil && e.Time <= end && ctx.Err() == nil {
		w.shown = e.Time
		w.p.Shown()
		if e, err = w.p.Peek(); err != nil {
			return err
		}
	}
	w.base = max(w.base, w.shown)
	return ctx.Err()
}

func (w *watch) seek(ctx context.Context, t time.Duration) error {
	err := w.p.Seek(ctx, t)
	w.base, w.shown, w.since = w.p.Now(), w.p.Now(), time.Now()
	return err
}

func (w *watch) fit(ctx context.Context) error {
	cols, rows := 0, 0
	if w.fitted {
		cols, rows = w.cols, max(1, w.rows-1)
	}
	return w.p.Fit(ctx, cols, rows)
}

// draw brings the viewer's terminal up to date.
func (w *watch) draw() error {
	s := w.p.Terminal().Screen
	if w.helping {
		s = term.New(max(w.cols, 2), max(w.rows-1, 1))
		_, _ = s.Write([]byte("\x1b[?25l\r\n  " + strings.Join(help, "\r\n  ")))
	}
	out := w.pen.Paint(nil, s, w.words())
	if len(out) == 0 {
		return nil
	}
	_, err := w.v.Out.Write(out)
	return err
}

// words are what the last row says.
func (w *watch) words() string {
	if w.asking {
		return "search: " + string(w.typed) + "_"
	}
	if w.helping {
		return "any key goes back"
	}
	d, ended := w.l.Duration()
	state := "playing"
	e, err := w.p.Peek()
	switch {
	case err == nil && e == nil:
		state = "end"
		if !w.l.Complete() {
			state = "end, incomplete"
		}
	case !w.playing:
		state = "paused"
	}
	total := clock(d)
	if !ended {
		total += "+"
	}
	s := fmt.Sprintf(" %s  %s / %s", state, clock(min(w.now(), max(d, w.base))), total)
	if w.note != "" {
		s += "  " + plainWords(w.note)
	}
	if w.speed != 1 {
		s += "  " + strconv.FormatFloat(w.speed, 'g', 3, 64) + "x"
	}
	if w.fitted {
		s += "  fitted"
	}
	if w.idle > 0 {
		s += "  pauses " + w.idle.String()
	}
	return s + "  " + plainWords(w.o.Title) + "  ? keys  q leaves"
}

// clock is a time for people.
func clock(d time.Duration) string {
	s := int64(d / time.Second)
	return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
}

// keys takes what was typed; left: he leaves.
func (w *watch) keys(ctx context.Context, b []byte) (left bool, err error) {
	for _, k := range split(b) {
		if left, err = w.key(ctx, k); left || err != nil {
			return left, err
		}
	}
	return false, nil
}

// split divides what a terminal sent into keys: a sequence, or one character.
func split(b []byte) (keys []string) {
	for len(b) > 0 {
		n := 1
		if b[0] == 0x1b && len(b) > 2 && (b[1] == '[' || b[1] == 'O') {
			for n = 2; n < len(b) && (b[n] < 0x40 || b[n] > 0x7e); n++ {
			}
			n = min(n+1, len(b))
		}
		keys = append(keys, string(b[:n]))
		b = b[n:]
	}
	return keys
}

func (w *watch) key(ctx context.Context, k string) (left bool, err error) {
	now := w.now()
	switch {
	case k == "\x03":
		return true, nil
	case w.helping:
		w.helping = false
		w.base, w.since = now, time.Now()
		return false, nil
	case w.asking:
		return false, w.ask(ctx, k)
	}
	w.note = ""
	w.base, w.since = now, time.Now()
	switch k {
	case "q", "Q", "\x04":
		return true, nil
	case " ":
		if w.playing = !w.playing; w.playing {
			if e, err := w.p.Peek(); err == nil && e == nil {
				return false, w.seek(ctx, 0)
			}
			w.shown = max(w.shown, now-w.idle)
		}
	case ".":
		w.playing = false
		_, err = w.p.Step()
		w.base, w.shown = max(w.p.Now(), now), w.p.Now()
	case "\x1b[C", "\x1bOC":
		err = w.seek(ctx, now+stepShort)
	case "\x1b[D", "\x1bOD":
		err = w.seek(ctx, now-stepShort)
	case "\x1b[A", "\x1bOA":
		err = w.seek(ctx, now+stepLong)
	case "\x1b[B", "\x1bOB":
		err = w.seek(ctx, now-stepLong)
	case "\x1b[5~":
		err = w.seek(ctx, now+stepFar)
	case "\x1b[6~":
		err = w.seek(ctx, now-stepFar)
	case "g", "\x1b[H", "\x1bOH", "\x1b[1~":
		err = w.seek(ctx, 0)
	case "G", "\x1b[F", "\x1bOF", "\x1b[4~":
		d, _ := w.l.Duration()
		err = w.seek(ctx, d)
	case "+", "=", "]", ">":
		w.speed = min(w.speed*2, maxSpeed)
	case "-", "_", "[", "<":
		w.speed = max(w.speed/2, minSpeed)
	case "i":
		if w.idle > 0 {
			w.o.Idle, w.idle = w.idle, 0
		} else if w.idle = w.o.Idle; w.idle == 0 {
			w.idle = defaultIdle
		}
	case "f":
		w.fitted = !w.fitted
		err = w.fit(ctx)
	case "c", "C":
		err = w.command(ctx, k == "c")
	case "/":
		w.asking, w.typed = true, nil
	case "n", "N":
		err = w.match(ctx, k == "n")
	case "?", "h":
		w.helping = true
	case "\x0c":
		w.pen.Resize(w.cols, w.rows)
	case "\x1a":
		err = w.suspend()
	default:
		if len(k) == 1 && k[0] >= '0' && k[0] <= '9' {
			d, _ := w.l.Duration()
			err = w.seek(ctx, d/10*time.Duration(k[0]-'0'))
		}
	}
	return false, err
}

// ask takes a key while a text to search for is typed.
func (w *watch) ask(ctx context.Context, k string) error {
	switch {
	case k == "\r" || k == "\n":
		w.asking = false
		w.since = time.Now()
		if len(w.typed) > 0 {
			return w.search(ctx, string(w.typed))
		}
	case k == "\x1b":
		w.asking = false
		w.since = time.Now()
	case k == "\x7f" || k == "\x08":
		for n := len(w.typed); n > 0; {
			n--
			last := w.typed[n]&0xc0 != 0x80
			if w.typed = w.typed[:n]; last {
				break
			}
		}
	case k == "\x15":
		w.typed = nil
	case len(k) == 1 && (k[0] >= 0x20 && k[0] != 0x7f) && len(w.typed) < index.MaxQuery:
		w.typed = append(w.typed, k[0])
	}
	return nil
}

// search goes to the first match from now on, or to the first of all.
func (w *watch) search(ctx context.Context, text string) error {
	q, err := index.NewQuery(text, false)
	if err != nil {
		w.note = err.Error()
		return nil
	}
	w.query = &q
	w.matches = w.l.Find(func(l index.Line) bool { return q.Matches(l.Text) })
	for i, m := range w.matches {
		if m.Time >= w.base {
			return w.goTo(ctx, i)
		}
	}
	if len(w.matches) > 0 {
		return w.goTo(ctx, 0) // all of them are before this
	}
	w.note = "nothing found"
	return nil
}

// goTo goes to a match, and stands still there.
func (w *watch) goTo(ctx context.Context, i int) error {
	m := w.matches[i]
	w.playing = false
	err := w.seek(ctx, reachOf(m))
	w.note = fmt.Sprintf("match %d of %d: %s", i+1, len(w.matches), m.Text)
	return err
}

// reachOf is when a line is on the screen for sure: times are kept in milliseconds.
func reachOf(l index.Line) time.Duration { return l.Time + time.Millisecond }

// match goes to the next match or the last.
func (w *watch) match(ctx context.Context, on bool) error {
	if w.query == nil {
		w.note = "nothing was searched for: / does"
		return nil
	}
	if _, ended := w.l.Duration(); !ended || len(w.matches) == 0 {
		w.matches = w.l.Find(func(l index.Line) bool { return w.query.Matches(l.Text) })
	}
	if i := beside(w.matches, w.base, on); i >= 0 {
		return w.goTo(ctx, i)
	}
	w.note = "no more"
	return nil
}

// command goes to the next command or the last.
func (w *watch) command(ctx context.Context, on bool) error {
	all := w.l.Commands()
	i := slices.IndexFunc(all, func(c commands.Command) bool { return c.At > w.base })
	if !on {
		for i = len(all) - 1; i >= 0 && all[i].At >= w.base; i-- {
		}
	}
	if i < 0 {
		w.note = "no command there"
		return nil
	}
	c := all[i]
	err := w.seek(ctx, c.At)
	w.note = "command: " + c.Text
	if c.Source != commands.Exec {
		w.note += fmt.Sprintf(" (%s, %d %%)", c.Source, c.Confidence)
	}
	if c.User != "" {
		w.note += " by " + c.User
	}
	return err
}

// beside is the number of the line after or before a time at which one stands; negative: there is none.
func beside(lines []index.Line, now time.Duration, after bool) int {
	if after {
		return slices.IndexFunc(lines, func(l index.Line) bool { return reachOf(l) > now })
	}
	for i, l := range slices.Backward(lines) {
		if reachOf(l) < now {
			return i
		}
	}
	return -1
}

// suspend gives the terminal back for a while.
func (w *watch) suspend() error {
	if w.v.Suspend == nil {
		return nil
	}
	if _, err := io.WriteString(w.v.Out, paint.Leave); err != nil {
		return err
	}
	if err := w.v.Suspend(); err != nil {
		return err
	}
	_, err := io.WriteString(w.v.Out, paint.Enter)
	w.cols, w.rows = w.v.Size()
	w.pen.Resize(w.cols, w.rows)
	w.since = time.Now()
	return err
}
