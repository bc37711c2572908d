package authclient

import (
	"context"
	"testing"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/place"
)

// admitting is an auth service that answers Admit.
type admitting struct {
	fakeAuth
	answer *api.AdmitResponse
}

func (a *admitting) Admit(context.Context, *connect.Request[api.AdmitRequest]) (*connect.Response[api.AdmitResponse], error) {
	return connect.NewResponse(a.answer), nil
}

// Whoever joins a session asks first where it is; that place was renewed for ever where its device was away.
func TestAnAnswerWithoutAGrantHoldsNoPlace(t *testing.T) {
	for name, answer := range map[string]*api.AdmitResponse{
		"a refusal":                {Refusal: &api.Refusal{Reason: "no"}},
		"where the session is":     {DeviceUuid: "x"},
		"a grant, to see the test": {Grant: []byte{1}, Access: &api.Access{}},
	} {
		a := &admitting{answer: answer}
		x := newClient(&a.fakeAuth)
		x.api.Hub, x.places = a, place.NewHolder()
		if _, err := x.Admit(t.Context(), &api.AdmitRequest{Kind: api.Kind_KIND_SESSION, SessionId: make([]byte, 16)}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := x.places.Renewal()
		if n := len(m.Held) + len(m.Pending); n != len(answer.Grant) {
			t.Errorf("%s: %d places are renewed", name, n)
		}
	}
}
