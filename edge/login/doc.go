// Package login knows the accounts of the device: who may log in, with which groups, home and shell, and how a login is noted where the
// device keeps such notes (utmp, wtmp, lastlog). It reads /etc/passwd, /etc/group and /etc/shadow itself: no cgo, no PAM, no login program.
//
// Start from System.Lookup; Account.As does file work with an account's rights, and System.Begin writes the notes.
package login
