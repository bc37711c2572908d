package command

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestFlagsTakeValuesInEitherForm(t *testing.T) {
	for _, args := range [][]string{
		{"--name", "gw", "--hub", "a:1", "--hub", "b:2"},
		{"--hub=a:1", "--name=first", "--name=gw", "--hub", "b:2"},
	} {
		var name string
		var hubs []string
		f := flagSet{}
		f.text(&name, "name", "default")
		f.list(&hubs, "hub", []string{"from-env:1"})
		rest, err := f.parse(args)
		if err != nil || len(rest) > 0 || name != "gw" || !slices.Equal(hubs, []string{"a:1", "b:2"}) {
			t.Errorf("%q: rest %q, name %q, hubs %q, %v", args, rest, name, hubs, err)
		}
	}
}

func TestFlagsThatAreNotGivenKeepTheirDefaults(t *testing.T) {
	var name string
	var hubs []string
	f := flagSet{}
	f.text(&name, "name", "default")
	f.list(&hubs, "hub", []string{"from-env:1"})
	rest, err := f.parse([]string{"extra", "-", "--", "--name", "x"})
	if err != nil || name != "default" || !slices.Equal(hubs, []string{"from-env:1"}) || !slices.Equal(rest, []string{"extra", "-", "--name", "x"}) {
		t.Errorf("rest %q, name %q, hubs %q, %v", rest, name, hubs, err)
	}
}

func TestFlagsRefuseWhatTheyDoNotKnow(t *testing.T) {
	for arg, want := range map[string]string{"--wings": "unknown flag", "-name": "unknown flag", "-x": "unknown flag", "--=v": "unknown flag", "--name": "needs an argument"} {
		var name string
		f := flagSet{}
		f.text(&name, "name", "")
		if _, err := f.parse([]string{arg}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
	if _, err := (flagSet{}).parse([]string{"x", "-h"}); !errors.Is(err, errHelp) {
		t.Errorf("-h: %v", err)
	}
}
