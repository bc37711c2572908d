package payload

// PtyRequest is "pty-req": RFC 4254, section 6.2.
type PtyRequest struct {
	Term          string
	Columns, Rows uint32 // characters
	Width, Height uint32 // pixels
	Modes         string // encoded terminal modes, section 8
}

// Marshal encodes p.
func (p PtyRequest) Marshal() []byte {
	b := u32(u32(u32(u32(str(nil, p.Term), p.Columns), p.Rows), p.Width), p.Height)
	return str(b, p.Modes)
}

// ParsePtyRequest decodes b.
func ParsePtyRequest(b []byte) (PtyRequest, error) {
	r := &reader{what: "pty-req", b: b}
	return result(r, PtyRequest{r.name("term", maxTerm), r.u32("columns"), r.u32("rows"), r.u32("width"), r.u32("height"), r.str("modes", maxModes)})
}

// WindowChange is "window-change": RFC 4254, section 6.7.
type WindowChange struct {
	Columns, Rows uint32 // characters
	Width, Height uint32 // pixels
}

// Marshal encodes w.
func (w WindowChange) Marshal() []byte {
	return u32(u32(u32(u32(nil, w.Columns), w.Rows), w.Width), w.Height)
}

// ParseWindowChange decodes b.
func ParseWindowChange(b []byte) (WindowChange, error) {
	r := &reader{what: "window-change", b: b}
	return result(r, WindowChange{r.u32("columns"), r.u32("rows"), r.u32("width"), r.u32("height")})
}

// Env is "env": RFC 4254, section 6.4.
type Env struct{ Name, Value string }

// Marshal encodes e.
func (e Env) Marshal() []byte { return str(str(nil, e.Name), e.Value) }

// ParseEnv decodes b.
func ParseEnv(b []byte) (Env, error) {
	r := &reader{what: "env", b: b}
	return result(r, Env{r.name("name", maxEnvName), r.name("value", maxEnv)})
}

// Exec is "exec": RFC 4254, section 6.5.
type Exec struct{ Command string }

// Marshal encodes e.
func (e Exec) Marshal() []byte { return str(nil, e.Command) }

// ParseExec decodes b.
func ParseExec(b []byte) (Exec, error) {
	r := &reader{what: "exec", b: b}
	return result(r, Exec{r.name("command", MaxCommand)})
}

// Subsystem is "subsystem": RFC 4254, section 6.5.
type Subsystem struct{ Name string }

// Marshal encodes s.
func (s Subsystem) Marshal() []byte { return str(nil, s.Name) }

// ParseSubsystem decodes b.
func ParseSubsystem(b []byte) (Subsystem, error) {
	r := &reader{what: "subsystem", b: b}
	return result(r, Subsystem{r.name("name", maxName)})
}

// Signal is "signal": RFC 4254, section 6.9. Name is without "SIG".
type Signal struct{ Name string }

// Marshal encodes s.
func (s Signal) Marshal() []byte { return str(nil, s.Name) }

// ParseSignal decodes b.
func ParseSignal(b []byte) (Signal, error) {
	r := &reader{what: "signal", b: b}
	return result(r, Signal{r.name("name", maxName)})
}

// Break is "break": RFC 4335. Length is in milliseconds.
type Break struct{ Length uint32 }

// Marshal encodes b.
func (b Break) Marshal() []byte { return u32(nil, b.Length) }

// ParseBreak decodes b.
func ParseBreak(b []byte) (Break, error) {
	r := &reader{what: "break", b: b}
	return result(r, Break{r.u32("length")})
}

// ExitStatus is "exit-status": RFC 4254, section 6.10.
type ExitStatus struct{ Status uint32 }

// Marshal encodes e.
func (e ExitStatus) Marshal() []byte { return u32(nil, e.Status) }

// ParseExitStatus decodes b.
func ParseExitStatus(b []byte) (ExitStatus, error) {
	r := &reader{what: "exit-status", b: b}
	return result(r, ExitStatus{r.u32("status")})
}

// ExitSignal is "exit-signal": RFC 4254, section 6.10. Signal is without "SIG".
type ExitSignal struct {
	Signal     string
	CoreDumped bool
	Message    string
	Language   string
}

// Marshal encodes e.
func (e ExitSignal) Marshal() []byte {
	return str(str(boolean(str(nil, e.Signal), e.CoreDumped), e.Message), e.Language)
}

// ParseExitSignal decodes b.
func ParseExitSignal(b []byte) (ExitSignal, error) {
	r := &reader{what: "exit-signal", b: b}
	return result(r, ExitSignal{r.name("signal", maxName), r.bool("core dumped"), r.str("message", maxText), r.str("language", maxName)})
}

// X11Request is the payload of x11-req: boolean single connection, string authentication protocol, string cookie in hexadecimal,
// uint32 screen (RFC 4254, section 6.3.1). Protocol and cookie go into a file that programs read as words: other characters are refused.
type X11Request struct {
	Single           bool
	Protocol, Cookie string
	Screen           uint32
}

// Marshal encodes x.
func (x X11Request) Marshal() []byte {
	return u32(str(str(boolean(nil, x.Single), x.Protocol), x.Cookie), x.Screen)
}

// ParseX11Request decodes b.
func ParseX11Request(b []byte) (X11Request, error) {
	r := &reader{what: "x11-req", b: b}
	x := X11Request{r.bool("single connection"), r.name("protocol", maxName), r.name("cookie", maxCookie), r.u32("screen")}
	for _, c := range x.Protocol + x.Cookie {
		if !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c == '.' || c == ':' || c == '/' || c == '-' || c == '_') {
			r.fail("character %q", c)
		}
	}
	return result(r, x)
}

// X11Open is the payload of opening an x11 channel: string originator, uint32 port (RFC 4254, section 6.3.2).
type X11Open struct {
	OriginHost string
	OriginPort uint32
}

// Marshal encodes x.
func (x X11Open) Marshal() []byte { return u32(str(nil, x.OriginHost), x.OriginPort) }

// ParseX11Open decodes b.
func ParseX11Open(b []byte) (X11Open, error) {
	r := &reader{what: "x11", b: b}
	return result(r, X11Open{r.str("originator", maxHost), r.port("port")})
}
