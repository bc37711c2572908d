package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Event is one line of the audit log. Empty fields are left away; the fields mean
// the same in every type of event. encoding/json escapes what peers sent, so one
// event is always one line.
type Event struct {
	Time       time.Time `json:"time"`
	Type       string    `json:"type"`            // such as "device.join", "session.admit", "session.refuse", "admin.user.add"
	Actor      string    `json:"actor,omitempty"` // who asked: "user:NAME", "hub:NAME", "local"
	User       string    `json:"user,omitempty"`  // whom it concerns
	Roles      []string  `json:"roles,omitempty"`
	Method     string    `json:"method,omitempty"` // certificate or key, with its fingerprint or serial
	Way        string    `json:"way,omitempty"`
	Connection string    `json:"connection,omitempty"` // hex id
	Session    string    `json:"session,omitempty"`    // hex id
	Client     string    `json:"client,omitempty"`     // the person's address, as the hub claims it
	Source     string    `json:"source,omitempty"`     // the caller's own address
	Device     string    `json:"device,omitempty"`
	DeviceUUID string    `json:"device_uuid,omitempty"`
	Hub        string    `json:"hub,omitempty"`
	Login      string    `json:"login,omitempty"`
	Kind       string    `json:"kind,omitempty"`
	Channel    string    `json:"channel,omitempty"`
	Command    string    `json:"command,omitempty"`
	Object     string    `json:"object,omitempty"` // the token, role, user or recording acted on
	Rule       string    `json:"rule,omitempty"`   // of the policy, that decided
	Reason     string    `json:"reason,omitempty"` // why it was refused or ended
	ExitStatus *int32    `json:"exit_status,omitempty"`
}

// audit appends to the audit file. Safe for concurrent use.
type audit struct {
	mu sync.Mutex
	f  *os.File // nil once closed
}

var errAuditClosed = errors.New("audit log is closed")

func openAudit(data string) (*audit, error) {
	f, err := os.OpenFile(filepath.Join(data, auditFile), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return &audit{f: f}, nil
}

// write appends one line. The file is not synced each time: an event is not worth a
// disk's latency on every session; a power cut may lose the last seconds.
func (a *audit) write(e Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return errAuditClosed
	}
	_, err = a.f.Write(append(b, '\n'))
	return err
}

func (a *audit) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.f == nil {
		return nil
	}
	f := a.f
	a.f = nil
	return errors.Join(f.Sync(), f.Close())
}

// record writes e with the current time. What cannot be written is logged whole:
// an act that was done must be found somewhere.
func (s *Server) record(e Event) {
	e.Time = s.cfg.Now().UTC()
	if err := s.audit.write(e); err != nil {
		s.log.Error("audit event not written", "error", err, "event", e)
	}
}
