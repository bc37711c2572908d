package audit

import (
	"fmt"
	"time"
)

// LoggedRecording is what the events of a log say of one recording.
type LoggedRecording struct {
	ID           string // hex
	User, Login  string
	Device       string
	DeviceUUID   string
	Week         string    // that keeps it; empty: the event that says so is not among those given
	Opened       time.Time // zero: likewise
	Closed       time.Time // zero: not closed
	Complete     bool      // closed by its recorder; else it may go on after it was closed
	Closing      string    // "sha256:HEX" of its last chunk, which ends the hash chain over all others
	Chunks       uint64    // when it was closed
	Removed      *LoggedAct
	Failed       bool // the removal, which was told before it was done
	Expired      time.Time
	Held         bool
	Contradicted string // two events that cannot both be: what they say
}

// LoggedAct is what somebody did to a recording.
type LoggedAct struct {
	By     string
	At     time.Time
	Reason string
}

// RecordingsOf gathers what entries of a log, in their order, say of recordings, by id. They should be all of type recording: what was left out
// is not known of.
func RecordingsOf(entries []Entry) (map[string]*LoggedRecording, error) {
	all := map[string]*LoggedRecording{}
	for _, entry := range entries {
		e, err := entry.Event()
		if err != nil {
			return nil, err
		}
		if e.Type == "recording.expire" && e.Session == "" {
			for _, r := range all {
				if r.Week == e.Object && !r.Held && r.Expired.IsZero() {
					r.Expired = e.Time
				}
			}
			continue
		}
		switch e.Type {
		case "recording.open", "recording.close", "recording.incomplete", "recording.hold", "recording.release", "recording.remove", "recording.remove.fail", "recording.expire":
		default:
			continue
		}
		if e.Session == "" {
			continue
		}
		r := all[e.Session]
		if r == nil {
			r = &LoggedRecording{ID: e.Session}
			all[e.Session] = r
		}
		if e.Device != "" {
			r.User, r.Login, r.Device, r.DeviceUUID = e.User, e.Login, e.Device, e.DeviceUUID
		}
		r.take(&e)
	}
	return all, nil
}

func (r *LoggedRecording) take(e *Event) {
	switch e.Type {
	case "recording.open":
		r.Opened, r.Week = e.Time, e.Object
	case "recording.close", "recording.incomplete":
		if r.Complete && r.Closing != e.Object {
			r.Contradicted = fmt.Sprintf("the log closes it twice, with %s and with %s", r.Closing, e.Object)
		}
		r.Closed, r.Closing, r.Chunks, r.Complete = e.Time, e.Object, e.Count, r.Complete || e.Type == "recording.close"
	case "recording.hold":
		r.Held = true
	case "recording.release":
		r.Held = false
	case "recording.remove":
		r.Removed, r.Failed = &LoggedAct{e.Actor, e.Time, e.Message}, false
	case "recording.remove.fail":
		r.Failed = true
	case "recording.expire":
		r.Expired = e.Time
	}
}

// Found is what there is of a recording.
type Found struct {
	ID string // hex
	// Removed: only its tombstone is left. Absent: not even that.
	Removed, Absent bool
	Closed          bool
	Chunks          uint64
	// Closing is "sha256:HEX" of its last chunk as it was read. Empty: it was not read, and what the chunks say is not judged.
	Closing string
}

// Judge says what in a recording contradicts the log, one sentence each. l is nil where the log has no event of it. That its chunks follow
// each other up to the closing one is for the recording's reader to check.
func (l *LoggedRecording) Judge(f Found) (faults []string) {
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf("recording %s ", f.ID)+fmt.Sprintf(format, args...))
	}
	if l == nil {
		if !f.Absent {
			fault("is not in the log: it was put there by nobody whom the log knows")
		}
		return faults
	}
	if l.Contradicted != "" {
		fault("has two ends: %s", l.Contradicted)
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case f.Absent && l.Removed != nil && !l.Failed, f.Absent && !l.Expired.IsZero():
	case f.Absent && l.Closed.IsZero():
		fault("is missing: the log has it begin at %s, and nobody removed it", at(l.Opened))
	case f.Absent:
		fault("is missing: the log has it end at %s with %d chunks, and nobody removed it", at(l.Closed), l.Chunks)
	case f.Removed && l.Removed == nil:
		fault("is marked as removed, and the log has nobody remove it")
	case f.Removed:
	case l.Closed.IsZero() && f.Closed:
		fault("is closed, and the log does not close it")
	case l.Closed.IsZero():
	case !f.Closed && !l.Complete && f.Chunks >= l.Chunks: // it goes on
	case f.Chunks != l.Chunks:
		fault("has %d chunks; when it was closed at %s it had %d", f.Chunks, at(l.Closed), l.Chunks)
	case f.Closing != "" && f.Closing != l.Closing:
		fault("does not end as it did when it was closed at %s: it was rewritten", at(l.Closed))
	}
	return faults
}
