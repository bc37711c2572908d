package auth

import (
	"encoding/json"

	"hawser/auth/api"
	"hawser/auth/policy"
)

func decodeCluster(b []byte) (policy.Cluster, error) {
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		return policy.Cluster{}, err
	}
	return policy.ClusterFromMap(m)
}

// cluster returns what is in force for the whole cluster, defaults filled in.
func (v *view) cluster() policy.Cluster {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.config
}

// recipients are those that recordings are encrypted to. Not to be changed.
func (v *view) recipients() [][32]byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.auditors
}

// givenRoles returns the built-in roles and the others as they were given, without the cluster's defaults.
func (v *view) givenRoles() []policy.Role {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.given
}

// clusterConfig is what a hub is told of the cluster's configuration.
func (s *Server) clusterConfig() *api.ClusterConfig {
	s.view.mu.Lock()
	c, rev := s.view.config, s.view.clusterRev
	s.view.mu.Unlock()
	return &api.ClusterConfig{
		Revision: rev, Record: c.Record, RecordStdin: c.RecordStdin, IdleTimeoutMs: uint64(c.IdleTimeout.Milliseconds()), Mfa: c.MFA, Ways: c.Ways,
		RecordingRecipients: c.RecordingRecipients, Clone: c.Clone,
		Caps: &api.Caps{
			PerSource: uint32(c.Caps.PerSource), PerDevice: uint32(c.Caps.PerDevice),
			PerHub: uint32(c.Caps.PerHub), PerConnection: uint32(c.Caps.PerConnection),
		},
	}
}
