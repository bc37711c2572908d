package command

import (
	"context"
	"errors"
	"fmt"
	"io"

	"hawser/edge"
	"hawser/tunnel/wire"
)

// doctor prints one line per check; a failed one fails the command.
func doctor(o *options, stdout, _ io.Writer) error {
	ctx, stop := untilSignal()
	defer stop()
	failed := 0
	edge.Diagnose(ctx, o.state, o.hubs, o.proxy, built(), func(c edge.Check) {
		verdict := "ok"
		if c.Err != nil {
			verdict = "FAIL"
			failed++
		}
		fmt.Fprintf(stdout, "%-4s %-12s %s\n", verdict, c.Name, wire.Quote(c.Text, 300))
		if c.Err != nil {
			fmt.Fprintf(stdout, "     %s\n", wire.Quote(c.Err.Error(), 600))
		}
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if failed > 0 {
		return errors.New("not everything an agent needs is there")
	}
	return nil
}
