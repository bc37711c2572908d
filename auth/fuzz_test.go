package auth

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

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

const fuzzedCluster = `kind: cluster
name: ber.example
record: off
ways: [hub]
retention: {recordings: 90d}
caps: {per_source: 4}
hub_list: {window: 30s}
`

// What Get prints of the resources that Apply took is what Apply takes for the same resources.
func FuzzParseResources(f *testing.F) {
	f.Add(fuzzedRole)
	f.Add(fuzzedRole + "---\n---\nkind: role\nname: b\n")
	f.Add(fuzzedCluster + "---\n" + fuzzedRole)
	f.Add("kind: cluster\n")
	f.Add("kind: role\nname: a\nallow: &r {logins: [x]}\ndeny:\n  <<: *r\n  devices: {1: [y], ~: z}\n")
	f.Add("kind: {[a]: b}\n")
	f.Add("a: &a [x]\nb: &b [*a, *a]\nkind: [*b, *b]\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := parseResources([]document{{"", text}}, "ber.example")
		if err != nil {
			return
		}
		if len(text) > maxYAML || len(list) == 0 || len(list) > maxResources {
			t.Fatalf("%d resources of %d bytes", len(list), len(text))
		}
		var all []map[string]any
		for _, r := range list {
			all = append(all, r.fields)
		}
		out, err := writeYAML(all...)
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > maxYAML {
			return
		}
		again, err := parseResources([]document{{"", out}}, "ber.example")
		if err != nil || len(again) != len(list) {
			t.Fatalf("%+v came back as %+v, %v, from\n%s", list, again, err, out)
		}
		for i := range list {
			a, errA := list[i].value()
			b, errB := again[i].value()
			if errA != nil || errB != nil || !bytes.Equal(a, b) {
				t.Errorf("%s came back as %s, %v, %v", a, b, errA, errB)
			}
		}
	})
}

func FuzzDecodeRole(f *testing.F) {
	roles, err := parseResources([]document{{"", fuzzedRole}}, "ber.example")
	if err != nil {
		f.Fatal(err)
	}
	b, err := roles[0].value()
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
