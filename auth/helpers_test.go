package auth

import (
	"encoding/hex"
	"flag"
	"os"
	"testing"

	"connectrpc.com/connect"
)

// statedParams are those passwords are hashed with outside the tests.
var statedParams = passwordParams

// TestMain makes passwords cheap but for benchmarks: the tests hash hundreds, under the race detector.
func TestMain(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() == "" {
		passwordParams.memory, passwordParams.passes = 1<<10, 1
	}
	os.Exit(m.Run())
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }

func connectRequest[T any](m *T) *connect.Request[T] { return connect.NewRequest(m) }
