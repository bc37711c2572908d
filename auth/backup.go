package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hawser/auth/backup"
	"hawser/auth/ca"
	"hawser/auth/ca/passphrase"
	"hawser/auth/store"
	"hawser/tunnel"
	"hawser/tunnel/wire"
)

// restoringFile is there while a restore goes on: what it left half-way must not be taken for a cluster.
const restoringFile = "restoring"

func errHalfRestored(data string) error {
	return fmt.Errorf("%s: a restore was broken off here; empty the directory and restore again with `hawser-auth backup restore`", data)
}

// restoredKey holds restoredRecord, in a state that was restored.
const restoredKey = "meta/restored"

// restoredRecord says that the state went back in time: what was issued between From and At is not in it, though others hold it.
type restoredRecord struct {
	At   time.Time `json:"at"`   // of the restore
	From time.Time `json:"from"` // of the backup
}

// backupSource is what a backup is made of.
type backupSource struct {
	data       string
	info       clusterInfo
	set        *ca.Set
	state      store.State
	recordings store.Recordings // nil: they are left out
	now        time.Time
}

// writeBackup writes a whole backup, not encrypted. The state is of one revision; the CA set and the audit log are read after it, so that they
// have all that the state refers to.
func writeBackup(ctx context.Context, src backupSource, w io.Writer) (backup.End, error) {
	b, err := backup.NewWriter(w, backup.Header{
		Schema: schema(), Version: tunnel.Version(), Cluster: src.info.Cluster, UUID: src.info.UUID, Created: src.now.UTC(), Recordings: src.recordings != nil,
	})
	if err != nil {
		return backup.End{}, err
	}
	rev, err := src.state.Snapshot(ctx, func(kv store.KV) error {
		if kv.Lease != 0 {
			return nil // its holder would not be there
		}
		return b.Record(kv.Key, kv.Value)
	})
	if err != nil {
		return backup.End{}, fmt.Errorf("back up the state: %w", err)
	}
	if err := b.Set(src.set.Marshal()); err != nil {
		return backup.End{}, err
	}
	if err := backupAudit(src.data, b); err != nil {
		return backup.End{}, fmt.Errorf("back up the audit log: %w", err)
	}
	if src.recordings != nil {
		if err := backupRecordings(ctx, src.recordings, b); err != nil {
			return backup.End{}, fmt.Errorf("back up the recordings: %w", err)
		}
	}
	return b.End(rev)
}

// backupAudit copies the audit log, which only grows: the head first, then the tree, then the days, so that each has what the one before covers.
func backupAudit(data string, b *backup.Writer) error {
	dir := filepath.Join(data, auditDir)
	names, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return err
	}
	for i, name := range names {
		names[i] = filepath.Base(name)
	}
	for _, name := range append([]string{"head", "tree"}, names...) {
		f, err := os.Open(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err == nil {
			err = b.File(auditDir+"/"+name, st.Size(), f)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

func backupRecordings(ctx context.Context, r store.Recordings, b *backup.Writer) error {
	all, err := r.List(ctx, store.Filter{Removed: true})
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(all) { // oldest first
		blob, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if err := b.Recording(blob); err != nil {
			return err
		}
		gone := func(err error) bool { return errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrRemoved) }
		if err := r.Chunks(ctx, m.ID, 0, b.Chunk); err != nil && !gone(err) {
			return err
		}
		for _, kind := range store.ObjectKinds() {
			err := r.Objects(ctx, m.ID, kind, 0, func(n uint64, data []byte) error { return b.Object(byte(kind), n, data) })
			if err != nil && !gone(err) {
				return err
			}
		}
	}
	return nil
}

// Backup writes a backup of the data directory of a service that does not run, not encrypted; see package backup.
func Backup(ctx context.Context, c Config, w io.Writer, recordings bool) (_ backup.End, err error) {
	if err := c.Validate(); err != nil {
		return backup.End{}, err
	}
	c = c.withDefaults()
	info, set, err := openData(c)
	if err != nil {
		return backup.End{}, err
	}
	running := func(err error) error {
		if errors.Is(err, store.ErrInUse) {
			return fmt.Errorf("%s: a service runs here; back it up through its API with `hawser backup create`, or stop it first", c.Data)
		}
		return err
	}
	state, err := store.OpenState(filepath.Join(c.Data, stateDir), store.Options{Logger: c.Logger})
	if err != nil {
		return backup.End{}, running(err)
	}
	defer func() { err = errors.Join(err, state.Close()) }()
	src := backupSource{data: c.Data, info: info, set: set, state: state, now: c.Now()}
	if recordings {
		kept, opened := store.OpenRecordings(filepath.Join(c.Data, recordingsDir), store.Options{Logger: c.Logger})
		if opened != nil {
			return backup.End{}, running(opened)
		}
		src.recordings = kept
		defer func() { err = errors.Join(err, kept.Close()) }()
	}
	return writeBackup(ctx, src, w)
}

// checkRecord tells whether a record of a backup is one that the service would take.
func checkRecord(key string, value []byte) error {
	kind, name, _ := strings.Cut(key, "/")
	var v any
	switch kind + "/" {
	case userPrefix:
		v = new(userRecord)
	case rolePrefix:
		r, err := decodeRole(value)
		if err == nil && r.Name != name {
			err = fmt.Errorf("it is of %q", r.Name)
		}
		return err
	case devicePrefix:
		v = new(deviceRecord)
	case hubPrefix:
		v = new(hubRecord)
	case tokenPrefix:
		v = new(tokenRecord)
	case namePrefix, keyPrefix:
		return nil // words
	default:
		if !json.Valid(value) {
			return errors.New("it is not JSON")
		}
		return nil
	}
	return json.Unmarshal(value, v)
}

// BackupReport is what VerifyBackup and RestoreBackup found.
type BackupReport struct {
	Header  backup.Header
	End     backup.End
	Kinds   map[string]int // records by kind: user, device...
	Dropped int            // tokens and invitations that were not restored
}

// backupReader checks everything a backup has, and hands on what others want of it.
type backupReader struct {
	report BackupReport
	set    *ca.Set
	record func(key string, value []byte) error
	file   func(info backup.FileInfo, r io.Reader) error
	// Recordings: the last manifest, and the chunk wanted next.
	recording func(m store.Manifest) error
	chunk     func(id [16]byte, seq uint64, chunk []byte) error
	object    func(id [16]byte, kind byte, n uint64, data []byte) error
	manifest  store.Manifest
	next      uint64
}

func (b *backupReader) read(r io.Reader) error {
	b.report.Kinds = map[string]int{}
	h, end, err := backup.Read(r, backup.Contents{
		Header: b.header,
		Record: func(key string, value []byte) error {
			if err := checkRecord(key, value); err != nil {
				return fmt.Errorf("%w: record %s: %w", backup.ErrDamaged, wire.Quote(key, 100), err)
			}
			kind, _, _ := strings.Cut(key, "/")
			b.report.Kinds[kind]++
			if b.record != nil {
				return b.record(key, value)
			}
			return nil
		},
		Set: func(blob []byte) (err error) {
			if b.set, err = ca.UnmarshalSet(bytes.Clone(blob)); err != nil {
				return fmt.Errorf("%w: the CA keys: %w", backup.ErrDamaged, err)
			}
			return nil
		},
		File: func(info backup.FileInfo, r io.Reader) error {
			if !strings.HasPrefix(info.Name, auditDir+"/") {
				return fmt.Errorf("%w: a file %s", backup.ErrDamaged, wire.Quote(info.Name, 100))
			}
			if b.file != nil {
				return b.file(info, r)
			}
			return nil
		},
		Recording: func(blob []byte) error {
			b.next, b.manifest = 0, store.Manifest{}
			if err := json.Unmarshal(blob, &b.manifest); err != nil {
				return fmt.Errorf("%w: a recording's manifest: %w", backup.ErrDamaged, err)
			}
			if b.recording != nil {
				return b.recording(b.manifest)
			}
			return nil
		},
		Chunk: func(seq uint64, chunk []byte) error {
			if seq != b.next {
				return fmt.Errorf("%w: recording %x has chunk %d where %d should be", backup.ErrDamaged, b.manifest.ID, seq, b.next)
			}
			b.next++
			if b.chunk != nil {
				return b.chunk(b.manifest.ID, seq, chunk)
			}
			return nil
		},
		Object: func(kind byte, n uint64, data []byte) error {
			if b.object != nil {
				return b.object(b.manifest.ID, kind, n, data)
			}
			return nil
		},
	})
	b.report.Header, b.report.End = h, end
	if err == nil && b.set.Cluster() != h.Cluster {
		err = fmt.Errorf("%w: its CA keys are of %q, it says %q", backup.ErrDamaged, b.set.Cluster(), h.Cluster)
	}
	return err
}

func (b *backupReader) header(h backup.Header) error {
	if h.Schema > schema() {
		return fmt.Errorf("%w: its records have version %d, this program knows %d; use the release that wrote it (%s) or a newer one", backup.ErrNewer, h.Schema, schema(), h.Version)
	}
	if _, err := wire.ParseUUID(h.UUID); err != nil || ca.CheckCluster(h.Cluster) != nil {
		return fmt.Errorf("%w: header", backup.ErrDamaged)
	}
	return nil
}

// VerifyBackup reads a backup, decrypted, to its end and restores nothing.
func VerifyBackup(r io.Reader) (BackupReport, error) {
	b := &backupReader{}
	err := b.read(r)
	return b.report, err
}

// RestoreOptions of RestoreBackup.
type RestoreOptions struct {
	// KeepTokens restores join tokens and invitations too. What was used up after the backup could then be used once more.
	KeepTokens bool
}

// RestoreBackup makes the data directory, which must be empty or absent, of a backup, decrypted. The CA keys are sealed anew, by c.Passphrase
// or a new key file. After an error the directory starts no service and is to be emptied.
func RestoreBackup(c Config, r io.Reader, o RestoreOptions) (BackupReport, error) {
	b := &backupReader{}
	if err := c.Validate(); err != nil {
		return b.report, err
	}
	c = c.withDefaults()
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return b.report, err
	}
	if names, err := os.ReadDir(c.Data); err != nil {
		return b.report, err
	} else if slices.ContainsFunc(names, func(e fs.DirEntry) bool { return e.Name() != "lost+found" }) {
		return b.report, fmt.Errorf("%s is not empty; restore into another directory with --data, or move what is there away", c.Data)
	}
	root, err := os.OpenRoot(c.Data)
	if err != nil {
		return b.report, err
	}
	defer root.Close()
	if err := writeAtomic(root, restoringFile, []byte(c.Now().UTC().Format(time.RFC3339)+"\n")); err != nil {
		return b.report, err
	}
	if err := b.restore(c, root, r, o); err != nil {
		return b.report, err
	}
	info := clusterInfo{Cluster: b.report.Header.Cluster, UUID: b.report.Header.UUID}
	if err := sealNew(c, root, &info, b.set); err != nil {
		return b.report, err
	}
	if err := writeInfo(root, info); err != nil {
		return b.report, err
	}
	return b.report, root.Remove(restoringFile)
}

// sealNew seals the CA keys as Init does.
func sealNew(c Config, root *os.Root, info *clusterInfo, set *ca.Set) (err error) {
	info.Sealed = "key"
	var sealed []byte
	if c.Passphrase != "" {
		info.Sealed = "passphrase"
		sealed, err = passphrase.Seal([]byte(c.Passphrase), set.Marshal())
	} else {
		var key *[32]byte
		if key, err = makeKey(c.keyPath()); err == nil {
			sealed = ca.Seal(key, set.Marshal())
		}
	}
	if err != nil {
		return fmt.Errorf("seal the CA keys: %w", err)
	}
	return writeAtomic(root, authoritiesFile, sealed)
}

// restore writes the stores and files. The records come first and are held in memory until the end says their revision: they are small beside
// recordings, and the store needs it.
func (b *backupReader) restore(c Config, root *os.Root, r io.Reader, o RestoreOptions) (err error) {
	now := c.Now().UTC()
	var records []store.KV
	b.record = func(key string, value []byte) error {
		if !o.KeepTokens && (strings.HasPrefix(key, tokenPrefix) || strings.HasPrefix(key, invitePrefix)) {
			b.report.Dropped++
			return nil
		}
		if key != restoredKey {
			records = append(records, store.KV{Key: key, Value: bytes.Clone(value)})
		}
		return nil
	}
	b.file = func(info backup.FileInfo, r io.Reader) error { return restoreFile(root, info.Name, r) }
	var recordings *store.BadgerRecordings
	defer func() {
		if recordings != nil {
			err = errors.Join(err, recordings.Close())
		}
	}()
	ctx := context.Background()
	// A recording takes chunks until it is closed. One that was live when the backup was made stays open, and ends as one whose hub is gone.
	var closed []store.Manifest
	b.recording = func(m store.Manifest) error {
		if recordings == nil {
			if recordings, err = store.OpenRecordings(filepath.Join(c.Data, recordingsDir), store.Options{Logger: c.Logger}); err != nil {
				return err
			}
		}
		m.Chunks = 0
		if m.Closed || m.Hold != nil || m.Removed != nil {
			closed = append(closed, m)
			m.Closed = false
		}
		return recordings.PutManifest(ctx, m)
	}
	b.chunk = func(id [16]byte, seq uint64, chunk []byte) error { return recordings.Append(ctx, id, seq, chunk) }
	b.object = func(id [16]byte, kind byte, n uint64, data []byte) error {
		return recordings.PutObjects(ctx, id, store.ObjectKind(kind), store.Object{N: n, Data: data})
	}
	if err := b.read(r); err != nil {
		return err
	}
	for _, m := range closed {
		err := recordings.PutManifest(ctx, m)
		if err == nil && m.Hold != nil {
			_, err = recordings.Hold(ctx, m.ID, m.Hold)
		}
		if err == nil && m.Removed != nil {
			_, err = recordings.Remove(ctx, m.ID, *m.Removed)
		}
		if err != nil {
			return err
		}
	}
	mark, err := json.Marshal(restoredRecord{At: now, From: b.report.Header.Created})
	if err != nil {
		return err
	}
	records = append(records, store.KV{Key: restoredKey, Value: mark})
	return store.RestoreState(filepath.Join(c.Data, stateDir), store.Options{Logger: c.Logger}, restoredRevision(b.report.End.Revision, now), func() (store.KV, bool, error) {
		if len(records) == 0 {
			return store.KV{}, false, nil
		}
		kv := records[0]
		records = records[1:]
		if kv.Key == locksKey {
			kv.Value, err = raiseRevision(kv.Value, now)
		}
		return kv, true, err
	})
}

// restoredRevision is one that no state of this cluster has had, and no state restored earlier: none makes a million changes a second.
func restoredRevision(was uint64, now time.Time) uint64 {
	return max(was+1, uint64(max(0, now.Unix()))<<20)
}

// raiseRevision raises the list of locks over those that were made after the backup: devices hold on to the newest they have seen.
func raiseRevision(value []byte, now time.Time) ([]byte, error) {
	var locks locksRecord
	if err := json.Unmarshal(value, &locks); err != nil {
		return nil, err
	}
	locks.Revision = max(locks.Revision, uint64(max(0, now.Unix()))) + 1
	return json.Marshal(locks)
}

func restoreFile(root *os.Root, name string, r io.Reader) error {
	name = filepath.FromSlash(name)
	if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Sync(), f.Close())
}

// String says what a backup is of and has.
func (r BackupReport) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "cluster     %s\nmade        %s by %s\nrevision    %d\nrecords     %d",
		r.Header.Cluster, r.Header.Created.UTC().Format(time.RFC3339), wire.Quote(r.Header.Version, 64), r.End.Revision, r.End.Records)
	sep := ": "
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		fmt.Fprintf(&s, "%s%d %s", sep, r.Kinds[kind], wire.Quote(kind, 64))
		sep = ", "
	}
	fmt.Fprintf(&s, "\naudit log   %d files, %d bytes\n", r.End.Files, r.End.FileBytes)
	if r.Header.Recordings {
		fmt.Fprintf(&s, "recordings  %d, %d chunks\n", r.End.Recordings, r.End.Chunks)
	} else {
		fmt.Fprintln(&s, "recordings  none")
	}
	return s.String()
}

// Advice is what is to be done, by whom, after a restore.
func (r BackupReport) Advice() []string {
	at := r.Header.Created.UTC().Format(time.RFC3339)
	out := []string{
		"what was changed after " + at + " is not in it: users, roles, locks; put a lock again with `hawser lock add`, and see `hawser lock ls`",
		"hubs and devices that joined after " + at + " are not known: make tokens with `hawser token create` and join them anew; all others come back by themselves",
		"a hub that says that the audit log was cut says so rightly: `hawser-hub accept-log --data DIR` there makes it go on from here",
		"if a CA was rotated after " + at + ", rotate it again: `hawser ca status`, `hawser ca rotate`",
	}
	if r.Dropped > 0 {
		out = append(out, fmt.Sprintf("%d tokens and invitations were left out, for they may have been used since; make new ones, or restore again with --keep-tokens", r.Dropped))
	}
	if !r.Header.Recordings {
		out = append(out, "it has no recordings; put the old directory "+recordingsDir+" beside the state before the first start to keep them")
	}
	return out
}
