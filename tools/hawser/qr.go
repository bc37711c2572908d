package main

import (
	"image/color"
	"strings"

	"github.com/boombuler/barcode/qr"
)

// quiet is the margin of a QR code, in modules; the standard wants four, readers take two.
const quiet = 2

// qrCode draws text for a terminal, two modules a character, dark on light whatever the terminal's colours are. Empty: it does not fit.
func qrCode(text string) string {
	code, err := qr.Encode(text, qr.L, qr.Auto)
	if err != nil {
		return ""
	}
	size := code.Bounds()
	dark := func(x, y int) bool {
		x, y = x-quiet, y-quiet
		if x < 0 || y < 0 || x >= size.Dx() || y >= size.Dy() {
			return false
		}
		g, _ := color.GrayModel.Convert(code.At(size.Min.X+x, size.Min.Y+y)).(color.Gray)
		return g.Y < 128
	}
	var b strings.Builder
	for y := 0; y < size.Dy()+2*quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := range size.Dx() + 2*quiet {
			switch up, down := dark(x, y), dark(x, y+1); {
			case up && down:
				b.WriteRune('█')
			case up:
				b.WriteRune('▀')
			case down:
				b.WriteRune('▄')
			default:
				b.WriteByte(' ')
			}
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String()
}
