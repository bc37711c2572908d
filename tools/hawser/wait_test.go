package main

import (
	"slices"
	"testing"
	"time"

	"hawser/auth/api"
)

func TestWaitIsTakenFromTheFrontOfSSHsWords(t *testing.T) {
	t.Setenv(waitVariable, "")
	for _, tt := range []struct {
		args []string
		wait time.Duration
		rest []string
		bad  bool
	}{
		{[]string{"--wait", "1h", "-v", "gw-1"}, time.Hour, []string{"-v", "gw-1"}, false},
		{[]string{"--wait=90s", "gw-1"}, 90 * time.Second, []string{"gw-1"}, false},
		{[]string{"gw-1", "prog", "--wait", "1h"}, 0, []string{"gw-1", "prog", "--wait", "1h"}, false}, // the remote command's
		{[]string{"--wait"}, 0, nil, true}, {[]string{"--wait", "25h", "gw-1"}, 0, nil, true}, {[]string{"--wait", "1h"}, 0, nil, true},
	} {
		wait, rest, err := waitFlag(tt.args)
		if wait != tt.wait || !slices.Equal(rest, tt.rest) || (err != nil) != tt.bad {
			t.Errorf("%v: %v, %v, %v", tt.args, wait, rest, err)
		}
	}
	t.Setenv(waitVariable, "5m")
	if wait, rest, err := waitFlag([]string{"gw-1"}); wait != 5*time.Minute || len(rest) != 1 || err != nil {
		t.Errorf("from the environment: %v, %v, %v", wait, rest, err)
	}
	devices := []*api.Device{{Name: "gw-1"}, {Name: "gw-2"}}
	args := []string{"-l", "root", "file", "root@e2e-gw-1:/tmp/x", "e2e-gw-1:", "gw-2", "e2e-gw-9"}
	if got := endToEndTargets(args, devices); !slices.Equal(got, []string{"gw-1"}) {
		t.Errorf("end to end: %v", got)
	}
}
