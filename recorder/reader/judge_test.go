package reader

import (
	"testing"

	"hawser/recorder"
)

// A recorder of before it told how much the owner typed counts guests with him: more is no lie where nobody can look, and less is.
func TestInputThatIsCountedWithGuestsIsJudgedByWhatItCannotBe(t *testing.T) {
	owner, other := [32]byte{1}, [32]byte{2}
	for _, c := range []struct {
		name    string
		unkept  uint8
		input   uint64
		digest  Digest
		part    bool
		differs bool
	}{
		{"as much", 0, 5, Digest{Input: owner}, true, false},
		{"as much, and other", 0, 5, Digest{Input: other}, true, true},
		{"less", 0, 4, Digest{Input: owner}, true, true},
		{"guests' in it", 0, 5 + 2*maxUntaken, Digest{Input: owner}, true, false},
		{"guests' beside it", 0, 5 + 2*maxUntaken, Digest{Input: owner, InputBytes: 5, Counted: true}, true, false},
		{"guests' beside other", 0, 5 + 2*maxUntaken, Digest{Input: other, InputBytes: 5, Counted: true}, true, true},
		{"guests' beside none", 0, 5, Digest{Input: owner, Counted: true}, true, true},
		{"a file transfer", recorder.UnkeptInput, 5, Digest{Input: owner}, false, false},
		{"a file transfer, which has no guests", recorder.UnkeptInput, 5 + 2*maxUntaken, Digest{Input: owner}, false, true},
	} {
		var w Witness
		w.Kept, w.Rule = 5, recorder.InputFull
		w.Hashes[recorder.Stdin] = owner
		_, err := new(observer).judgeInput(&recorder.Header{Unkept: c.unkept}, &Head{Input: c.input, Digest: &c.digest}, &w, c.part)
		if (err != nil) != c.differs {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
