// Package hub is Hawser's proxy: tunnels of devices on one side, people's SSH on the other.
//
// Start from Config, New and Run. A Hub joins its cluster with a token on its first run (the CA pin is checked before the secret
// leaves it), keeps an authenticated connection to the auth service, accepts tunnels over QUIC and TLS on one port number, and
// serves stock SSH clients. It keeps nothing that it cannot get again, but for its identity under Config.Data.
package hub
