package auth

import (
	"slices"
	"sync"
	"time"

	"hawser/auth/policy"
)

// invitation tells somebody of a session that he may want to join. It is no right.
type invitation struct {
	user, by, mode string
	until          time.Time
}

// invitations are those for live sessions, in memory alone: a restart of this service forgets them, and with them a hint and nothing else. The zero value is
// ready; safe for concurrent use.
type invitations struct {
	mu    sync.Mutex
	of    map[[16]byte][]invitation // by the session, the oldest first; at most maxInvited each
	count int                       // at most maxInvitations
}

// add keeps one; an older one of the same person to the same session goes. live tells which sessions still are. False: there are too many.
func (t *invitations) add(session [16]byte, i invitation, now time.Time, live func([16]byte) bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[[16]byte][]invitation)
	}
	if t.count >= maxInvitations {
		for id := range t.of {
			t.pruneLocked(id, func(i invitation) bool { return !now.Before(i.until) || !live(id) })
		}
	}
	t.pruneLocked(session, func(o invitation) bool { return o.user == i.user || !now.Before(o.until) })
	if t.count >= maxInvitations || len(t.of[session]) >= maxInvited {
		return false
	}
	t.of[session] = append(t.of[session], i)
	t.count++
	return true
}

func (t *invitations) pruneLocked(session [16]byte, drop func(invitation) bool) {
	had := t.of[session]
	left := slices.DeleteFunc(had, drop)
	t.count -= len(had) - len(left)
	if len(left) == 0 {
		delete(t.of, session)
	} else {
		t.of[session] = left
	}
}

// get is the invitation of somebody to a session, if there is one.
func (t *invitations) get(session [16]byte, user string, now time.Time) (invitation, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, i := range t.of[session] {
		if i.user == user && now.Before(i.until) {
			return i, true
		}
	}
	return invitation{}, false
}

// take forgets the invitation of somebody to a session.
func (t *invitations) take(session [16]byte, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pruneLocked(session, func(i invitation) bool { return i.user == user })
}

// What is chosen for people who share sessions.
const (
	inviteLife     = 10 * time.Minute // of an invitation unless it says otherwise, and
	maxInviteLife  = 24 * time.Hour   // at most
	maxInvited     = 32               // invitations to one session
	maxInvitations = 1 << 14          // in all
	maxMessage     = 300              // bytes of a line that is shown to all in a session
	maxJoinable    = 500              // sessions in one list
	maxTells       = 256              // wait for a hub that does not take them; beyond, whoever wants one more is told so
	shareBurst     = 20               // invitations, messages and put-outs of one person at once
	shareEvery     = 2 * time.Second

	// outWait is how long a guest who is put out has to go before his session is ended.
	outWait = 2 * time.Second
	outLook = 50 * time.Millisecond
)

// joinWays are the ways in which one joins.
var joinWays = []string{policy.WayHub, policy.WayEndToEnd, policy.WayDirect}
