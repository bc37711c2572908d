package edge

import (
	"slices"
	"strings"
	"time"

	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/seal"
	"hawser/recorder"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Forwarded implements e2e.Host.
func (h *host) Forwarded(g *grant.Grant, r forwarded.Report) (closed func(in, out int64)) {
	begun := time.Now()
	f := recorder.Forward{
		Kind: strings.TrimSuffix(r.Channel, "-forward"), Target: wire.Quote(r.Target, maxQuoted), Origin: wire.Quote(r.Origin, maxQuoted), State: "open",
	}
	h.mu.Lock()
	h.forwards++
	f.ID = h.forwards
	h.mu.Unlock()
	h.recordForward(f)
	h.tellForward(g, r)
	return func(in, out int64) {
		f.State, f.In, f.Out = "close", uint64(in), uint64(out)
		h.recordForward(f)
		r.Closed, r.In, r.Out, r.Lasted = true, f.In, f.Out, time.Since(begun)
		h.tellForward(g, r)
	}
}

// recordForward puts a fact into the recordings of the sessions that the connection has now.
func (h *host) recordForward(f recorder.Forward) {
	h.mu.Lock()
	taps := slices.Clone(h.taps)
	h.mu.Unlock()
	for _, t := range taps {
		if w := t.writer(); w != nil {
			w.Forward(f)
		}
	}
}

// tellForward tells auth. What a device forwards while no hub can be asked has no key to be sealed with, and is not told.
func (h *host) tellForward(g *grant.Grant, r forwarded.Report) {
	if g.SealKey == [32]byte{} {
		return
	}
	s, err := seal.To(g.SealKey, g.ConnectionID)
	if c := h.a.controls.get(h.entry()); err == nil && c != nil {
		err = c.send(wire.Forwarded{ConnectionID: g.ConnectionID, Sealed: s.Seal(0, 0, r.Append(nil))})
	}
	if err != nil {
		tunnel.Debug(h.a.log, "forward not told", "error", err)
	}
}
