package observe

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"io"
	"sync"

	"hawser/recorder"
)

// Messages of draft-miller-ssh-agent.
const (
	agentIdentities       = 11
	agentIdentitiesAnswer = 12
	agentSign             = 13
	agentSigned           = 14
)

// Agent follows one connection to a person's agent: what asks is on the device. Not safe for concurrent use.
type Agent struct {
	emit    func(recorder.AgentUse)
	in, out messages
	pending []recorder.AgentUse // requests that have no answer yet, oldest first
	listed  bool
}

// NewAgent gives each use to emit.
func NewAgent(emit func(recorder.AgentUse)) *Agent { return &Agent{emit: emit} }

// Ask takes what the device sends, Answer what the agent does.
func (a *Agent) Ask(b []byte) { a.in.take(b, a.request) }

// Answer takes what the agent sends.
func (a *Agent) Answer(b []byte) { a.out.take(b, a.reply) }

// End tells of what has no answer.
func (a *Agent) End() {
	for _, u := range a.pending {
		a.tell(u, false)
	}
	a.pending = nil
}

func (a *Agent) request(m []byte) {
	u := recorder.AgentUse{}
	f := fields{b: m[1:]}
	switch m[0] {
	case agentIdentities:
		u.What = "list"
	case agentSign:
		key := f.bytes()
		u.What, u.Bytes = "sign", uint64(f.u32())
		if len(key) > 0 {
			u.Fingerprint = fingerprint(key)
		}
	case 17, 25, 20, 26: // add an identity, of a token, with constraints
		u.What = "add"
	case 18, 19, 21:
		u.What = "remove"
	case 22, 23:
		u.What = "lock"
	case 27:
		u.What = "extension"
	default:
		u.What = "other"
	}
	if len(a.pending) == maxAgentPending {
		a.tell(a.pending[0], false)
		a.pending = a.pending[1:]
	}
	a.pending = append(a.pending, u)
}

func (a *Agent) reply(m []byte) {
	if len(a.pending) == 0 {
		return
	}
	u := a.pending[0]
	a.pending = a.pending[1:]
	a.tell(u, m[0] == agentIdentitiesAnswer || m[0] == agentSigned || m[0] == 6 || m[0] == 29)
}

// tell says what was asked for; with done, that the agent did it.
func (a *Agent) tell(u recorder.AgentUse, done bool) {
	switch {
	case u.What == "list" && a.listed: // each sign is preceded by one
		return
	case u.What == "list":
		a.listed = true
	case !done:
		u.What += " refused"
	}
	a.emit(u)
}

// fingerprint is a key's as ssh-keygen prints it.
func fingerprint(key []byte) string {
	h := sha256.Sum256(key)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(h[:])
}

// messages cuts a direction of the agent protocol into messages, of which the beginning is kept.
type messages struct {
	b    []byte
	skip uint32
	dead bool
}

func (p *messages) take(b []byte, handle func(m []byte)) {
	for len(b) > 0 && !p.dead {
		if p.skip > 0 {
			n := min(uint32(len(b)), p.skip)
			b, p.skip = b[n:], p.skip-n
			continue
		}
		want, length := 4, uint32(0)
		if len(p.b) >= 4 {
			length = binary.BigEndian.Uint32(p.b)
			if length == 0 || length > maxAgentMessage {
				p.dead = true
				return
			}
			want = 4 + int(min(length, maxAgentHead))
		}
		n := min(len(b), want-len(p.b))
		p.b, b = append(p.b, b[:n]...), b[n:]
		if len(p.b) == want && length > 0 {
			handle(p.b[4:])
			p.skip = length - uint32(want-4)
			p.b = p.b[:0]
		}
	}
}

// Channel is a channel to the person's agent, followed: what is written asks, what is read answers. It passes on CloseWrite, where c has it.
func (a *Agent) Channel(c io.ReadWriteCloser) io.ReadWriteCloser { return &agentChannel{c: c, a: a} }

type agentChannel struct {
	c  io.ReadWriteCloser
	mu sync.Mutex
	a  *Agent // guarded by mu; nil once closed
}

func (c *agentChannel) see(f func(a *Agent)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.a != nil {
		f(c.a)
	}
}

func (c *agentChannel) Write(b []byte) (int, error) {
	c.see(func(a *Agent) { a.Ask(b) })
	return c.c.Write(b)
}

func (c *agentChannel) Read(b []byte) (int, error) {
	n, err := c.c.Read(b)
	c.see(func(a *Agent) { a.Answer(b[:n]) })
	return n, err
}

func (c *agentChannel) CloseWrite() error {
	if h, ok := c.c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

func (c *agentChannel) Close() error {
	c.see(func(a *Agent) { a.End(); c.a = nil })
	return c.c.Close()
}
