package main

import (
	"strings"
	"testing"

	"hawser/auth/api"
)

func TestAnInvitationSaysWhatItIsWorth(t *testing.T) {
	res := &api.InviteToSessionResponse{Id: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Owner: "ann", Device: "gw-1", Login: "root", Mode: "peer", UntilUnix: noon.Unix(), May: true}
	var out, words strings.Builder
	printInvited(&out, &words, "bob", res)
	if out.String() != "hawser join 010203040506 --mode peer\n" {
		t.Errorf("to hand over: %q", out.String())
	}
	for _, want := range []string{"bob is invited as peer to ann's session on gw-1", "a peer types as you do, as root on gw-1", "hawser sessions put-out 010203040506 bob"} {
		if !strings.Contains(words.String(), want) {
			t.Errorf("no %q in\n%s", want, words.String())
		}
	}
	res.May, res.Mode = false, "observer"
	out.Reset()
	words.Reset()
	printInvited(&out, &words, "bob", res)
	if out.String() != "hawser join 010203040506\n" || !strings.Contains(words.String(), "warning: no user bob has roles that let him join as observer") || strings.Contains(words.String(), "types as you") {
		t.Errorf("%s%s", out.String(), words.String())
	}
}

func TestASessionIsPickedByItsNumberOrId(t *testing.T) {
	list := []*api.JoinableSession{{Id: []byte{0x12, 0x34}}, {Id: []byte{0x12, 0x56}, ModesByHub: []string{"observer"}, Invitation: &api.Invitation{Mode: "peer"}}, {Id: []byte{0xab, 0xcd}}}
	for answer, want := range map[string]*api.JoinableSession{"1": list[0], "3": list[2], "4": nil, "12": nil, "1256": list[1], "AB": list[2], "x": nil, "0": nil} {
		if got := pickJoinable(list, answer); got != want {
			t.Errorf("%q: %v, want %v", answer, got, want)
		}
	}
	if m := preferredMode(list[1]); m != "observer" {
		t.Errorf("invited as what he may not: %s", m)
	}
	if list[1].ModesEndToEnd = []string{"peer"}; preferredMode(list[1]) != "peer" {
		t.Error("not as he was invited")
	}
	if m := preferredMode(list[0]); m != "" {
		t.Errorf("who may not join: %q", m)
	}
}
