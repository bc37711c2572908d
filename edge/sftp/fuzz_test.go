package sftp

import (
	"bytes"
	"testing"
)

// No packet is too odd to decode or refuse, and none makes the decoder take more than there is.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"posix-rename@openssh.com", "copy-data", "users-groups-by-id@openssh.com", "lsetstat@openssh.com", "none"} {
		f.Add(append(str(u32([]byte{typeExtended}, 1), name), make([]byte, 40)...))
	}
	for typ := byte(typeInit); typ <= typeSymlink; typ++ {
		f.Add(append(str(u32([]byte{typ}, 1), "path"), make([]byte, 24)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		r, err := decode(b)
		if err == nil && len(r.path)+len(r.other)+len(r.handle)+len(r.target)+len(r.data)+len(r.uids)+len(r.gids) > len(b) {
			t.Errorf("%d bytes gave %+v", len(b), r)
		}
		if !bytes.Equal(b, before) {
			t.Error("the packet was changed")
		}
	})
}

func TestAttributesSayHowLongTheyAre(t *testing.T) {
	many := u32(u32(nil, attrExtended), 1<<32-1) // four thousand million pairs, of which there is none
	if _, err := decode(append(str(u32([]byte{typeSetstat}, 1), "/p"), many...)); err == nil {
		t.Error("decoded")
	}
}

func TestModesAreWrittenAsLsDoes(t *testing.T) {
	for m, want := range map[uint32]string{0o100644: "-rw-r--r--", 0o040755: "drwxr-xr-x", 0o104711: "-rws--x--x", 0o102644: "-rw-r-Sr--", 0o041777: "drwxrwxrwt", 0o120777: "lrwxrwxrwx", 0: "?---------"} {
		if got := mode(m); got != want {
			t.Errorf("%o: %s, want %s", m, got, want)
		}
	}
}
