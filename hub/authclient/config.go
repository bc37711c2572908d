package authclient

import (
	"time"

	"hawser/auth/api"
)

// ClusterConfig is what the resource of kind cluster says to hubs. Not to be changed.
type ClusterConfig struct {
	Revision    uint64 // 0: nothing was told yet
	Record      string // of roles that state none
	RecordStdin string
	IdleTimeout time.Duration // 0: no limit
	MFA         string
	Ways        []string // those there are
	Recipients  []string // age recipients of recordings
	Clone       string
	// Caps, 0: as many as the limits built in let through.
	PerSource, PerDevice, PerHub, PerConnection uint32
}

func clusterConfig(m *api.ClusterConfig) ClusterConfig {
	return ClusterConfig{
		Revision: m.Revision, Record: m.Record, RecordStdin: m.RecordStdin, IdleTimeout: time.Duration(m.IdleTimeoutMs) * time.Millisecond,
		MFA: m.Mfa, Ways: m.Ways, Recipients: m.RecordingRecipients, Clone: m.Clone,
		PerSource: m.GetCaps().GetPerSource(), PerDevice: m.GetCaps().GetPerDevice(),
		PerHub: m.GetCaps().GetPerHub(), PerConnection: m.GetCaps().GetPerConnection(),
	}
}
