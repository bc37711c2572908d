package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/audit"
	"hawser/auth/policy"
	"hawser/tunnel/wire"
)

type auditService struct{ *Server }

const (
	maxFound   = 100000
	auditBatch = 64 << 10 // bytes of lines in one message, about
)

// mayAudit puts into q what the caller's roles let him see, and says what is left out in words.
func mayAudit(c caller, f *api.AuditFilter) (q audit.Query, filter string, err error) {
	q = audit.Query{User: f.GetUser(), Device: f.GetDevice(), Session: f.GetSession(), Type: f.GetType()}
	var parts []string
	for _, p := range [...][2]string{{"user", q.User}, {"device", q.Device}, {"session", q.Session}, {"type", q.Type}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+wire.Quote(p[1], 80))
		}
	}
	for _, at := range [...]struct {
		name string
		ns   int64
		to   *time.Time
	}{{"since", f.GetSinceUnixNano(), &q.Since}, {"until", f.GetUntilUnixNano(), &q.Until}} {
		if at.ns != 0 {
			*at.to = time.Unix(0, at.ns)
			parts = append(parts, at.name+" "+at.to.UTC().Format(time.RFC3339))
		}
	}
	switch policy.AuditScope(c.roles) {
	case policy.ScopeAll:
	case policy.ScopeOwn:
		q.Own = c.id.Name
		parts = append(parts, "what concerns "+c.id.Name)
	default:
		return q, "", errNoAudit()
	}
	return q, strings.Join(parts, ", "), nil
}

func errNoAudit() error {
	return api.NewError(connect.CodePermissionDenied, api.Code_CODE_DENIED, "your roles do not let you read the audit log; a role with `audit: own` or `audit: all`, such as auditor, does")
}

// SearchAudit finds events. Who follows reads them from the log itself: one that is slow holds nothing up.
func (s auditService) SearchAudit(ctx context.Context, req *connect.Request[api.SearchAuditRequest], stream *connect.ServerStream[api.AuditLines]) error {
	r := req.Msg
	q, _, err := mayAudit(callerOf(ctx), r.Filter)
	if err != nil {
		return err
	}
	next := s.audit.Size()
	found := q
	found.Newest, found.To, found.From = true, next, max(r.FromSeq, 0)
	if found.Limit = int(min(r.Limit, maxFound)); found.Limit == 0 {
		found.Limit = 1000
	}
	var lines []string
	if next > 0 && (r.Limit > 0 || !r.Follow || r.FromSeq > 0) {
		err = s.audit.Search(ctx, found, func(e audit.Entry) (bool, error) {
			lines = append(lines, string(e.Line()))
			return true, nil
		})
	}
	if err != nil {
		return err
	}
	slices.Reverse(lines)
	// Also with none: the caller learns that he may.
	if err := sendLines(stream, lines); err != nil || !r.Follow {
		return err
	}
	for {
		changed := s.audit.Changed()
		if to := s.audit.Size(); to > next {
			// Before anything is sent: his roles and his user may be others by now, a lock may stand, his certificate be over.
			if q, err = s.stillMayAudit(callerOf(ctx), r.Filter); err != nil {
				return err
			}
			q.From, q.To, next = next, to, to
			batch := &api.AuditLines{}
			size := 0
			err := s.audit.Search(ctx, q, func(e audit.Entry) (bool, error) {
				line := string(e.Line())
				batch.Lines = append(batch.Lines, line)
				if size += len(line); size < auditBatch {
					return true, nil
				}
				full := batch
				batch, size = &api.AuditLines{}, 0
				return true, stream.Send(full)
			})
			if err == nil && len(batch.Lines) > 0 {
				err = stream.Send(batch)
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return connect.NewError(connect.CodeUnavailable, context.Cause(ctx))
		}
	}
}

// stillMayAudit is mayAudit for who was let in a while ago.
func (s *Server) stillMayAudit(c caller, f *api.AuditFilter) (audit.Query, error) {
	u, roles := s.view.user(c.id.Name)
	if u == nil {
		return audit.Query{}, errNoAudit()
	}
	c.roles = roles
	if d := s.lockedOut(callerSubject(c)); d != nil {
		return audit.Query{}, lockError(d)
	}
	if s.cfg.Now().After(c.id.NotAfter) {
		return audit.Query{}, connect.NewError(connect.CodeUnavailable, errors.New("the certificate you came with has ended; come again with another"))
	}
	q, _, err := mayAudit(c, f)
	return q, err
}

func sendLines(stream *connect.ServerStream[api.AuditLines], lines []string) error {
	for {
		n, size := 0, 0
		for n < len(lines) && size < auditBatch {
			size += len(lines[n])
			n++
		}
		if err := stream.Send(&api.AuditLines{Lines: lines[:n]}); err != nil {
			return err
		}
		if lines = lines[n:]; len(lines) == 0 {
			return nil
		}
	}
}

// ExportAudit sends events with their proof.
func (s auditService) ExportAudit(ctx context.Context, req *connect.Request[api.ExportAuditRequest], stream *connect.ServerStream[api.AuditLines]) error {
	c, r := callerOf(ctx), req.Msg
	f := r.Filter
	from := max(r.FromSeq, 0)
	if f.GetSinceUnixNano() != 0 && f.GetUntilUnixNano() == 0 && f.User == "" && f.Device == "" && f.Session == "" && f.Type == "" && policy.AuditScope(c.roles) == policy.ScopeAll {
		// All from a moment on: nothing is left out of what is in the file, so that it says so.
		q := audit.Query{Since: time.Unix(0, f.SinceUnixNano), Limit: 1}
		first := s.audit.Size()
		if err := s.audit.Search(ctx, q, func(e audit.Entry) (bool, error) { first = e.Seq; return false, nil }); err != nil {
			return err
		}
		from, f = max(from, first), nil
	}
	q, filter, err := mayAudit(c, f)
	if err != nil {
		return err
	}
	s.record(Event{Type: "audit.export", Actor: c.String(), User: c.id.Name, Source: c.addr, Via: c.via, Object: filter})
	q.From = from
	batch, size := &api.AuditLines{}, 0
	err = s.audit.Export(ctx, q, filter, r.OlderHeadSize, func(line []byte) error {
		batch.Lines = append(batch.Lines, string(line))
		if size += len(line); size < auditBatch {
			return nil
		}
		full := batch
		batch, size = &api.AuditLines{}, 0
		return stream.Send(full)
	})
	if errors.Is(err, audit.ErrSize) {
		return invalid("the log has not the %d events of the head given: it was cut off, or the head is another cluster's", r.OlderHeadSize)
	}
	if err == nil && len(batch.Lines) > 0 {
		err = stream.Send(batch)
	}
	return err
}

// GetLogHead signs what the log is now.
func (s auditService) GetLogHead(ctx context.Context, _ *connect.Request[api.GetLogHeadRequest]) (*connect.Response[api.GetLogHeadResponse], error) {
	if policy.AuditScope(callerOf(ctx).roles) == policy.ScopeNone {
		return nil, errNoAudit()
	}
	b, err := s.audit.MakeHead(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.GetLogHeadResponse{Head: string(b)}), nil
}

// ProveLog proves growth to a person.
func (s auditService) ProveLog(ctx context.Context, req *connect.Request[api.ProveLogRequest]) (*connect.Response[api.ProveLogResponse], error) {
	if policy.AuditScope(callerOf(ctx).roles) == policy.ScopeNone {
		return nil, errNoAudit()
	}
	return s.proveLog(req.Msg)
}

// ProveLog proves growth to a hub.
func (s hubService) ProveLog(_ context.Context, req *connect.Request[api.ProveLogRequest]) (*connect.Response[api.ProveLogResponse], error) {
	return s.proveLog(req.Msg)
}

func (s *Server) proveLog(r *api.ProveLogRequest) (*connect.Response[api.ProveLogResponse], error) {
	proof, err := s.audit.Prove(r.Older, r.Newer)
	if errors.Is(err, audit.ErrSize) {
		return nil, invalid("the log has %d events; it cannot prove %d from %d", s.audit.Size(), r.Newer, r.Older)
	}
	if err != nil {
		return nil, err
	}
	res := &api.ProveLogResponse{}
	for _, h := range proof {
		res.Hashes = append(res.Hashes, h[:])
	}
	return connect.NewResponse(res), nil
}

// refusalTypes are the kinds of refusals a hub reports, and the events they become.
var refusalTypes = map[string]string{
	"user": "user.auth.refuse", "forward": "forward.refuse", "device": "device.auth.refuse", "tunnel": "tunnel.refuse", "proxy": "proxy.refuse",
}

// ReportRefusals takes over what a hub refused without asking. Names in it are what strangers said they were.
func (s hubService) ReportRefusals(ctx context.Context, req *connect.Request[api.ReportRefusalsRequest]) (*connect.Response[api.ReportRefusalsResponse], error) {
	c, r := callerOf(ctx), req.Msg
	if len(r.Refusals) > maxRefusals {
		return nil, invalid("more than %d refusals in one report", maxRefusals)
	}
	if !s.reported.take(c.id.UUID, s.cfg.Now()) {
		return nil, api.NewError(connect.CodeResourceExhausted, api.Code_CODE_RATE_LIMITED, "this hub reports refusals too often")
	}
	for _, x := range r.Refusals {
		kind, ok := refusalTypes[x.GetType()]
		if !ok {
			kind = "hub.refuse"
		}
		e := Event{
			Type: kind, Actor: c.String(), Hub: c.id.Name, User: clip(x.GetUser()), Device: clip(x.GetDevice()), Login: clip(x.GetLogin()),
			Client: clip(x.GetClientAddress()), Method: clip(x.GetMethod()), Reason: clip(x.GetReason()), Message: clip(x.GetDetail()),
		}
		if x.GetCount() > 1 {
			e.Count = x.Count
		}
		if len(x.GetConnectionId()) == 16 {
			e.Connection = hex.EncodeToString(x.ConnectionId)
		}
		if d := s.view.device(e.Device); d != nil {
			e.Device, e.DeviceUUID = d.Name, d.UUID
		}
		s.record(e)
	}
	if r.Dropped > 0 {
		s.record(Event{Type: "hub.refuse", Actor: c.String(), Hub: c.id.Name, Count: r.Dropped, Reason: "more refusals than the hub keeps"})
	}
	return connect.NewResponse(&api.ReportRefusalsResponse{}), nil
}
