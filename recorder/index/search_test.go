package index

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hawser/recorder/index/indextest"
)

// sealed is the text of some recordings, as it is stored.
type sealed struct{ object, filter []byte }

// sealLines makes objects of lines, one a second.
func sealLines(lines []string) (all []sealed) {
	b := &block{}
	flush := func() {
		o, f := b.seal()
		all = append(all, sealed{o, f})
		b = &block{}
	}
	for i, l := range lines {
		at := time.Duration(i) * time.Second
		if !b.add(at, Screen, l) {
			flush()
			b.add(at, Screen, l)
		}
	}
	flush()
	return all
}

// find looks through objects as auth does.
func find(t testing.TB, all []sealed, text string, exact bool, limit int) (found []Line, opened int) {
	t.Helper()
	q, err := NewQuery(text, exact)
	if err != nil {
		t.Fatal(err)
	}
	var raw, buf []byte
	for _, s := range all {
		if may, err := q.MayHold(s.filter); err != nil || !may {
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		opened++
		b, err := OpenBlock(s.object, raw)
		if err != nil {
			t.Fatal(err)
		}
		raw = b.text
		var lines []Line
		if lines, _, buf, err = b.Search(q, limit-len(found), buf); err != nil {
			t.Fatal(err)
		}
		if found = append(found, lines...); len(found) == limit {
			break
		}
	}
	return found, opened
}

func TestEveryLineIsFoundAtItsTime(t *testing.T) {
	lines := indextest.NewSession(1).Lines(300_000)
	lines = append(lines, "Zürich ÄRGER größe", "日本語 text")
	all := sealLines(lines)
	for i, l := range lines {
		if i%97 != 0 && i < len(lines)-2 {
			continue
		}
		for _, q := range []struct {
			text  string
			exact bool
		}{{l[:min(len(l), 60)], true}, {strings.ToUpper(l[:min(len(l), 60)]), false}} {
			if !strings.ContainsRune(l, 'ß') && len(q.text) <= MaxQuery {
				q.text = strings.ToValidUTF8(q.text, "")
				found, _ := find(t, all, q.text, q.exact, 100_000)
				hit := false
				for _, f := range found {
					hit = hit || f.Text == strings.TrimRight(l, " ") && f.Time == time.Duration(i)*time.Second
				}
				if !hit {
					t.Fatalf("line %d %q is not among %d found for %q", i, l, len(found), q.text)
				}
			}
		}
	}
	if found, _ := find(t, all, "ärger", false, 10); len(found) != 1 {
		t.Errorf("ärger found %d times whatever the capitals", len(found))
	}
	if found, _ := find(t, all, "ärger", true, 10); len(found) != 0 {
		t.Errorf("ärger found %d times exactly", len(found))
	}
}

func TestTextAcrossLinesIsNotFound(t *testing.T) {
	all := sealLines([]string{"ab", "cd"})
	if found, _ := find(t, all, "bc", false, 10); len(found) != 0 {
		t.Error("found across a line's end")
	}
	for _, bad := range []string{"", "a\nb", "\xff", strings.Repeat("x", MaxQuery+1)} {
		if _, err := NewQuery(bad, false); err == nil {
			t.Errorf("%q is a query", bad)
		}
	}
}

// A rare word opens hardly a block: that is what makes 1,000 hours searchable.
func TestFiltersLeaveFewBlocksToOpen(t *testing.T) {
	var all []sealed
	for i := range 64 {
		all = append(all, sealLines(indextest.NewSession(uint64(i)).Lines(60_000))...)
	}
	for _, text := range []string{"xylophone", "iptables -F", "kubectl apply", "rm -rf /opt"} {
		if _, opened := find(t, all, text, false, 10); opened > len(all)/20 {
			t.Errorf("%q: %d of %d blocks opened", text, opened, len(all))
		}
	}
}

func FuzzBlock(f *testing.F) {
	for _, s := range sealLines([]string{"hello", "wörld", ""}) {
		f.Add(s.object, s.filter, "hello")
	}
	f.Fuzz(func(t *testing.T, object, filter []byte, text string) {
		q, err := NewQuery(text, len(text)%2 == 0)
		if err != nil {
			return
		}
		_, _ = q.MayHold(filter)
		b, err := OpenBlock(object, nil)
		if err != nil {
			return
		}
		found, all, _, err := b.Search(q, 10, nil)
		if len(found) > 10 || all < len(found) {
			t.Errorf("%d found of %d", len(found), all)
		}
		for _, l := range found {
			if l.Text != clean(l.Text) {
				t.Errorf("%q is not clean", l.Text)
			}
		}
		_ = err
	})
}

// A line that was added is found by any part of it, whatever it holds.
func FuzzFound(f *testing.F) {
	f.Add("root@gw-1:~# iptables -F", 15, 20)
	f.Add("İstanbul K ſ", 0, 4)
	f.Fuzz(func(t *testing.T, line string, from, to int) {
		line = clean(line)
		if from < 0 || to > len(line) || from >= to {
			return
		}
		part := line[from:to]
		all := sealLines([]string{"before", line, "after"})
		for _, exact := range []bool{true, false} {
			if _, err := NewQuery(part, exact); err != nil {
				return
			}
			found, _ := find(t, all, part, exact, 10)
			hit := false
			for _, l := range found {
				hit = hit || l.Text == line && l.Time == time.Second
			}
			if !hit {
				t.Errorf("%q is not found in %q, exact %v", part, line, exact)
			}
		}
	})
}

var thousandHours []sealed

// BenchmarkSearch looks through the text of 1,000 hours, 200 MB, with what is stored in memory.
func BenchmarkSearch(b *testing.B) {
	if thousandHours == nil {
		for i := range 1000 {
			thousandHours = append(thousandHours, sealLines(indextest.NewSession(uint64(i)).Lines(200<<10))...)
		}
	}
	var objects, filters int
	for _, s := range thousandHours {
		objects += len(s.object)
		filters += len(s.filter)
	}
	for _, text := range []string{"xylophone", "iptables -F", "qz", "certificate"} {
		b.Run(fmt.Sprintf("%q", text), func(b *testing.B) {
			opened := 0
			for b.Loop() {
				_, opened = find(b, thousandHours, text, false, 1<<30)
			}
			b.ReportMetric(float64(opened), "blocks-opened")
			b.ReportMetric(float64(objects)/(1<<20), "MB-text")
			b.ReportMetric(float64(filters)/(1<<20), "MB-filters")
		})
	}
}
