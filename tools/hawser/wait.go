package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"hawser/auth/api"
)

// waitVariable is what a hub waits by for a device that is away.
const waitVariable = "HAWSER_WAIT"

const (
	maxWait = 24 * time.Hour // as hubs have it
	// waitPoll is how often a device that is to be reached end to end is asked for: there no hub can wait.
	waitPoll = 3 * time.Second
)

// waitFlag takes --wait from the front of the words for ssh, whose own options are not read here.
func waitFlag(args []string) (time.Duration, []string, error) {
	value, rest := "", args
	switch {
	case len(args) > 0 && args[0] == "--wait":
		if len(args) == 1 {
			return 0, nil, usageError{errors.New("--wait wants a time, as 1h")}
		}
		value, rest = args[1], args[2:]
	case len(args) > 0 && strings.HasPrefix(args[0], "--wait="):
		value, rest = strings.TrimPrefix(args[0], "--wait="), args[1:]
	case os.Getenv(waitVariable) != "":
		value = os.Getenv(waitVariable)
	default:
		return 0, args, nil
	}
	d, err := time.ParseDuration(value)
	if err != nil || d <= 0 || d > maxWait {
		return 0, nil, usageError{fmt.Errorf("the wait %q is not a time such as 10m or 1h, at most 24h", value)}
	}
	if len(rest) == 0 {
		return 0, nil, usageError{errors.New("say which device")}
	}
	return d, rest, nil
}

// endToEndTargets are the devices that the words for ssh or scp name by their aliases for end to end.
func endToEndTargets(args []string, devices []*api.Device) (targets []string) {
	for _, arg := range args {
		host, _, _ := strings.Cut(arg, ":")              // of scp
		host = host[strings.LastIndexByte(host, '@')+1:] // a login
		name, ok := strings.CutPrefix(host, "e2e-")      // the prefix that no device has
		if ok && slices.ContainsFunc(devices, func(d *api.Device) bool { return d.Name == name }) && !slices.Contains(targets, name) {
			targets = append(targets, name)
		}
	}
	return targets
}

// waitEndToEnd waits for the devices that are to be reached end to end.
func (c *client) waitEndToEnd(cmd *cobra.Command, wait time.Duration, args []string, devices []*api.Device) error {
	if wait <= 0 {
		return nil
	}
	end := time.Now().Add(wait)
	for _, name := range endToEndTargets(args, devices) {
		for told := false; ; told = true {
			res, err := c.GetDevice(cmd.Context(), connect.NewRequest(&api.GetDeviceRequest{Device: name}))
			if err != nil {
				return err
			}
			if res.Msg.Online {
				break
			}
			if !time.Now().Before(end) {
				return fmt.Errorf("%s did not come within %s: %w", name, wait, context.DeadlineExceeded)
			}
			if !told {
				fmt.Fprintf(cmd.ErrOrStderr(), "hawser: %s is %s; waiting for it until %s\n",
					name, tellState(res.Msg, time.Now()), end.Format("15:04:05"))
			}
			t := time.NewTimer(min(waitPoll, time.Until(end)))
			select {
			case <-t.C:
			case <-cmd.Context().Done():
				t.Stop()
				return cmd.Context().Err()
			}
		}
	}
	return nil
}
