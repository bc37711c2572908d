package auth

import (
	"context"
	"encoding/hex"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
	"hawser/auth/store"
	"hawser/recorder/index"
	"hawser/tunnel/wire"
)

type searchService struct{ *Server }

func hexID(id [16]byte) string { return hex.EncodeToString(id[:]) }

// recordingFilter is what a caller may see of what a filter asks for.
type recordingFilter struct {
	store.Filter
	s      *Server
	caller caller
	r      *api.RecordingFilter
	none   bool // it is known that nothing matches
}

// filterRecordings checks a filter. Of his own and of all recordings the roles decide.
func (s *Server) filterRecordings(c caller, r *api.RecordingFilter) (f recordingFilter, err error) {
	if r == nil {
		r = &api.RecordingFilter{}
	}
	if len(r.Selectors) > maxSelectors {
		return f, invalid("more than %d selectors", maxSelectors)
	}
	f = recordingFilter{s: s, caller: c, r: r, Filter: store.Filter{User: r.User}}
	if r.SinceUnixNano != 0 {
		f.Since = time.Unix(0, r.SinceUnixNano)
	}
	if r.UntilUnixNano != 0 {
		f.Until = time.Unix(0, r.UntilUnixNano)
	}
	if r.Device != "" {
		if _, err := wire.ParseUUID(r.Device); err == nil {
			f.DeviceUUID = r.Device
		} else {
			f.Device = r.Device
		}
	}
	switch policy.RecordingScope(c.roles) {
	case policy.ScopeAll:
	case policy.ScopeOwn:
		f.none = r.User != "" && r.User != c.id.Name
		f.User = c.id.Name
	default:
		f.none = true
	}
	if _, err := selects(r.Selectors, &deviceRecord{}); err != nil {
		return f, err
	}
	return f, nil
}

// match holds a manifest against what the store does not filter by.
func (f recordingFilter) match(m store.Manifest) bool {
	if f.none || !mayReplay(f.caller, m) || f.r.Login != "" && f.r.Login != m.Login || f.r.Kind != "" && f.r.Kind != m.Kind ||
		f.r.Way != "" && f.r.Way != m.Way || f.r.Id != "" && !strings.EqualFold(hexID(m.ID), f.r.Id) && !begins(m.ID, f.r.Id) {
		return false
	}
	if len(f.r.Selectors) == 0 {
		return true
	}
	d := f.s.view.device(m.DeviceUUID)
	if d == nil || d.UUID != m.DeviceUUID {
		return false
	}
	ok, err := selects(f.r.Selectors, d)
	return ok && err == nil
}

// Bounds of a search.
const (
	maxSelectors   = 16
	searchLines    = 100 // where the caller does not say
	maxSearchLines = 10_000
	searchPer      = 10
	searches       = 2 // at once; others wait
	searchTime     = 30 * time.Second
	searchedAtOnce = 4 // recordings for each processor
)

// SearchRecordings looks for text in what recordings show.
func (s searchService) SearchRecordings(ctx context.Context, req *connect.Request[api.SearchRecordingsRequest]) (*connect.Response[api.SearchRecordingsResponse], error) {
	c, r := callerOf(ctx), req.Msg
	q, err := index.NewQuery(r.Text, r.Exact)
	if err != nil {
		return nil, invalid("search: %w", err)
	}
	f, err := s.filterRecordings(c, r.Filter)
	if err != nil {
		return nil, err
	}
	limit, per := int(min(r.Limit, maxSearchLines)), int(min(r.PerRecording, maxSearchLines))
	if limit == 0 {
		limit = searchLines
	}
	if per == 0 {
		per = searchPer
	}
	ctx, cancel := context.WithTimeout(ctx, searchTime)
	defer cancel()
	select {
	case s.searching <- struct{}{}:
		defer func() { <-s.searching }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	res := &api.SearchRecordingsResponse{}
	if !f.none {
		if res, err = s.search(ctx, q, f, limit, per); err != nil {
			return nil, err
		}
	}
	lines := uint64(0)
	for _, m := range res.Recordings {
		lines += uint64(len(m.Matches))
	}
	s.record(Event{
		Type: "recording.search", Actor: c.String(), Source: c.addr, Via: c.via, User: f.User, Device: f.r.Device, Object: wire.Quote(r.Text, 2*index.MaxQuery), Count: lines,
	})
	return connect.NewResponse(res), nil
}

// search finds in which blocks the text may be, and looks there, the newest recordings first.
func (s *Server) search(ctx context.Context, q index.Query, f recordingFilter, limit, per int) (*api.SearchRecordingsResponse, error) {
	res := &api.SearchRecordingsResponse{}
	all, err := s.recordings.List(ctx, f.Filter)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(m store.Manifest) bool { return !f.match(m) })
	finished, may := map[[16]byte]bool{}, map[[16]byte][]uint64{}
	for _, m := range all {
		if m.Sealed {
			res.Sealed++
			continue
		}
		may[m.ID] = nil
	}
	err = s.recordings.ObjectsOf(ctx, f.Filter, store.IndexState, func(m store.Manifest, n uint64, data []byte) error {
		if st, err := index.OpenStatus(data); n == 0 && err == nil {
			finished[m.ID] = indexed(st, m) && !st.Truncated && !st.Failed
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	err = s.recordings.ObjectsOf(ctx, f.Filter, store.IndexFilter, func(m store.Manifest, n uint64, data []byte) error {
		if blocks, ok := may[m.ID]; ok {
			// One that cannot be read hides nothing.
			if there, err := q.MayHold(data); there || err != nil {
				may[m.ID] = append(blocks, n)
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	var some []store.Manifest
	for _, m := range all {
		if m.Sealed {
			continue
		}
		res.Searched++
		if !finished[m.ID] {
			res.Unindexed++
		}
		if len(may[m.ID]) > 0 {
			some = append(some, m)
		}
	}
	atOnce := searchedAtOnce * runtime.GOMAXPROCS(0)
	for len(some) > 0 && limit > 0 {
		part := some[:min(len(some), atOnce)]
		some = some[len(part):]
		found, err := s.searchPart(ctx, q, part, may, per)
		if err != nil {
			return nil, err
		}
		for _, rm := range found {
			if len(rm.Matches) == 0 {
				continue
			}
			if limit == 0 {
				res.More = true
				break
			}
			if len(rm.Matches) > limit {
				rm.Matches, res.More = rm.Matches[:limit], true
			}
			limit -= len(rm.Matches)
			res.Recordings = append(res.Recordings, rm)
		}
	}
	res.More = res.More || len(some) > 0
	return res, nil
}

// searchPart looks through some recordings, on all processors.
func (s *Server) searchPart(ctx context.Context, q index.Query, part []store.Manifest, may map[[16]byte][]uint64, per int) ([]*api.RecordingMatches, error) {
	found, errs := make([]*api.RecordingMatches, len(part)), make([]error, len(part))
	work := make(chan int, len(part))
	for i := range part {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var raw, buf []byte
			for i := range work {
				m := part[i]
				rm := &api.RecordingMatches{Recording: s.recordingOf(m)}
				var lines []index.Line
				for _, n := range may[m.ID] {
					object, err := s.recordings.Object(ctx, m.ID, store.Index, n)
					if err != nil {
						errs[i] = err
						break
					}
					b, err := index.OpenBlock(object, raw)
					if err != nil {
						continue // the index is made anew where its version is another
					}
					raw = b.Buffer()
					some, all, used, err := b.Search(q, per, buf)
					if err != nil {
						continue
					}
					buf = used
					rm.All += uint32(all)
					lines = append(lines, some...)
				}
				slices.SortStableFunc(lines, func(a, b index.Line) int { return int(a.Time - b.Time) })
				for _, l := range lines[:min(len(lines), per)] {
					rm.Matches = append(rm.Matches, &api.Match{
						AtUnixNano: m.Start.Add(l.Time).UnixNano(), OffsetNanos: int64(l.Time), Kind: l.Kind.String(), Line: l.Text,
					})
				}
				found[i] = rm
			}
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrRemoved) {
			return nil, err
		}
		if found[i] == nil {
			found[i] = &api.RecordingMatches{}
		}
	}
	return found, nil
}

// GetRecordingIndex streams what is there of a recording's index.
func (s searchService) GetRecordingIndex(ctx context.Context, req *connect.Request[api.GetRecordingIndexRequest], stream *connect.ServerStream[api.GetRecordingIndexResponse]) error {
	c := callerOf(ctx)
	m, err := s.findRecording(ctx, c, req.Msg.Id)
	if err != nil {
		return err
	}
	if m.Removed != nil {
		return errRemoved(m)
	}
	leave, err := s.readers.enter(c.String())
	if err != nil {
		return err
	}
	defer leave()
	s.record(Event{Type: "recording.replay", Actor: c.String(), Source: c.addr, Via: c.via, Session: hexID(m.ID), User: m.User, Device: m.Device, Object: "index"})
	// The status first: what is added while this goes on is of chunks after it.
	last := &api.GetRecordingIndexResponse{}
	if b, err := s.recordings.Object(ctx, m.ID, store.IndexState, 0); err == nil {
		if st, err := index.OpenStatus(b); err == nil {
			last.Finished = indexed(st, m) && !st.Failed
		}
	}
	err = s.recordings.Objects(ctx, m.ID, store.Keyframes, 0, func(_ uint64, data []byte) error {
		return stream.Send(&api.GetRecordingIndexResponse{Keyframes: [][]byte{data}})
	})
	if err != nil {
		return err
	}
	err = s.recordings.Objects(ctx, m.ID, store.Index, 0, func(_ uint64, data []byte) error {
		return stream.Send(&api.GetRecordingIndexResponse{Text: [][]byte{data}})
	})
	if err != nil {
		return err
	}
	return stream.Send(last)
}
