// Package netwatch tells when the machine's network changes and which network it is on: an agent tries anew at once where a timer would
// have it wait, and remembers what it learned of each network.
//
// Start from [Watch] and [Network].
package netwatch
