package hub

import (
	"bytes"
	"fmt"
	"sync"
	"time"

	"hawser/auth/loghead"
	"hawser/tunnel/wire"
)

// Devices are witnesses of the audit log as hubs are (PROTOCOL.md, 10.8): a hub gives them the head that it keeps, and passes on the proofs that
// auth gives and the alarm of a device that finds none.

const (
	// headEvery is how often a tunnel is given a head: a device takes one a day.
	headEvery = 24 * time.Hour
	// maxProofs are asked for at once, over all devices: a fleet that comes back asks auth in turn.
	maxProofs = 4
)

// logHeads is the head to give to devices, decoded once.
type logHeads struct {
	mu     sync.Mutex
	signed []byte // what it was decoded from
	head   wire.LogHead
	proofs chan struct{} // a token for each that is asked for
}

// logHead is the newest head that this hub has found to continue those before; false: none.
func (h *Hub) logHead() (wire.LogHead, bool) {
	signed, _ := h.auth.LogHead()
	if signed == nil {
		return wire.LogHead{}, false
	}
	l := &h.logHeads
	l.mu.Lock()
	defer l.mu.Unlock()
	if !bytes.Equal(l.signed, signed) {
		head, sig, err := loghead.Signature(signed, h.auth.Credentials().Cluster, h.auth.Trust().TimeKeys)
		if err != nil {
			return wire.LogHead{}, false // signed by a key that was rotated away; the next comes in a minute
		}
		l.signed = signed
		l.head = wire.LogHead{Size: uint64(head.Size), Root: head.Root, Time: uint64(max(head.Time.Unix(), 0)), Signature: sig}
	}
	return l.head, l.head.Size > 0
}

// sendLogHead gives the device the newest head, unless it had one in the last day.
func (s *served) sendLogHead() {
	now := s.h.config.Now()
	s.mu.Lock()
	due := s.headed.IsZero() || now.Sub(s.headed) >= headEvery
	s.mu.Unlock()
	if !due {
		return
	}
	m, ok := s.h.logHead()
	if !ok {
		return
	}
	s.mu.Lock()
	s.headed = now
	s.mu.Unlock()
	s.send(m)
}

// logWanted answers a device that asks for a proof, and passes on what one says that was given none that holds.
func (s *served) logWanted(m *wire.LogWanted) {
	if m.Fork {
		s.logForked(m)
		return
	}
	if m.Older == 0 || m.Older >= m.Newer || m.Newer >= 1<<62 {
		return
	}
	s.request(func() { // refused: the device asks again tomorrow
		ctx, proofs := s.t.Conn.Context(), s.h.logHeads.proofs
		select {
		case proofs <- struct{}{}:
			defer func() { <-proofs }()
		case <-ctx.Done():
			return
		}
		proof, err := s.h.auth.ProveLog(ctx, m.Older, m.Newer)
		if err != nil {
			return
		}
		// Without a proof the device judges as with a wrong one: auth cannot prove its own head.
		s.send(wire.LogHead{Size: m.Newer, Older: m.Older, Proof: proof})
	})
}

// logForked raises the alarm for a device. What it shows must be signed by auth: a device can make up everything else.
func (s *served) logForked(m *wire.LogWanted) {
	h := s.h
	s.mu.Lock()
	told := s.forked
	s.forked = true
	s.mu.Unlock()
	head := loghead.Head{Cluster: h.auth.Credentials().Cluster, Size: int64(m.Older), Root: m.Root, Time: time.Unix(int64(min(m.Time, 1<<40)), 0)}
	if told || !head.SignedBy(m.Signature, h.auth.Trust().TimeKeys) {
		return
	}
	detail := fmt.Sprintf("a device holds a head of %d events of %s, root %s, that the log of %d does not continue", m.Older, head.Time.UTC().Format(time.RFC3339), head.Root, m.Newer)
	h.config.Logger.Error("THE AUDIT LOG WAS REWRITTEN, says a device", "device", s.t.Name, "detail", detail)
	h.auth.ReportIncident("audit-log", "", s.t.UUID, detail)
}
