package grant

import (
	"reflect"
	"testing"
	"time"

	"hawser/auth/internal/vectors"
)

func TestVectorsOfEveryKindOfGrant(t *testing.T) {
	session := sample()
	session.RecordStdin = "redacted"
	forwards := sample()
	forwards.Kind, forwards.SessionID, forwards.Offline, forwards.ForceCommand = Forwards, [16]byte{}, false, ""
	forwards.Channels, forwards.Record = []string{"local-forward"}, ""
	connection := &Grant{
		Cluster: "ber.example", ID: [16]byte{1}, SessionID: [16]byte{3}, ConnectionID: [16]byte{3}, Kind: Connection, User: "alice",
		Method: "key", ClientAddr: session.ClientAddr, EntryHub: [16]byte{6},
	}
	join := sample()
	join.Join, join.JoinMode, join.Channels, join.Offline, join.ForceCommand = [16]byte{9}, "observer", []string{"join"}, false, ""
	encrypted := sample()
	encrypted.Recipients = [][32]byte{{1, 2}, {31: 3}}
	connection.NotBefore, connection.NotAfter = Window(t0)
	list := []vectors.Vector{{Name: "GrantKeySeed", Bytes: key.Seed()}}
	for _, g := range []*Grant{session, forwards, connection, join, encrypted} {
		blob := sign(t, g)
		name := g.Kind.String()
		switch g {
		case join:
			name = "join"
		case encrypted:
			name = "encrypted"
		}
		list = append(list, vectors.Vector{Name: name, Bytes: blob})
		if got, err := Open(blob, pub); err != nil || !reflect.DeepEqual(got.normal(), g.normal()) {
			t.Errorf("%v: opened as %+v, %v; want %+v", g.Kind, got, err, g)
		}
	}
	vectors.Check(t, "../../tunnel/testdata/grants.txt", "Grants of PROTOCOL.md section 10.1: the seed of the key that signs, then one of each kind.", list)
}

// normal makes times comparable: the wire has milliseconds and no zone.
func (g *Grant) normal() Grant {
	n := *g
	n.NotBefore, n.NotAfter = n.NotBefore.UTC().Truncate(time.Millisecond), n.NotAfter.UTC().Truncate(time.Millisecond)
	return n
}
