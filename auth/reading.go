package auth

import (
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/api/apiconnect"
)

// keptReaders of maxReaders are for people who read nothing yet, one each: a few who read as much as they may keep nobody else out.
const keptReaders = 16

// readers counts who reads recordings: each may hold a week of them open. The zero value is ready.
type readers struct {
	mu  sync.Mutex
	all int
	of  map[string]int // no more than all
}

// enter lets somebody read one more, until leave.
func (r *readers) enter(who string) (leave func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	most := maxReaders
	if r.of[who] > 0 {
		most -= keptReaders
	}
	if r.all >= most || r.of[who] >= maxReadersOf {
		return nil, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED,
			"too many recordings are read at once: %d by you, of at most %d, and %d by all, of %d, the last %d of which are for those who read none; wait until one has ended",
			r.of[who], maxReadersOf, r.all, maxReaders, keptReaders)
	}
	if r.of == nil {
		r.of = map[string]int{}
	}
	r.all++
	r.of[who]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all--
		if r.of[who]--; r.of[who] == 0 {
			delete(r.of, who)
		}
	}, nil
}

// readsStore are the calls that stream what a store holds open meanwhile.
var readsStore = map[string]bool{
	apiconnect.AdminServiceGetRecordingProcedure:       true,
	apiconnect.ReplayServiceReplayRecordingProcedure:   true,
	apiconnect.SearchServiceGetRecordingIndexProcedure: true,
	apiconnect.AuditServiceSearchAuditProcedure:        true,
	apiconnect.AuditServiceExportAuditProcedure:        true,
	apiconnect.BackupServiceCreateBackupProcedure:      true,
}

// patient ends a stream whose reader takes nothing for takeTime. What passes between two writes does not count.
type patient struct {
	http.ResponseWriter
	c *http.ResponseController
}

func newPatient(w http.ResponseWriter) patient { return patient{w, http.NewResponseController(w)} }

func (p patient) within(f func() error) error {
	if err := p.c.SetWriteDeadline(time.Now().Add(takeTime)); err != nil {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	return p.c.SetWriteDeadline(time.Time{})
}

// Write implements http.ResponseWriter.
func (p patient) Write(b []byte) (n int, err error) {
	err = p.within(func() error {
		n, err = p.ResponseWriter.Write(b)
		return err
	})
	return n, err
}

// FlushError is for http.ResponseController.
func (p patient) FlushError() error { return p.within(p.c.Flush) }

// Flush implements http.Flusher. What went wrong the next Write says.
func (p patient) Flush() { _ = p.FlushError() }
