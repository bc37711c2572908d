package store_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hawser/test/harness"
)

const password = "correct horse battery staple"

// person is somebody at a computer of his own.
type person struct {
	name, home string
	secret     string // of his authenticator; empty: he has none
	step       int64  // of the code he used last
}

// person invites somebody as an operator, who accepts.
func (s *service) person(t *testing.T, name string, authenticator bool) *person {
	t.Helper()
	r := s.hawser(t, "user", "invite", name, "--role", "operator")
	line := strings.Fields(string(r.Stdout)) // hawser login --invite LINK
	if r.Code != 0 || len(line) != 4 {
		t.Fatalf("user invite: exit %d, %q, %s", r.Code, r.Stdout, r.Stderr)
	}
	dir := t.TempDir()
	p := &person{name: name, home: filepath.Join(dir, "home")}
	if !authenticator {
		if r := p.hawser(t, password+"\n", "login", "--invite", line[3], "--password-stdin", "--no-agent", "--no-otp"); r.Code != 0 {
			t.Fatalf("%s accepts: exit %d, %s", name, r.Code, r.Stderr)
		}
		return p
	}
	// The secret is shown and a code of it asked for.
	words, pass := filepath.Join(dir, "words"), filepath.Join(dir, "password")
	if err := os.WriteFile(pass, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	screen := harness.NewScreen(t, "xterm", "120", "40", "env", "HAWSER_HOME="+p.home, "sh", "-c",
		`"$0" login --invite "$1" --password-stdin --no-agent <"$2" 2>"$3"`, harness.Program(t, "hawser"), line[3], pass, words)
	screen.Shows(t, "Its code")
	found := regexp.MustCompile(`secret: ([A-Z2-7]+)`).FindStringSubmatch(harness.ReadFile(t, words))
	if found == nil {
		t.Fatalf("no secret is shown:\n%s", harness.ReadFile(t, words))
	}
	p.secret = found[1]
	screen.Types(t, p.code(t), "Enter")
	screen.Shows(t, "code 0")
	return p
}

// code is the authenticator's of now or, where that was used, the next, which is taken early.
func (p *person) code(t *testing.T) string {
	t.Helper()
	p.step = max(time.Now().Unix()/30, p.step+1)
	return harness.CodeAt(t, p.secret, p.step)
}

func (p *person) hawser(t *testing.T, stdin string, args ...string) harness.Result {
	t.Helper()
	return harness.RunEnv(t, []string{"HAWSER_HOME=" + p.home, "SSH_AUTH_SOCK="}, []byte(stdin), harness.Program(t, "hawser"), args...)
}

func (p *person) login(t *testing.T, args ...string) harness.Result {
	t.Helper()
	return p.hawser(t, password+"\n", append([]string{"login", "--password-stdin", "--no-agent"}, args...)...)
}
