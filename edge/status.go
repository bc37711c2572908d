package edge

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/crypto/ssh"

	"hawser/tunnel/identity"
)

// identityFile is where package identity keeps the credentials; a test holds the two together.
const identityFile = "identity"

// Status is what a state directory says.
type Status struct {
	Name, UUID, Cluster string // empty before the join
	NotBefore, NotAfter time.Time
	Generation          uint64
	Hubs                []string
	Running             bool   // an agent holds the directory's lock
	Key                 string // its fingerprint
}

// ReadStatus reads a state directory without changing it. Without an identity the error wraps ErrNoIdentity.
func ReadStatus(path string) (Status, error) {
	var s Status
	if _, err := os.Stat(path); err != nil { // identity.Open would create it
		if errors.Is(err, os.ErrNotExist) {
			return s, fmt.Errorf("%w: %s does not exist", ErrNoIdentity, path)
		}
		return s, fmt.Errorf("state directory: %w", err)
	}
	dir, err := identity.Open(path)
	if err != nil {
		return s, fmt.Errorf("state directory: %w", err)
	}
	defer dir.Close()
	creds, err := identity.Load(dir)
	if errors.Is(err, identity.ErrNotExist) {
		return s, fmt.Errorf("%w: %s is empty", ErrNoIdentity, path)
	}
	if err != nil {
		return s, fmt.Errorf("read identity: %w", err)
	}
	s.Running = dir.InUse()
	s.Name, s.UUID, s.Cluster, s.Generation, s.Hubs = creds.Name, creds.UUID, creds.Cluster, creds.Counter, creds.Hubs
	s.Key = fingerprint(creds.Key)
	if s.UUID != "" {
		if s.NotBefore, s.NotAfter, err = validity(creds); err != nil {
			return s, fmt.Errorf("read identity: %w", err)
		}
	}
	return s, nil
}

// Fingerprint is that of the device's key, which is made if there is none.
func Fingerprint(path string) (string, error) {
	s, err := openState(path)
	if err == nil {
		defer s.close()
		err = s.inMemory()
	}
	if err != nil {
		if s, serr := ReadStatus(path); serr == nil { // an agent runs
			return s.Key, nil
		}
		return "", err
	}
	return fingerprint(s.get().Key), nil
}

func fingerprint(key ed25519.PrivateKey) string {
	pub, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(pub)
}

// Leave forgets the identity and the key. It refuses while an agent runs on the directory.
func Leave(path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	dir, err := identity.Open(path)
	if err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	defer dir.Close()
	if err := dir.Lock(); err != nil {
		return fmt.Errorf("stop the agent first: %w", err)
	}
	if err := dir.Remove(identityFile); err != nil && !errors.Is(err, identity.ErrNotExist) {
		return fmt.Errorf("forget the identity: %w", err)
	}
	for _, name := range []string{floorFile, hubListFile, addressFile, tokenFile, logHeadFile} {
		if err := dir.Remove(name); err != nil && !errors.Is(err, identity.ErrNotExist) {
			return fmt.Errorf("forget the cluster: %w", err)
		}
	}
	return nil
}

// Recall tells what the agent that runs on a state directory remembers: its tunnels, what it learned of the network, the last events. Nothing, if none
// runs or it does not trust this user.
func Recall(path string, tell func(Check)) { diagnoseAgent(path, tell) }
