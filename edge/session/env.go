package session

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hawser/edge/login"
)

// mayset is the AcceptEnv of Debian's sshd, with COLORTERM and TERM; nothing here changes which program runs or what it loads.
func mayset(name, value string) bool {
	if len(name) > 64 || len(value) > maxEnvValue || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
		return false
	}
	switch name {
	case "LANG", "TERM", "COLORTERM":
		return true
	}
	return strings.HasPrefix(name, "LC_")
}

// cleanTerm keeps a TERM that is a file name in the terminfo tree, as every real one is.
func cleanTerm(s string) string {
	if len(s) > 64 {
		return ""
	}
	for _, r := range s {
		if r <= ' ' || r > '~' || r == '/' {
			return ""
		}
	}
	return s
}

// environment is what sshd gives a session, and who it is for. What the person set comes first: of two entries with one name the last counts,
// so nothing there can stand in for ours.
func (s *session) environment(original string) []string {
	a, p := s.account, s.params
	env := append([]string{}, s.env...)
	set := func(name, value string) { env = append(env, name+"="+value) }
	set("USER", a.Name)
	set("LOGNAME", a.Name)
	set("HOME", a.Home)
	set("PATH", searchPath(s.engine.config.System, a))
	set("MAIL", filepath.Join("/var/mail", a.Name))
	set("SHELL", a.Shell)
	if tz := os.Getenv("TZ"); tz != "" {
		set("TZ", tz)
	}
	if c, srv := p.Client, p.Server; c.IsValid() && srv.IsValid() {
		client, server := c.Addr().Unmap(), srv.Addr().Unmap()
		set("SSH_CLIENT", fmt.Sprintf("%s %d %d", client, c.Port(), srv.Port()))
		set("SSH_CONNECTION", fmt.Sprintf("%s %d %s %d", client, c.Port(), server, srv.Port()))
	}
	if s.pty != nil {
		set("SSH_TTY", s.pty.Name())
		if s.term != "" {
			set("TERM", s.term)
		}
	}
	if original != "" {
		set("SSH_ORIGINAL_COMMAND", original)
	}
	if s.agent != nil {
		set("SSH_AUTH_SOCK", s.agent.path)
	}
	if s.x11 != nil {
		set("DISPLAY", s.x11.name("localhost"))
	}
	set(sessionVariable, p.SessionID)
	set("HAWSER_USER", p.User)
	set("HAWSER_DEVICE", s.engine.config.Device())
	if name := s.engine.config.Agent; name != "" {
		set(AgentVariable, name)
	}
	return unique(env)
}

// AgentVariable tells processes where the agent answers what they may ask of their session.
const AgentVariable = "HAWSER_AGENT"

// sessionVariable marks every process of a session; a kill looks for it.
const sessionVariable = "HAWSER_SESSION"

// unique keeps the last of each name, so that no program can find the first instead, and drops what no environment can hold.
func unique(env []string) []string {
	last := map[string]int{}
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = i
	}
	out := env[:0]
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if last[name] == i && !strings.ContainsRune(kv, 0) {
			out = append(out, kv)
		}
	}
	return out
}

// searchPath is PATH from login.defs, else what OpenSSH is built with.
func searchPath(sys login.System, a login.Account) string {
	key, path := "ENV_PATH", "/usr/local/bin:/usr/bin:/bin:/usr/games"
	if a.UID == 0 {
		key, path = "ENV_SUPATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	f, err := os.Open(filepath.Join("/", sys.Root, "/etc/login.defs"))
	if err != nil {
		return path
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) == 2 && w[0] == key {
			if v := strings.TrimPrefix(w[1], "PATH="); v != "" {
				path = v
			}
		}
	}
	return path
}
