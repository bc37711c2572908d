// Package loghead is the signed head of the audit log: what hubs and anyone else keep, so that a log that was rewritten
// can be proved to have been. Pure: bytes and times in, bytes and decisions out. Start from Open and CheckGrowth.
package loghead

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Head is the state of a log: how many events it has, and the root of its tree. Signed it is a note
// (golang.org/x/mod/sumdb/note) whose text is a checkpoint (C2SP tlog-checkpoint):
//
//	hub.example/hawser-audit
//	12345
//	base64 of the root
//	time 2026-11-21T10:00:00Z
//
// so that anyone's tools verify it and witnesses can cosign it.
type Head struct {
	Cluster string
	Size    int64
	Root    tlog.Hash
	Time    time.Time
}

// What we chose.
const (
	// MaxSize bounds a signed head in bytes: the text, and signatures of a few witnesses.
	MaxSize = 4 << 10
	// maxProof bounds a consistency proof in hashes: two paths of a tree with 2^63 leaves.
	maxProof = 128
)

const (
	origin   = "/hawser-audit"
	timeLine = "time "
)

// Errors of heads.
var (
	ErrHead     = errors.New("not a head of an audit log")
	ErrHeadSign = errors.New("the head is not signed by this cluster's key")
)

// Text is what is signed. It holds no NUL, which every other thing a cluster's keys sign does: no signature of one
// kind is ever one of the other.
func (h Head) Text() string {
	return fmt.Sprintf("%s%s\n%d\n%s\n%s%s\n", h.Cluster, origin, h.Size, h.Root, timeLine, h.Time.UTC().Format(time.RFC3339))
}

// Sign makes the signed head; sign signs the text with the Ed25519 key of public.
func (h Head) Sign(public ed25519.PublicKey, sign func(text []byte) ([]byte, error)) ([]byte, error) {
	n, err := note.Sign(&note.Note{Text: h.Text()}, signer{verifier{h.Cluster + origin, public}, sign})
	if err != nil {
		return nil, fmt.Errorf("sign the head of the audit log: %w", err)
	}
	return n, nil
}

// verifier verifies with one public key under a name, and implements note.Verifier.
type verifier struct {
	name string
	key  ed25519.PublicKey
}

func (v verifier) Name() string { return v.name }
func (v verifier) KeyHash() uint32 {
	sum := sha256.Sum256(append([]byte(v.name+"\n\x01"), v.key...))
	return binary.BigEndian.Uint32(sum[:])
}
func (v verifier) Verify(msg, sig []byte) bool {
	return len(v.key) == ed25519.PublicKeySize && ed25519.Verify(v.key, msg, sig)
}

type signer struct {
	verifier
	sign func([]byte) ([]byte, error)
}

func (s signer) Sign(msg []byte) ([]byte, error) { return s.sign(msg) }

// Parse decodes a signed head without looking at its signatures.
func Parse(b []byte) (Head, error) {
	if len(b) > MaxSize {
		return Head{}, ErrHead
	}
	text, _, ok := strings.Cut(string(b), "\n\n")
	if !ok {
		return Head{}, ErrHead
	}
	return parseText(text + "\n")
}

func parseText(text string) (Head, error) {
	var h Head
	lines := strings.Split(text, "\n")
	if len(lines) != 5 || lines[4] != "" {
		return h, ErrHead
	}
	cluster, ok := strings.CutSuffix(lines[0], origin)
	if !ok || cluster == "" {
		return h, ErrHead
	}
	h.Cluster = cluster
	if _, err := fmt.Sscanf(lines[1], "%d", &h.Size); err != nil || h.Size < 0 {
		return h, ErrHead
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return h, ErrHead
	}
	h.Root = root
	at, ok := strings.CutPrefix(lines[3], timeLine)
	if h.Time, err = time.Parse(time.RFC3339, at); err != nil || !ok {
		return h, ErrHead
	}
	if h.Text() != text {
		return h, ErrHead
	}
	return h, nil
}

// Open decodes a signed head and checks that it is cluster's and signed by one of keys.
func Open(b []byte, cluster string, keys []ed25519.PublicKey) (Head, error) {
	h, err := Parse(b)
	if err != nil {
		return h, err
	}
	var list []note.Verifier
	for i, k := range keys {
		// One key twice would be ambiguous to note.
		if !slices.ContainsFunc(keys[:i], func(o ed25519.PublicKey) bool { return o.Equal(k) }) {
			list = append(list, verifier{cluster + origin, k})
		}
	}
	n, err := note.Open(b, note.VerifierList(list...))
	if err != nil || len(n.Sigs) == 0 || h.Cluster != cluster {
		return h, ErrHeadSign
	}
	return parseText(n.Text)
}

// Signature opens a signed head as Open does, and returns the signature of the text by one of keys, without the note around it.
func Signature(b []byte, cluster string, keys []ed25519.PublicKey) (Head, []byte, error) {
	h, err := Open(b, cluster, keys)
	if err != nil {
		return h, nil, err
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != "—" || fields[1] != cluster+origin {
			continue
		}
		sig, err := base64.StdEncoding.DecodeString(fields[2])
		if err != nil || len(sig) != 4+ed25519.SignatureSize { // a hash of the key comes first
			continue
		}
		if sig = sig[4:]; h.SignedBy(sig, keys) {
			return h, sig, nil
		}
	}
	return h, nil, ErrHeadSign
}

// SignedBy tells whether sig is one of keys' signature of the head.
func (h Head) SignedBy(sig []byte, keys []ed25519.PublicKey) bool {
	return slices.ContainsFunc(keys, func(k ed25519.PublicKey) bool {
		return len(k) == ed25519.PublicKeySize && ed25519.Verify(k, []byte(h.Text()), sig)
	})
}

// CheckGrowth tells whether the log of newer begins with that of older, by the proof that auth gave for the two.
func CheckGrowth(older, newer Head, proof []tlog.Hash) error {
	switch {
	case newer.Size < older.Size:
		return fmt.Errorf("%w: it had %d events and now has %d", ErrRewritten, older.Size, newer.Size)
	case newer.Size == older.Size:
		if newer.Root != older.Root {
			return fmt.Errorf("%w: two roots for %d events", ErrRewritten, newer.Size)
		}
		return nil
	case older.Size == 0:
		return nil // every log begins with the empty one
	case len(proof) > maxProof:
		return fmt.Errorf("%w: the proof has %d hashes", ErrRewritten, len(proof))
	}
	if err := tlog.CheckTree(tlog.TreeProof(proof), newer.Size, newer.Root, older.Size, older.Root); err != nil {
		return fmt.Errorf("%w: the first %d of its %d events are not those of the head kept", ErrRewritten, older.Size, newer.Size)
	}
	return nil
}

// ErrRewritten: two heads of one log contradict each other.
var ErrRewritten = errors.New("the audit log was rewritten")

// FormatKey writes a public key that verifies heads as people pass it on.
func FormatKey(k ed25519.PublicKey) string { return "ed25519:" + base64.StdEncoding.EncodeToString(k) }

// ParseKey reads what FormatKey wrote.
func ParseKey(s string) (ed25519.PublicKey, error) {
	text, ok := strings.CutPrefix(s, "ed25519:")
	b, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(b) != ed25519.PublicKeySize {
		return nil, errors.New("not a key such as ed25519:BASE64")
	}
	return b, nil
}
