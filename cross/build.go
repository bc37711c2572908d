package cross

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// scratchFile is the file of the standard library that reserves 32 MiB of bss
// for an entropy source that only FIPS mode reads. A 64 MB router is charged
// for it at exec, and one that limits RLIMIT_DATA kills the agent there.
const scratchFile = "src/crypto/internal/entropy/v1.0.0/entropy.go"

const (
	scratchType  = "type ScratchBuffer [1 << 25]byte"
	scratchSmall = "type ScratchBuffer [1 << 10]byte"
)

// cold are packages that do no work per byte of a session: names, certificates,
// requests, messages, signatures and key exchange (once a handshake), TLS
// records, SSH packets and frames, whose ciphers and copies are elsewhere, and
// wrappers around system calls. They are compiled without inlining, which makes
// the agent some 8 % smaller. Where it makes a package larger it is left out.
var cold = []string{
	"bufio", "bytes", "context", "crypto", "crypto/ecdh", "crypto/ecdsa", "crypto/ed25519", "crypto/elliptic", "crypto/hmac",
	"crypto/hpke", "crypto/internal/fips140/bigmod", "crypto/internal/fips140/drbg", "crypto/internal/fips140/ecdh",
	"crypto/internal/fips140/ecdsa", "crypto/internal/fips140/ed25519", "crypto/internal/fips140/edwards25519/...",
	"crypto/internal/fips140/hkdf", "crypto/internal/fips140/hmac", "crypto/internal/fips140/mlkem",
	"crypto/internal/fips140/nistec/...", "crypto/internal/fips140/rsa", "crypto/internal/fips140/sha3",
	"crypto/internal/fips140/tls13", "crypto/rsa", "crypto/sha512", "crypto/tls", "crypto/x509/...", "encoding/asn1", "encoding/hex",
	"fmt", "hash/crc32", "internal/bisect", "internal/cpu", "internal/fmtsort", "internal/godebug", "internal/poll",
	"internal/runtime/cgroup", "internal/sync", "io", "io/fs", "log", "math/big", "net", "net/url", "os/...", "path/...", "reflect",
	"sort", "sync", "syscall", "time",
	"vendor/golang.org/x/crypto/cryptobyte/...", "vendor/golang.org/x/net/...",
	"github.com/creack/pty", "github.com/hashicorp/yamux",
	"github.com/quic-go/quic-go/internal/handshake", "github.com/quic-go/quic-go/internal/protocol",
	"github.com/quic-go/quic-go/internal/qerr", "github.com/quic-go/quic-go/internal/utils/...",
	"github.com/quic-go/quic-go/internal/wire", "github.com/quic-go/quic-go/quicvarint", "golang.org/x/crypto/cryptobyte/...",
	"golang.org/x/crypto/ssh", "golang.org/x/sys/...",
	"hawser/auth/...", "hawser/edge", "hawser/edge/command", "hawser/edge/e2e", "hawser/edge/forward", "hawser/edge/login",
	"hawser/edge/netwatch", "hawser/edge/pty", "hawser/edge/relay", "hawser/edge/session", "hawser/edge/sftp", "hawser/recorder/...", "hawser/tunnel",
	"hawser/tunnel/channel/...", "hawser/tunnel/identity", "hawser/tunnel/inner", "hawser/tunnel/quicconn", "hawser/tunnel/resume",
	"hawser/tunnel/idle", "hawser/tunnel/screen", "hawser/tunnel/wire", "hawser/tunnel/yamuxconn",
}

// change is what is done to one file of Go's own.
type change struct {
	file string // in GOROOT
	do   func(original []byte) ([]byte, error)
}

// changes are those to the standard library: [scratchFile] with a small buffer,
// edits, and stubs for the curves that are left out (curves.go). Not for FIPS builds.
func changes() []change {
	list := []change{edit{scratchFile, scratchType, scratchSmall}.change()}
	for _, e := range edits {
		list = append(list, e.change())
	}
	for _, curve := range leftOut {
		list = append(list, change{curvesDir + "/p" + curve + ".go", func(src []byte) ([]byte, error) { return withoutCurve(curve, src) }})
	}
	// It belongs to P-224.
	return append(list, change{curvesDir + "/p224_sqrt.go", func([]byte) ([]byte, error) { return []byte("package nistec\n"), nil }})
}

// overlay makes the changes in copies below dir, and writes the list of them that
// `go build -overlay` reads.
func overlay(ctx context.Context, dir string, changes []change) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for GOROOT: %w", err)
	}
	root := strings.TrimSpace(string(out))
	replace := map[string]string{}
	for _, c := range changes {
		original := filepath.Join(root, filepath.FromSlash(c.file))
		replacement := filepath.Join(dir, strings.ReplaceAll(c.file, "/", "-"))
		from := original
		if replace[original] != "" { // changed before
			from = replacement
		}
		src, err := os.ReadFile(from)
		if err != nil {
			return "", fmt.Errorf("read a file of Go's to replace: %w", err)
		}
		if src, err = c.do(src); err != nil {
			return "", fmt.Errorf("%s: %w", original, err)
		}
		if err := os.WriteFile(replacement, src, 0o644); err != nil {
			return "", err
		}
		replace[original] = replacement
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}

// stamp is the linker's options that tell the agent its release, and the
// earliest time it can be run at: those of the commit, so that they do not
// differ from build to build. A tree without git's history has none.
func stamp(ctx context.Context, module string) string {
	git := func(args ...string) string {
		cmd := exec.CommandContext(ctx, "git", args...)
		cmd.Dir = module
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	var x string
	if v := git("describe", "--tags", "--always", "--dirty"); v != "" {
		x += " -X hawser/tunnel.version=" + v
	}
	if t := git("log", "-1", "--format=%ct"); t != "" {
		x += " -X hawser/edge/command.buildTime=" + t
	}
	return x
}

// link is what the linker is told for the target: x86 aligns functions to 32
// bytes, which on an agent of small functions is 80 kB of nothing.
func (t Target) link() string {
	if t.GOARCH == "amd64" || t.GOARCH == "386" {
		return "-funcalign=16 "
	}
	return ""
}

// Build compiles the agent for the target, and links it by Go's linker as
// linkEdits change it, into out, a file path, from the
// module that holds the directory module. The same commit gives the same bytes
// on every machine with the same Go release, wherever the tree lies.
func (t Target) Build(ctx context.Context, module, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	// The replaced file is compiled under its original name, so the temporary
	// directory's own name never reaches the binary.
	dir, err := os.MkdirTemp("", "hawser-cross-")
	if err != nil {
		return err
	}
	toolexec, err := linker(ctx, dir)
	if err == nil {
		err = t.build(ctx, dir, module, out, "-toolexec", `"`+toolexec+`"`)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// build is Build by way of dir and with more flags.
func (t Target) build(ctx context.Context, dir, module, out string, flags ...string) error {
	list, err := overlay(ctx, dir, changes())
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-overlay", list, "-ldflags", "-s -w -buildid= " + t.link() + stamp(ctx, module), "-o", out}
	args = append(args, flags...)
	for _, p := range cold {
		args = append(args, "-gcflags="+p+"=-l")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "hawser/edge/cmd/hawser-edge")...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + t.GOARCH, "GOFLAGS="}, t.Env...)...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent for %s: %w\n%s", t.Name, err, msg)
	}
	return nil
}
