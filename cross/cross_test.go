package cross

import (
	"crypto/sha256"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"hawser/test/harness"
)

// built compiles each target at most once for all the tests of the package.
var built = struct {
	sync.Mutex
	dir  string // empty until the first
	path map[string]string
}{path: map[string]string{}}

func TestMain(m *testing.M) {
	harness.Main(m, func() {
		if built.dir != "" {
			os.RemoveAll(built.dir)
		}
	})
}

func agent(t *testing.T, target Target) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if p, ok := built.path[target.Name]; ok {
		return p
	}
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "hawser-cross-test-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
	}
	p := filepath.Join(built.dir, "hawser-edge-"+target.Name)
	if err := target.Build(t.Context(), "..", p); err != nil {
		t.Fatal(err)
	}
	built.path[target.Name] = p
	return p
}

func TestEveryTargetFitsItsBudget(t *testing.T) {
	for _, target := range Targets {
		t.Run(target.Name, func(t *testing.T) {
			fi, err := os.Stat(agent(t, target))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d bytes of %d", fi.Size(), target.Budget)
			if target.Budget > 0 && fi.Size() > target.Budget {
				t.Errorf("%d bytes, over the budget of %d: find what it links that it need not, or raise the budget and say why", fi.Size(), target.Budget)
			}
		})
	}
}

// A budget only means something if the agent is one static file.
func TestAgentsAreStatic(t *testing.T) {
	for _, target := range Targets {
		f, err := elf.Open(agent(t, target))
		if err != nil {
			t.Fatal(err)
		}
		libs, err := f.ImportedLibraries()
		if err == nil && len(libs) > 0 {
			t.Errorf("%s: links %v", target.Name, libs)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP {
				t.Errorf("%s: asks for a dynamic loader", target.Name)
			}
		}
		f.Close()
	}
}

// Go reserves 32 MiB of bss for FIPS mode; under a small RLIMIT_DATA that
// alone kills the agent at exec.
func TestAgentsReserveNoFIPSScratchMemory(t *testing.T) {
	for _, target := range Targets {
		f, err := elf.Open(agent(t, target))
		if err != nil {
			t.Fatal(err)
		}
		var bss uint64
		for _, s := range f.Sections {
			if s.Type == elf.SHT_NOBITS {
				bss += s.Size
			}
		}
		f.Close()
		if bss > 1<<20 {
			t.Errorf("%s: %d bytes of bss, want less than 1 MiB", target.Name, bss)
		}
	}
}

// The second build starts from nothing: another directory, an empty build cache.
func TestBuildsAreReproducible(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if out, err := exec.Command("git", "clone", "-q", "--no-hardlinks", "..", elsewhere).CombinedOutput(); err != nil {
		t.Fatalf("clone the tree: %v\n%s", err, out)
	}
	t.Setenv("GOCACHE", t.TempDir())
	for _, name := range []string{"mipsle", "arm64"} {
		target, ok := Find(name)
		if !ok {
			t.Fatalf("no target %s", name)
		}
		one := filepath.Join(t.TempDir(), "one")
		if err := target.Build(t.Context(), elsewhere, one); err != nil {
			t.Fatal(err)
		}
		other := agent(t, target)
		if dirty(t) {
			// The clone has no uncommitted changes: compare two builds of it.
			other = filepath.Join(t.TempDir(), "other")
			t.Setenv("GOCACHE", t.TempDir())
			if err := target.Build(t.Context(), elsewhere, other); err != nil {
				t.Fatal(err)
			}
		}
		a, errA := os.ReadFile(one)
		b, errB := os.ReadFile(other)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if sha256.Sum256(a) != sha256.Sum256(b) {
			t.Errorf("%s: two builds of one tree differ", name)
		}
	}
}

// dirty reports whether the tree has changes that are not committed.
func dirty(t *testing.T) bool {
	t.Helper()
	out, err := exec.Command("git", "status", "--porcelain").Output()
	if err != nil {
		t.Fatal(err)
	}
	return len(out) > 0
}
