package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/recorder/play"
	"hawser/recorder/reader"
)

// exported is what an export is to be.
type exported struct {
	cast, cast2, text, page, chunks, unfiltered, input bool
	title                                              string
	ids                                                identities
}

func newRecordingsExport() *cobra.Command {
	var x exported
	var file string
	c := &cobra.Command{
		Use:   "export ID|FILE",
		Short: "Write a recording as a page, asciicast, text, or the bytes that the session printed",
		Long: `Write a recording to standard output, or to --file. Without a format it is what the session printed, standard output and standard error in
their order, byte for byte. At a terminal use ` + "`hawser play`" + `, which keeps hostile bytes from it.

asciicast is for asciinema and its players, which write to the terminal what it holds: what would drive the terminal is left out of it, but with
--unfiltered. Standard error becomes output there; commands and remarks become markers.

What is encrypted to auditors is decrypted by --identity, but with --chunks: it stays as it is stored then.`,
		Example: "  hawser recordings export 5f0c2a --html --file session.html\n  hawser recordings export 5f0c2a --cast > session.cast",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			out := c.OutOrStdout()
			switch {
			case file != "":
				// What people typed and saw is for nobody else.
				f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				b := bufio.NewWriter(f)
				out = b
				err = x.write(c, args[0], out)
				if err = errors.Join(err, b.Flush(), f.Close()); err != nil {
					err = errors.Join(err, os.Remove(file))
				}
				return err
			case term.IsTerminal(int(os.Stdout.Fd())) && !x.text:
				return usageError{errors.New("standard output is a terminal, and a recording may hold bytes that drive it: send them to a file, or use hawser play")}
			}
			return x.write(c, args[0], out)
		},
	}
	x.ids.add(c)
	f := c.Flags()
	f.BoolVar(&x.page, "html", false, "one page that plays it in a browser, and needs nothing else")
	f.BoolVar(&x.cast, "cast", false, "asciicast, version 3")
	f.BoolVar(&x.cast2, "cast-v2", false, "asciicast, version 2, for older asciinema")
	f.BoolVar(&x.text, "text", false, "what the terminal showed, as lines of text")
	f.BoolVar(&x.chunks, "chunks", false, "the recording as it is stored, for `hawser play FILE` and `hawser recordings verify FILE`")
	f.BoolVar(&x.unfiltered, "unfiltered", false, "with --cast: output as it was, hostile bytes with it")
	f.BoolVar(&x.input, "input", false, "with --cast: what was typed too")
	f.StringVar(&x.title, "title", "", "with --html and --cast; default: who was where")
	f.StringVar(&file, "file", "", "write to this new file")
	c.MarkFlagsMutuallyExclusive("html", "cast", "cast-v2", "text", "chunks")
	return c
}

func (x *exported) write(c *cobra.Command, id string, out io.Writer) error {
	if x.chunks {
		s, err := openSource(c.Context(), id)
		if err != nil {
			return err
		}
		defer s.close()
		for {
			b, err := s.next()
			if err == io.EOF {
				_, err := out.Write(s.evidence)
				return err
			}
			if err != nil {
				return err
			}
			if _, err := out.Write(b); err != nil {
				return err
			}
		}
	}
	return withRecording(c, id, &x.ids, func(r *reader.Reader) error {
		h, err := r.Header()
		if err != nil {
			return err
		}
		title := x.title
		if title == "" {
			title = fmt.Sprintf("%s on %s, %s", h.User, h.Device, h.Start.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
		o := play.CastOptions{Version: 3, Title: title, Input: x.input, Raw: x.unfiltered}
		switch {
		case x.page:
			return play.HTML(r, out, title)
		case x.text:
			return play.Text(r, out)
		case x.cast2:
			o.Version = 2
			return play.Asciicast(r, out, o)
		case x.cast:
			return play.Asciicast(r, out, o)
		}
		return play.WriteRaw(r, out)
	})
}
