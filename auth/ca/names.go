package ca

import (
	"fmt"
	"time"
)

// CheckUserName accepts 1 to 64 of a-z, 0-9 and "._@-" that begin and end with a letter or digit. Names are lower case
// only, so that no two users differ by case alone; commas, colons and all that a shell or terminal minds are out.
func CheckUserName(name string) error {
	if !within(name, maxUser, "._@-") {
		return fmt.Errorf("user: %w: use 1 to %d of a-z 0-9 . _ @ -", ErrBadName, maxUser)
	}
	return nil
}

// CheckCluster accepts what a DNS name in lower case, possibly with underscores, may hold.
func CheckCluster(name string) error {
	if !within(name, maxCluster, "._-") {
		return fmt.Errorf("cluster: %w: use 1 to %d of a-z 0-9 . _ -", ErrBadName, maxCluster)
	}
	return nil
}

// checkLabel accepts [a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?, the grammar of device, hub and role names.
func checkLabel(what, name string) error {
	if !within(name, maxLabel, "_-") {
		return fmt.Errorf("%s: %w: use 1 to %d of a-z 0-9 _ -", what, ErrBadName, maxLabel)
	}
	return nil
}

func within(s string, limit int, inner string) bool {
	if s == "" || len(s) > limit || !alnum(s[0]) || !alnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if !alnum(s[i]) && !contains(inner, s[i]) {
			return false
		}
	}
	return true
}

func contains(set string, c byte) bool {
	for i := range len(set) {
		if set[i] == c {
			return true
		}
	}
	return false
}

func alnum(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// checkUUID accepts the 36 characters of RFC 9562 in lower case.
func checkUUID(s string) error {
	if len(s) != 36 {
		return ErrBadUUID
	}
	for i := range len(s) {
		switch c := s[i]; {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return ErrBadUUID
			}
		case '0' <= c && c <= '9' || 'a' <= c && c <= 'f':
		default:
			return ErrBadUUID
		}
	}
	return nil
}

// checkLife accepts a positive life that ends where every format can say so.
func checkLife(now time.Time, ttl time.Duration) error {
	if ttl <= 0 || now.Unix() < 0 || now.Add(ttl).UnixMilli() > maxUnixMilli {
		return fmt.Errorf("life of %v from %v cannot be certified", ttl, now)
	}
	return nil
}
