package term

//go:generate go run ./widthgen

type runeRange struct{ lo, hi uint32 }

// width is how many columns a character takes: 0, 1 or 2. Ambiguous ones take one, as in a terminal that was not
// told it is in East Asia.
func width(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case within(zeroRanges[:], r):
		return 0
	case r >= 0x1100 && within(wideRanges[:], r):
		return 2
	}
	return 1
}

func within(t []runeRange, r rune) bool {
	lo, hi := 0, len(t)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		switch {
		case uint32(r) < t[m].lo:
			hi = m
		case uint32(r) > t[m].hi:
			lo = m + 1
		default:
			return true
		}
	}
	return false
}

// mark says whether a character of no width is kept with the one before. Those beyond the BMP are not: they are of
// scripts that no terminal shows, and selectors of a Han character's variants. Format characters are not, bidirectional
// marks among them: they would reorder what is around the cell wherever it is shown.
func mark(r rune) bool {
	switch {
	case r == 0x200c, r == 0x200d: // joiners of scripts and of emoji
		return true
	case r < 0x300, r == 0x61c, r == 0x180e, r >= 0x200b && r <= 0x206f, r == 0xfeff, r >= 0xfff9 && r <= 0xfffb,
		r > 0xffff:
		return false
	}
	return true
}

// Width is the number of columns that a character takes: 0, 1 or 2; below 0 for one that is never shown.
func Width(r rune) int { return width(r) }
