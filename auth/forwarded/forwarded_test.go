package forwarded

import (
	"testing"
	"time"
)

func TestAReportComesBackAsItWas(t *testing.T) {
	for _, want := range []Report{{}, {Channel: "local-forward", Target: "127.0.0.1:80", Origin: "[::1]:4711", Closed: true, In: 1, Out: 1 << 60, Lasted: time.Hour}} {
		if got, err := Parse(want.Append(nil)); err != nil || got != want {
			t.Errorf("%+v came back as %+v, %v", want, got, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(Report{Channel: "socket-forward", Target: "/run/x", Closed: true, Out: 7, Lasted: time.Second}.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		if again, err := Parse(r.Append(nil)); err != nil || again != r {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}
