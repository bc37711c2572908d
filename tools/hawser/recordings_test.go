package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hawser/auth/api"
)

// What is known of how a session ended is said, and what is not is not made up.
func TestARecordingSaysHowItEndedAndWhatBecomesOfIt(t *testing.T) {
	day := time.Date(2026, 12, 24, 0, 0, 0, 0, time.UTC)
	for want, r := range map[string]*api.Recording{
		"":                                      {ExitStatus: 3},
		"exit status  3\nended        exited\n": {Exited: true, ExitStatus: 3, Ended: "exited"},
		"exit status  signal KILL\n":            {Exited: true, ExitStatus: 128, Signal: "KILL"},
		"kept         until 2026-12-24 at least, by retention.rules[0]\n": {KeepUntilUnix: day.Unix(), KeepRule: "retention.rules[0]"},
		"kept         for ever, by retention.recordings\n":                {KeepRule: "retention.recordings"},
		"state        removed\n":                                          {Complete: true, Removed: &api.RecordingMark{By: "user:eve"}},
		"removed      by user:eve on 2026-12-24T00:00:00Z: asked\n":       {Removed: &api.RecordingMark{By: "user:eve", AtUnixNano: day.UnixNano(), Reason: "asked"}},
	} {
		v := shownRecording{recordingView: viewRecording(r)}
		var out bytes.Buffer
		if err := v.print(&out); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(out.String(), want) || !r.Exited && strings.Contains(out.String(), "exit status") {
			t.Errorf("want %q in %s", want, out.String())
		}
	}
}
