package audit

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/mod/sumdb/tlog"

	"hawser/auth/loghead"
)

// An export is JSON lines: an exportHeader, the entries as they are stored, an exportProof. The proof holds the hash of
// each largest subtree of which no leaf is in the export, from left to right: with the leaves of the events they make
// the root of the signed head.
type exportHeader struct {
	Version int    `json:"hawser_audit_export"` // 1
	Cluster string `json:"cluster"`
	From    int64  `json:"from"`             // seq of the first event asked for
	Filter  string `json:"filter,omitempty"` // what was left out, in words; empty: nothing from there on
	Head    string `json:"head"`             // signed; the export ends with its last event
}

type exportProof struct {
	Others []tlog.Hash `json:"others"`
	// Blocks are the subtrees of blockLeaves leaves that are whole in the export: they prove nothing by themselves, and
	// tell where a change is.
	Blocks []exportBlock `json:"blocks,omitempty"`
	// Older is the size of a head that is older than the export's first event, and Growth the proof that the log grew from it.
	Older  int64       `json:"older,omitempty"`
	Growth []tlog.Hash `json:"growth,omitempty"`
}

type exportBlock struct {
	First int64     `json:"first"`
	Hash  tlog.Hash `json:"hash"`
}

const (
	exportVersion = 1
	blockLevel    = 6
	blockLeaves   = 1 << blockLevel
)

// perfect calls f with the complete subtrees that a tree of n leaves is made of, from left to right.
func perfect(n int64, f func(level int, i int64)) {
	for l := 62; l >= 0; l-- {
		if n>>l&1 == 1 {
			f(l, n>>l-1)
		}
	}
}

// Export writes what q finds up to the newest head, each line by one call of w; filter says in words what q leaves out.
// Where older is not zero the export proves besides that the log grew from its first older events.
func (l *Log) Export(ctx context.Context, q Query, filter string, older int64, w func(line []byte) error) error {
	signed, err := l.MakeHead(ctx)
	if err != nil {
		return err
	}
	head, err := loghead.Parse(signed)
	if err != nil {
		return err
	}
	if older < 0 || older > head.Size {
		return ErrSize
	}
	b, err := json.Marshal(exportHeader{exportVersion, l.o.Cluster, q.From, filter, string(signed)})
	if err != nil {
		return err
	}
	if err := w(b); err != nil {
		return err
	}
	q.To, q.Newest, q.Limit = head.Size, false, 0
	var seqs []int64
	err = l.Search(ctx, q, func(e Entry) (bool, error) {
		if n := len(seqs); n > 0 && e.Seq <= seqs[n-1] {
			return true, nil // no line of ours
		}
		seqs = append(seqs, e.Seq)
		return true, w(e.Line())
	})
	if err != nil {
		return err
	}
	p, err := l.proofOf(head.Size, seqs)
	if err != nil {
		return err
	}
	if older > 0 {
		p.Older = older
		if p.Growth, err = l.Prove(older, head.Size); err != nil {
			return err
		}
	}
	if b, err = json.Marshal(p); err != nil {
		return err
	}
	return w(b)
}

func (l *Log) proofOf(size int64, seqs []int64) (exportProof, error) {
	p := exportProof{Others: []tlog.Hash{}}
	var others, blocks []int64
	var walk func(level int, i int64)
	walk = func(level int, i int64) {
		first, end := i<<level, (i+1)<<level
		from, _ := slices.BinarySearch(seqs, first)
		to, _ := slices.BinarySearch(seqs, end)
		switch {
		case from == to:
			others = append(others, tlog.StoredHashIndex(level, i))
			return
		case level == blockLevel && to-from == blockLeaves:
			p.Blocks = append(p.Blocks, exportBlock{First: first})
			blocks = append(blocks, tlog.StoredHashIndex(level, i))
			return
		case level == 0:
			return
		}
		walk(level-1, 2*i)
		walk(level-1, 2*i+1)
	}
	perfect(size, walk)
	hashes, err := fileHashes(l.tree.f)(append(slices.Clone(others), blocks...))
	if err != nil {
		return p, err
	}
	p.Others = append(p.Others, hashes[:len(others)]...)
	for i := range p.Blocks {
		p.Blocks[i].Hash = hashes[len(others)+i]
	}
	return p, nil
}

// Report is what Verify found out.
type Report struct {
	Head   Head   // that the export ends with
	Signed bool   // by one of the keys given
	Filter string // what the export says was left out
	Events int64
	First  int64 // seq of the first and the last event, -1 where there is none
	Last   int64
	// Unsigned is how many events at the end the head does not cover yet; of a directory only.
	Unsigned int64
	// Faults are what is wrong, one sentence each, at most maxFaults; none: the export is whole and unchanged.
	Faults []string
}

const maxFaults = 20

func (r *Report) fault(format string, args ...any) {
	if len(r.Faults) < maxFaults {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// ErrExport: the file is no export of an audit log.
var ErrExport = errors.New("not an export of an audit log; `hawser audit export FILE` makes one")

// Verify holds an export against its own head and, where there is one, a head that was kept elsewhere. It needs nothing
// but its arguments. An error says that the file cannot be judged at all; what is wrong with it is in the report.
func Verify(r io.Reader, keys []ed25519.PublicKey, kept *Head) (Report, error) {
	return verifyExport(r, keys, kept, nil)
}

// ReadExport is Verify, and returns the entries besides. They are proved where the report has no faults and is signed, and where a head kept
// elsewhere was given not even those who run the cluster could have made them anew.
func ReadExport(r io.Reader, keys []ed25519.PublicKey, kept *Head) (Report, []Entry, error) {
	var all []Entry
	rep, err := verifyExport(r, keys, kept, func(e Entry) { all = append(all, e) })
	return rep, all, err
}

func verifyExport(r io.Reader, keys []ed25519.PublicKey, kept *Head, each func(Entry)) (Report, error) {
	rep := Report{First: -1, Last: -1}
	in := bufio.NewReaderSize(r, 1<<20)
	line, err := readLine(in)
	var h exportHeader
	if err != nil || json.Unmarshal(line, &h) != nil || h.Version != exportVersion {
		return rep, ErrExport
	}
	rep.Filter = h.Filter
	if rep.Head, err = loghead.Parse([]byte(h.Head)); err != nil {
		return rep, fmt.Errorf("%w: %w", ErrExport, err)
	}
	if len(keys) > 0 {
		if _, err := loghead.Open([]byte(h.Head), rep.Head.Cluster, keys); err != nil {
			rep.fault("the export's head is not signed by this cluster's key")
		}
		rep.Signed = err == nil
	}
	size := rep.Head.Size
	leaves := make(map[int64]tlog.Hash)
	var seqs []int64
	var proof *exportProof
	for n := 2; ; n++ {
		line, err := readLine(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return rep, fmt.Errorf("line %d: %w", n, err)
		}
		if proof != nil {
			rep.fault("line %d follows the proof, which is the last line", n)
			break
		}
		e, err := ParseLine(line)
		if err != nil {
			var p exportProof
			if json.Unmarshal(line, &p) != nil || p.Others == nil {
				rep.fault("line %d is no event", n)
				continue
			}
			proof = &p
			continue
		}
		if e.Seq >= size || e.Seq < h.From {
			rep.fault("line %d: event %d is not one of the export's", n, e.Seq)
			continue
		}
		want := h.From
		if len(seqs) > 0 {
			want = seqs[len(seqs)-1] + 1
		}
		switch {
		case e.Seq < want:
			rep.fault("line %d: event %d stands after event %d: lines were reordered or repeated", n, e.Seq, want-1)
			continue
		case e.Seq > want && h.Filter == "":
			rep.fault("line %d: events %d to %d are missing", n, want, e.Seq-1)
		}
		leaf := e.Leaf()
		leaves[e.Seq] = tlog.RecordHash(leaf[:])
		seqs = append(seqs, e.Seq)
		if each != nil {
			each(e)
		}
	}
	rep.Events = int64(len(seqs))
	if len(seqs) > 0 {
		rep.First, rep.Last = seqs[0], seqs[len(seqs)-1]
	}
	if end := max(rep.Last+1, h.From); h.Filter == "" && end < size {
		rep.fault("events %d to %d are missing at the end", end, size-1)
	}
	if proof == nil {
		rep.fault("the last line, which holds the proof, is missing: the file was cut off")
		return rep, nil
	}
	t := sums{seqs: seqs, leaves: leaves, others: make(map[[2]int64]tlog.Hash)}
	ok := t.takeOthers(size, proof.Others)
	if !ok && len(rep.Faults) == 0 {
		rep.fault("the proof is for other events than those in the file")
	}
	if ok && t.root(size) != rep.Head.Root {
		t.where(&rep, size, proof.Blocks)
	}
	if kept != nil {
		t.against(&rep, *kept, h, proof, ok)
	}
	return rep, nil
}

// readLine reads one line of bounded length, without its newline. The last may lack it: editors drop it.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull) && len(line) < maxProofLine:
			continue
		case errors.Is(err, io.EOF) && len(line) > 0:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, ErrLine
		}
		return nil, err
	}
}

// maxProofLine bounds the line of the proof in bytes: the hashes of a filtered export of a million events.
const maxProofLine = 256 << 20

// sums computes the hashes of a tree of which some leaves and some subtrees are known.
type sums struct {
	seqs   []int64
	leaves map[int64]tlog.Hash
	others map[[2]int64]tlog.Hash // level and place
	claims map[int64]tlog.Hash    // of blocks, by their first leaf, where they are believed
}

// takeOthers gives each subtree without a leaf in the file its hash.
func (t *sums) takeOthers(size int64, others []tlog.Hash) bool {
	ok := true
	var walk func(level int, i int64)
	walk = func(level int, i int64) {
		from, _ := slices.BinarySearch(t.seqs, i<<level)
		to, _ := slices.BinarySearch(t.seqs, (i+1)<<level)
		switch {
		case from == to:
			if len(others) == 0 {
				ok = false
				return
			}
			t.others[[2]int64{int64(level), i}] = others[0]
			others = others[1:]
		case level > 0:
			walk(level-1, 2*i)
			walk(level-1, 2*i+1)
		}
	}
	perfect(size, walk)
	return ok && len(others) == 0
}

// hash is the hash of a subtree; false: it cannot be known.
func (t *sums) hash(level int, i int64) (tlog.Hash, bool) {
	if h, ok := t.others[[2]int64{int64(level), i}]; ok {
		return h, true
	}
	if level == blockLevel {
		if h, ok := t.claims[i<<level]; ok {
			return h, true
		}
	}
	if level == 0 {
		h, ok := t.leaves[i]
		return h, ok
	}
	a, aok := t.hash(level-1, 2*i)
	if !aok {
		return tlog.Hash{}, false
	}
	b, bok := t.hash(level-1, 2*i+1)
	return tlog.NodeHash(a, b), bok
}

// root is that of the first n leaves, zero where it cannot be known.
func (t *sums) root(n int64) tlog.Hash {
	if n == 0 {
		return rootOf(0, nil)
	}
	var parts []tlog.Hash
	ok := true
	perfect(n, func(level int, i int64) {
		h, known := t.hash(level, i)
		ok = ok && known
		parts = append(parts, h)
	})
	if !ok {
		return tlog.Hash{}
	}
	h := parts[len(parts)-1]
	for _, p := range slices.Backward(parts[:len(parts)-1]) {
		h = tlog.NodeHash(p, h)
	}
	return h
}

// where says which events differ from the head's, as far as the blocks tell, which then make its root.
func (t *sums) where(rep *Report, size int64, blocks []exportBlock) {
	t.claims = make(map[int64]tlog.Hash, len(blocks))
	for _, b := range blocks {
		t.claims[b.First] = b.Hash
	}
	believed := t.root(size) == rep.Head.Root
	t.claims = nil
	if !believed {
		rep.fault("the events are not those under the head: at least one of them, or the proof, was changed")
		return
	}
	for _, b := range blocks {
		if h, _ := t.hash(blockLevel, b.First>>blockLevel); h != b.Hash {
			rep.fault("one of the events %d to %d was changed", b.First, b.First+blockLeaves-1)
		}
	}
}

// against holds the export against a head that was kept elsewhere.
func (t *sums) against(rep *Report, kept Head, h exportHeader, proof *exportProof, ok bool) {
	switch {
	case kept.Cluster != rep.Head.Cluster:
		rep.fault("the head kept is of the cluster %q, the export of %q", kept.Cluster, rep.Head.Cluster)
	case kept.Size > rep.Head.Size:
		rep.fault("the head kept has %d events, and the export ends with event %d: export again; if it still ends before, the log was cut off",
			kept.Size, rep.Head.Size-1)
	case kept.Size == rep.Head.Size:
		if kept.Root != rep.Head.Root {
			rep.fault("the head kept has another root for the same %d events: the log was rewritten", kept.Size)
		}
	case proof.Older == kept.Size && kept.Size > 0:
		if err := loghead.CheckGrowth(kept, rep.Head, proof.Growth); err != nil {
			rep.fault("%v", err)
		}
	case ok && h.Filter == "" && kept.Size >= h.From:
		if t.root(kept.Size) != kept.Root {
			rep.fault("the first %d events are not those of the head kept: the log was rewritten", kept.Size)
		}
	default:
		rep.fault("the head kept, of %d events, is older than this export's first: export again with --head, which adds the proof", kept.Size)
	}
}
