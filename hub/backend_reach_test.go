package hub

import (
	"context"
	"testing"
	"time"

	"hawser/hub/front"
	"hawser/tunnel/wire"
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

// A device that changed hubs, or that another hub had not announced yet, was told to be offline to whoever came in that moment.
func TestADeviceThatComesAtOnceIsNotOffline(t *testing.T) {
	a, h, key := newCluster(t)
	edge := a.edge(t, key, testUUID, time.Hour)
	found := make(chan int, 1)
	go func() { found <- len(h.routes(context.Background(), testUUID)) }()
	registered(t, a, h, edge)
	if <-found == 0 {
		t.Error("no way to a device that registered meanwhile")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if len(h.routes(ctx, wire.UUID{9})) != 0 {
		t.Error("a way to a device that has no tunnel")
	}
}
