package main

import (
	"strings"
	"testing"

	"hawser/auth/api"
)

func TestASessionIsJoinedByTheWayThatShowsItToTheFewest(t *testing.T) {
	id := []byte{0xab, 0xcd, 0xef, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}
	both := []string{"observer", "peer"}
	for name, tt := range map[string]struct {
		s     *api.JoinableSession
		words string
		note  string
	}{
		"by a hub": {&api.JoinableSession{Id: id, Way: "hub", Device: "gw", ModesByHub: both, ModesEndToEnd: both}, "-t hub join abcdef --mode peer", ""},
		"end to end": {&api.JoinableSession{Id: id, Way: "end-to-end", Device: "gw", Login: "diag", ModesByHub: both, ModesEndToEnd: both},
			"-t -o SetEnv=HAWSER_JOIN=abcdef0102030405060708090a0b0c0d:peer -l diag e2e-gw", ""},
		"direct": {&api.JoinableSession{Id: id, Way: "direct", Device: "gw", Login: "diag", ModesEndToEnd: both},
			"-t -o SetEnv=HAWSER_JOIN=abcdef0102030405060708090a0b0c0d:peer -l diag e2e-gw", ""},
		"end to end, of whom the roles let in by a hub alone": {&api.JoinableSession{Id: id, User: "ann", Way: "end-to-end", Device: "gw", ModesByHub: both, ModesEndToEnd: []string{"observer"}},
			"-t hub join abcdef --mode peer", "a hub, which sees what you see"},
		"on a server": {&api.JoinableSession{Id: id, Way: "hub", Device: "cam", Behind: true, HubSshAddresses: []string{"[2001:db8::1]:2222"}, ModesByHub: both},
			"-o HostName=2001:db8::1 -p 2222 -t hub join abcdef --mode peer", ""},
		"unknown": {nil, "-t hub join abcdef --mode peer", ""},
	} {
		words, note := joinBy(tt.s, "abcdef", "peer")
		if got := strings.Join(words, " "); got != tt.words || !strings.Contains(note, tt.note) || (tt.note == "") != (note == "") {
			t.Errorf("%s: %s; %q", name, got, note)
		}
	}
}
