// Command counter is the far end of a numbered line stream: on its standard input and output, or at every connection to --listen.
package main

import (
	"flag"
	"fmt"
	"net"
	"os"

	"golang.org/x/term"

	"hawser/test/harness/stream"
)

func main() {
	rate := flag.Int("rate", 50, "lines a second")
	size := flag.Int("size", 24, "bytes a line")
	listen := flag.String("listen", "", "host:port to serve")
	flag.Parse()
	if err := run(*rate, *size, *listen); err != nil {
		fmt.Fprintln(os.Stderr, "counter:", err)
		os.Exit(3)
	}
}

func run(rate, size int, listen string) error {
	if listen == "" {
		if term.IsTerminal(0) {
			// The stream has to cross the terminal as it is.
			if _, err := term.MakeRaw(0); err != nil {
				return err
			}
			fmt.Print(stream.Screen)
		}
		return stream.Answer(os.Stdin, os.Stdout, rate, size)
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := stream.Answer(c, c, rate, size); err != nil {
				fmt.Fprintln(os.Stderr, "counter:", err)
			}
		}()
	}
}
