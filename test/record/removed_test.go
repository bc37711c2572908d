package record_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/test/harness"
)

// Who has auth's disk can remove recordings, and the log says that they were there: auth itself answers an auditor so, and so does a copy of its data, offline.
func TestARecordingThatIsGoneFromTheDiskIsMissed(t *testing.T) {
	t.Parallel()
	harness.Root(t)
	c := harness.Up(t, 1)
	if r := c.SSH(t, nil, ways(harness.Account(t))["hub"]...); r.Code != 0 {
		t.Fatalf("%s", r.Stderr)
	}
	id := recordings(t, c, 1, func(shown) bool { return true })[0].ID
	asked := func() harness.Result { return c.Hawser(t, nil, "audit", "verify", "--recordings") }
	if r := asked(); r.Code != 0 {
		t.Fatalf("as it was: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Stop(t)
	data, copied := filepath.Join(c.Dir, "auth"), t.TempDir()
	for _, part := range []string{"audit", "recordings"} {
		if err := os.CopyFS(filepath.Join(copied, part), os.DirFS(filepath.Join(data, part))); err != nil {
			t.Fatal(err)
		}
	}
	offline := func() harness.Result {
		return harness.Run(t, nil, harness.Program(t, "hawser-auth"), "verify", "--data", copied)
	}
	if r := offline(); r.Code != 0 || !strings.Contains(string(r.Stdout), "recordings: 1") {
		t.Fatalf("the copy, as it was: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	for _, dir := range []string{data, copied} {
		weeks, err := filepath.Glob(filepath.Join(dir, "recordings", "*-W*"))
		if err != nil || len(weeks) == 0 {
			t.Fatalf("the weeks in %s: %v, %v", dir, weeks, err)
		}
		for _, week := range weeks {
			if err := os.RemoveAll(week); err != nil {
				t.Fatal(err)
			}
		}
	}
	if r := offline(); r.Code != 1 || !strings.Contains(string(r.Stdout), "recording "+id+" is missing") {
		t.Errorf("hawser-auth verify: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	c = harness.UpIn(t, c.Dir, 1)
	if r := asked(); r.Code != 1 || !strings.Contains(string(r.Stdout), id) {
		t.Errorf("hawser audit verify --recordings: exit %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
