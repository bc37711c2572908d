package term

import (
	"strings"
	"testing"
)

func write(t *testing.T, cols, rows int, out string) *Screen {
	t.Helper()
	s := New(cols, rows)
	if n, err := s.Write([]byte(out)); n != len(out) || err != nil {
		t.Fatalf("Write took %d of %d bytes: %v", n, len(out), err)
	}
	return s
}

func text(s *Screen) string {
	return strings.TrimRight(strings.Join(s.Text(), "\n"), "\n")
}

func TestText(t *testing.T) {
	for _, tc := range []struct{ name, out, want string }{
		{"lines", "one\r\ntwo", "one\ntwo"},
		{"wrapped", "0123456789ab", "0123456789\nab"},
		{"cursor", "\x1b[2;3Hx\x1b[Hy", "y\n  x"},
		{"scrolled", "1\r\n2\r\n3\r\n4\r\n5", "2\n3\n4\n5"},
		{"region", "1\r\n2\r\n3\r\n4\x1b[2;3r\x1b[3;1H\n5", "1\n3\n5\n4"},
		{"erased", "abcdef\x1b[4D\x1b[K", "ab"},
		{"inserted", "abc\x1b[2D\x1b[2@", "a  bc"},
		{"removed", "abcdef\x1b[4D\x1b[2P", "abef"},
		{"wide", "日本語", "日本語"},
		{"wide halved", "日本語\x1b[1;2Hx", " x本語"},
		{"mark", "e\u0301a", "e\u0301a"},
		{"line drawing", "\x1b(0lqk\x1b(Bq", "┌─┐q"},
		{"title", "a\x1b]0;t\u2713itle\x07b\x1b]0;x\x1b\\c", "abc"},
		{"dcs", "a\x1bP1$rfoo\x1b\\b\x1bP\x1b\\c", "abc"},
		{"csi spoilt", "a\x1b[1 2mb\x1b[1?2mc", "abc"},
		{"repeat", "ab\x1b[3b", "abbbb"},
		{"broken utf-8", "a\xe2\x82b\xff", "a\ufffdb\ufffd"},
		{"alternate and back", "main\x1b[?1049halt\x1b[?1049l!", "main!"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := text(write(t, 10, 4, tc.out)); got != tc.want {
				t.Errorf("got  %q\nwant %q", got, tc.want)
			}
		})
	}
}
