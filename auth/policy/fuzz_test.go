package policy

import (
	"encoding/json"
	"reflect"
	"testing"
)

func FuzzFromMap(f *testing.F) {
	for _, m := range []map[string]any{
		resource(),
		{"kind": "role", "name": "defaults", "options": map[string]any{
			"max_sessions": 0, "reserved": false, "detached_life": "10m", "presence_check": "0s", "record_stdin": false, "mfa": "none",
			"lock_mode": "best-effort", "cap_mode": "available", "credentials": []any{"key", "certificate"}, "create_host_user": "off",
		}},
		{"kind": "role", "name": "later", "allow": map[string]any{
			"join": []any{map[string]any{"roles": "x", "modes": []any{1}}}, "devices": map[string]any{"*": "*"}, "audit": "none",
		}, "options": map[string]any{"max_connections": 1e300, "detached_life": 0, "require_moderators": map[string]any{"count": 1, "on_leave": "end"}}},
	} {
		b, err := json.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m map[string]any
		if json.Unmarshal(b, &m) != nil {
			return
		}
		r, err := FromMap(m)
		if err != nil {
			if !reflect.DeepEqual(r, Role{}) {
				t.Errorf("refused, and yet %+v", r)
			}
			return
		}
		if problems := Validate(r); len(problems) > 0 {
			t.Errorf("accepted with %v", problems)
		}
		for _, rule := range []*Rule{&r.Allow, &r.Deny} {
			if len(rule.Devices) == 0 {
				rule.Devices = nil // no labels, written {} or not at all
			}
		}
		again, err := FromMap(r.ToMap())
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
		Compile(1, []Role{r}, gw).Evaluate([]string{r.Name}, "root", Shell, WayHub)
	})
}
