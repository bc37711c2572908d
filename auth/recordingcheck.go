package auth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"hawser/auth/attest"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/recorder"
	"hawser/recorder/reader"
	"hawser/tunnel/wire"
)

const (
	// maxChecks recordings wait to be checked; more are found by the next run of the service.
	maxChecks = 1 << 16
	// checkBack is how far back that looks for recordings that were not checked.
	checkBack = 30 * 24 * time.Hour
)

// checks are recordings that were closed and are to be held against their signatures and their devices' witness.
type checks struct {
	wake chan struct{} // one token: look again

	mu      sync.Mutex
	waiting [][16]byte
	idle    *sync.Cond // on mu: for tests
	busy    bool
}

func newChecks() *checks {
	c := &checks{wake: make(chan struct{}, 1)}
	c.idle = sync.NewCond(&c.mu)
	return c
}

func (c *checks) add(id [16]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == maxChecks {
		return
	}
	c.waiting = append(c.waiting, id)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *checks) take() (id [16]byte, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy = len(c.waiting) > 0; !c.busy {
		c.idle.Broadcast()
		return id, false
	}
	id, c.waiting = c.waiting[0], c.waiting[1:]
	return id, true
}

// wait waits until all is checked.
func (c *checks) wait() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.busy || len(c.waiting) > 0 {
		c.idle.Wait()
	}
}

// keepChecking checks recordings one at a time until ctx ends.
func (s *Server) keepChecking(ctx context.Context) {
	all, err := s.recordings.List(ctx, store.Filter{Since: s.cfg.Now().Add(-checkBack)})
	if err != nil && ctx.Err() == nil {
		s.log.Error("recordings to check not found", "error", err)
	}
	for _, m := range all {
		if m.Complete && m.Verified == "" {
			s.checks.add(m.ID)
		}
	}
	all = nil
	for {
		id, ok := s.checks.take()
		if ok {
			if err := s.checkRecording(ctx, id); err != nil && ctx.Err() == nil {
				s.log.Error("recording not checked", "session", hex.EncodeToString(id[:]), "error", err)
			}
			if ctx.Err() == nil {
				continue
			}
		}
		select {
		case <-s.checks.wake:
		case <-ctx.Done():
			return
		}
	}
}

// checkRecording holds a complete recording against what auth knows of its session, its recorder's signature and its device's witness, and writes
// down what it found. It keeps the certificates by which others can do the same.
func (s *Server) checkRecording(ctx context.Context, id [16]byte) error {
	m, err := s.recordings.Manifest(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && (!m.Complete || m.Removed != nil) {
		return nil
	}
	if err != nil {
		return err
	}
	device, hub := s.view.device(m.DeviceUUID), s.view.hub(m.Hub)
	if err := s.keepCertificates(ctx, m, device, hub); err != nil {
		s.log.Warn("a recording's certificates are not kept beside it", "session", hex.EncodeToString(id[:]), "error", err)
	}
	rep, fault := s.judgeRecording(ctx, m, device, hub)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	witness := ""
	switch {
	case rep.Witnessed:
		witness = store.WitnessMatch
	case rep.Summed:
		witness = store.WitnessSums
	case errors.Is(fault, reader.ErrWitness):
		witness = store.WitnessMismatch
	case rep.Head != nil:
		witness = clip(rep.Head.Unwitnessed)
	}
	first := false
	m, err = s.recordings.UpdateManifest(ctx, id, func(m *store.Manifest) error {
		first = m.Verified == ""
		m.Verified, m.Fault, m.Witness, m.Sealed = store.VerifiedOK, "", witness, len(rep.Header.Keys) > 0
		if fault != nil {
			m.Verified, m.Fault = store.VerifiedFault, wire.Quote(fault.Error(), maxText)
		}
		if rep.Exited && !rep.Sealed { // a device says it nowhere else
			m.Exited, m.ExitStatus, m.Signal = true, int32(rep.Status), clip(rep.Signal)
			if rep.Signal != "" {
				m.ExitStatus = 128 // as the session's end has it in the audit log
			}
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrRemoved) {
		return nil
	}
	if err == nil && fault != nil && first {
		e := Event{
			Type: "recording.mismatch", Actor: "auth", Session: hex.EncodeToString(id[:]), User: m.User, Login: m.Login, Device: m.Device,
			DeviceUUID: m.DeviceUUID, Object: m.Closing, Reason: m.Fault,
		}
		if hub != nil {
			e.Hub = hub.Name
		}
		s.record(e)
	}
	return err
}

// judgeRecording reads a whole recording. The error is what is wrong with it.
func (s *Server) judgeRecording(ctx context.Context, m store.Manifest, device *deviceRecord, hub *hubRecord) (reader.Report, error) {
	chunks := make(chan []byte)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var readErr error
	wg.Go(func() {
		defer close(chunks)
		readErr = s.recordings.Chunks(ctx, m.ID, 0, func(_ uint64, chunk []byte) error {
			select {
			case chunks <- bytes.Clone(chunk):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	})
	by := func(key []byte, message, signature []byte) bool {
		return len(key) == ed25519.PublicKeySize && ed25519.Verify(key, message, signature)
	}
	rep, err := reader.VerifyWith(func() ([]byte, error) {
		if b, ok := <-chunks; ok {
			return b, nil
		}
		return nil, cmp.Or(readErr, io.EOF)
	}, reader.Check{
		Sealed: true,
		Recorder: func(_ recorder.Header, message, signature []byte) bool { // whoever was to make it, not who it says
			if byHub(m) {
				return hub != nil && by(hub.Key, message, signature)
			}
			return device != nil && by(device.Key, message, signature)
		},
		Device: func(_ recorder.Header, message, signature []byte) bool {
			return device != nil && by(device.Key, message, signature)
		},
	})
	h := rep.Header
	switch {
	case err != nil:
		return rep, err
	case h.ID != m.ID || h.User != m.User || h.Login != m.Login || h.DeviceUUID != m.DeviceUUID:
		return rep, fmt.Errorf("its header says %q as %q on %q, the grant was for %q as %q on %q",
			h.User, h.Login, h.DeviceUUID, m.User, m.Login, m.DeviceUUID)
	case (h.Way == policy.WayHub) != byHub(m) || m.Way != "" && h.Way != m.Way:
		return rep, fmt.Errorf("its header says that the session came by the way %q, and it came by %q", h.Way, m.Way)
	case len(h.Keys) > 0 && len(h.Keys) != m.Recipients && m.Recorder != "":
		return rep, fmt.Errorf("it is encrypted to %d keys, and the grant was to encrypt it to %d auditors", len(h.Keys), m.Recipients)
	case !rep.Complete || rep.Chunks != m.Chunks:
		return rep, fmt.Errorf("%d of %d chunks can be read", rep.Chunks, m.Chunks)
	case rep.Witnessed || rep.Summed || !byHub(m):
		return rep, nil
	}
	return rep, s.excused(ctx, m, rep, device)
}

// byHub tells whether a hub was to make the recording; of one from before that was kept, by its way.
func byHub(m store.Manifest) bool {
	if m.Recorder == "" {
		return m.Way == policy.WayHub
	}
	return m.Recorder == store.RecorderHub
}

// excused tells whether a recording by a hub may be without a witness, for the reason that the hub gives.
func (s *Server) excused(ctx context.Context, own store.Manifest, rep reader.Report, device *deviceRecord) error {
	without := rep.Head.Unwitnessed
	switch without {
	case recorder.WithoutLost, recorder.WithoutEnded, recorder.WithoutUnstored:
		return nil
	case recorder.WithoutAgent:
		if device != nil && device.Target != nil {
			return nil
		}
		return fmt.Errorf("%w: the hub says that the device has no agent, and it has", reader.ErrWitness)
	case recorder.WithoutNone:
		// An agent of before there were witnesses? Not if it gave one before: by auth's clock, for the header's is the hub's.
		gave := false
		list, err := s.recordings.List(ctx, store.Filter{DeviceUUID: own.DeviceUUID, Since: s.cfg.Now().Add(-checkBack)})
		for _, m := range list {
			gave = gave || (m.Witness == store.WitnessMatch || m.Witness == store.WitnessSums) && !m.Start.After(own.Start)
		}
		if err == nil && !gave {
			return nil
		}
		return fmt.Errorf("%w: the hub has no witness of the device for it, and the device gives them", reader.ErrWitness)
	}
	return fmt.Errorf("%w: it has no witness of the device, and says no reason (%q)", reader.ErrWitness, wire.Quote(without, 64))
}

// keepCertificates keeps the certificates of who made the recording and of its device with it: they will have been renewed many times when
// somebody else holds the recording against them.
func (s *Server) keepCertificates(ctx context.Context, m store.Manifest, device *deviceRecord, hub *hubRecord) error {
	var all []store.Object
	if device != nil && len(device.Chain) > 0 {
		all = append(all, store.Object{N: store.AttachDeviceCertificate, Data: bytes.Join(device.Chain, nil)})
	}
	if hub != nil && len(hub.Chain) > 0 {
		all = append(all, store.Object{N: store.AttachHubCertificate, Data: bytes.Join(hub.Chain, nil)})
	}
	if len(all) == 0 {
		return nil
	}
	return s.recordings.PutObjects(ctx, m.ID, store.Attachments, all...)
}

// evidenceOf is what others verify a recording with.
func (s *Server) evidenceOf(ctx context.Context, m store.Manifest) []byte {
	e := reader.Evidence{Trust: s.Trust()}
	e.Device, _ = s.recordings.Object(ctx, m.ID, store.Attachments, store.AttachDeviceCertificate)
	e.Hub, _ = s.recordings.Object(ctx, m.ID, store.Attachments, store.AttachHubCertificate)
	if d := s.view.device(m.DeviceUUID); e.Device == nil && d != nil { // it was not checked yet
		e.Device = bytes.Join(d.Chain, nil)
	}
	if h := s.view.hub(m.Hub); e.Hub == nil && h != nil {
		e.Hub = bytes.Join(h.Chain, nil)
	}
	word := attest.Word{
		Cluster: s.info.Cluster, ID: m.ID, User: m.User, Login: m.Login, Device: m.DeviceUUID, Recorder: store.RecorderDevice, Way: m.Way,
		Start: m.Start, Complete: m.Complete,
	}
	if byHub(m) {
		word.Recorder, word.Hub = store.RecorderHub, m.Hub
	}
	if last, err := hex.DecodeString(strings.TrimPrefix(m.Closing, "sha256:")); m.Closed && err == nil && len(last) == len(word.Closing) {
		word.End, word.Closing = m.End, [32]byte(last)
	}
	e.Word = word.Sign(s.set.GrantKey())
	return e.Append(nil)
}
