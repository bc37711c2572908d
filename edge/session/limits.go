package session

import "time"

const (
	// maxEnv is how many variables a person may set, OpenSSH's own bound being 128; each at most maxEnvValue bytes.
	maxEnv      = 128
	maxEnvValue = 4 << 10
	// maxAgents is how many connections to the forwarded agent are open at once; one beyond is closed at once.
	maxAgents = 16
	// maxX11 is the same for the person's X server: a program has a connection or two.
	maxX11 = 32
	// Displays are numbered from sshd's X11DisplayOffset, and as many are tried; display n is the port x11Port+n.
	firstDisplay, maxDisplays, x11Port = 10, 990, 6000
	// xauthWait is how long the cookie may take to be written: xauth waits that long for another that holds its lock.
	xauthWait = 20 * time.Second
	// sayWait is how long a reason may take to reach a person who reads nothing.
	sayWait = 250 * time.Millisecond
	// ttyWait is how long after the leader's exit a terminal that shows no end is still listened to.
	ttyWait = time.Second
	// goneWait is how long a process has to follow the HUP of a person who went away before the session ends without it.
	goneWait = time.Second
	// nohupWait is how long what the last command left in the background has to leave the process group or to ignore HUP.
	nohupWait = 500 * time.Millisecond
	// Between the signals of a kill, and how long after KILL we look for what forked away meanwhile. The leader has leaderWait of hupWait to end, before it
	// is looked again.
	hupWait    = 200 * time.Millisecond
	leaderWait = hupWait / 2
	termWait   = 300 * time.Millisecond
	killWait   = 2 * time.Second
	pollKill   = 20 * time.Millisecond
	// maxTasks threads of a process whose first has ended are asked for its environment; each that runs has it.
	maxTasks = 16
	// maxCells bounds, unless the machine has more memory, the screen of a session that others look at, and each guest's: a window of 225 by 60. A terminal's two screens, one guest and the picture on
	// its way to him then take 1 MiB at most, of 80 by 24 a fifth of that (TestAJoinedSessionTakesAMebibyteAtMost).
	maxCells = 13_500
	// maxBegins bytes of a command are in the note by which a moderated session begins.
	maxBegins = 300
	// lastWait is what the output of a session that was killed gets to end, so that its end can be told by itself.
	lastWait = 100 * time.Millisecond
)
