package session

import (
	"errors"
	"testing"
	"time"
)

// The place of a session was given back when its recording was closed and the person had read all: who came back at once, or read nothing any more,
// found it taken.
func TestAnEndIsToldBeforeThePersonLearnsOfIt(t *testing.T) {
	for name, end := range map[string]func(c *person){
		"by itself": func(c *person) { c.exec("exit 3") },
		"killed, and the person reads nothing": func(c *person) {
			c.exec("exec yes")
			time.Sleep(50 * time.Millisecond) // the window fills
			c.cancel(errors.New("ended by admin"))
		},
		"refused": func(c *person) { c.exec("exit") },
	} {
		ended := make(chan Result, 2)
		p := Params{Ended: func(r Result) { ended <- r }}
		if name == "refused" {
			p.Allow = func(string) error { return errors.New("no") }
		}
		c := open(t, engine(t), p)
		end(c)
		if name == "by itself" {
			if exit, _ := c.finish(); exit != "3" || len(ended) != 1 {
				t.Errorf("%s: exit %q, told %d times", name, exit, len(ended))
			}
			continue
		}
		select {
		case r := <-ended:
			if r.Err == nil {
				t.Errorf("%s: %+v", name, r)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: nobody is told", name)
		}
		go c.finish()
	}
}
