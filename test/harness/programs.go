// Package harness runs the real programs for the black-box suites: it builds
// them once, starts clusters, plain sshds and network namespaces, and takes
// everything down again. It imports no package of the product.
package harness

import (
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var programs = sync.OnceValues(func() (string, error) {
	if dir := os.Getenv("HAWSER_BIN"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.MkdirTemp("", "hawser-bin-")
	if err != nil {
		return "", err
	}
	programsDir = dir
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/",
		"hawser/edge/cmd/hawser-edge", "hawser/hub/cmd/hawser-hub", "hawser/auth/cmd/hawser-auth", "hawser/tools/hawser")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return dir, cmd.Run()
})

var programsDir string // empty unless programs built some

// Program is the path of one of the four programs, taken from HAWSER_BIN or
// built once for the test binary.
func Program(t testing.TB, name string) string {
	t.Helper()
	dir, err := programs()
	if err != nil {
		t.Fatalf("build the programs: %v", err)
	}
	return filepath.Join(dir, name)
}

// tools are the harness's own programs, built once for the test binary: they run in namespaces and at the far end of a session.
var tools = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "hawser-tools-")
	if err != nil {
		return "", err
	}
	// A session's login need not be root.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-o", dir+"/", "hawser/test/harness/cmd/counter", "hawser/test/harness/cmd/flood", "hawser/test/harness/cmd/impair",
		"hawser/test/harness/cmd/authload", "hawser/tools/fleet")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	toolsDir = dir
	return dir, cmd.Run()
})

var toolsDir string // empty until tools was called

// Tool is the path of one of the harness's own programs: counter, flood, impair, authload, and the fleet.
func Tool(t testing.TB, name string) string {
	t.Helper()
	dir, err := tools()
	if err != nil {
		t.Fatalf("build the harness's tools: %v", err)
	}
	return filepath.Join(dir, name)
}

// Main runs a suite's tests and removes what was built for them; after, if any, run between.
func Main(m *testing.M, after ...func()) {
	code := m.Run()
	for _, f := range after {
		f()
	}
	if accountMade {
		_ = exec.Command("userdel", login).Run()
	}
	for _, dir := range []string{toolsDir, programsDir} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// Root skips nothing: a suite that needs root says so and fails, except under
// -short.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if testing.Short() {
		t.Skip("needs root")
	}
	t.Fatal("this suite needs root (logins, namespaces); run it with -short to leave it out")
}

// Need fails the test if a client it drives is not installed.
func Need(t testing.TB, names ...string) {
	t.Helper()
	for _, n := range names {
		if _, err := exec.LookPath(n); err != nil {
			t.Fatalf("%s is not installed: make test installs what is missing when root", n)
		}
	}
}

// Long reports whether the stated periods and counts are wanted instead of the
// short ones.
func Long() bool { return os.Getenv("HAWSER_LONG") != "" }
