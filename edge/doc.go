// Package edge is the agent: it makes this machine's key, joins a cluster by a token, keeps one outbound tunnel to a
// hub and serves what comes down it (sessions, forwards, end-to-end SSH), checking every grant and its own policy first.
//
// Start from [New] and [Agent.Run]; [Agent.Join] only joins. It listens on nothing, runs without root, writes flash only
// when its identity changes, and survives whatever the network does. What it must not link is in deps_test.go.
package edge
