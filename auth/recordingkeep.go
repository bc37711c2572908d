package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/store"
	"hawser/tunnel/wire"
)

// recordingService is for who administers recordings: what they keep, and what goes before its time.
type recordingService struct{ *Server }

// marked is the event of what somebody did to a recording.
func marked(kind string, c caller, m store.Manifest, reason string) Event {
	return Event{
		Type: kind, Actor: c.String(), Source: c.addr, Via: c.via, Session: hex.EncodeToString(m.ID[:]), User: m.User, Login: m.Login, Device: m.Device,
		DeviceUUID: m.DeviceUUID, Object: m.Closing, Count: m.Chunks, Message: reason,
	}
}

// HoldRecording keeps a recording.
func (s recordingService) HoldRecording(ctx context.Context, req *connect.Request[api.HoldRecordingRequest]) (*connect.Response[api.HoldRecordingResponse], error) {
	c, reason := callerOf(ctx), clip(req.Msg.Reason)
	if reason == "" {
		return nil, invalid("say why it is held: --reason TEXT; who reads the list in a year must know when it may end")
	}
	m, err := s.findRecording(ctx, c, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if m.Removed != nil {
		return nil, errRemoved(m)
	}
	m, err = s.recordings.Hold(ctx, m.ID, &store.Hold{By: c.String(), At: s.cfg.Now(), Reason: reason})
	if err != nil {
		return nil, keepError(err, m)
	}
	s.record(marked("recording.hold", c, m, reason))
	return connect.NewResponse(&api.HoldRecordingResponse{Id: m.ID[:]}), nil
}

// ReleaseRecording ends a hold.
func (s recordingService) ReleaseRecording(ctx context.Context, req *connect.Request[api.ReleaseRecordingRequest]) (*connect.Response[api.ReleaseRecordingResponse], error) {
	c := callerOf(ctx)
	m, err := s.findRecording(ctx, c, req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if m.Hold == nil {
		return nil, invalid("recording %x is not held; `hawser recordings held` lists those that are", m.ID)
	}
	if m, err = s.recordings.Hold(ctx, m.ID, nil); err != nil {
		return nil, keepError(err, m)
	}
	s.record(marked("recording.release", c, m, clip(req.Msg.Reason)))
	s.thinned.forget(store.Week(m.Start))
	return connect.NewResponse(&api.ReleaseRecordingResponse{Id: m.ID[:]}), nil
}

// RemoveRecording removes one recording and leaves a tombstone. It is in the log before it is done: a removal that nobody knows of is worse
// than one that is told and did not come to pass.
func (s recordingService) RemoveRecording(ctx context.Context, req *connect.Request[api.RemoveRecordingRequest]) (*connect.Response[api.RemoveRecordingResponse], error) {
	c, reason := callerOf(ctx), clip(req.Msg.Reason)
	m, err := s.findRecording(ctx, c, req.Msg.Id)
	switch {
	case err != nil:
		return nil, err
	case m.Removed != nil:
		return nil, errRemoved(m)
	case m.Hold != nil:
		return nil, keepError(store.ErrHeld, m)
	case !m.Closed && s.hubs.live(m.ID):
		return nil, invalid("session %x goes on and is recorded; end it first with `hawser sessions kill %x`", m.ID, m.ID)
	}
	s.record(marked("recording.remove", c, m, reason))
	s.settle(ctx)
	before, err := s.recordings.Remove(ctx, m.ID, store.Removal{By: c.String(), At: s.cfg.Now(), Reason: reason})
	if err != nil {
		e := marked("recording.remove.fail", c, m, "")
		e.Reason = err.Error()
		s.record(e)
		return nil, keepError(err, m)
	}
	return connect.NewResponse(&api.RemoveRecordingResponse{Id: m.ID[:], Bytes: before.Bytes}), nil
}

func keepError(err error, m store.Manifest) error {
	switch {
	case errors.Is(err, store.ErrHeld) && m.Hold != nil:
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "recording %x is held by %s: %s; release it first with `hawser recordings release %x`",
			m.ID, m.Hold.By, wire.Quote(m.Hold.Reason, 200), m.ID)
	case errors.Is(err, store.ErrHeld):
		return api.NewError(connect.CodeFailedPrecondition, api.Code_CODE_UNSPECIFIED, "recording %x is held; release it first with `hawser recordings release`", m.ID)
	case errors.Is(err, store.ErrRemoved), errors.Is(err, store.ErrNotFound):
		return notFound("the recording was removed meanwhile")
	}
	return err
}

// GetRecordingStore tells how much room recordings take.
func (s recordingService) GetRecordingStore(ctx context.Context, _ *connect.Request[api.GetRecordingStoreRequest]) (*connect.Response[api.GetRecordingStoreResponse], error) {
	u, err := s.usage()
	if err != nil {
		return nil, err
	}
	held, err := s.recordings.List(ctx, store.Filter{Held: true})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&api.GetRecordingStoreResponse{
		Bytes: u.Bytes, QuotaBytes: u.Quota, FreeBytes: u.Free, MinFreeBytes: u.MinFree, State: s.spaceState(u), Held: uint64(len(held)),
		RetentionSeconds: int64(s.view.cluster().Retention.Recordings / time.Second),
	}), nil
}
