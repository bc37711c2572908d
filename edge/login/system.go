package login

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Reasons why there is no account for a login. Both are final answers about that login, not failures to find out.
var (
	// ErrUnknown: the device has no such account.
	ErrUnknown = errors.New("no such login on this device")
	// ErrRefused: the account is there and may not be used.
	ErrRefused = errors.New("login refused")
)

// System says where the account files are. The zero value is the running system.
type System struct {
	// Root is put before /etc/passwd and the other files; empty means "/". Homes and shells are not looked for under it.
	Root string
	// Now is the clock that decides about expired accounts; nil means time.Now.
	Now func() time.Time
}

// Account is one login of the device.
type Account struct {
	Name     string
	UID, GID uint32
	// Groups are the supplementary groups, GID among them.
	Groups []uint32
	// Home is the directory named in passwd; it need not exist.
	Home string
	// Shell is a program that exists: the one named in passwd, else /bin/ash, else /bin/sh. NoLogin tells of those that let nobody in.
	Shell string
}

// NoLogin reports whether the account's shell is one of those that only say no. Such an account runs that shell, and no file server.
func (a Account) NoLogin() bool {
	switch filepath.Base(a.Shell) {
	case "nologin", "false":
		return true
	}
	return false
}

func (s System) path(name string) string { return filepath.Join("/", s.Root, name) }

// Lookup finds the account of that name. The error wraps ErrUnknown or ErrRefused, or is that of reading the files.
//
// Without PAM the rules are those OpenSSH applies itself: an expired account (shadow) is refused, and while /etc/nologin exists all but uid 0.
// A locked password ("!") is no bar, as with Debian's sshd: Hawser never asks for it, and `usermod --expiredate 1` is what disables an account.
func (s System) Lookup(name string) (Account, error) {
	if !validName(name) {
		return Account{}, fmt.Errorf("login %q: %w", clip(name), ErrUnknown)
	}
	a, found, err := s.passwd(func(a Account) bool { return a.Name == name })
	if err != nil {
		return Account{}, fmt.Errorf("login %q: %w", name, err)
	}
	if !found {
		if name != "root" {
			return Account{}, fmt.Errorf("login %q: %w", name, ErrUnknown)
		}
		a = Account{Name: "root", Home: rootHome(s)}
	}
	if err := s.permitted(a); err != nil {
		return Account{}, fmt.Errorf("login %q: %w", name, err)
	}
	return s.complete(a)
}

// Self is the account the agent itself runs as: that of passwd, else one made up from the process's own ids.
func (s System) Self() Account {
	uid := uint32(os.Geteuid())
	a, found, err := s.passwd(func(a Account) bool { return a.UID == uid })
	if err != nil || !found {
		a = Account{Name: "uid" + strconv.Itoa(int(uid)), UID: uid, GID: uint32(os.Getegid()), Home: "/"}
		if uid == 0 {
			a.Name, a.Home = "root", rootHome(s)
		}
	}
	if full, err := s.complete(a); err == nil {
		return full
	}
	a.Groups = []uint32{a.GID}
	return a
}

// permitted applies the refusals that are not about the account's existence.
func (s System) permitted(a Account) error {
	if expired, err := s.expired(a.Name); err != nil {
		return err
	} else if expired {
		return fmt.Errorf("%w: the account has expired (shadow); usermod --expiredate '' %s renews it", ErrRefused, a.Name)
	}
	if a.UID == 0 {
		return nil
	}
	text, err := readHead(s.path("/etc/nologin"), 1024)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: the device takes only root now (/etc/nologin): %q", ErrRefused, strings.TrimSpace(text))
}

func (s System) complete(a Account) (Account, error) {
	groups, err := s.groups(a.Name)
	if err != nil {
		return Account{}, fmt.Errorf("login %q: %w", a.Name, err)
	}
	a.Groups = append([]uint32{a.GID}, slices.DeleteFunc(groups, func(g uint32) bool { return g == a.GID })...)
	if len(a.Groups) > maxGroups {
		a.Groups = a.Groups[:maxGroups]
	}
	if a.Home == "" {
		a.Home = "/"
	}
	a.Shell = shell(a.Shell)
	return a, nil
}

// shell is the first of the wanted shell, /bin/ash and /bin/sh that can be run. With none it is the last, so that the error names a path.
func shell(want string) string {
	for _, p := range []string{want, "/bin/ash", "/bin/sh"} {
		if !filepath.IsAbs(p) {
			continue
		}
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() && fi.Mode()&0o111 != 0 {
			return p
		}
	}
	return "/bin/sh"
}

// rootHome is root's home where passwd does not name one.
func rootHome(s System) string {
	if fi, err := os.Stat(s.path("/root")); err == nil && fi.IsDir() {
		return "/root"
	}
	return "/"
}

// passwd returns the first account of /etc/passwd that match accepts. A missing file has no accounts.
func (s System) passwd(match func(Account) bool) (a Account, found bool, err error) {
	err = s.lines("/etc/passwd", func(line string) bool {
		a, found = parsePasswd(line)
		found = found && match(a)
		return !found
	})
	return a, found, err
}

// parsePasswd reads a line of passwd(5): name:password:uid:gid:gecos:home:shell.
func parsePasswd(line string) (Account, bool) {
	f := strings.Split(line, ":")
	if len(f) < 7 || !validName(f[0]) {
		return Account{}, false
	}
	uid, err1 := parseID(f[2])
	gid, err2 := parseID(f[3])
	if err1 != nil || err2 != nil {
		return Account{}, false
	}
	return Account{Name: f[0], UID: uid, GID: gid, Home: f[5], Shell: f[6]}, true
}

// groups returns the groups of /etc/group that name is a member of.
func (s System) groups(name string) (ids []uint32, err error) {
	err = s.lines("/etc/group", func(line string) bool {
		if id, ok := parseGroup(line, name); ok && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		return len(ids) < maxGroups
	})
	return ids, err
}

// GroupID returns the number of a group, for the tty group.
func (s System) GroupID(name string) (id uint32, ok bool) {
	err := s.lines("/etc/group", func(line string) bool {
		f := strings.Split(line, ":")
		if len(f) < 4 || f[0] != name {
			return true
		}
		n, err := parseID(f[2])
		id, ok = n, err == nil
		return false
	})
	return id, ok && err == nil
}

// parseGroup reads a line of group(5), name:password:gid:member,member, and reports whether member is one of them.
func parseGroup(line, member string) (uint32, bool) {
	f := strings.Split(line, ":")
	if len(f) < 4 || !slices.Contains(strings.Split(f[3], ","), member) {
		return 0, false
	}
	id, err := parseID(f[2])
	return id, err == nil
}

// expired tells from shadow(5) whether the account's day has passed. Without a shadow file, or the right to read it, nothing expires.
func (s System) expired(name string) (bool, error) {
	now := time.Now
	if s.Now != nil {
		now = s.Now
	}
	today := now().Unix() / 86400
	expired := false
	err := s.lines("/etc/shadow", func(line string) bool {
		f := strings.Split(line, ":")
		if f[0] != name {
			return true
		}
		if len(f) >= 8 && f[7] != "" {
			day, err := strconv.ParseInt(f[7], 10, 64)
			// As OpenSSH: the day named is the last good one, -1 is never. What is no number is taken for expired.
			expired = err != nil || (day >= 0 && today > day)
		}
		return false
	})
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return false, nil
	}
	return expired, err
}

// lines calls f with each line of a file until f returns false. A missing file has no lines; one that is too long is an error, for half of
// an account file is not one to decide by.
func (s System) lines(name string, f func(string) bool) error {
	file, err := os.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	sc.Buffer(make([]byte, 0, 4096), maxLine)
	for sc.Scan() {
		if line := sc.Text(); line != "" && line[0] != '#' && !f(line) {
			return nil
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// readHead reads at most limit bytes of a file.
func readHead(path string, limit int) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b := make([]byte, limit)
	n, _ := f.Read(b)
	return string(b[:n]), nil
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == 1<<32-1 {
		err = strconv.ErrRange // (uid_t)-1 means "leave unchanged" to the kernel
	}
	return uint32(n), err
}

// validName keeps names that could mean something else to a shell, a path or passwd itself out of every later use.
func validName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '-' || s[0] == '+' || s == "." || s == ".." {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`:/\"'`+"`", c) >= 0 {
			return false
		}
	}
	return true
}

func clip(s string) string {
	if len(s) > maxName {
		return s[:maxName] + "..."
	}
	return s
}
