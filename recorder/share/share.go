// Package share lets several people be in one session with a terminal: start from [New] and [Room.Join].
//
// The room is where the terminal is. It follows what the session shows, paints it for each guest on a terminal of his size (recorder/paint), and
// passes on what guests type who may. Nothing that a guest does, or does not read, holds up the session.
package share

import (
	"errors"
	"time"
)

// Mode is what a guest may do.
type Mode uint8

// The modes.
const (
	Observer  Mode = 1 // sees
	Peer      Mode = 2 // sees and types
	Moderator Mode = 3 // sees, and may pause, resume and end the session
)

var modes = [...]string{Observer: "observer", Peer: "peer", Moderator: "moderator"}

func (m Mode) String() string {
	if m < Observer || m > Moderator {
		return "none"
	}
	return modes[m]
}

// ParseMode is the mode of that name; false if there is none.
func ParseMode(name string) (Mode, bool) {
	for m := Observer; m <= Moderator; m++ {
		if modes[m] == name {
			return m, true
		}
	}
	return 0, false
}

// Member is a guest who is, or was, in a room. ID is his among all participants of the session; the owner is 0.
type Member struct {
	ID    uint32
	User  string
	Mode  Mode
	Way   string // by which way in, as text: "end-to-end", "hub hub-1"
	Roles []string
	Since time.Time
}

// Changes of a member.
const (
	Joined = "joined"
	Left   = "left"
	PutOut = "put-out"
	// What a moderator does.
	Paused  = "paused"
	Resumed = "resumed"
	Ended   = "ended"
)

// Host is the session that a room is of. Its methods are called by several goroutines, and none while the room's lock is held.
type Host interface {
	// Type hands on what a member typed. It may block, and asks In when it has; an error ends his stay.
	Type(member uint32, b []byte) error
	// Changed is told who came and who went, before anything of his is typed and after the last, and what a moderator does.
	Changed(m Member, change string)
	// Say tells the session's owner something, if his screen bears it.
	Say(text string)
	// Redraw asks the program on the terminal to draw itself anew.
	Redraw()
	// Mark puts a line into the session's recording.
	Mark(text string)
	// Pause stops the terminal in both directions, so that what is typed is thrown away, or lets it go on.
	Pause(paused bool)
	// End ends the session.
	End(reason string)
	// Broken is told, for the log, of the panic by which the room's model of the screen ended the stay of all; the session may go on.
	Broken(panicked any, stack []byte)
}

// Reasons why Join returns.
var (
	// ErrLeft: the guest went.
	ErrLeft = errors.New("left")
	// ErrBarred: he was put out.
	ErrBarred = errors.New("you were put out of this session; whose it is can invite you again: hawser sessions invite ID --user YOU")
	// ErrFull: too many guests.
	ErrFull = errors.New("too many people are in this session")
	// ErrOften: he is in with too many terminals.
	ErrOften = errors.New("you are in this session with four terminals: leave it with one of them")
)

// ByeWait is how long a guest may take to read why his stay is over: who takes nothing must not hold up his own end.
const ByeWait = 2 * time.Second

// ClosedError is why the room ended somebody's stay.
type ClosedError struct{ Reason string }

func (e *ClosedError) Error() string { return e.Reason }

// Limits.
const (
	// MaxGuests are in a room at once: each costs what his terminal shows, 8 bytes a cell, pictureSize, and a turn whenever the screen changes.
	MaxGuests = 16
	// placesKept of them at least are for those whom the session requires, one for each, and ownPlaces are the most that one user has: nobody keeps them
	// out by taking all.
	placesKept = 4
	ownPlaces  = 4
	// tailSize of the output is kept while nobody watches, to know the screen when somebody comes.
	tailSize = 64 << 10
	// pictureSize bounds what is on its way to a guest: a screen with a colour for each cell takes many times as much, and comes in pieces.
	pictureSize = 32 << 10
	// pace is the least time between two pictures: 50 a second.
	pace = 20 * time.Millisecond
	// changePace is the least time from a pause until its moderator lets the session go on.
	changePace = 100 * time.Millisecond
	// reachPace is how often it is looked whether one who counts is reached, and reachGrace how long he may not be: a stream moves to another tunnel in less.
	reachPace  = time.Second
	reachGrace = 3 * time.Second
	// noteTime is how long a note is shown, if no other takes its place, and greetTime how long a guest's first note at least.
	noteTime  = 5 * time.Second
	greetTime = 2 * time.Second
	// maxNote bounds a note, in bytes.
	maxNote = 400
	// maxWords of what is to be told of a guest wait for the session's owner and its recorder.
	maxWords = 32
	// maxBarred are remembered as put out; of more the first may come again.
	maxBarred = 32
	// guestInput is read at once.
	guestInput = 4096
)
