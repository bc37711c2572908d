// Package cross holds what Hawser's agent is built for: the target table with
// its size budgets, the one way the agent is compiled, and the overlay that
// takes Go's FIPS scratch memory out of it. Start from [Targets] and
// [Target.Build].
package cross

// Target is one machine the agent is built for.
type Target struct {
	Name   string // as in file names: hawser-edge-NAME
	GOARCH string
	Env    []string // GOARM, GOMIPS or GOMIPS64, as go(1) reads them

	// Budget is the largest stripped file, in bytes, that the build may
	// produce; zero means the target has none of its own.
	Budget int64
	// Qemu is the user-mode emulator that runs the target on amd64; empty
	// where the machine itself does.
	Qemu string
	// Smoke marks the targets whose agent joins, serves and renews under the
	// emulator in every run of the tests.
	Smoke bool
}

// Targets is every machine the agent ships for.
//
// The budgets are what has been measured plus about two per cent: a
// dependency that costs more is a decision, not an accident. The bars of the
// project are mipsle 8.8 MB, arm64 7.6, arm 5 8.0, amd64 8.2: none of these
// budgets may pass its bar.
var Targets = []Target{
	{Name: "amd64", GOARCH: "amd64", Budget: 7_860_000},
	{Name: "386", GOARCH: "386", Env: []string{"GO386=softfloat"}, Budget: 7_480_000},
	{Name: "arm64", GOARCH: "arm64", Budget: 7_230_000, Qemu: "qemu-aarch64-static", Smoke: true},
	{Name: "arm5", GOARCH: "arm", Env: []string{"GOARM=5"}, Budget: 7_450_000, Qemu: "qemu-arm-static", Smoke: true},
	{Name: "arm6", GOARCH: "arm", Env: []string{"GOARM=6"}, Budget: 7_430_000, Qemu: "qemu-arm-static"},
	{Name: "arm7", GOARCH: "arm", Env: []string{"GOARM=7"}, Budget: 7_420_000, Qemu: "qemu-arm-static"},
	{Name: "mips", GOARCH: "mips", Env: []string{"GOMIPS=softfloat"}, Budget: 8_640_000, Qemu: "qemu-mips-static", Smoke: true},
	{Name: "mipsle", GOARCH: "mipsle", Env: []string{"GOMIPS=softfloat"}, Budget: 8_640_000, Qemu: "qemu-mipsel-static", Smoke: true},
	{Name: "mips64le", GOARCH: "mips64le", Env: []string{"GOMIPS64=softfloat"}, Budget: 8_780_000, Qemu: "qemu-mips64el-static"},
	{Name: "riscv64", GOARCH: "riscv64", Budget: 6_940_000, Qemu: "qemu-riscv64-static"},
}

// Find returns the target of that name.
func Find(name string) (Target, bool) {
	for _, t := range Targets {
		if t.Name == name {
			return t, true
		}
	}
	return Target{}, false
}
