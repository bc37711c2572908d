package hub

import (
	"testing"
	"time"

	"hawser/hub/front"
)

// A name that answered differently for a device that exists told people of devices their roles do not reach.
func TestADeviceOutOfReachIsNoDevice(t *testing.T) {
	a, h, key := newCluster(t)
	registered(t, a, h, a.edge(t, key, testUUID, time.Hour))
	b := &backend{h: h}
	name := h.auth.Cache.Device(testUUID).Name
	if b.IsDevice(front.Identity{User: "nobody"}, name) {
		t.Errorf("%s is a device to a person without roles", name)
	}
}
