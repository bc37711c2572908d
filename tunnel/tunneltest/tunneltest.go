package tunneltest

import (
	"testing"

	"hawser/tunnel"
)

func Pair(t testing.TB) (hub, edge tunnel.Conn) { panic("skeleton") }
func RunConformance(t *testing.T, pair func(t *testing.T) (hub, edge tunnel.Conn)) {
	panic("skeleton")
}
