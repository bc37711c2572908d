package auth

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hawser/auth/ca"
	"hawser/auth/ca/passphrase"
	"hawser/tunnel/wire"
)

// Names in the data directory. clusterFile is written last by Init: where it is,
// Init was done.
const (
	clusterFile     = "cluster.json"
	authoritiesFile = "authorities.sealed"
	keyFile         = "auth.key"
	auditDir        = "audit"
	sinksDir        = "audit-sinks"
	stateDir        = "state"
	recordingsDir   = "recordings"
)

// Errors of Init and New that callers branch on.
var (
	ErrInitialized    = errors.New("already initialised")
	ErrNotInitialized = errors.New("not initialised")
	ErrWrongCluster   = errors.New("the data directory is another cluster's")
	ErrWrongKey       = errors.New("the CA keys cannot be opened")
)

// clusterInfo is what Init fixes for good; nothing of it is secret.
type clusterInfo struct {
	Cluster string `json:"cluster"`
	UUID    string `json:"uuid"`   // of the auth service
	Sealed  string `json:"sealed"` // by "key" or "passphrase"
	// Sum is over the rest, so that a damaged file is not another cluster's. The first release wrote none.
	Sum uint32 `json:"sum,omitempty"`
}

// sum is what Sum should be.
func (i clusterInfo) sum() uint32 {
	return crc32.ChecksumIEEE(fmt.Appendf(nil, "%q %q %q", i.Cluster, i.UUID, i.Sealed))
}

// restoreHint ends messages about damaged data.
const restoreHint = "restore a backup into another directory with `hawser-auth backup restore`"

// Initialized reports whether Init has been done in data.
func Initialized(data string) (bool, error) {
	_, err := os.Stat(filepath.Join(data, clusterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a cluster: %w", err)
	}
	return true, nil
}

// Init makes the data directory, the cluster's CAs and keys and, unless a
// passphrase seals them, the key file. After an error nothing is initialised and
// Init can be called again; a second Init fails with ErrInitialized.
func Init(c Config) error {
	if err := c.Validate(); err != nil {
		return err
	}
	c = c.withDefaults()
	cluster, err := clusterName(c.Cluster)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w; choose another with --data or let this user write there", err)
	}
	if done, err := Initialized(c.Data); err != nil {
		return err
	} else if done {
		return fmt.Errorf("%s: %w; `hawser-auth run` starts it, another --data makes another cluster", c.Data, ErrInitialized)
	}
	root, err := os.OpenRoot(c.Data)
	if err != nil {
		return fmt.Errorf("open the data directory: %w", err)
	}
	defer root.Close()
	if _, err := root.Stat(restoringFile); err == nil {
		return errHalfRestored(c.Data)
	}

	set, err := ca.NewSet(cluster, c.Now())
	if err != nil {
		return fmt.Errorf("make the CAs: %w", err)
	}
	info := clusterInfo{Cluster: cluster, UUID: wire.NewUUID().String(), Sealed: "key"}
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
	if err := writeAtomic(root, authoritiesFile, sealed); err != nil {
		return fmt.Errorf("write the CA keys: %w; choose another directory with --data or let this user write there", err)
	}
	return writeInfo(root, info)
}

func writeInfo(root *os.Root, info clusterInfo) error {
	info.Sum = info.sum()
	b, err := json.Marshal(info)
	if err != nil {
		return err
	}
	if err := writeAtomic(root, clusterFile, append(b, '\n')); err != nil {
		return fmt.Errorf("write %s: %w", clusterFile, err)
	}
	return nil
}

// openData reads what Init wrote.
func openData(c Config) (clusterInfo, *ca.Set, error) {
	var info clusterInfo
	root, err := os.OpenRoot(c.Data)
	if errors.Is(err, fs.ErrNotExist) {
		return info, nil, fmt.Errorf("%s: %w; run `hawser-auth init --data %s` first", c.Data, ErrNotInitialized, c.Data)
	}
	if err != nil {
		return info, nil, fmt.Errorf("open the data directory: %w", err)
	}
	defer root.Close()
	b, err := root.ReadFile(clusterFile)
	if errors.Is(err, fs.ErrNotExist) {
		return info, nil, fmt.Errorf("%s: %w; run `hawser-auth init --data %s` first", c.Data, ErrNotInitialized, c.Data)
	}
	if err != nil {
		return info, nil, err
	}
	if err := json.Unmarshal(b, &info); err != nil {
		return info, nil, fmt.Errorf("%s is damaged (%w); %s", filepath.Join(c.Data, clusterFile), err, restoreHint)
	}
	if info.Sum != 0 && info.Sum != info.sum() {
		return info, nil, fmt.Errorf("%s is damaged; %s", filepath.Join(c.Data, clusterFile), restoreHint)
	}
	if _, err := root.Stat(restoringFile); err == nil {
		return info, nil, errHalfRestored(c.Data)
	}
	if c.Cluster != "" && c.Cluster != info.Cluster {
		return info, nil, fmt.Errorf("%s: %w: it is %q and cannot be renamed to %q; leave --cluster away or choose another --data", c.Data, ErrWrongCluster, info.Cluster, c.Cluster)
	}
	sealed, err := root.ReadFile(authoritiesFile)
	if err != nil {
		return info, nil, fmt.Errorf("read the CA keys: %w; %s", err, restoreHint)
	}
	plain, err := unseal(c, info, sealed)
	if err != nil {
		return info, nil, err
	}
	set, err := ca.UnmarshalSet(plain)
	if err != nil {
		return info, nil, fmt.Errorf("read the CA keys: %w; %s", err, restoreHint)
	}
	if set.Cluster() != info.Cluster {
		return info, nil, fmt.Errorf("%w: its CA keys are of %q, %s says %q; %s", ErrWrongCluster, set.Cluster(), clusterFile, info.Cluster, restoreHint)
	}
	return info, set, nil
}

func unseal(c Config, info clusterInfo, sealed []byte) ([]byte, error) {
	if info.Sealed == "passphrase" {
		if c.Passphrase == "" {
			return nil, fmt.Errorf("%w: they are sealed with a passphrase; set HAWSER_PASSPHRASE", ErrWrongKey)
		}
		plain, err := passphrase.Open([]byte(c.Passphrase), sealed)
		if err != nil {
			return nil, fmt.Errorf("%w: %w; check HAWSER_PASSPHRASE, or %s", ErrWrongKey, err, restoreHint)
		}
		return plain, nil
	}
	path := c.keyPath()
	key, err := readKey(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; name the key file with --key-file, or %s", ErrWrongKey, err, restoreHint)
	}
	plain, err := ca.Open(key, sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; is %s this cluster's key? If it is: %s", ErrWrongKey, err, path, restoreHint)
	}
	return plain, nil
}

// seal is the opposite of unseal.
func seal(c Config, info clusterInfo, plain []byte) ([]byte, error) {
	if info.Sealed == "passphrase" {
		return passphrase.Seal([]byte(c.Passphrase), plain)
	}
	key, err := readKey(c.keyPath())
	if err != nil {
		return nil, fmt.Errorf("%w: %w; name the key file with --key-file", ErrWrongKey, err)
	}
	return ca.Seal(key, plain), nil
}

func (c Config) keyPath() string {
	if c.KeyFile != "" {
		return c.KeyFile
	}
	return filepath.Join(c.Data, keyFile)
}

// clusterName checks name, or makes one of this machine's hostname.
func clusterName(name string) (string, error) {
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return "", fmt.Errorf("find a cluster name: %w; give --cluster NAME", err)
		}
		name = strings.ToLower(strings.TrimSuffix(host, "."))
	}
	if err := ca.CheckCluster(name); err != nil {
		return "", fmt.Errorf("cluster name: %w; give --cluster NAME", err)
	}
	return name, nil
}

// makeKey returns the key in path, made if there is none: an Init that failed
// half-way, or an operator, may have left one.
func makeKey(path string) (*[32]byte, error) {
	if key, err := readKey(path); !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key := new([32]byte)
	rand.Read(key[:])
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(base64.StdEncoding.EncodeToString(key[:]) + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		os.Remove(path)
		return nil, fmt.Errorf("write key file: %w", err)
	}
	return key, nil
}

func readKey(path string) (*[32]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key file %s may be read by others (mode %04o); chmod 600 it", path, st.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil || len(raw) != 32 {
		return nil, fmt.Errorf("key file %s does not hold 32 bytes in base64", path)
	}
	return (*[32]byte)(raw), nil
}

// writeAtomic replaces name by data, mode 0600: whole or not at all, through a crash too.
func writeAtomic(root *os.Root, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, root.Remove(tmp))
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}
