package tunneltest

import (
	"testing"

	"hawser/tunnel"
)

func TestMemoryConformance(t *testing.T) {
	RunConformance(t, func(t *testing.T) (tunnel.Conn, tunnel.Conn) { return Pair(t) })
}
