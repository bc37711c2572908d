// Package auth is the auth service: the cluster's certificate authority, its users,
// roles, devices and tokens, who may do what, the store of recordings, and the audit
// log. Start from Init once, then New and (*Server).Run.
//
// auth/api says what it can be asked over the network and access.go who may ask it.
// Methods of Server that are exported here are for the program that holds the
// Server in its own process (`hawser up`) and ask nobody's permission.
package auth
