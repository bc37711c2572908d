// Package session runs one SSH session channel on the device, whichever way it came in: RFC 4254, section 6, done as OpenSSH's sshd does it,
// without PAM, login(1), bash or cgo.
//
// Start from New and Engine.Serve. A program that serves sessions must call RunHelper first thing in main.
package session
