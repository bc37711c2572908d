package audit

import (
	"context"
	"fmt"
	"os"
)

// fileSink appends lines to a file. Where the file was moved away or removed, as logrotate does, it makes a new one.
type fileSink struct {
	path string
	f    *os.File
}

func (s *fileSink) deliver(_ context.Context, batch []message) error {
	if err := s.reopen(); err != nil {
		return err
	}
	var b []byte
	for _, m := range batch {
		b = append(append(b, m.line...), '\n')
	}
	if _, err := s.f.Write(b); err != nil {
		return err
	}
	return s.f.Sync()
}

func (s *fileSink) reopen() error {
	if s.f != nil {
		there, err := os.Stat(s.path)
		held, herr := s.f.Stat()
		if err == nil && herr == nil && os.SameFile(there, held) {
			return nil
		}
		s.close()
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	s.f = f
	return nil
}

func (s *fileSink) close() {
	if s.f != nil {
		_ = s.f.Close()
		s.f = nil
	}
}
