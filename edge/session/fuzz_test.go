package session

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hawser/edge/login"
)

func FuzzSearchPath(f *testing.F) {
	root := f.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Add("# c\nENV_SUPATH\tPATH=/sbin:/bin\nENV_PATH PATH=/bin\n", uint32(0))
	f.Add("ENV_PATH /bin\nENV_PATH PATH=\nENV_PATH PATH=/a b\n", uint32(1))
	f.Add("ENV_PATH "+strings.Repeat("x", 70<<10), uint32(1))
	f.Fuzz(func(t *testing.T, text string, uid uint32) {
		if err := os.WriteFile(filepath.Join(root, "etc/login.defs"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		path := searchPath(login.System{Root: root}, login.Account{UID: uid})
		if path == "" || len(strings.Fields(path)) != 1 {
			t.Errorf("got %q", path)
		}
	})
}
