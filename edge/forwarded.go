package edge

import (
	"hawser/auth/forwarded"
	"hawser/auth/grant"
	"hawser/auth/seal"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// Forwarded implements e2e.Host. What a device forwards while no hub can be asked has no key to be sealed with, and is not told.
func (h *host) Forwarded(g *grant.Grant, r forwarded.Report) {
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
