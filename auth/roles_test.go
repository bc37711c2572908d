package auth

import (
	"slices"
	"testing"

	"connectrpc.com/connect"

	"hawser/auth/api"
	"hawser/auth/policy"
)

// The auditor was built in for the policy and unknown to the service: nobody could be given it, nor make one of that name.
func TestEveryBuiltInRoleCanBeGiven(t *testing.T) {
	b := start(t)
	for _, r := range policy.Builtins() {
		u, err := b.admin.Admin.AddUser(t.Context(), connect.NewRequest(&api.AddUserRequest{Name: "u-" + r.Name, Roles: []string{r.Name}}))
		if err != nil || !slices.Equal(u.Msg.Roles, []string{r.Name}) {
			t.Errorf("%s: %v, %v", r.Name, u, err)
		}
	}
}
