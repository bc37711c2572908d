package authclient

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/api"
	"hawser/auth/loghead"
	"hawser/tunnel/identity"
	"hawser/tunnel/wire"
)

// LogHeadFile keeps the newest head of the audit log in the state directory.
const LogHeadFile = "audit-head"

// alarmAgain is how often a log that was rewritten is told again.
const alarmAgain = time.Hour

// logHeads keeps the newest head of the audit log that this hub has found to be a continuation of the one before. It is a witness: who
// rewrites the log at auth must rewrite the head at every hub.
type logHeads struct {
	mu     sync.Mutex
	newest []byte        // not looked at yet
	wake   chan struct{} // a token: newest is set
	kept   []byte
	head   loghead.Head // kept's
	alarm  string       // what is wrong; empty: nothing
	told   time.Time
	forget bool
}

// LogHead returns the newest head that continues those before, nil before the first, and what is wrong with one that came later.
func (x *Client) LogHead() (signed []byte, alarm string) {
	l := &x.heads
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept, l.alarm
}

// AcceptLog makes the next head count whatever it says: auth was restored from a backup.
func (x *Client) AcceptLog() {
	l := &x.heads
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept, l.head, l.alarm, l.told, l.forget = nil, loghead.Head{}, "", time.Time{}, true
}

// logHead takes a head as it comes; it does not wait.
func (x *Client) logHead(blob []byte) {
	if len(blob) == 0 || len(blob) > loghead.MaxSize {
		return
	}
	l := &x.heads
	l.mu.Lock()
	l.newest = blob
	l.mu.Unlock()
	wake(l.wake)
}

// loadLogHead reads what the last run kept. A damaged file is as none: the next head begins anew, and the log says so.
func (x *Client) loadLogHead() {
	x.heads.wake = make(chan struct{}, 1)
	b, err := x.c.Dir.Read(LogHeadFile)
	if errors.Is(err, identity.ErrNotExist) {
		return
	}
	var h loghead.Head
	if err == nil {
		h, err = loghead.Parse(b)
	}
	if err != nil {
		x.c.Logger.Error("the head of the audit log that was kept cannot be read", "error", err)
		return
	}
	x.heads.kept, x.heads.head = b, h
}

// keepLogHeads holds each head that comes against the one kept, until ctx ends.
func (x *Client) keepLogHeads(ctx context.Context) {
	l := &x.heads
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return
		}
		l.mu.Lock()
		blob, kept := l.newest, l.head
		begun := l.kept != nil
		l.forget = false
		l.mu.Unlock()
		h, err := loghead.Open(blob, x.Credentials().Cluster, x.Trust().TimeKeys)
		if err == nil && begun {
			err = x.grown(ctx, kept, h)
		}
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, loghead.ErrRewritten):
			x.logRewritten(blob, kept, err)
			continue
		case err != nil:
			x.c.Logger.Warn("head of the audit log not taken", "error", err)
			continue
		case begun && h.Size == kept.Size:
			l.mu.Lock()
			l.alarm = ""
			l.mu.Unlock()
			continue
		}
		if err := x.c.Dir.Write(LogHeadFile, blob); err != nil {
			x.c.Logger.Error("head of the audit log not kept", "error", err)
		}
		l.mu.Lock()
		if !l.forget {
			l.kept, l.head, l.alarm = blob, h, ""
		}
		l.mu.Unlock()
	}
}

// grown asks auth to prove that the log of now begins with the one kept.
func (x *Client) grown(ctx context.Context, kept, now loghead.Head) error {
	var proof []tlog.Hash
	if now.Size > kept.Size && kept.Size > 0 {
		// One who cannot prove his own head has no proof, and that is judged like a wrong one.
		b, err := x.ProveLog(ctx, uint64(kept.Size), uint64(now.Size))
		if err != nil {
			return err
		}
		for ; len(b) >= tlog.HashSize; b = b[tlog.HashSize:] {
			proof = append(proof, tlog.Hash(b))
		}
		if len(b) != 0 {
			return fmt.Errorf("%w: its proof is no list of hashes", loghead.ErrRewritten)
		}
	}
	return loghead.CheckGrowth(kept, now, proof)
}

// ProveLog returns auth's proof that the log of newer events begins with the first older. None and no error: auth says that it cannot be proved.
func (x *Client) ProveLog(ctx context.Context, older, newer uint64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := x.api.Hub.ProveLog(ctx, connect.NewRequest(&api.ProveLogRequest{Older: int64(older), Newer: int64(newer)}))
	if connect.CodeOf(err) == connect.CodeInvalidArgument {
		return nil, nil
	}
	if err != nil {
		return nil, fail(err)
	}
	var proof []byte
	for _, h := range resp.Msg.Hashes {
		proof = append(proof, h...)
	}
	return proof, nil
}

// logRewritten raises the alarm, here and, for what it is worth, at auth. The head kept stays: it is the evidence.
func (x *Client) logRewritten(blob []byte, kept loghead.Head, err error) {
	l := &x.heads
	now := x.c.Now()
	l.mu.Lock()
	again := l.alarm == err.Error() && now.Sub(l.told) < alarmAgain
	l.alarm = err.Error()
	if !again {
		l.told = now
	}
	l.mu.Unlock()
	if again {
		return
	}
	x.c.Logger.Error("THE AUDIT LOG WAS REWRITTEN: keep this hub's "+LogHeadFile+" as evidence; if auth was restored from a backup, `hawser-hub accept-log` ends this",
		"error", err, "kept_size", kept.Size, "kept_root", kept.Root.String(), "head", wire.Quote(string(blob), 1000))
	x.ReportIncident("audit-log", "", wire.UUID{}, err.Error())
}
