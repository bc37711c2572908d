package auth

import (
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/backup"
)

type backupService struct{ *Server }

const (
	// backupPart is how much of a backup one message carries.
	backupPart = 256 << 10
	// backupTime is the longest a backup may take: it holds the state's old revision meanwhile.
	backupTime = 12 * time.Hour
)

// CreateBackup sends a backup as it is made.
func (s backupService) CreateBackup(ctx context.Context, req *connect.Request[api.CreateBackupRequest], stream *connect.ServerStream[api.CreateBackupResponse]) (err error) {
	c, r := callerOf(ctx), req.Msg
	to, err := backup.Recipients(r.Recipients)
	if err != nil {
		return invalid("%w", err)
	}
	select {
	case s.backups <- struct{}{}:
		defer func() { <-s.backups }()
	default:
		return api.NewRetryError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, time.Minute, "another backup is being made; wait for it")
	}
	ctx, cancel := context.WithTimeout(ctx, backupTime)
	defer cancel()
	e := Event{Type: "backup.create", Actor: c.String(), Source: c.addr, Via: c.via, Object: clip(fmt.Sprint("for ", r.Recipients))}
	defer func() {
		if err != nil {
			e.Type, e.Reason = "backup.create.fail", clip(err.Error())
		}
		s.record(e)
	}()
	out := &partWriter{ctx: ctx, send: func(b []byte) error { return stream.Send(&api.CreateBackupResponse{Data: b}) }}
	w, err := backup.Encrypt(out, to...)
	if err != nil {
		return invalid("%w", err)
	}
	src := backupSource{data: s.cfg.Data, info: s.info, set: s.set, state: s.state, now: s.cfg.Now()}
	if r.Recordings {
		src.recordings = s.recordings
	}
	end, err := writeBackup(ctx, src, w)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := out.flush(); err != nil {
		return err
	}
	e.Reason = fmt.Sprintf("%d records of revision %d, %d files, %d recordings", end.Records, end.Revision, end.Files, end.Recordings)
	return stream.Send(&api.CreateBackupResponse{Summary: &api.BackupSummary{
		Revision: end.Revision, Records: uint64(end.Records), Files: uint64(end.Files), Recordings: uint64(end.Recordings), Chunks: uint64(end.Chunks),
	}})
}

// partWriter sends what is written in parts.
type partWriter struct {
	ctx  context.Context
	send func([]byte) error
	buf  []byte
}

var _ io.Writer = (*partWriter)(nil)

func (w *partWriter) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		take := min(len(b), backupPart-len(w.buf))
		w.buf = append(w.buf, b[:take]...)
		b = b[take:]
		if len(w.buf) == backupPart {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *partWriter) flush() error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	if len(w.buf) == 0 {
		return nil
	}
	err := w.send(w.buf)
	w.buf = w.buf[:0]
	return err
}
