// Package api holds the messages of the auth service's API; hawser.proto is their
// source and says what each method promises. Package apiclient dials it, package
// apiconnect holds the generated stubs. Fields are added, never renumbered.
package api
