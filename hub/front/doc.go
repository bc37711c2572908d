// Package front is the hub's side towards people: an SSH server that ends the person's SSH and relays every channel to a stream of the
// device's tunnel.
//
// Start from New and Serve. The package knows the rest of the hub only as a Backend, which says who somebody is, asks for places, and
// opens streams; so it is tested against one in memory.
//
// # Who is who
//
// An identity is computed from the key that signed, and from nothing else: what the offers before it were is not kept.
//
// # Order of things at the end of a session
//
// Output before everything: the exit status of the device is held back until both output streams have been written to the person's
// channel; then EOF, then the status, then CLOSE. So a client that closes at any of them has all the bytes.
//
// # Order of shutdown
//
// Serve returns after: the listener is closed (nobody new); every connection is told and cut; every goroutine of every connection has
// ended, and with it each session's recording was closed.
package front
