package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hawser/auth/api"
	"hawser/recorder"
	"hawser/recorder/index"
	"hawser/recorder/reader"
	"hawser/recorder/unseal"
	"hawser/tools/hawser/indexcache"
	"hawser/tools/hawser/profile"
)

// sealedSearch looks through recordings that are encrypted to auditors, here, where the key is: auth cannot.
type sealedSearch struct {
	admin *client
	open  reader.Opener
	cache *indexcache.Cache // nil: indexes are made anew each time
	query index.Query
	per   int
	words io.Writer

	mu     sync.Mutex
	done   int
	tell   bool // how far it is
	unkept bool // an index could not be kept
	others int  // recordings that are encrypted to others
	failed int
	last   error // of those
}

// addSealed adds to what auth found what is in the encrypted recordings of the same filter.
func addSealed(c *cobra.Command, admin *client, open reader.Opener, req *api.SearchRecordingsRequest, res *api.SearchRecordingsResponse) error {
	q, err := index.NewQuery(req.Text, req.Exact)
	if err != nil {
		return usageError{err}
	}
	list, err := admin.ListRecordings(c.Context(), connect.NewRequest(&api.ListRecordingsRequest{Filter: req.Filter, Limit: 100_000, Removed: true}))
	if err != nil {
		return err
	}
	var sealed, removed []*api.Recording
	for _, r := range list.Msg.Recordings {
		switch {
		case r.Removed != nil:
			removed = append(removed, r)
		case r.Sealed:
			sealed = append(sealed, r)
		}
	}
	if len(sealed)+len(removed) == 0 {
		return nil
	}
	s := &sealedSearch{
		admin: admin, open: open, query: q, per: int(cmp.Or(req.PerRecording, 10)), words: c.ErrOrStderr(), tell: term.IsTerminal(int(os.Stderr.Fd())),
	}
	if s.cache, err = openIndexCache(); err != nil {
		fmt.Fprintln(s.words, "hawser: what is made for searching is not kept:", err)
	} else {
		defer s.cache.Close()
		for _, r := range removed { // what it showed goes here too
			if len(r.Id) == 16 {
				if err := s.cache.Remove([16]byte(r.Id)); err != nil {
					fmt.Fprintln(s.words, "hawser: what is left here of a recording that was removed:", err)
				}
			}
		}
	}
	found, err := s.all(c.Context(), sealed)
	if err != nil {
		return err
	}
	if s.cache != nil {
		if err := s.cache.Trim(); err != nil {
			fmt.Fprintln(s.words, "hawser: what was made for searching could not be trimmed:", err)
		}
	}
	res.Searched += uint32(len(sealed) - s.others - s.failed)
	res.Sealed = uint32(s.others)
	if s.failed > 0 {
		fmt.Fprintf(s.words, "hawser: %d encrypted recordings could not be read, the last because: %v\n", s.failed, s.last)
	}
	mergeMatches(res, found, int(cmp.Or(req.Limit, 100)))
	return nil
}

// mergeMatches puts found among what auth found, the newest recordings first, and cuts it to so many lines.
func mergeMatches(res *api.SearchRecordingsResponse, found []*api.RecordingMatches, limit int) {
	all := append(res.Recordings, found...)
	slices.SortStableFunc(all, func(a, b *api.RecordingMatches) int {
		return cmp.Compare(b.Recording.StartUnixNano, a.Recording.StartUnixNano)
	})
	res.Recordings = nil
	for _, m := range all {
		if limit == 0 {
			res.More = true
			break
		}
		if len(m.Matches) > limit {
			m.Matches, res.More = m.Matches[:limit], true
		}
		limit -= len(m.Matches)
		res.Recordings = append(res.Recordings, m)
	}
}

// openIndexCache opens the directory of indexes in the profile's.
func openIndexCache() (*indexcache.Cache, error) {
	dir, err := profile.DefaultDir()
	if err != nil {
		return nil, err
	}
	return indexcache.Open(filepath.Join(dir, "cache", "index"))
}

// all looks through recordings, some at once.
func (s *sealedSearch) all(ctx context.Context, list []*api.Recording) ([]*api.RecordingMatches, error) {
	found := make([]*api.RecordingMatches, len(list))
	work := make(chan int, len(list))
	for i := range list {
		work <- i
	}
	close(work)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(list)) {
		wg.Go(func() {
			for i := range work {
				if ctx.Err() != nil {
					return
				}
				m, err := s.one(ctx, list[i])
				found[i] = m
				s.finished(err, len(list))
			}
		})
	}
	wg.Wait()
	if s.tell {
		fmt.Fprint(s.words, "\r\033[K")
	}
	return slices.DeleteFunc(found, func(m *api.RecordingMatches) bool { return m == nil || len(m.Matches) == 0 }), context.Cause(ctx)
}

func (s *sealedSearch) finished(err error, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done++
	switch {
	case errors.Is(err, unseal.ErrNoKey):
		s.others++
	case err != nil:
		s.failed++
		s.last = err
	}
	if s.tell {
		fmt.Fprintf(s.words, "\rhawser: %d of %d encrypted recordings\033[K", s.done, all)
	}
}

// one looks through one recording, of which it makes the index where there is none here.
func (s *sealedSearch) one(ctx context.Context, r *api.Recording) (*api.RecordingMatches, error) {
	if len(r.Id) != 16 {
		return nil, errors.New("a recording without an id")
	}
	id := [16]byte(r.Id)
	x, err := (*indexcache.Index)(nil), indexcache.ErrNone
	if s.cache != nil {
		x, err = s.cache.Get(id, r.Closing, s.open)
	}
	if errors.Is(err, indexcache.ErrNone) {
		x, err = s.make(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	lines, all := x.Find(s.query, s.per)
	m := &api.RecordingMatches{Recording: r, All: uint32(all)}
	start := time.Unix(0, r.StartUnixNano)
	for _, l := range lines {
		m.Matches = append(m.Matches, &api.Match{AtUnixNano: start.Add(l.Time).UnixNano(), OffsetNanos: int64(l.Time), Kind: l.Kind.String(), Line: l.Text})
	}
	return m, nil
}

// make fetches a recording and makes its index. That of one that is closed is kept.
func (s *sealedSearch) make(ctx context.Context, r *api.Recording) (x *indexcache.Index, err error) {
	src, err := s.admin.recording(ctx, hex.EncodeToString(r.Id))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	var key, last [32]byte
	in := reader.New(func() ([]byte, error) {
		b, err := src.next()
		if err == nil {
			last = recorder.Hash(b)
		}
		return b, err
	}).Unseal(func([][]byte) ([32]byte, error) { return key, nil })
	h, err := in.Header()
	if err == io.EOF {
		return new(indexcache.Index), nil // nothing came
	}
	if err != nil {
		return nil, err
	}
	if key, err = s.open(h.Keys); err != nil {
		return nil, err
	}
	x = new(indexcache.Index)
	b := index.NewBuilder(recorder.Header(h), x.Put)
	err = errors.Join(b.Extend(in), b.Flush())
	if err == nil && (h.ID != [16]byte(r.Id) || r.Closed && fmt.Sprintf("sha256:%x", last) != r.Closing) {
		err = fmt.Errorf("of recording %x auth gave another, or only a part", r.Id)
	}
	if err != nil || !r.Closed || s.cache == nil {
		return x, err
	}
	if err := s.cache.Put(h, r.Closing, key, x); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.unkept { // all for the same reason
			s.unkept = true
			fmt.Fprintln(s.words, "hawser: what was made for searching is not kept:", err)
		}
	}
	return x, nil
}
