package auth

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"hawser/auth/audit"
)

// Event is one line of the audit log.
type Event = audit.Event

// openAudit opens the audit log. A file audit.jsonl, of a version before the log was one of leaves and heads, stays beside it.
func (s *Server) openAudit() error {
	l, err := audit.Open(filepath.Join(s.cfg.Data, auditDir), audit.Options{
		Cluster: s.info.Cluster, Signer: s.set.LogSigner, Logger: s.log, Now: s.cfg.Now,
	})
	if err != nil {
		return err
	}
	s.audit = l
	if s.sinks, err = audit.NewSinks(l, filepath.Join(s.cfg.Data, sinksDir), s.cfg.AuditSinks, s.log); err != nil {
		return fmt.Errorf("audit sinks: %w", err)
	}
	return nil
}

// record writes e with the current time, and returns when it outlives this process. What cannot be written is logged
// whole: an act that was done must be found somewhere.
func (s *Server) record(e Event) {
	e.Time = s.cfg.Now().UTC()
	if e.DeviceUUID != "" && e.DeviceAddress == "" {
		e.DeviceAddress, e.DeviceInner, e.Carrier = s.hubs.where(e.DeviceUUID)
	}
	if err := s.audit.Record(e); err != nil {
		s.log.Error("audit event not written", "error", err, "event", e)
	}
}

// recordStranger is record for what anybody can bring about as often as he likes: of one source some is written, and then one each
// refuseEvery, for the log must not fill the disk on which everything else is.
func (s *Server) recordStranger(source string, e Event) {
	if s.calls.take(sourceOf(source), s.cfg.Now()) {
		s.record(e)
	}
}

// settle waits until what was recorded is on disk, so that what a person is told is done cannot vanish from the log. A
// disk that takes nothing is no reason to hold him up.
func (s *Server) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if err := s.audit.Settle(ctx); err != nil && ctx.Err() == nil {
		s.log.Error("the audit log is not on disk", "error", err)
	}
}

// newestHead is the head of what the log is now, for a hub that connects: it holds auth to it from then on. Where the disk takes nothing it is the
// one before.
func (s *Server) newestHead(ctx context.Context) []byte {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	if b, err := s.audit.MakeHead(ctx); err == nil {
		return b
	}
	return s.audit.Head()
}

// keepAudit signs a head each minute, removes what has been kept long enough, and feeds the sinks, until ctx ends.
func (s *Server) keepAudit(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.sinks.Run(ctx) })
	t := time.NewTicker(beaconEvery)
	defer t.Stop()
	for {
		if _, err := s.audit.MakeHead(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("no head of the audit log", "error", err)
		}
		if keep := s.view.cluster().Retention.Audit; keep > 0 {
			until, err := s.audit.Expire(keep)
			if err != nil {
				s.log.Error("old audit events are not removed", "error", err)
			}
			if until >= 0 {
				s.record(audit.Expired(until, keep))
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// where is a device's address as a hub sees it, those it says it has, and its tunnel's carrier; empty where it has no tunnel.
func (t *hubTable) where(uuid string) (outer string, inner []string, carrier string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.devices[uuid]
	if p == nil || len(p.tunnels) == 0 {
		return "", nil, ""
	}
	x := p.tunnels[0]
	return x.Observed, x.Addresses, x.Carrier
}
