package sftp

import (
	"bufio"
	"encoding/binary"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// names are those of accounts and groups, read when first asked for.
type names struct {
	read          bool
	users, groups map[uint32]string
	homes         map[string]string
}

func (n *names) load() {
	if n.read {
		return
	}
	n.read, n.users, n.groups, n.homes = true, map[uint32]string{}, map[uint32]string{}, map[string]string{}
	each := func(path string, into map[uint32]string) {
		f, err := os.Open(path)
		if err != nil {
			return
		}
		defer f.Close()
		for sc := bufio.NewScanner(io.LimitReader(f, maxAccounts)); sc.Scan(); {
			w := strings.Split(sc.Text(), ":")
			if len(w) < 3 {
				continue
			}
			if id, err := strconv.ParseUint(w[2], 10, 32); err == nil && into[uint32(id)] == "" {
				into[uint32(id)] = w[0]
			}
			if len(w) == 7 && n.homes[w[0]] == "" {
				n.homes[w[0]] = w[5]
			}
		}
	}
	each("/etc/passwd", n.users)
	each("/etc/group", n.groups)
}

func (n *names) user(id uint32) string  { n.load(); return n.users[id] }
func (n *names) group(id uint32) string { n.load(); return n.groups[id] }

func (n *names) home(user string) (string, bool) {
	n.load()
	home, ok := n.homes[user]
	return home, ok
}

// pack answers packed numbers with packed strings, empty for those without a name.
func (n *names) pack(ids []byte, name func(uint32) string) (b []byte) {
	for ; len(ids) >= 4; ids = ids[4:] {
		b = str(b, name(binary.BigEndian.Uint32(ids)))
	}
	return b
}

// long is a line as of ls -l, in OpenSSH's columns.
func (n *names) long(name string, fi os.FileInfo, a attrs) string {
	links := uint64(1)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		links = uint64(st.Nlink)
	}
	named := func(s string, id uint32) string {
		if s == "" {
			s = strconv.FormatUint(uint64(id), 10)
		}
		return s
	}
	when, format := fi.ModTime(), "Jan _2  2006"
	if now := time.Now(); !when.After(now) && now.Sub(when) < 365*24*time.Hour/2 {
		format = "Jan _2 15:04"
	}
	return mode(a.mode) + " " + left(strconv.FormatUint(links, 10), 3) + " " + right(named(n.user(a.uid), a.uid), 8) + " " + right(named(n.group(a.gid), a.gid), 8) + " " +
		left(strconv.FormatUint(a.size, 10), 8) + " " + when.Format(format) + " " + name
}

func left(s string, width int) string  { return strings.Repeat(" ", max(0, width-len(s))) + s }
func right(s string, width int) string { return s + strings.Repeat(" ", max(0, width-len(s))) }

// mode is the first column, as strmode(3) writes it without its last blank.
func mode(m uint32) string {
	b := []byte("?rwxrwxrwx")
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[1+i] = '-'
		}
	}
	switch m & syscall.S_IFMT {
	case syscall.S_IFREG:
		b[0] = '-'
	case syscall.S_IFDIR:
		b[0] = 'd'
	case syscall.S_IFLNK:
		b[0] = 'l'
	case syscall.S_IFCHR:
		b[0] = 'c'
	case syscall.S_IFBLK:
		b[0] = 'b'
	case syscall.S_IFIFO:
		b[0] = 'p'
	case syscall.S_IFSOCK:
		b[0] = 's'
	}
	for _, x := range []struct {
		bit uint32
		at  int
		on  byte
	}{{syscall.S_ISUID, 3, 's'}, {syscall.S_ISGID, 6, 's'}, {syscall.S_ISVTX, 9, 't'}} {
		if m&x.bit == 0 {
			continue
		}
		if b[x.at] == '-' {
			b[x.at] = x.on - 'a' + 'A'
		} else {
			b[x.at] = x.on
		}
	}
	return string(b)
}
