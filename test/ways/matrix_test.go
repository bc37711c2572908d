package ways_test

import (
	"cmp"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
)

// The table that the suite prints at its end, and writes to $HAWSER_TABLE: what each client saw, each way in, beside what it saw of a plain sshd.
var matrix struct {
	sync.Mutex
	rows []matrixRow
}

type matrixRow struct{ client, hub, endToEnd string }

// impossible are the cells that a client cannot do, whatever the server, and why; docs/clients.md has the same table.
var impossible = []matrixRow{
	{"plink, pscp", "", "no: PuTTY 0.78 takes a host certificate only from an authority in its own settings"},
	{"dbclient", "", "no: dropbear knows no certificates, neither its own nor a host's"},
	{"curl sftp (libssh2)", "", "no: libssh2 presents no user certificate and checks no host certificate"},
	{"ssh-keyscan", "", "no: it opens a TCP connection of its own, and the device listens nowhere"},
	{"mosh", "no: UDP to the device", "no: UDP to the device"},
}

// cell enters a verdict; a client that differs once differs.
func cell(client, way, verdict string) {
	matrix.Lock()
	defer matrix.Unlock()
	i := slices.IndexFunc(matrix.rows, func(r matrixRow) bool { return r.client == client })
	if i < 0 {
		i = len(matrix.rows)
		matrix.rows = append(matrix.rows, matrixRow{client: client})
	}
	at := &matrix.rows[i].endToEnd
	if way == "hub" {
		at = &matrix.rows[i].hub
	}
	if *at == "" || *at == "same" {
		*at = verdict
	}
}

// difference is the first line that is not as sshd's, from shortly before it differs.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	i := 0
	for i < min(len(g), len(w)) && g[i] == w[i] {
		i++
	}
	// A line more than the other has is held against none.
	a, b := strings.Join(g[i:min(i+1, len(g))], ""), strings.Join(w[i:min(i+1, len(w))], "")
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	n = max(0, n-20)
	return fmt.Sprintf("%.60q, of sshd %.60q", a[n:], b[n:])
}

func TestACellThatDiffersSaysWhat(t *testing.T) {
	for _, c := range [][3]string{
		{"a\nb\nc", "a\nx\nc", `"b", of sshd "x"`},
		{"a\nb", "a", `"b", of sshd ""`},
		{"a", "a\nb\nc", `"", of sshd "b"`},
		{strings.Repeat("y", 90) + "1" + strings.Repeat("z", 90), strings.Repeat("y", 90) + "2", `"` + strings.Repeat("y", 20) + "1" + strings.Repeat("z", 39) + `", of sshd "` + strings.Repeat("y", 20) + `2"`},
	} {
		if got := difference(c[0], c[1]); got != c[2] {
			t.Errorf("%.20q and %.20q: %s, want %s", c[0], c[1], got, c[2])
		}
	}
}

// row is a test's name as the table has it.
func row(t *testing.T) string {
	name := strings.TrimPrefix(t.Name(), "Test")
	return strings.NewReplacer("_", " ", "ClientsSeeWhatSSHDShows", "ssh", "FilesTravelWhole", "files", "Matrix/", "", "OverOneConnection", "").Replace(name)
}

func printMatrix() {
	matrix.Lock()
	defer matrix.Unlock()
	if len(matrix.rows) == 0 {
		return
	}
	for _, no := range impossible {
		i := slices.IndexFunc(matrix.rows, func(r matrixRow) bool { return r.client == no.client })
		if i < 0 {
			matrix.rows = append(matrix.rows, no)
			continue
		}
		matrix.rows[i].hub, matrix.rows[i].endToEnd = cmp.Or(matrix.rows[i].hub, no.hub), cmp.Or(matrix.rows[i].endToEnd, no.endToEnd)
	}
	slices.SortFunc(matrix.rows, func(a, b matrixRow) int { return cmp.Compare(a.client, b.client) })
	var b strings.Builder
	fmt.Fprintf(&b, "%-52s %-10s %s\n", "client, beside a plain sshd", "hub", "end to end")
	for _, r := range matrix.rows {
		fmt.Fprintf(&b, "%-52s %-10s %s\n", r.client, cmp.Or(r.hub, "-"), cmp.Or(r.endToEnd, "-"))
	}
	fmt.Printf("\n%s\n", b.String())
	if at := os.Getenv("HAWSER_TABLE"); at != "" {
		f, err := os.OpenFile(at, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		if err == nil {
			_, err = f.WriteString("\n" + b.String())
			f.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, path.Base(at), err)
		}
	}
}
