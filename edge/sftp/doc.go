// Package sftp is the file server of a session: version 3 of the protocol (draft-ietf-secsh-filexfer-02) as OpenSSH's sftp-server speaks it, with its
// extensions, statuses, long names and the order of SYMLINK's paths, so that no client sees a difference. Start from Serve.
//
// It has no rights of its own to give up: whoever calls runs as the login.
package sftp
