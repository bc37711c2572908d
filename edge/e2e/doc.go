// Package e2e is the edge's own SSH server, which a person reaches end to end through a hub that moves bytes it cannot read.
//
// Start from [Serve]: one connection on one stream. It proves itself by the device's host certificate, accepts only user certificates, asks
// for a place for the connection, for each session and for the forwards, and holds everything against the device's compiled policy; sessions run
// in the same engine as hub mode's. The SSH user name is the login. It knows nothing of tunnels: all it needs is in [Host].
package e2e
