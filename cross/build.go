package cross

import (
	"bytes"
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

// overlay writes, below dir, the file list that `go build -overlay` reads: one
// replacement, [scratchFile] with a small buffer. Not for FIPS builds.
func overlay(ctx context.Context, dir string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("ask go for GOROOT: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(scratchFile))
	src, err := os.ReadFile(original)
	if err != nil {
		return "", fmt.Errorf("read the entropy source to shrink: %w", err)
	}
	if bytes.Count(src, []byte(scratchType)) != 1 {
		return "", fmt.Errorf("%s no longer declares %q once: look again at what this Go release reserves, then mend cross/build.go", original, scratchType)
	}
	replacement := filepath.Join(dir, "entropy.go")
	small := bytes.Replace(src, []byte(scratchType), []byte(scratchSmall), 1)
	if err := os.WriteFile(replacement, small, 0o644); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {original: replacement}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}

// Build compiles the agent for the target into out, a file path, from the
// module that contains the current directory. The same tree gives the same
// bytes on every machine with the same Go release.
func (t Target) Build(ctx context.Context, out string) error {
	// The replaced file is compiled under its original name, so the temporary
	// directory's own name never reaches the binary.
	dir, err := os.MkdirTemp("", "hawser-cross-")
	if err != nil {
		return err
	}
	err = t.build(ctx, dir, out)
	return errors.Join(err, os.RemoveAll(dir))
}

func (t Target) build(ctx context.Context, dir, out string) error {
	list, err := overlay(ctx, dir)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-overlay", list,
		"-ldflags", "-s -w -buildid=", "-o", out, "hawser/edge/cmd/hawser-edge")
	cmd.Env = append(os.Environ(), append([]string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + t.GOARCH, "GOFLAGS="}, t.Env...)...)
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the agent for %s: %w\n%s", t.Name, err, msg)
	}
	return nil
}
