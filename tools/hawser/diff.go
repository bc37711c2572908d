package main

import (
	"fmt"
	"strings"
)

// context is how many lines around a change a unified diff shows.
const diffContext = 3

// maxDiff bounds the work of one diff, lines times lines; beyond, everything is shown as replaced.
const maxDiff = 1 << 24

// diffLine is one line of a diff: kind is ' ', '-' or '+'.
type diffLine struct {
	kind byte
	text string
}

// unifiedDiff returns what turns before into after as a unified diff; empty where they are the same.
func unifiedDiff(from, to, before, after string, coloured bool) string {
	if before == after {
		return ""
	}
	paint := func(code, s string) string {
		if !coloured {
			return s
		}
		return "\x1b[" + code + "m" + s + "\x1b[0m"
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n%s\n", paint("1", "--- "+from), paint("1", "+++ "+to))
	lines := diffLines(splitLines(before), splitLines(after))
	// Where each line stands in either text, counted from 1.
	atOld, atNew := make([]int, len(lines)+1), make([]int, len(lines)+1)
	atOld[0], atNew[0] = 1, 1
	for i, l := range lines {
		atOld[i+1], atNew[i+1] = atOld[i], atNew[i]
		if l.kind != '+' {
			atOld[i+1]++
		}
		if l.kind != '-' {
			atNew[i+1]++
		}
	}
	for i := 0; i < len(lines); {
		if lines[i].kind == ' ' {
			i++
			continue
		}
		begin, end := max(0, i-diffContext), i+1
		for j := i + 1; j < len(lines) && j <= end+2*diffContext; j++ {
			if lines[j].kind != ' ' {
				end = j + 1
			}
		}
		i = end
		end = min(len(lines), end+diffContext)
		fmt.Fprintln(&out, paint("36", fmt.Sprintf("@@ -%s +%s @@", hunk(atOld[begin], atOld[end]), hunk(atNew[begin], atNew[end]))))
		for _, l := range lines[begin:end] {
			text := string(l.kind) + l.text
			switch l.kind {
			case '-':
				text = paint("31", text)
			case '+':
				text = paint("32", text)
			}
			fmt.Fprintln(&out, text)
		}
	}
	return out.String()
}

// hunk writes a range of lines as diff does: where there are none, the line before them.
func hunk(begin, end int) string {
	if n := end - begin; n == 0 {
		return fmt.Sprintf("%d,0", begin-1)
	} else if n == 1 {
		return fmt.Sprint(begin)
	}
	return fmt.Sprintf("%d,%d", begin, end-begin)
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// diffLines keeps a longest common subsequence.
func diffLines(a, b []string) []diffLine {
	var out []diffLine
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		out = append(out, diffLine{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	var tail []string
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		tail = append(tail, a[len(a)-1])
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)*len(b) <= maxDiff {
		// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
		common := make([][]int32, len(a)+1)
		for i := range common {
			common[i] = make([]int32, len(b)+1)
		}
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					common[i][j] = common[i+1][j+1] + 1
				} else {
					common[i][j] = max(common[i+1][j], common[i][j+1])
				}
			}
		}
		i, j := 0, 0
		for i < len(a) && j < len(b) {
			switch {
			case a[i] == b[j]:
				out = append(out, diffLine{' ', a[i]})
				i, j = i+1, j+1
			case common[i+1][j] >= common[i][j+1]:
				out = append(out, diffLine{'-', a[i]})
				i++
			default:
				out = append(out, diffLine{'+', b[j]})
				j++
			}
		}
		a, b = a[i:], b[j:]
	}
	for _, l := range a {
		out = append(out, diffLine{'-', l})
	}
	for _, l := range b {
		out = append(out, diffLine{'+', l})
	}
	for i := len(tail) - 1; i >= 0; i-- {
		out = append(out, diffLine{' ', tail[i]})
	}
	return out
}
