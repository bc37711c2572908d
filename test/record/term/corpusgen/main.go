// Command corpusgen records what real programs write to a terminal of 80 by 24, into corpus/NAME.out. It was run
// once, as root, on Debian 12 with vim, procps, less, htop, tmux and vttest; the test plays the recordings, so none
// of them is needed there. Programs run alone in their process, host name and mount namespaces: nothing of the
// machine that recorded gets into the corpus.
package main

import (
	"flag"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/creack/pty"
)

// A script types its keys one after another. In what is typed, {} waits for the output to rest.
type script struct {
	name, command string
	keys          []string
}

var scripts = []script{
	{"vi", "vi -u NONE -N -c 'set ruler showmode term=xterm-256color' sample.txt", []string{
		"ihello w\x1b[Dorld\x1b", "yyp", "3dd", "P", "\x06", "\x02", "/line 1\r", "n", ":split\r", "\x17w", "10G", "A tail 日本 e\u0301\x1b", "u", ":set number\r", ":set hlsearch\r", "gUU",
	}},
	{"vi-quit", "vi -u /etc/vim/vimrc sample.txt", []string{":syntax on\r", "20G", "V5jd", "ggO#!/bin/sh\rif true; then\recho \"x\"\rfi\x1b", ":q!\r"}},
	{"less", "less -R sample.txt", []string{" ", " ", "b", "/line 12\r", "n", "G", "g", "j", "j", "k", "y", "y", "d", "u"}},
	{"less-quit", "less sample.txt", []string{" ", "q"}},
	{"top", "top -d 0.4", []string{"1", "z", "x", "M", "c", "V", "h", " "}},
	{"htop", "htop -d 4", []string{"\x1b[B", "\x1b[B", "t", "\x1bOR", "sle", "\x1b", "\x1bOQ", "\x1b[B", "\x1b[B", "\x1b"}},
	{"tmux", "tmux -L corpus -f /dev/null new-session 'sh'", []string{
		"ls -l /proc/self/fd | cat\r", "\x02\"", "seq 1 40\r", "\x02%", "printf '\\033[31mred 日本\\033[m\\n'\r", "\x02o", "\x02c", "vi -u NONE sample.txt\r", "\x06", "\x02p", "\x02z", "\x02[", "\x1b[5~", "q",
	}},
	{"bash", "bash --norc --noprofile -i", []string{
		"echo one two three\r", "echo a very long line of the kind that people paste, so long that it wraps around the edge of the screen at least once", "\x01", "\x1bf", "\x1bd", "\x05", "\x17", "\x1b[D\x1b[D", "zz", "\r",
		"\x1b[A\x1b[A", "\x1b[B", "\x15", "ls --color=always -C /usr\r", "seq 1 30 | tr '\\n' ' '\r", "\x12seq", "\r", "clear\r", "for i in 1 2 3; do printf '\\r%d%%' $((i*30)); done; echo\r",
	}},
	{"vttest-cursor", "vttest", []string{da, "1\n", "\n", "\n", "\n", "\n", "\n", "\n"}},
	{"vttest-screen", "vttest", []string{da, "2\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n"}},
	{"vttest-charset", "vttest", []string{da, "3\n", "8\n", "\n", "\n", "\n"}},
	{"vttest-vt102", "vttest", []string{da, "8\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n", "\n"}},
}

const sample = 200

// da is a VT100's answer to the question with which vttest begins.
const da = "\x1b[?1;2c"

func main() {
	log.SetFlags(0)
	out := flag.String("o", "corpus", "directory to write to")
	only := flag.String("only", "", "the one recording to make")
	flag.Parse()
	dir, err := os.MkdirTemp("", "corpus")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var text strings.Builder
	for i := range sample {
		text.WriteString("line ")
		text.WriteString(strings.Repeat("lorem ipsum ", i%13))
		text.WriteString([]string{"plain", "日本語 wide", "e\u0301 marked", "\ttab", "→ arrow"}[i%5])
		text.WriteString("\n")
	}
	for _, s := range scripts {
		if *only != "" && *only != s.name {
			continue
		}
		home, err := os.MkdirTemp(dir, "")
		if err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, "sample.txt"), []byte(text.String()), 0o644); err != nil {
			log.Fatal(err)
		}
		b, err := record(home, s)
		if err != nil {
			log.Fatalf("%s: %v", s.name, err)
		}
		if err := os.WriteFile(filepath.Join(*out, s.name+".out"), b, 0o644); err != nil {
			log.Fatal(err)
		}
		log.Printf("%s: %d bytes", s.name, len(b))
	}
}

func record(dir string, s script) ([]byte, error) {
	cmd := exec.Command("unshare", "--pid", "--fork", "--mount", "--mount-proc", "--uts", "--kill-child", "sh", "-c", "hostname device; exec "+s.command)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TERM=xterm-256color", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "HOME=" + dir, "TMUX_TMPDIR=" + dir, "PS1=device$ "}
	p, err := pty.StartWithSize(cmd, &pty.Winsize{Cols: 80, Rows: 24})
	if err != nil {
		return nil, err
	}
	chunks := make(chan []byte, 100)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 4096)
			n, err := p.Read(b)
			if err != nil {
				return
			}
			chunks <- b[:n]
		}
	}()
	var out []byte
	rest := func() {
		for {
			select {
			case b, ok := <-chunks:
				if !ok {
					return
				}
				out = append(out, b...)
			case <-time.After(350 * time.Millisecond):
				return
			}
			if len(out) > 64<<10 {
				return
			}
		}
	}
	limit := func() {
		// A program that never rests is given its time.
		end := time.After(700 * time.Millisecond)
		for {
			select {
			case b, ok := <-chunks:
				if !ok {
					return
				}
				out = append(out, b...)
			case <-end:
				return
			}
		}
	}
	wait := rest
	if s.name == "top" || s.name == "htop" {
		wait = limit
	}
	wait()
	for _, k := range s.keys {
		if _, err := p.WriteString(k); err != nil {
			break
		}
		wait()
	}
	kept := len(out)
	_ = cmd.Process.Kill()
	for range chunks {
	}
	_ = cmd.Wait()
	_ = p.Close()
	return out[:kept], nil
}
