package hub

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"sync"
)

// issuers are the CA certificates that devices send: the same few, over and over.
type issuers struct {
	mu   sync.Mutex
	byID map[[sha256.Size]byte]*x509.Certificate
}

// maxIssuers are remembered; a cluster has one, and two or three in a rotation.
const maxIssuers = 16

// slim makes a chain that was accepted cost less for as long as its tunnel lives: CA certificates are shared between tunnels, and the
// device's own no longer holds the whole message it came in. The list is crypto/tls's; where it were a copy, nothing would be saved.
func (s *issuers) slim(chain []*x509.Certificate) {
	if len(chain) == 0 {
		return
	}
	if own, err := x509.ParseCertificate(bytes.Clone(chain[0].Raw)); err == nil {
		chain[0] = own
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range chain[1:] {
		id := sha256.Sum256(c.Raw)
		known := s.byID[id]
		if known == nil {
			if s.byID == nil || len(s.byID) >= maxIssuers {
				s.byID = make(map[[sha256.Size]byte]*x509.Certificate)
			}
			var err error
			if known, err = x509.ParseCertificate(bytes.Clone(c.Raw)); err != nil {
				return
			}
			s.byID[id] = known
		}
		chain[i+1] = known
	}
}
