package edge

import (
	"strings"
	"testing"

	"hawser/tunnel/wire"
)

// A label that no message carries was found out on the tunnel: the join was tried without end, and said nothing.
func TestALabelThatCannotBeSentIsRefusedAtOnce(t *testing.T) {
	for _, l := range []wire.Label{
		{Key: "site", Value: strings.Repeat("x", maxLabelValue+1)}, {Key: strings.Repeat("x", maxLabelKey+1)}, {Value: "x"}, {Key: "site", Value: "\xff"},
	} {
		c := Config{State: "x", Labels: []wire.Label{l}}
		if err := c.Validate(); err == nil {
			t.Errorf("%.20q=%.20q is accepted", l.Key, l.Value)
		}
	}
	longest := wire.Label{Key: strings.Repeat("k", maxLabelKey), Value: strings.Repeat("v", maxLabelValue)}
	c := Config{State: "x", Labels: []wire.Label{longest}}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
	if _, err := wire.Encode(&wire.Join{Labels: c.Labels}); err != nil {
		t.Errorf("the longest label cannot be sent: %v", err)
	}
}
