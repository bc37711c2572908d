package audit

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// Head returns the newest signed head, nil where there is none yet.
func (l *Log) Head() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// MakeHead signs what the log is now, once everything in it is on disk, and keeps the head. Where the log has not grown
// since the last, that one is the answer.
func (l *Log) MakeHead(ctx context.Context) ([]byte, error) {
	if err := l.Settle(ctx); err != nil {
		return nil, err
	}
	return l.makeHead()
}

func (l *Log) makeHead() ([]byte, error) {
	l.headMu.Lock()
	defer l.headMu.Unlock()
	l.mu.Lock()
	// Only what is synced may be under a head. Where more has been written by now, the tree is for the next one.
	n, edge, written, inFile, signed, last := l.tree.n, l.tree.edge, l.written, len(l.tree.tail) == 0, l.headSize, l.head
	l.mu.Unlock()
	if last != nil && n == signed {
		return last, nil
	}
	if !inFile {
		return nil, ErrDisk
	}
	l.mu.Lock()
	behind := l.synced < written
	l.mu.Unlock()
	if behind {
		l.syncNow()
		l.mu.Lock()
		behind = l.synced < written
		l.mu.Unlock()
		if behind {
			return nil, ErrDisk
		}
	}
	if err := l.tree.f.Sync(); err != nil {
		return nil, fmt.Errorf("sync the tree of the audit log: %w", err)
	}
	h := Head{Cluster: l.o.Cluster, Size: n, Root: rootOf(n, &edge), Time: l.o.Now()}
	b, err := h.Sign(l.o.Signer())
	if err != nil {
		return nil, err
	}
	if err := writeAtomic(l.root, headFile, b); err != nil {
		return nil, fmt.Errorf("keep the head of the audit log: %w", err)
	}
	l.mu.Lock()
	l.head, l.headSize = b, n
	l.mu.Unlock()
	return b, nil
}

// Prove returns the proof that the log of newer events begins with that of older ones.
func (l *Log) Prove(older, newer int64) ([]tlog.Hash, error) {
	l.mu.Lock()
	inFile := leaves(l.tree.inF * hashSize)
	l.mu.Unlock()
	if older < 0 || newer < older || newer > inFile {
		return nil, ErrSize
	}
	if older == 0 || older == newer {
		return nil, nil
	}
	p, err := tlog.ProveTree(newer, older, fileHashes(l.tree.f))
	if err != nil {
		return nil, fmt.Errorf("prove the growth of the audit log: %w", err)
	}
	return p, nil
}

func writeAtomic(root *os.Root, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(tmp))
	}
	return syncDir(root)
}
