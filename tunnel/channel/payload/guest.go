package payload

// GuestRequest is the name of the request by which the edge tells the hub what those do who joined the session. What is typed wants an answer, which comes when it is
// recorded.
const GuestRequest = "hawser-guest@hawser"

// What Guest tells.
const (
	GuestChanged  = "changed"  // something of ID, User, Mode, Way, which Text names: joined, left, put-out, paused, resumed, ended
	GuestTyped    = "typed"    // ID typed Text, which the terminal took and the recording may keep
	GuestWithheld = "withheld" // ID typed something of Bytes bytes that is not to be recorded; Text is why, as recorder.Withheld says it
	GuestEntered  = "entered"  // the same, and a line ended
	GuestNotice   = "notice"   // Text is for the owner of the session
	GuestMarked   = "marked"   // Text belongs into the recording
)

// Guest is the payload of GuestRequest:
//
//	string what
//	u32    id of the guest among the participants; 0: none
//	string user
//	string mode
//	string way in
//	string text
//	u32    bytes
type Guest struct {
	What            string
	ID              uint32
	User, Mode, Way string
	Text            string
	Bytes           uint32
}

// Marshal encodes g.
func (g Guest) Marshal() []byte {
	return u32(str(str(str(str(u32(str(nil, g.What), g.ID), g.User), g.Mode), g.Way), g.Text), g.Bytes)
}

// ParseGuest decodes b.
func ParseGuest(b []byte) (Guest, error) {
	r := &reader{what: GuestRequest, b: b}
	return result(r, Guest{r.name("what", maxName), r.u32("id"), r.str("user", maxName), r.str("mode", maxName), r.str("way", maxHost), r.str("text", maxText), r.u32("bytes")})
}
