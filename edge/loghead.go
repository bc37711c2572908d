package edge

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"strconv"
	"sync"
	"time"

	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// A device is a witness of the audit log: it keeps a head that auth signed and takes another only with the proof that the log of that
// one grew from it. So who rewrites the log at auth, and has the hubs too, has every device that was ever connected against him
// (PROTOCOL.md, 10.8).

// logHeadFile holds the head kept: size, root, Unix seconds, signature.
const logHeadFile = "log-head"

// logHeadEvery is how much newer than the one kept a head is that is asked about: it bounds the writes, and what auth is asked.
const logHeadEvery = 24 * 60 * 60

const logHeadSize = 8 + 32 + 8 + ed25519.SignatureSize

// logForkFor is how long a device holds on to a head that auth's log does not continue, in seconds: an auth service that was restored from an older
// backup cannot, and nobody goes to every device to say that this was right.
const logForkFor = 30 * logHeadEvery

// errRewritten: two heads of one log contradict each other.
var errRewritten = errors.New("THE AUDIT LOG WAS REWRITTEN, or auth was restored from an older backup; this device keeps " + logHeadFile + " as evidence")

// logHeads is what a device knows of the audit log.
type logHeads struct {
	mu     sync.Mutex
	loaded bool
	kept   wire.LogHead // Size 0: none
	wanted wire.LogHead // asked about
	fork   uint64       // time of the first head that was refused; 0: none
	told   time.Time    // the hub, of it
}

// headText is what auth signs.
func headText(cluster string, h *wire.LogHead) []byte {
	b := append([]byte(cluster), "/hawser-audit\n"...)
	b = append(strconv.AppendUint(b, h.Size, 10), '\n')
	b = base64.StdEncoding.AppendEncode(b, h.Root[:])
	b = append(b, "\ntime "...)
	return append(time.Unix(int64(h.Time), 0).UTC().AppendFormat(b, time.RFC3339), '\n')
}

// adoptLogHead takes a head, or the proof that was asked for.
func (l *link) adoptLogHead(m *wire.LogHead) error {
	a := l.a
	cluster := a.state.get().Cluster
	signed := m.Older != 0 // the head that it is the proof of was
	for _, key := range a.state.anchors().TimeKeys {
		signed = signed || ed25519.Verify(key, headText(cluster, m), m.Signature)
	}
	if !signed {
		return errors.New("the head of the audit log is not signed by this cluster")
	}
	ask, keep, err := a.logHeads.judge(m, a.state)
	if keep != nil {
		b := binary.BigEndian.AppendUint64(nil, keep.Size)
		b = binary.BigEndian.AppendUint64(append(b, keep.Root[:]...), keep.Time)
		err = errors.Join(err, a.state.write(logHeadFile, append(b, keep.Signature...)))
	}
	if ask != nil {
		err = errors.Join(err, tunnel.Send(l.conn, ask))
	}
	return err
}

// judge says what a head, or a proof, asks for: a question or a report to the hub, a head to keep, an alarm.
func (s *logHeads) judge(m *wire.LogHead, at *state) (ask *wire.LogWanted, keep *wire.LogHead, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := &s.kept
	if !s.loaded {
		s.loaded = true
		if b, err := at.read(logHeadFile); err == nil && len(b) == logHeadSize {
			k.Size, k.Root = binary.BigEndian.Uint64(b), [32]byte(b[8:])
			k.Time, k.Signature = binary.BigEndian.Uint64(b[40:]), b[48:]
		}
	}
	next := m
	fork := false
	switch {
	case m.Older != 0:
		next = &s.wanted
		if next.Size == 0 || m.Older != k.Size || m.Size != next.Size {
			return nil, nil, nil // of a question that was settled meanwhile, or never asked
		}
		fork = !grew(k, next, m.Proof)
	case m.Size == 0:
		return nil, nil, nil
	case k.Size == 0:
	case m.Size == k.Size && m.Root != k.Root, m.Size < k.Size && m.Time > k.Time:
		fork = true
	case m.Size > k.Size && m.Time >= k.Time+logHeadEvery:
		s.wanted = *m
		return &wire.LogWanted{Older: k.Size, Newer: m.Size}, nil, nil
	default:
		return nil, nil, nil
	}
	if !fork || s.fork != 0 && next.Time >= s.fork+logForkFor {
		h := *next
		s.kept, s.wanted, s.fork = h, wire.LogHead{}, 0
		return nil, &h, nil
	}
	if s.fork == 0 {
		s.fork = next.Time
	}
	if time.Since(s.told) < logHeadEvery*time.Second {
		return nil, nil, nil
	}
	s.told = time.Now()
	return &wire.LogWanted{Older: k.Size, Newer: next.Size, Fork: true, Root: k.Root, Time: k.Time, Signature: k.Signature}, nil, errRewritten
}

// alarm is what is wrong with the log; empty: nothing.
func (s *logHeads) alarm() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fork == 0 {
		return ""
	}
	return errRewritten.Error()
}

// grew tells whether the tree of newer begins with that of older (RFC 9162, section 2.1.4.2). 0 < older.Size < newer.Size.
func grew(older, newer *wire.LogHead, proof []byte) bool {
	hash := func(a, b [32]byte) [32]byte {
		var in [65]byte
		in[0] = 1
		copy(in[1:], a[:])
		copy(in[33:], b[:])
		return sha256.Sum256(in[:])
	}
	if older.Size == 0 || older.Size >= newer.Size || len(proof)%32 != 0 {
		return false
	}
	fn, sn := older.Size-1, newer.Size-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr := older.Root
	if older.Size&(older.Size-1) != 0 {
		if len(proof) == 0 {
			return false
		}
		fr, proof = [32]byte(proof), proof[32:]
	}
	sr := fr
	for ; len(proof) > 0; proof = proof[32:] {
		c := [32]byte(proof)
		switch {
		case sn == 0:
			return false
		case fn&1 == 1 || fn == sn:
			fr, sr = hash(c, fr), hash(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		default:
			sr = hash(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && fr == older.Root && sr == newer.Root
}
