package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/tunnel/wire"
)

// errNoTerminal means that there is nobody to ask.
var errNoTerminal = errors.New("there is no terminal to ask at")

// terminal is where a person is asked: standard input where that is a terminal, else the controlling one, so that `hawser` may stand in a pipe.
type terminal struct {
	in    *os.File
	words io.Writer
	lines *bufio.Reader
	close func()
}

func openTerminal(c *cobra.Command) (*terminal, error) {
	t := &terminal{in: os.Stdin, words: c.ErrOrStderr(), close: func() {}}
	if !term.IsTerminal(int(t.in.Fd())) {
		tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
		if err != nil {
			return nil, errNoTerminal
		}
		t.in, t.words, t.close = tty, tty, func() { _ = tty.Close() }
	}
	t.lines = bufio.NewReader(io.LimitReader(t.in, maxInput))
	return t, nil
}

// ask reads one line; hidden keeps it from the screen. When ctx ends the terminal is as it was, and the read is left to the end of the program.
func (t *terminal) ask(ctx context.Context, prompt string, hidden bool) (string, error) {
	fd := int(t.in.Fd())
	state, err := term.GetState(fd)
	if hidden && err == nil {
		// Before the prompt: what a fast typist answers to it must not be echoed. term.ReadPassword would be too late.
		state, err = term.MakeRaw(fd)
	}
	if err != nil {
		return "", err
	}
	fmt.Fprint(t.words, prompt)
	type answer struct {
		text string
		err  error
	}
	done := make(chan answer, 1)
	go func() {
		if hidden {
			text, err := t.readRaw()
			_ = term.Restore(fd, state)
			fmt.Fprintln(t.words)
			done <- answer{text, err}
			return
		}
		line, err := t.lines.ReadString('\n')
		done <- answer{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return "", fmt.Errorf("read the answer: %w", a.err)
		}
		return a.text, nil
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		fmt.Fprintln(t.words)
		return "", context.Cause(ctx)
	}
}

// errInterrupted is what Ctrl-C at a prompt is.
var errInterrupted = errors.New("interrupted")

// readRaw reads a line of a terminal in raw mode, with the keys that edit one.
func (t *terminal) readRaw() (string, error) {
	var line []byte
	for len(line) <= maxSecret {
		c, err := t.lines.ReadByte()
		if err != nil {
			return "", err
		}
		switch c {
		case '\r', '\n':
			return string(line), nil
		case 3: // Ctrl-C
			return "", errInterrupted
		case 4: // Ctrl-D
			return "", io.EOF
		case 8, 127: // backspace takes a character, of however many bytes
			_, n := utf8.DecodeLastRune(line)
			line = line[:len(line)-n]
		case 21: // Ctrl-U
			line = nil
		default:
			line = append(line, c)
		}
	}
	return "", fmt.Errorf("more than %d bytes", maxSecret)
}

// yes asks a question that only y or yes answers so.
func (t *terminal) yes(ctx context.Context, question string) (bool, error) {
	a, err := t.ask(ctx, question+" [y/N] ", false)
	a = strings.ToLower(strings.TrimSpace(a))
	return a == "y" || a == "yes", err
}

// readSecret reads a password from a file descriptor: its first line.
func readSecret(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+2))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	if line = strings.TrimSuffix(line, "\r"); len(line) > maxSecret {
		return "", fmt.Errorf("the password has more than %d bytes", maxSecret)
	}
	return line, nil
}

// maxSecret bounds a password, in bytes.
const maxSecret = 1024

// shown is text of the other side, made safe for a terminal.
func shown(s string) string { return wire.Quote(s, maxCell) }
