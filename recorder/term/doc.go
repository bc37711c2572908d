// Package term is a model of a terminal's screen: what a session's output looks like, without a display.
//
// Start with New, feed it the output with Write and the window's changes with Resize, and ask it for Text, Row or
// Redraw. Marshal and Unmarshal keep its whole state as a keyframe of a recording; Lines hands out the text that
// was on the screen, line by line, for search. It serves whoever joins a session late (Redraw is the screen as it
// is), the replay's seeking, thumbnails and the index.
//
// The terminal is an xterm as far as programs use one: UTF-8, both screens, scroll region, tab stops, insert and
// origin mode, the DEC line drawing characters, all of SGR with 256 and direct colours and underline styles, and
// the modes a program sets for mouse, keys and paste, so that a late joiner's terminal gets into them too. It
// answers no query, resizes for no sequence, keeps no scrollback, does not reflow, and skips titles, images and
// every other OSC, DCS, APC, PM and SOS string. Left and right margins, rectangles, columns and protected cells of a
// VT400 it does not know either. Where terminals differ it does as xterm and @xterm/headless do; test/record/term
// compares it with the latter and with tmux.
//
// The parser is the state table of charmbracelet/x/ansi/parser with some corrections (parse.go), the width table is
// our own, from Unicode's data (widthgen).
//
// Output is hostile input: whatever is written, memory is bounded by the size (MaxCells) and the time by the bytes.
// A Screen is not safe for concurrent use. The agent links this package: it uses no fmt, no maps of tables and no
// reflection.
package term
