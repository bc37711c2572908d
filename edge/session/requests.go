package session

import "golang.org/x/crypto/ssh"

// Payloads of channel requests, RFC 4254, section 6. ssh.Unmarshal refuses what is short, and what has bytes left over.
type (
	ptyRequest struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	windowChange struct{ Columns, Rows, Width, Height uint32 }
	envRequest   struct{ Name, Value string }
	oneString    struct{ Value string }
	breakRequest struct{ Milliseconds uint32 } // RFC 4335
	exitStatus   struct{ Status uint32 }
	exitSignal   struct {
		Signal  string
		Core    bool
		Message string
		Lang    string
	}
)

func parse[T any](payload []byte) (v T, err error) {
	err = ssh.Unmarshal(payload, &v)
	return v, err
}
