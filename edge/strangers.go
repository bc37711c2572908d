package edge

import (
	"sync"
	"sync/atomic"
	"time"

	"hawser/tunnel"
)

type flag = atomic.Bool

// strangersLog passes on so many lines a minute: whoever can reach a port must not fill the device's log. Safe for concurrent use.
type strangersLog struct {
	to tunnel.Logger

	mu      sync.Mutex
	minute  time.Time
	lines   int
	dropped int
}

// Log implements tunnel.Logger.
func (s *strangersLog) Log(level tunnel.Level, msg string, kv ...any) {
	if s.to == nil {
		return
	}
	now := time.Now()
	s.mu.Lock()
	dropped := 0
	if now.Sub(s.minute) >= time.Minute {
		dropped, s.dropped = s.dropped, 0
		s.minute, s.lines = now, 0
	}
	s.lines++
	pass := s.lines <= strangerLines
	if !pass {
		s.dropped++
	}
	s.mu.Unlock()
	if dropped > 0 {
		s.to.Log(tunnel.LevelInfo, "strangers at the port", "lines", dropped)
	}
	if pass {
		s.to.Log(level, msg, kv...)
	}
}

// until is the log of one connection, without that bound once it is known who it is.
func (s *strangersLog) until() *knownLog { return &knownLog{s: s} }

type knownLog struct {
	s     *strangersLog
	known flag
}

// Log implements tunnel.Logger.
func (k *knownLog) Log(level tunnel.Level, msg string, kv ...any) {
	switch {
	case !k.known.Load():
		k.s.Log(level, msg, kv...)
	case k.s.to != nil:
		k.s.to.Log(level, msg, kv...)
	}
}
