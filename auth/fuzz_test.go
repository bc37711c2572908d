package auth

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"go.yaml.in/yaml/v3"

	"hawser/auth/policy"
)

const fuzzedRole = `kind: role
name: field
allow:
  devices: {site: [ber, "ams-*"]}
  logins: root
  channels: [shell]
  forward_to: ["127.0.0.1:80"]
  recordings: own
  admin: [{resources: [token], verbs: [create]}]
deny: {devices: {env: prod}}
options: {session_ttl: 8h, record_stdin: off, reserved: false}
`

// What Get prints of the roles that Apply took is what Apply takes for the same roles.
func FuzzParseRoles(f *testing.F) {
	f.Add(fuzzedRole)
	f.Add(fuzzedRole + "---\n---\nkind: role\nname: b\n")
	f.Add("kind: role\nname: a\nallow: &r {logins: [x]}\ndeny:\n  <<: *r\n  devices: {1: [y], ~: z}\n")
	f.Add("kind: {[a]: b}\n")
	f.Add("a: &a [x]\nb: &b [*a, *a]\nkind: [*b, *b]\n")
	f.Fuzz(func(t *testing.T, text string) {
		roles, err := parseRoles(text)
		if err != nil {
			return
		}
		if len(text) > maxYAML || len(roles) == 0 || len(roles) > maxResources {
			t.Fatalf("%d roles of %d bytes", len(roles), len(text))
		}
		var out bytes.Buffer
		enc := yaml.NewEncoder(&out)
		for _, r := range roles {
			if err := enc.Encode(r.ToMap()); err != nil {
				t.Fatal(err)
			}
		}
		if err := enc.Close(); err != nil {
			t.Fatal(err)
		}
		if out.Len() > maxYAML {
			return
		}
		again, err := parseRoles(out.String())
		if err != nil || !sameRoles(roles, again) {
			t.Errorf("%+v came back as %+v, %v, from\n%s", roles, again, err, out.String())
		}
	})
}

func FuzzDecodeRole(f *testing.F) {
	roles, err := parseRoles(fuzzedRole)
	if err != nil {
		f.Fatal(err)
	}
	b, err := json.Marshal(roles[0].ToMap())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"kind":"role","name":"a","name":"b","options":{"max_sessions":1e99}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRole(b)
		if err != nil {
			return
		}
		out, err := json.Marshal(r.ToMap())
		if err != nil {
			t.Fatal(err)
		}
		if again, err := decodeRole(out); err != nil || !sameRoles([]policy.Role{r}, []policy.Role{again}) {
			t.Errorf("%+v came back as %+v, %v", r, again, err)
		}
	})
}

func sameRoles(a, b []policy.Role) bool {
	plain := func(roles []policy.Role) (ms []map[string]any) {
		for _, r := range roles {
			ms = append(ms, r.ToMap())
		}
		return ms
	}
	return reflect.DeepEqual(plain(a), plain(b))
}
