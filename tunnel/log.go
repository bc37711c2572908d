package tunnel

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"hawser/tunnel/wire"
)

// Level is how much a log line matters.
type Level int8

// The levels.
const (
	LevelDebug Level = iota
	LevelInfo
	LevelWarn
	LevelError
)

var levelNames = [...]string{"debug", "info", "warn", "error"}

// String returns the level's name in lower case.
func (l Level) String() string {
	if l < 0 || int(l) >= len(levelNames) {
		return fmt.Sprintf("level-%d", int8(l))
	}
	return levelNames[l]
}

// Logger is the logger of the edge and of every package it links (log/slog would cost it 300 kB). The message is
// constant, the facts are in kv: keys and values in turn. A Logger is safe for concurrent use. A nil Logger discards,
// if called through Debug, Info, Warn and Error below.
type Logger interface {
	Log(level Level, msg string, kv ...any)
}

// Debug logs to l unless it is nil.
func Debug(l Logger, msg string, kv ...any) { logTo(l, LevelDebug, msg, kv) }

// Info logs to l unless it is nil.
func Info(l Logger, msg string, kv ...any) { logTo(l, LevelInfo, msg, kv) }

// Warn logs to l unless it is nil.
func Warn(l Logger, msg string, kv ...any) { logTo(l, LevelWarn, msg, kv) }

// Error logs to l unless it is nil.
func Error(l Logger, msg string, kv ...any) { logTo(l, LevelError, msg, kv) }

func logTo(l Logger, level Level, msg string, kv []any) {
	if l != nil {
		l.Log(level, msg, kv...)
	}
}

// maxLogValue bounds one value in a log line, in bytes.
const maxLogValue = 2048

// NewTextLogger returns a Logger that writes one logfmt line per event of at least min to w: time, level, msg and the
// facts. Every value is made safe for a terminal.
func NewTextLogger(w io.Writer, min Level) Logger { return &textLogger{w: w, min: min} }

type textLogger struct {
	min Level
	mu  sync.Mutex
	w   io.Writer
}

// Log implements Logger.
func (t *textLogger) Log(level Level, msg string, kv ...any) {
	if level < t.min {
		return
	}
	var b strings.Builder
	b.WriteString("time=" + time.Now().UTC().Format("2006-01-02T15:04:05.000Z") + " level=" + level.String() + " msg=")
	appendLogValue(&b, msg)
	for i := 0; i < len(kv); i += 2 {
		var v any = "(missing)"
		if i+1 < len(kv) {
			v = kv[i+1]
		}
		b.WriteString(" " + logKey(kv[i]) + "=")
		switch v := v.(type) {
		case string:
			appendLogValue(&b, v)
		case error:
			appendLogValue(&b, v.Error())
		case time.Time:
			appendLogValue(&b, v.UTC().Format(time.RFC3339))
		default:
			appendLogValue(&b, fmt.Sprint(v))
		}
	}
	b.WriteByte('\n')
	t.mu.Lock()
	defer t.mu.Unlock()
	io.WriteString(t.w, b.String())
}

// logKey keeps a key one word.
func logKey(k any) string {
	s, ok := k.(string)
	if !ok || s == "" {
		return "badkey"
	}
	return strings.Map(func(r rune) rune {
		if r <= ' ' || r == '=' || r == '"' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

func appendLogValue(b *strings.Builder, s string) {
	q := wire.Quote(s, maxLogValue)
	if q != s || s == "" || strings.ContainsAny(s, " =") {
		b.WriteString(`"` + q + `"`)
		return
	}
	b.WriteString(s)
}
