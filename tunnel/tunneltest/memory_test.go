package tunneltest

import (
	"testing"

	"hawser/tunnel"
)

func TestMemoryConformance(t *testing.T) {
	RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) { return Pair(t) })
}

func TestMemoryStuckConformance(t *testing.T) {
	RunStuckConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn, func()) {
		hub, edge := Pair(t)
		return hub, edge, func() {} // nobody reads: that is all memory can do
	})
}
