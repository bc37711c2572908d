// Package policy decides who may do what on which device.
package policy

import (
	"crypto/ed25519"
	"net/netip"
	"time"
)

type Role struct {
	Name    string  `yaml:"name"`
	Allow   Rule    `yaml:"allow"`
	Deny    Rule    `yaml:"deny"`
	Options Options `yaml:"options"`
}
type Rule struct {
	Devices    map[string][]string
	Logins     []string
	Channels   []string
	ForwardTo  []string
	Ways       []string
	Join       []JoinRule
	Recordings string // none, own, all
	Sessions   string // none, own, all
	Admin      []AdminRule
}
type JoinRule struct{ Roles, Modes []string }
type AdminRule struct{ Resources, Verbs []string }
type Options struct{ SessionTTL time.Duration }

func FromMap(m map[string]any) (Role, error) { panic("x") }
func (r Role) ToMap() map[string]any         { panic("x") }
func Validate(r Role) []error                { panic("x") }
func Builtin(name string) (Role, bool)       { panic("x") }

type Device struct {
	UUID, Name string
	Labels     map[string]string
}
type Decision struct {
	Allowed bool
	Rule    string
}

func Match(rule map[string][]string, dev Device) bool                        { panic("x") }
func Evaluate(roles []Role, dev Device, login, channel, way string) Decision { panic("x") }
func Merge(roles []Role, dev Device) Access                                  { panic("x") }
func MayAdmin(roles []Role, resource, verb string) Decision                  { panic("x") }
func RecordingScope(roles []Role) string                                     { panic("x") }
func SessionScope(roles []Role) string                                       { panic("x") }
func SessionTTL(roles []Role, def time.Duration) time.Duration               { panic("x") }

type Access struct {
	Logins, Channels, ForwardTo, Ways []string
	Record                            string
}

func (a Access) For(login, way string) Access                         { panic("x") }
func (a Access) Forward(host string, ip netip.Addr, port uint16) bool { panic("x") }
func (a Access) Socket(path string) bool                              { panic("x") }

type Compiled struct{ Revision uint64 }

func Compile(revision uint64, roles []Role, dev Device) Compiled                    { panic("x") }
func (c Compiled) Encode() ([]byte, error)                                          { panic("x") }
func Decode(b []byte) (Compiled, error)                                             { panic("x") }
func (c Compiled) Evaluate(roleNames []string, login, channel, way string) Decision { panic("x") }
func (c Compiled) Access(roleNames []string) Access                                 { panic("x") }
func SignCompiled(key ed25519.PrivateKey, cluster, device string, c Compiled) ([]byte, error) {
	panic("x")
}
func OpenCompiled(blob []byte, keys []ed25519.PublicKey, cluster, device string) (Compiled, error) {
	panic("x")
}
