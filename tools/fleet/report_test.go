package main

import (
	"strings"
	"testing"
)

func TestSpread(t *testing.T) {
	in := `{"t":1000,"device":"f-0","event":"registered"}
{"t":1500,"device":"f-0","event":"lost"}
{"t":4500,"device":"f-1","event":"lost"}
{"t":4600,"device":"f-2","event":"lost"}
{"t":4700,"device":"f-2","slot":1,"event":"lost"}
{"t":5000,"device":"f-0","event":"registered"}
{"t":5000,"device":"f-1","event":"retry"}
{"t":5900,"device":"f-1","slot":1,"event":"registered"}
{"t":6100,"device":"f-2","event":"registered"}
{"t":9000,"device":"f-3","event":"registered"}
{"t":9300,"device":"f-0","slot":1,"event":"registered"}
{"t":9600,"device":"f-2","slot":1,"event":"registered"}
{"t":9601,"devi`
	s, err := measure(strings.NewReader(in), 2000)
	if err != nil {
		t.Fatal(err)
	}
	if s.Devices != 4 || s.Registrations != 4 || s.Seconds != 4 || s.Mean != 1 || s.Peak != 3 || s.Ratio != 3 || s.After != 2 || s.Retries != 1 || s.Noticed != 0.1 || s.Late != 4.4 {
		t.Errorf("%+v", s)
	}
	if _, err := measure(strings.NewReader("hello\nworld\n"), 0); err == nil {
		t.Error("anything passes for events")
	}
	if s, err := measure(strings.NewReader(""), 0); err != nil || s.Ratio != 0 || s.Bins != nil {
		t.Errorf("nothing: %+v, %v", s, err)
	}
}
