package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxAnswer bounds what a person types at a prompt, in bytes.
const maxAnswer = 4096

// answers reads lines where standard input is no terminal: the first question gets the first line, and so on.
var answers struct {
	sync.Mutex
	of io.Reader
	r  *bufio.Reader
}

var errNoAnswer = errors.New("standard input ended before the answer; give one line for each question, or run it at a terminal")

// askSecret asks for something that is not shown as it is typed. Where standard input is no terminal it is the next line of it.
func askSecret(c *cobra.Command, prompt string) (string, error) { return question(c, prompt, true) }

// askLine is askSecret for what may be seen.
func askLine(c *cobra.Command, prompt string) (string, error) {
	line, err := question(c, prompt, false)
	return strings.TrimSpace(line), err
}

// askNewPassword asks for a password to be set, twice where it is not seen.
func askNewPassword(c *cobra.Command) (string, error) {
	password, err := askSecret(c, "New password: ")
	if err != nil || !atTerminal(c) {
		return password, err
	}
	again, err := askSecret(c, "Once more: ")
	if err == nil && again != password {
		err = errors.New("the two are not the same; begin again")
	}
	return password, err
}

func atTerminal(c *cobra.Command) bool {
	f, ok := c.InOrStdin().(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func question(c *cobra.Command, prompt string, hidden bool) (string, error) {
	if atTerminal(c) {
		t, err := openTerminal(c)
		if err != nil {
			return "", err
		}
		defer t.close()
		return t.ask(c.Context(), prompt, hidden)
	}
	answers.Lock()
	defer answers.Unlock()
	if in := c.InOrStdin(); answers.of != in {
		answers.of, answers.r = in, bufio.NewReaderSize(in, maxAnswer)
	}
	line, err := answers.r.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", fmt.Errorf("the answer has more than %d bytes", maxAnswer)
	case errors.Is(err, io.EOF) && len(line) == 0:
		return "", errNoAnswer
	case err != nil && !errors.Is(err, io.EOF):
		return "", err
	}
	return strings.TrimRight(string(line), "\r\n"), nil
}
