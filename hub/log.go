package hub

import (
	"context"
	"log/slog"

	"hawser/tunnel"
)

// slogLogger lets tunnel's packages log to slog.
type slogLogger struct{ l *slog.Logger }

func (s slogLogger) Log(level tunnel.Level, msg string, kv ...any) {
	to := slog.LevelDebug
	switch level {
	case tunnel.LevelInfo:
		to = slog.LevelInfo
	case tunnel.LevelWarn:
		to = slog.LevelWarn
	case tunnel.LevelError:
		to = slog.LevelError
	}
	s.l.Log(context.Background(), to, msg, kv...)
}
