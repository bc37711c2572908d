// Command hawser-edge is the agent on a device: see package edge/command for its flags and exit codes.
package main

import (
	"os"

	"hawser/edge/command"
)

func main() { os.Exit(command.Main(os.Args[1:], os.Stdout, os.Stderr)) }
