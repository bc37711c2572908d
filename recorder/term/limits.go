package term

// Chosen here.
const (
	// MaxCols and MaxRows bound a side of the screen, MaxCells both together: a window of 4K pixels with the
	// smallest legible font has 115,000. Beyond, the right or lower end is left out.
	MaxCols  = 1000
	MaxRows  = 1000
	MaxCells = 1 << 17
	// maxParams is how many parameters of a control sequence are looked at, as in xterm; the rest is skipped.
	maxParams = 32
	maxParam  = 1<<16 - 1
	// maxLine is the most bytes of a soft-wrapped line that is handed out for search.
	maxLine = 16 << 10
	// lineFactor and lineCredit bound the text handed out for search to so many times the bytes written, and
	// some more: a program that rewrites a long line by moving about must not make the index grow as it likes.
	lineFactor = 8
	lineCredit = 256 << 10
	// maxKeyStack is how many levels of the kitty keyboard protocol are kept, for each screen.
	maxKeyStack = 8
)
