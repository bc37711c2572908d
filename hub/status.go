package hub

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"hawser/hub/authclient"
	"hawser/tunnel/identity"
)

// Status is what a state directory tells of its hub.
type Status struct {
	Name     string    `json:"name"`
	UUID     string    `json:"uuid"`
	Cluster  string    `json:"cluster"`
	NotAfter time.Time `json:"expires"` // of the identity, which a running hub renews
	Running  bool      `json:"running"`
	// LogHead is the newest signed head of the audit log that this hub has found to continue those before; a file for
	// `hawser audit verify --head`.
	LogHead string      `json:"log_head,omitempty"`
	Live    *LiveStatus `json:"live,omitempty"` // of a running hub that answered
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
	st := Status{
		Name: c.Name, UUID: c.UUID, Cluster: c.Cluster, NotAfter: leaf.NotAfter, Running: dir.InUse(),
	}
	if b, err := dir.Read(authclient.LogHeadFile); err == nil {
		st.LogHead = string(b)
	}
	if st.Running {
		st.Live = askStatus(data) // a hub that starts or ends does not answer, and runs all the same
	}
	return st, nil
}

func askStatus(data string) *LiveStatus {
	c, err := askLocal(data, localStatus)
	if err != nil {
		return nil
	}
	defer func() { _ = c.Close() }()
	l := new(LiveStatus)
	if err := json.NewDecoder(io.LimitReader(c, 1<<20)).Decode(l); err != nil {
		return nil
	}
	return l
}
