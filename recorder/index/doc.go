// Package index makes recordings searchable and seekable: the lines of text that a session's terminal showed, with their times, in
// compressed blocks with a filter each that tells what cannot be in it; and keyframes, the terminal's state every so often.
//
// A Builder makes the objects of a recording from its events, and goes on later from a State where the recording grows. Whoever has the
// objects looks for a Query first in the filters (MayHold) and then in the few blocks that are left (OpenBlock, Search); a player begins at
// the keyframe before the time it wants (OpenFrames). FORMAT.md, here, has the layout of the objects, whose version a reader checks. All that is
// read may be hostile: memory is bounded by limits.go.
package index
