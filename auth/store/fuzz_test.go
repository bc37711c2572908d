package store

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func FuzzDecodeRecord(f *testing.F) {
	f.Add(encodeRecord(KV{Value: []byte("value"), CreateRev: 1, ModRev: 1<<64 - 1, Lease: 1<<64 - 1}))
	f.Add(encodeRecord(KV{})[:recordHeader-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		kv, err := decodeRecord("key", b)
		if (err == nil) != (len(b) >= recordHeader) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if err == nil && !bytes.Equal(encodeRecord(kv), b) {
			t.Errorf("%+v is stored as other bytes", kv)
		}
	})
}

func FuzzDecodeEvents(f *testing.F) {
	f.Add(encodeEvents([]Event{
		{Type: EventPut, KV: KV{Key: "a/1", Value: []byte("value"), CreateRev: 1, ModRev: 2, Lease: 3}},
		{Type: EventDelete, KV: KV{Key: "b/2", ModRev: 2}},
	}), "a/")
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "")
	f.Add([]byte{2, 1, 'k', 24}, "x")
	f.Fuzz(func(t *testing.T, b []byte, prefix string) {
		all, err := decodeEvents(b, "")
		some, errSome := decodeEvents(b, prefix)
		if err != nil {
			return
		}
		size := 0
		var want []Event
		for _, e := range all {
			size += len(e.KV.Key) + len(e.KV.Value) + recordHeader
			if strings.HasPrefix(e.KV.Key, prefix) {
				want = append(want, e)
			}
		}
		if size > len(b) {
			t.Errorf("%d bytes out of %d", size, len(b))
		}
		if errSome != nil || !reflect.DeepEqual(some, want) {
			t.Errorf("%q selects %+v, %v; want %+v", prefix, some, errSome, want)
		}
		if again, err := decodeEvents(encodeEvents(all), ""); err != nil || !reflect.DeepEqual(all, again) {
			t.Errorf("%+v came back as %+v, %v", all, again, err)
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	m := Manifest{
		ID: [16]byte{1}, Start: time.Date(2026, 11, 20, 12, 0, 0, 1, time.FixedZone("", 3600)), User: "alice", Command: "a\x00\"<\u2028",
		Closed: true, ExitStatus: -1, Chunks: 1<<64 - 1,
	}
	b, err := m.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"ID":[1],"Start":"0000-01-01T00:00:00+23:59","End":"9999-12-31T23:59:60Z"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeManifest(b)
		if err != nil {
			return
		}
		if w := Week(m.Start); strings.ContainsAny(w, "/.\x00") {
			t.Errorf("a recording of %v lies in %q", m.Start, w)
		}
		out, err := m.encode()
		if err != nil {
			t.Fatalf("%+v was decoded but cannot be encoded: %v", m, err)
		}
		again, err := decodeManifest(out)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Start.Equal(m.Start) || !again.End.Equal(m.End) {
			t.Errorf("times %v %v came back as %v %v", m.Start, m.End, again.Start, again.End)
		}
		again.Start, again.End = m.Start, m.End
		if !reflect.DeepEqual(m, again) {
			t.Errorf("%+v came back as %+v", m, again)
		}
	})
}

func FuzzDecodeDigest(f *testing.F) {
	f.Add(digest{[2]uint64{1, 1<<64 - 1}, 3}.encode())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeDigest(b)
		if (err == nil) != (len(b) == digestSize) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
		if err == nil && !bytes.Equal(d.encode(), b) {
			t.Errorf("%+v is stored as other bytes", d)
		}
	})
}

func FuzzWeekEnd(f *testing.F) {
	f.Add("2026-W47")
	f.Add("2026-W00")
	f.Fuzz(func(t *testing.T, name string) {
		// What is no name of a week must never be removed as one.
		if end, ok := weekEnd(name); ok && Week(end.Add(-time.Second)) != name {
			t.Errorf("%q ends %v, in %s", name, end, Week(end.Add(-time.Second)))
		}
	})
}
