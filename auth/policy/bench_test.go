package policy

import (
	"fmt"
	"testing"
)

// site is what a cluster of some size has: twenty roles, a dozen of which concern the device, of which a person holds four.
func site(b *testing.B) (roles []Role, c Compiled, held []string) {
	b.Helper()
	for i := range 20 {
		r := Role{Name: fmt.Sprintf("role-%02d", i), Allow: Rule{
			Devices: map[string][]string{"site": {"ams-*", []string{"ber", "ham", "be*"}[i%3]}, "env": {"test", "prod"}},
			Logins:  []string{"diag", "svc-*"}, Channels: []string{Exec, Shell, SFTP, LocalForward}, Ways: []string{WayHub},
			ForwardTo: []string{"127.0.0.1:80", "192.168.0.0/16:502"},
		}}
		switch i % 5 {
		case 3:
			r.Allow.Logins, r.Allow.Ways = []string{"*"}, nil
		case 4:
			r.Deny = Rule{Devices: map[string][]string{"env": {"prod", "te*"}}, Logins: []string{"root"}}
		}
		roles = append(roles, r)
	}
	roles = Cluster{}.Apply(roles)
	back, err := Decode(encode(b, Compile(1, roles, gw)))
	if err != nil {
		b.Fatal(err)
	}
	return roles, back, []string{"role-03", "role-00", "role-14", "role-08"}
}

// A decision of the compiled form, as a hub and an edge make at each channel. It allocates nothing.
func BenchmarkDecision(b *testing.B) {
	_, c, held := site(b)
	if n := testing.AllocsPerRun(100, func() { c.Evaluate(held, "svc-a", SFTP, WayHub) }); n > 0 {
		b.Errorf("%v allocations", n)
	}
	for name, tt := range map[string]struct {
		login string
		want  bool
	}{"allowed": {"svc-a", true}, "denied": {"root", false}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if c.Evaluate(held, tt.login, SFTP, WayHub).Allowed != tt.want {
					b.Fatal("decided otherwise")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
		})
	}
}

// All that one login may do, as a grant carries it.
func BenchmarkAccess(b *testing.B) {
	_, c, held := site(b)
	b.ReportAllocs()
	for b.Loop() {
		if len(c.Access(held).For("svc-a", WayHub).Channels) == 0 {
			b.Fatal("nothing")
		}
	}
}

// What a change of a role costs for each device: the policy of one is made and encoded.
func BenchmarkCompile(b *testing.B) {
	roles, _, _ := site(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(1, roles, gw).Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

// One device's part of a review.
func BenchmarkReview(b *testing.B) {
	roles, _, _ := site(b)
	b.ReportAllocs()
	for b.Loop() {
		if len(Review(roles[:4], gw)) == 0 {
			b.Fatal("nothing")
		}
	}
}
