package hub

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"hawser/tunnel/identity"
)

// Status is what a state directory tells of its hub.
type Status struct {
	Name, UUID, Cluster string
	NotAfter            time.Time // of the identity, which a running hub renews
	Running             bool
}

// ReadStatus reads a state directory, whether a hub runs on it or not.
func ReadStatus(data string) (Status, error) {
	dir, err := identity.Open(data)
	if err != nil {
		return Status{}, fmt.Errorf("open %s: %w", data, err)
	}
	defer func() { _ = dir.Close() }()
	c, err := identity.Load(dir)
	if err != nil {
		return Status{}, fmt.Errorf("read identity: %w", err)
	}
	leaf, err := x509.ParseCertificate(c.Chain[0])
	if err != nil {
		return Status{}, fmt.Errorf("read identity: %w", err)
	}
	return Status{
		Name: c.Name, UUID: c.UUID, Cluster: c.Cluster, NotAfter: leaf.NotAfter, Running: errors.Is(dir.Lock(), identity.ErrLocked),
	}, nil
}
